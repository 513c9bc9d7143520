"""What a search backend is: the protocol every backend meets and the values that cross it. No backend is here."""

from dataclasses import dataclass
from typing import Protocol

from localfusion.analysis import Link, Page
from localfusion.domains import ANYWHERE, Domains


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One found page and what it says about the query.

    `source` names the backend; `score` ranks within one answer of it, higher is better. `page` is the whole text
    where the backend has it at hand; every line of `passage` stands word for word in it.
    """

    url: str
    title: str
    passage: str
    source: str
    score: float
    page: Page | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for: at most `max_results` pages, `max_characters` of each, on the web within `domains` only."""

    query: str
    max_results: int = 5
    max_characters: int = 2000
    domains: Domains = ANYWHERE


@dataclass(frozen=True, slots=True)
class Found:
    """The best pages first, each once. `warnings` are for the user: which backend gave nothing, and why."""

    results: tuple[SearchResult, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A page with the addresses it links to, in its order, each once. `warnings` are for the user."""

    page: Page
    links: tuple[Link, ...] = ()
    warnings: tuple[str, ...] = ()


class Source(Protocol):
    """A place to search and to fetch from. Both raise WebError, which the model is told."""

    @property
    def name(self) -> str:
        """What results and warnings call it."""
        ...

    async def search(self, search: Search) -> Found: ...

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """The whole readable text of an address; no address outside of `domains` is asked, redirects included.

        Raises NotHere where the address is not of this source's kind.
        """
        ...
