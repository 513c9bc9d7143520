"""The way to the web: an httpx transport that connects to public addresses only, and names what goes wrong on it.

Every address that a name has is checked, then one of those is connected to: a name is looked up once, so that DNS
that changes gains nothing. There are no proxies, and no switch that turns this off. Redirects, sizes and what may be
asked for are the business of `fetcher`.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import httpcore
import httpx

from localfusion.errors import WebError
from localfusion.search.addresses import is_public, try_ip

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a host name, for a port; raises OSError where there is none."""
LookUp = Callable[[str, int], Sequence[str]]
"""What a `Resolver` does, in a thread."""
IsPublic = Callable[[IPv4Address | IPv6Address], bool]

CONNECT_S = 10.0
_MAX_TRIED = 8
_LOOKUPS_AT_ONCE = 32


class _NotPublic(Exception):
    """A host has an address that must not be connected to."""


class _NotFound(Exception):
    """A host's name cannot be looked up."""


_BROKEN_OFF = (httpcore.ReadError, httpx.ReadError, httpcore.RemoteProtocolError, httpx.RemoteProtocolError)
_SENTENCES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((_NotPublic,), "{host} is not on the open internet, where alone pages may be fetched"),
    ((_NotFound, socket.gaierror), "the host {host} is not found; check the address or read another result"),
    ((ssl.SSLCertVerificationError,), "{host} cannot prove that it is itself: its certificate is not valid"),
    ((ssl.SSLError,), "no secure connection to {host} can be made; read another result"),
    (
        (httpcore.TimeoutException, httpx.TimeoutException, TimeoutError),
        "{host} did not answer in time; read another result",
    ),
    ((ConnectionRefusedError,), "{host} refused the connection; read another result"),
    (
        (
            httpcore.ProtocolError,
            httpx.ProtocolError,
            httpx.DecodingError,
            httpx.StreamError,
            httpx.CookieConflict,
            httpx.TooManyRedirects,
            httpx.HTTPStatusError,
        ),
        "{host} answered with something that is not proper HTTP; read another result",
    ),
    (
        (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol, httpx.InvalidURL),
        "the address is none of the web; check it",
    ),
    (
        (
            httpcore.NetworkError,
            httpcore.ProxyError,
            httpcore.ConnectionNotAvailable,
            httpx.HTTPError,
            OSError,
        ),
        "{host} cannot be reached; read another result",
    ),
)
"""What the model is told, by the first class that the error, or one that led to it, is of."""

FOREIGN = tuple(kind for kinds, _ in _SENTENCES for kind in kinds)
"""Every exception that a request may end with."""


@contextmanager
def named(url: str, *, in_body: bool = False) -> Iterator[None]:
    """Every error of a request for `url` leaves as a WebError; `in_body`: after the head of the answer came."""
    try:
        yield
    except FOREIGN as error:
        is_cut = in_body and isinstance(error, _BROKEN_OFF)
        sentence = "the page of {host} came cut short or damaged; read another result" if is_cut else _sentence(error)
        raise WebError(url, sentence.format(host=urlsplit(url).hostname)) from error


def _sentence(error: Exception) -> str:
    links = tuple(_chain(error))
    return next(sentence for kinds, sentence in _SENTENCES if any(isinstance(link, kinds) for link in links))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a host as the operating system finds them, the best first. Raises OSError. Blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class Lookups:
    """A resolver whose threads are its own, and nothing waits for their end: the system has no limit of time."""

    def __init__(self, look_up: LookUp = look_up) -> None:
        """Nothing is started before the first name. Used in one event loop."""
        self._look_up = look_up
        self._places = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host. Raises OSError. Whoever is cancelled here leaves at once."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()
        thread = threading.Thread(target=self._find, args=(host, port, loop, found), daemon=True, name="look-up")
        try:
            thread.start()
        except RuntimeError as error:
            self._places.release()
            raise OSError("no thread can be started") from error
        return await found

    def _find(
        self, host: str, port: int, loop: asyncio.AbstractEventLoop, found: asyncio.Future[Sequence[str]]
    ) -> None:
        answer: Sequence[str] | Exception
        try:
            answer = self._look_up(host, port)
        except (OSError, UnicodeError, WebError) as error:
            answer = error
        with suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(self._land, found, answer)

    def _land(self, found: asyncio.Future[Sequence[str]], answer: Sequence[str] | Exception) -> None:
        self._places.release()
        if found.done():  # nobody waits any more
            return
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(answer)


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """The network as one request has it: connects to the public addresses of a host, by address."""

    def __init__(self, resolver: Resolver, is_public: IsPublic) -> None:
        self._resolver = resolver
        self._is_public = is_public
        self._network = httpcore.AnyIOBackend()
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 httpcore's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of the addresses of `host`, every one of which must be public, within `timeout` seconds."""
        del local_address, socket_options
        allowed_s = CONNECT_S if timeout is None else timeout
        async with asyncio.timeout(allowed_s):
            addresses = await self._checked(host, port)
            for address in addresses[:-1]:
                try:
                    self._stream = await self._network.connect_tcp(address, port, allowed_s / len(addresses))
                except (httpcore.ConnectError, httpcore.ConnectTimeout):
                    continue
                return self._stream
            self._stream = await self._network.connect_tcp(addresses[-1], port, allowed_s)
            return self._stream

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 httpcore's own signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: nothing of the internet is behind a file."""
        del timeout, socket_options
        raise _NotPublic(path)

    async def aclose(self) -> None:
        """Close the connection, in whatever state it is."""
        if self._stream is not None:
            await self._stream.aclose()

    async def _checked(self, host: str, port: int) -> list[str]:
        """The addresses of a host, a few at most. Raises _NotPublic if a single one of all is not public."""
        try:
            answers = (host,) if try_ip(host) is not None else await self._resolver(host, port)
        except (OSError, UnicodeError) as error:  # a name that DNS cannot spell is a UnicodeError
            raise _NotFound(host) from error
        if not answers:
            raise _NotFound(host)
        ips = [try_ip(answer) for answer in answers]
        if not all(ip is not None and self._is_public(ip) for ip in ips):
            raise _NotPublic(host)
        return [str(ip) for ip in ips[:_MAX_TRIED]]


class _Body(httpx.AsyncByteStream):
    """The body of an answer as it comes, its errors named; closing it closes the connection."""

    def __init__(self, answer: httpcore.Response, network: _CheckedNetwork, url: str) -> None:
        self._answer = answer
        self._network = network
        self._url = url

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with named(self._url, in_body=True):
            async for chunk in self._answer.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        with named(self._url, in_body=True):
            try:
                await self._answer.aclose()
            finally:
                await self._network.aclose()


class Guard(httpx.AsyncBaseTransport):
    """A transport whose every request has a connection of its own, to a checked address; raises only WebError."""

    def __init__(
        self,
        *,
        resolver: Resolver | None = None,
        is_public: IsPublic = is_public,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`resolver` is the operating system's where there is none.

        `ssl_context` says which certificates are trusted: without it, those that browsers trust.
        """
        self._resolver = resolver or Lookups()
        self._is_public = is_public
        self._ssl_context = ssl_context or httpx.create_ssl_context(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the head of its answer; the body is read, and closed, by the caller."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        url = request.url
        network = _CheckedNetwork(self._resolver, self._is_public)
        # One pool a request: in a pool that is shared, a request that is given up in time may keep its place for ever.
        pool = httpcore.AsyncConnectionPool(ssl_context=self._ssl_context, max_connections=1, network_backend=network)
        sent = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            # Of the extensions only this one: another could have a certificate checked for another name.
            extensions={"timeout": request.extensions.get("timeout", {})},
        )
        with named(str(url)):
            try:
                answer = await pool.handle_async_request(sent)
            except BaseException:
                await network.aclose()
                raise
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer, network, str(url)))
