"""Fetches one page of the web: redirects, status codes, limits and politeness. The guard decides what is connected to.

No cookie is kept, nothing is sent but a GET. A redirect from https to http is refused at any hop: what was asked for
in private is not asked for in the open, and could be changed on its way. How bytes become text is `page_reader`'s.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

from localfusion import __version__
from localfusion.analysis import Page
from localfusion.domains import Domains
from localfusion.errors import WebError
from localfusion.search.addresses import Address, follow, parse_address, require_admitted
from localfusion.search.blocks import Unreadable
from localfusion.search.body import ACCEPTED, ACCEPTED_ENCODINGS, Body, charset, media_type, sniff
from localfusion.search.guard import CONNECT_S, Guard
from localfusion.search.read_page import PageReader
from localfusion.search.source import Fetched
from localfusion.search.spacing import HostSpacing

USER_AGENT = f"localfusion/{__version__}"
MAX_PATIENCE_S = 5.0
"""A host that asks for a longer pause is left alone; the model is told how long."""

_HEADERS = {
    "User-Agent": USER_AGENT,
    "Accept": ACCEPTED,
    "Accept-Encoding": ACCEPTED_ENCODINGS,
    "Connection": "close",
}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 503})
_REFUSALS = {
    401: "{host} shows this page after a login only (401); read another result",
    403: "{host} refused to show this page (403): it wants a login, or takes this for a robot; read another result",
    404: "{host} has no such page (404); check the address or read another result",
    410: "{host} has taken this page away (410); read another result",
    429: "{host} was asked too often (429); read another result",
    451: "{host} may not show this page for legal reasons (451); read another result",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one fetch may take: bytes that arrive, bytes they come to when decompressed, time, redirects."""

    max_raw_bytes: int = 10 * 2**20
    max_bytes: int = 20 * 2**20
    total_s: float = 30.0
    connect_s: float = CONNECT_S
    max_redirects: int = 5


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class _Document:
    """The decompressed body of an answer, and as what it is to be read."""

    content: bytes
    media_type: str
    charset: str | None


@dataclass(frozen=True, slots=True)
class _Moved:
    location: str


@dataclass(frozen=True, slots=True)
class _Later:
    """A refusal that may pass within `wait_s`."""

    wait_s: float
    error: WebError


class Fetcher:
    """Fetches pages through a guard; all who fetch share one, for the sake of the hosts."""

    def __init__(
        self,
        guard: Guard,
        *,
        limits: Limits = DEFAULT_LIMITS,
        spacing: HostSpacing | None = None,
        read: PageReader,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives the time of day in seconds since 1970."""
        self._guard = guard
        self._limits = limits
        self._spacing = spacing or HostSpacing()
        self._read = read
        self._clock = clock

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """The page at `url`, under the address that it has after all redirects. Raises WebError."""
        asked = parse_address(url)
        try:
            async with asyncio.timeout(self._limits.total_s):
                address, document = await self._follow(asked, domains)
        except TimeoutError as error:
            message = f"{asked.host} took longer than {self._limits.total_s:g} s; read another result"
            raise WebError(asked.url, message) from error
        retrieved_at = utc_time(self._clock())
        try:
            page = await self._read(
                document.content, media_type=document.media_type, charset=document.charset, url=address.url
            )
        except Unreadable as error:
            raise _unreadable(address, error) from error
        kept = Page(address.url, page.title, page.text, page.sha256, retrieved_at, page.byline)
        return Fetched(kept, page.links, page.warnings)

    async def close(self) -> None:
        """Close the guard; what is under way ends with who waits for it."""
        await self._guard.aclose()

    async def _follow(self, address: Address, domains: Domains) -> tuple[Address, _Document]:
        """The document that an address leads to, and its own address."""
        asked = address
        for _ in range(self._limits.max_redirects + 1):
            require_admitted(address, domains)
            answer = await self._ask(address)
            if isinstance(answer, _Document):
                return address, answer
            address = _target(address, answer)
        message = f"{asked.host} redirects more than {self._limits.max_redirects} times; read another result"
        raise WebError(asked.url, message)

    async def _ask(self, address: Address) -> _Document | _Moved:
        """What a host answers; asked once more where it was busy for a moment, or failed."""
        answer = await self._send(address)
        if isinstance(answer, _Later):
            self._spacing.put_off(address.host, answer.wait_s)
            answer = await self._send(address)
        if isinstance(answer, _Later):
            raise answer.error
        return answer

    async def _send(self, address: Address) -> _Document | _Moved | _Later:
        limits = self._limits
        seconds = {"connect": limits.connect_s, "read": limits.total_s, "write": limits.total_s, "pool": limits.total_s}
        headers = {"Host": address.authority} | _HEADERS  # httpx cannot find the host out where it is no proper IDN
        request = httpx.Request("GET", address.url, headers=headers, extensions={"timeout": seconds})
        async with self._spacing.turn(address.host):
            response = await self._guard.handle_async_request(request)
            try:
                return _verdict(address, response, self._clock()) or await self._document(response)
            except Unreadable as error:
                raise _unreadable(address, error) from error
            finally:
                await response.aclose()

    async def _document(self, response: httpx.Response) -> _Document:
        """The body, as far as the limits allow. Raises Unreadable, before anything is read where the head says so."""
        content_type = response.headers.get("content-type", "")
        kind = media_type(content_type)
        body = Body(
            response.headers.get("content-encoding", ""),
            max_raw_bytes=self._limits.max_raw_bytes,
            max_bytes=self._limits.max_bytes,
        )
        body.expect(_digits(response.headers.get("content-length", "")) or 0)
        async for chunk in response.aiter_raw():
            body.feed(chunk)
        content = body.close()
        if not content.strip():
            raise Unreadable("it is empty")
        return _Document(content, kind or sniff(content), charset(content_type))


def utc_time(seconds: float) -> str:
    """A time since 1970 in ISO 8601, UTC, whole seconds; such texts sort as the times do."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def retry_after_s(value: str, now: float) -> float | None:
    """How long a Retry-After asks to wait, in seconds from `now`; None for what is neither a number nor a date."""
    seconds = _digits(value)
    if seconds is not None:
        return float(seconds)
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _verdict(address: Address, response: httpx.Response, now: float) -> _Moved | _Later | None:
    """What the head of an answer says: None for a page. Raises WebError for a refusal that lasts."""
    status, headers = response.status_code, response.headers
    if status in _REDIRECTS and "location" in headers:
        return _Moved(headers["location"])
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    error = WebError(address.url, _refusal(status).format(host=address.host))
    wait_s = retry_after_s(headers.get("retry-after", ""), now) if status in _BUSY else None
    if wait_s is not None and wait_s > MAX_PATIENCE_S:
        message = f"{address.host} is busy and asks to wait {wait_s:.0f} s ({status}); read another result meanwhile"
        raise WebError(address.url, message)
    if wait_s is not None or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _Later(wait_s or 0.0, error)
    raise error


def _refusal(status: int) -> str:
    if HTTPStatus.INTERNAL_SERVER_ERROR <= status < 600:
        return f"{{host}} has a fault of its own ({status}); read another result"
    return _REFUSALS.get(status, f"{{host}} answered with the code {status} and no page; read another result")


def _target(address: Address, moved: _Moved) -> Address:
    """Where a redirect leads. Raises WebError where it must not be followed."""
    try:
        target = follow(address, moved.location)
    except WebError as error:
        raise WebError(address.url, f"{address.host} redirects, and {error.message}") from error
    if address.scheme == "https" and target.scheme == "http":
        message = f"{address.host} redirects from https to http, which is not followed; read another result"
        raise WebError(address.url, message)
    return target


def _unreadable(address: Address, error: Unreadable) -> WebError:
    return WebError(address.url, f"the page of {address.host} cannot be read: {error.message}")


def _digits(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None
