"""The web through a SearXNG server that the user named, by its JSON interface. Pages are not fetched here."""

import re
from typing import Literal

from pydantic import BaseModel, JsonValue, ValidationError

from localfusion.domains import Domains
from localfusion.errors import NotHere, WebError
from localfusion.search.named_server import Answer, NamedServer
from localfusion.search.source import Fetched, Found, Search
from localfusion.search.web_results import Row, plain, query_of, suspicions, web_results, without_orders

SafeSearch = Literal[0, 1, 2]
"""As SearXNG counts: off, moderate, strict."""

MOST_ENGINES = 20
"""So many engines that gave a server nothing are named."""
_LONGEST_NAME = 100
_SYNTAX = "!:?<"
"""What begins a word that SearXNG takes for an order: another engine, another language, another site."""
_JSON_HINT = "add json to search.formats in its settings.yml"


class _Result(BaseModel):
    url: str
    title: str = ""
    content: str | None = None


class _Answer(BaseModel):
    results: list[JsonValue]
    unresponsive_engines: list[JsonValue] = []


class SearXNG:
    """A SearXNG server as a `Source`; which engines and which language it searches is set on the server."""

    def __init__(self, address: str, *, safesearch: SafeSearch = 1, timeout_s: float = 10.0) -> None:
        """`address` is the server's own, with its path if it has one. Raises ConfigError for no such address."""
        self._server = NamedServer(address, kind="SearXNG", timeout_s=timeout_s)
        self._safesearch = safesearch

    @property
    def name(self) -> str:
        """What results and warnings call it."""
        return "searxng"

    async def search(self, search: Search) -> Found:
        """The results in the server's order, none for no words; engines that gave it nothing are warnings."""
        query = without_orders(search.query, _SYNTAX)
        if not query.strip():
            return Found()
        asked = query_of(Search(query, domains=search.domains))
        parameters = (("q", asked), ("format", "json"), ("safesearch", str(self._safesearch)))
        answer = self._read(await self._server.get(f"{self._server.base}/search", parameters))
        results = web_results(filter(None, map(_row, answer.results)), search, source=self.name)
        silent = dict.fromkeys(map(_engine, answer.unresponsive_engines[:MOST_ENGINES]))
        unanswered = (f"searxng: no answer from {engine}" for engine in silent)
        return Found(results, (*unanswered, *suspicions(results)))

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """Nothing can be fetched here: a search server has no pages."""
        del domains
        raise NotHere(url, "searxng finds pages and has none", hint="fetch it from the web")

    def _read(self, answer: Answer) -> _Answer:
        if answer.status != 200:
            raise self._refusal(answer)
        try:
            return _Answer.model_validate_json(answer.body)
        except ValidationError as error:
            what = "a page" if answer.media_type == "text/html" else "something else"
            raise WebError(
                answer.url, f"{self._server} answered with {what} instead of JSON results", hint=_JSON_HINT
            ) from error

    def _refusal(self, answer: Answer) -> WebError:
        reasons = {
            403: ("does not hand out results as JSON (403)", _JSON_HINT),
            404: ("has no search there (404)", "give the address that its start page has, path included"),
            429: (
                "refuses for now: too many requests (429)",
                "try later, or let this machine's address pass in the server's limiter.toml",
            ),
        }
        said, hint = reasons.get(answer.status, (f"failed with status {answer.status}", "try later"))
        return WebError(answer.url, f"{self._server} {said}", hint=hint)


def _row(result: JsonValue) -> Row | None:
    """A result, or None where it is not of the form that results have."""
    try:
        read = _Result.model_validate(result)
    except ValidationError:
        return None
    return Row(read.url, read.title, read.content or "")


def _engine(value: JsonValue) -> str:
    """An engine that did not answer: [name, reason], or the name alone."""
    parts = value if isinstance(value, list) else [value]
    words = plain(": ".join(part[:_LONGEST_NAME] for part in parts if isinstance(part, str) and part))
    return re.sub(r"[^\w .:()/-]", "", words)[:_LONGEST_NAME].strip() or "an engine without a name"
