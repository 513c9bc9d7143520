"""The judge's five-part analysis (FUSION.md section 3) and the values of an answered question; pure data."""

from dataclasses import dataclass, field
from typing import Literal

from localfusion.messages import ToolCall, Usage

Support = Literal["verified", "weak", "not_found"]


@dataclass(frozen=True, slots=True)
class Stance:
    """What one panelist holds on a topic; `model` is the panelist's id."""

    model: str
    stance: str


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A topic on which panelists or their sources differ."""

    topic: str
    stances: tuple[Stance, ...]


@dataclass(frozen=True, slots=True)
class PartialCoverage:
    """A point that only some panelists made."""

    models: tuple[str, ...]
    point: str


@dataclass(frozen=True, slots=True)
class UniqueInsight:
    """A point that exactly one panelist made."""

    model: str
    insight: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """All five parts, always present; panelists are named by id."""

    consensus: tuple[str, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    partial_coverage: tuple[PartialCoverage, ...] = ()
    unique_insights: tuple[UniqueInsight, ...] = ()
    blind_spots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """The whole readable text of a source as it was when it was read; `sha256` is of that text, in hexadecimal.

    White space is normalised: words are parted by one space, paragraphs by one newline. `retrieved_at` is the time
    when it came from the network (ISO 8601, UTC), "" for what lies on this machine. `byline` is what a page says of
    its author, site and date without showing it.
    """

    url: str
    title: str
    text: str
    sha256: str
    retrieved_at: str = ""
    byline: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """An address that a page links to, and the words of the link."""

    url: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of text of one source, as a search or a fetch returned it; `number` is the [n] it is cited by.

    `is_snippet`: a search engine says so, and the page itself was not seen.
    """

    number: int
    url: str
    title: str
    text: str
    byline: str = ""
    is_snippet: bool = False


@dataclass(frozen=True, slots=True)
class Citation:
    """One [n] of an answer, bound to the stored text; `quote` is found there unless `support` says otherwise."""

    number: int
    url: str
    title: str
    quote: str
    support: Support


@dataclass(frozen=True, slots=True)
class ToolStep:
    """One finished tool call of a panelist: what was asked and what came back (or why not).

    `links` are what a fetched page links to; `warnings`, and the `hint` of an error, are for the user alone.
    """

    call: ToolCall
    passages: tuple[Passage, ...] = ()
    error: str | None = None
    links: tuple[Link, ...] = ()
    warnings: tuple[str, ...] = ()
    hint: str = ""

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class Response:
    """A panelist's finished answer; its [n] are the panelist's own until `citations` renumbers them."""

    id: str
    model: str
    content: str
    steps: tuple[ToolStep, ...] = ()
    citations: tuple[Citation, ...] = ()
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class FailedModel:
    """A panelist that gave no answer, why, and what to do about it; partial failure is data.

    `status_code` is HTTP's, where a provider refused or failed.
    """

    id: str
    model: str
    error: str
    hint: str = ""
    status_code: int | None = None
