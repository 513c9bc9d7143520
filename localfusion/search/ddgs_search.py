"""The web through the search engines that the package ddgs reads. Pages are not fetched here.

Of ddgs its engines are used and nothing else: not its command, its server or any cache, and not `DDGS` itself, which
takes a proxy from the environment and does not say which engine refused, or that any did.
"""

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import urljoin, urlsplit

import primp
from ddgs.base import BaseSearchEngine
from ddgs.engines import ENGINES
from ddgs.exceptions import DDGSException, RatelimitException, TimeoutException
from ddgs.http_client import HttpClient, Response
from ddgs.results import TextResult
from lxml.etree import LxmlError

from localfusion.domains import Domains
from localfusion.errors import ConfigError, NotHere, WebError
from localfusion.search.blocks import Unreadable
from localfusion.search.fusion import fuse
from localfusion.search.readers import decode
from localfusion.search.source import Fetched, Found, Search, SearchResult
from localfusion.search.web_results import Row, canonical, query_of, suspicions, web_results, without_orders

DEFAULT_ENGINES = ("duckduckgo", "brave", "mojeek", "startpage", "wikipedia")
AT_ONCE = 3
"""Engines asked side by side; the others of the list only where these find too little or refuse."""
THREADS = 8
ROUNDS = 3
"""How often the engines are asked for one search where all that were asked refuse."""
FIRST_REST_S = 2.0
LONGEST_REST_S = 300.0
"""How long an engine that refuses is left alone: doubled with each refusal in a row, a random half more or less."""
UNREACHED_REST_S = 20.0
"""The first rest of an engine that cannot be reached or does not answer in time."""
LONGEST_WAIT_S = 10.0
"""A search that would have to wait longer for the first engine to have rested is refused at once."""
TIMEOUT_S = 10
"""Seconds that one request to an engine may take, and three times this an engine; some make two requests."""

MAX_PAGE_BYTES = 4 * 2**20
MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SYNTAX = "!\\"
"""What begins a word that engines take for an order: to lead to another site, or to the first result."""
_REFUSALS = frozenset({202, 403, 418, 429, 503})
"""Statuses by which engines say that it is too much; DuckDuckGo's is 202."""
_CHALLENGE = re.compile(
    r"anomaly-modal|captcha|unusual traffic|automated (?:queries|requests)|too many requests|are you a (?:ro)?bot",
    re.IGNORECASE,
)
_REGION = re.compile(r"[a-z]{2}-[a-z]{2}")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one engine gave; `problem` is "" where it answered, with results or without."""

    engine: str
    rows: tuple[Row, ...] = ()
    problem: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class _Rest:
    """An engine that is left alone: failed so many times in a row, until when, and whether it refused itself."""

    failures: int = 0
    until_s: float = 0.0
    refused: bool = False


class EngineSearch:
    """Several engines as one `Source`: their rankings fused, those that refuse or are not reached left for a while."""

    def __init__(
        self,
        engines: Sequence[str] = DEFAULT_ENGINES,
        *,
        proxy: str | None = None,
        verify: bool | str = True,
        region: str = "us-en",
        timeout_s: int = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`engines` in order of preference; `verify` may be a PEM file of authorities; `region` is country-language.

        No proxy but `proxy` is used, whatever the environment says. Raises ConfigError for an unknown engine or region.
        """
        _check(engines, region)
        self._engines = tuple(dict.fromkeys(engines))
        self._proxy, self._verify, self._region, self._timeout_s = proxy, verify, region, timeout_s
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._rests: dict[str, _Rest] = {}
        # Its own: engines that hang must not keep others from the threads that all share.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="web-search")

    @property
    def name(self) -> str:
        """What results and warnings call it."""
        return "web"

    async def search(self, search: Search) -> Found:
        """The engines' results, fused, none for no words; an engine that refused or failed is a warning.

        Raises WebError where none of them answered.
        """
        search = replace(search, query=without_orders(search.query, _SYNTAX))
        if not search.query:
            return Found()
        answers: list[_Answer] = []
        for _ in range(ROUNDS):
            wait_s = self._wait_s()
            if wait_s > LONGEST_WAIT_S:
                break
            if wait_s > 0:
                await self._sleep(wait_s)
            answers = await self._ask_in_turn(search)
            if not all(answer.refused for answer in answers):
                break
        if all(answer.problem for answer in answers):
            raise self._nothing_works(answers)
        warnings = tuple(f"web: {answer.engine} {answer.problem}" for answer in answers if answer.problem)
        results = _fused(answers, search, self.name)
        return Found(results, (*warnings, *suspicions(results)))

    def close(self) -> None:
        """Wait for nothing more; an engine that is still being asked ends with its time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """Nothing can be fetched here: engines find pages, they have none."""
        del domains
        raise NotHere(url, "search engines find pages and have none", hint="fetch it from the web")

    async def _ask_in_turn(self, search: Search) -> list[_Answer]:
        """Ask a few of the engines that have rested, then more of them until enough was found."""
        now = self._clock()
        waiting = [name for name in self._engines if self._rest(name).until_s <= now]
        answers: list[_Answer] = []
        while waiting and len(_fused(answers, search, self.name)) < search.max_results:
            asked, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            answers += await asyncio.gather(*(self._ask(name, query_of(search)) for name in asked))
        return answers

    async def _ask(self, name: str, query: str) -> _Answer:
        try:
            async with asyncio.timeout(3 * self._timeout_s):
                loop = asyncio.get_running_loop()
                rows = await loop.run_in_executor(self._threads, self._ask_engine, name, query)
        except RatelimitException as error:
            self._let_rest(name, FIRST_REST_S, refused=True)
            return _Answer(name, problem=f"refuses for now ({error})", refused=True)
        except (TimeoutException, TimeoutError):
            self._let_rest(name, UNREACHED_REST_S)
            return _Answer(name, problem="did not answer in time")
        except DDGSException as error:
            if isinstance(error.__cause__, primp.ConnectError | primp.DNSError):
                self._let_rest(name, UNREACHED_REST_S)
            return _Answer(name, problem=f"failed ({_briefly(error)})")
        self._rests.pop(name, None)
        return _Answer(name, rows)

    def _ask_engine(self, name: str, query: str) -> tuple[Row, ...]:
        """One search of one engine, in a thread. Raises DDGSException and its kin only."""
        engine: BaseSearchEngine[TextResult] = ENGINES["text"][name](
            proxy=self._proxy, timeout=self._timeout_s, verify=self._verify
        )
        client = EngineClient(self._proxy, self._timeout_s, verify=self._verify)
        client.client.headers_update(engine.headers_update)
        engine.http_client = client
        try:
            found = engine.search(query, region=self._region)
        except (ValueError, LookupError, AttributeError, TypeError, StopIteration, LxmlError) as error:
            raise DDGSException("what it answered cannot be read") from error
        if not found and _CHALLENGE.search(client.last_text) and not _CHALLENGE.search(query):
            raise RatelimitException("it asks whether a person is there")
        return tuple(Row(one.href, one.title, one.body) for one in found or ())

    def _rest(self, name: str) -> _Rest:
        return self._rests.get(name, _Rest())

    def _let_rest(self, name: str, first_s: float, *, refused: bool = False) -> None:
        failures = self._rest(name).failures
        rest_s = min(first_s * 2.0 ** min(failures, 16), LONGEST_REST_S) * (0.5 + self._jitter())
        self._rests[name] = _Rest(failures + 1, self._clock() + rest_s, refused)

    def _wait_s(self) -> float:
        """How long until an engine may be asked, not more than 0 where one may; infinite where none is to be reached.

        One that refuses is waited for, as it says itself that this passes.
        """
        now = self._clock()
        rests = [self._rest(name) for name in self._engines]
        return min(rest.until_s - now if rest.refused or rest.until_s <= now else math.inf for rest in rests)

    def _nothing_works(self, answers: Sequence[_Answer]) -> WebError:
        named = "; ".join(f"{answer.engine} {answer.problem}" for answer in answers) or ", ".join(self._engines)
        if not any(answer.refused for answer in answers) and (answers or math.isinf(self._wait_s())):
            return WebError("", f"no search engine answers: {named}", hint="check the connection to the internet")
        hint = f"use other sources, or search again in {max(self._wait_s(), 1):.0f} s"
        return WebError("", f"the search engines refuse for now; {named}", hint=hint)


def _briefly(error: DDGSException) -> str:
    """What ddgs says of a failure, without the chain of causes that its client writes after the first."""
    return str(error).partition(":")[0].strip()[:80] or type(error).__name__


class EngineClient(HttpClient):
    """ddgs's own client, which engines make requests with, where no answer but one with results passes in silence."""

    def __init__(self, proxy: str | None, timeout_s: int, *, verify: bool | str) -> None:
        super().__init__(proxy, timeout_s, verify=verify)
        if proxy is None:
            self.client.proxy = None  # said once more: else primp takes one from the environment
        self.client.follow_redirects = False
        self.last_text = ""

    def request(self, *args: object, **kwargs: object) -> Response:
        """As ddgs's own, but within the engine's host, and no page is larger than MAX_PAGE_BYTES."""
        try:
            response = Response(self._page(*args, **kwargs))
        except primp.TimeoutError as error:
            raise TimeoutException("timeout") from error
        except primp.PrimpError as error:
            raise DDGSException(type(error).__name__) from error
        if response.status_code in _REFUSALS:
            raise RatelimitException(f"status {response.status_code}")
        if response.status_code != 200:
            raise DDGSException(f"status {response.status_code}")
        self.last_text = response.text
        return response

    def _page(self, method: object, url: object, **kwargs: object) -> "_EnginePage":
        """The answer, also where the engine has moved it to another of its own addresses."""
        ask = cast(Callable[..., primp.Response], self.client.request)
        answer, place = ask(method, url, stream=True, **kwargs), str(url)
        for _ in range(MAX_REDIRECTS):
            if answer.status_code not in _REDIRECTS:
                break
            place = _within_host(place, answer.headers.get("location", ""))
            answer.close()
            answer = ask("GET", place, stream=True)
        content = bytearray()
        while piece := answer.next():
            content += piece
            if len(content) > MAX_PAGE_BYTES:
                answer.close()
                raise DDGSException(f"it answered with more than {MAX_PAGE_BYTES // 2**20} MiB")
        try:
            return _EnginePage(answer.status_code, bytes(content), decode(bytes(content)))
        except Unreadable as error:
            raise DDGSException("what it answered cannot be read") from error


@dataclass(frozen=True, slots=True)
class _EnginePage:
    """What `Response` of ddgs looks at."""

    status_code: int
    content: bytes
    text: str


def _within_host(url: str, location: str) -> str:
    """Where a redirect leads. Raises DDGSException for what is not on the same host, over the same scheme."""
    try:
        target = urljoin(url, location)
        before, after = urlsplit(url), urlsplit(target)
    except ValueError as error:
        raise DDGSException("it leads to what is no address") from error
    if (before.scheme, before.netloc) != (after.scheme, after.netloc):
        raise DDGSException("it leads to another host")
    return target


def _check(engines: Sequence[str], region: str) -> None:
    known = sorted(ENGINES["text"])
    unknown = [name for name in engines if name not in known]
    if unknown or not engines:
        named = ", ".join(unknown) or "an empty list"
        raise ConfigError(f"there is no search engine {named}", hint=f"the engines are: {', '.join(known)}")
    if not _REGION.fullmatch(region):
        raise ConfigError(f"{region!r} is no region", hint="write a country and a language, as us-en or de-de")


def _fused(answers: Iterable[_Answer], search: Search, source: str) -> tuple[SearchResult, ...]:
    """The rankings of the engines as one; of an address that several found, the longest snippet."""
    rankings: list[list[str]] = []
    rows: dict[str, Row] = {}
    for answer in answers:
        ranking: list[str] = []
        for row in answer.rows:
            url = canonical(row.url)
            if url is None:
                continue
            ranking.append(url)
            if url not in rows or len(row.snippet) > len(rows[url].snippet):
                rows[url] = row
        rankings.append(ranking)
    return web_results((rows[url] for url, _ in fuse(rankings)), search, source=source)
