"""What a search backend is: the protocol every backend meets and the values it returns. No backend is here."""

from dataclasses import dataclass
from typing import Protocol

from localfusion.analysis import Page


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One found page and what it says about the query.

    Every line of `passage` stands word for word in `page.text`. `source` names the backend; `score` ranks
    within one answer of it, higher is better.
    """

    page: Page
    passage: str
    source: str
    score: float

    @property
    def url(self) -> str:
        return self.page.url

    @property
    def title(self) -> str:
        return self.page.title


class Source(Protocol):
    """A place to search and to fetch from. Both raise WebError, which the model is told."""

    async def search(self, query: str, *, max_results: int, max_characters: int) -> tuple[SearchResult, ...]:
        """The best pages first, each page once, at most `max_characters` of each."""
        ...

    async def fetch(self, url: str) -> Page:
        """The whole readable text of an address."""
        ...
