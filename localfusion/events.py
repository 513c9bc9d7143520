"""The one stream of events of a run: rendered by every front end, stored step by step, replayed on resume.

An event's `type` on disk is its class name. Pure values; who renders or stores them is not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from localfusion.analysis import Analysis, Citation, FailedModel, Response, ToolStep
from localfusion.errors import FailureReason
from localfusion.messages import JUDGE, FinishReason, Substitution, ToolCall, Usage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """`panelists` maps each id (a, b, ...) to its model's name, in panel order; `sources` says what is searched."""

    run_id: str
    question: str
    panelists: Mapping[str, str]
    judge: str
    seed: int
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunResumed:
    """A stored run goes on; `finished` are the ids of panelists that are kept, `sources` says what is searched."""

    run_id: str
    finished: tuple[str, ...]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentsRead:
    """Live only, not stored: files read so far, of those that are new or changed, and the last one's name.

    Said before the run is said to have begun, the first time before anything is read.
    """

    run_id: str
    done: int
    of: int
    name: str


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """`id` is a panelist's id or "judge"."""

    id: str
    model: str


@dataclass(frozen=True, slots=True)
class MemoryAwaited:
    """The model is loaded once others have left it so much memory."""

    id: str
    model: str
    need_bytes: int


@dataclass(frozen=True, slots=True)
class ModelReady:
    id: str
    model: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PromptRead:
    """Live only, not stored: tokens of the prompt read so far."""

    id: str
    read_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class TextWritten:
    """Live only, not stored: a piece of an answer, of thinking, or of the judge's JSON."""

    id: str
    kind: Literal["content", "thinking", "analysis", "answer"]
    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """`step` counts from 1."""

    id: str
    step: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolReturned:
    id: str
    step: int
    result: ToolStep


@dataclass(frozen=True, slots=True)
class ResultsLeftOut:
    """The window has no room for all that was read: from here on the model is not shown the results of `steps`."""

    id: str
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PanelistCompleted:
    response: Response


@dataclass(frozen=True, slots=True)
class PanelistFailed:
    failed: FailedModel


@dataclass(frozen=True, slots=True)
class FallbackTaken:
    """A model stepped in for another."""

    substitution: Substitution


@dataclass(frozen=True, slots=True)
class CloudCalled:
    """Something is about to leave this machine: to whom, for which seat (or "judge"), and how much of it.

    `prompt_characters` are of all messages of the one request. Said before it is sent, and again for each retry.
    `model` is the catalogue's name of the model, as in every event, `remote_model` the provider's own.
    """

    id: str
    provider: str
    base_url: str
    model: str
    prompt_characters: int
    remote_model: str = ""


@dataclass(frozen=True, slots=True)
class CloudCharged:
    """One request to a provider has ended, in whatever way, and took this: as the provider says, else by estimate."""

    id: str
    provider: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Generated:
    """One generation ended: whose, by which model, and what it took. `provider` is "" for what runs here.

    What a provider's took is in its CloudCharged already, with what failed requests took.
    """

    id: str
    model: str
    usage: Usage
    provider: str = ""


@dataclass(frozen=True, slots=True)
class AnalysisStarted:
    model: str


@dataclass(frozen=True, slots=True)
class AnalysisCompleted:
    """`raw` is the judge's own JSON, the prefix that the final answer is written on."""

    analysis: Analysis
    raw: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class AnalysisFailed:
    """The judge wrote nothing that can be used, or could not be run; `usage` is what it cost all the same."""

    failure_reason: FailureReason
    error: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class AnswerStarted:
    """`id` is "judge", or "writer" where another model writes the answer."""

    model: str
    id: str = JUDGE


@dataclass(frozen=True, slots=True)
class AnswerCompleted:
    """The answer that was written, by the judge or the "writer", and whether it came to its end."""

    content: str
    citations: tuple[Citation, ...]
    usage: Usage
    id: str = JUDGE
    finish_reason: FinishReason = "stop"


@dataclass(frozen=True, slots=True)
class WarningRaised:
    message: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    status: Literal["ok", "error", "interrupted"]
    failure_reason: FailureReason | None = None
    error: str | None = None


Event = (
    RunStarted
    | RunResumed
    | DocumentsRead
    | ModelLoading
    | MemoryAwaited
    | ModelReady
    | PromptRead
    | TextWritten
    | ToolCalled
    | ToolReturned
    | ResultsLeftOut
    | PanelistCompleted
    | PanelistFailed
    | FallbackTaken
    | CloudCalled
    | CloudCharged
    | Generated
    | AnalysisStarted
    | AnalysisCompleted
    | AnalysisFailed
    | AnswerStarted
    | AnswerCompleted
    | WarningRaised
    | RunEnded
)
"""Everything a run can say."""

LIVE_ONLY = (DocumentsRead, PromptRead, TextWritten)
"""Events that are shown and not stored."""
