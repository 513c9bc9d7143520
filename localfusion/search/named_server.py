"""A search server that the user named, asked over HTTP with limits of time and size. What it answers is not read here.

Since the user named it, it may stand on a private network; nothing but what is below its address is asked, and the
proxies of the environment are not.
"""

import asyncio
import ssl
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import httpx

import localfusion
from localfusion.errors import ConfigError, WebError
from localfusion.search.body import charset
from localfusion.search.web_results import canonical

MAX_REDIRECTS = 5
MAX_ANSWER_BYTES = 8 * 2**20
_HEADERS = {
    "User-Agent": f"localfusion/{localfusion.__version__}",
    "Accept": "text/html, application/json, application/xml;q=0.9, */*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
    "Accept-Language": "*",
}
"""SearXNG's limiter takes whoever leaves one of these out, or pages out of what is accepted, for a bot."""
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})
_ANY_HEADER = 32
"""Added to zlib's window: gzip or zlib, whichever it is."""
_NAME_THAT = "name the server by the address that it leads to"
_MAX_SHOWN_CHARACTERS = 100
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from `url`, which is where redirects led to."""

    url: str
    status: int
    media_type: str
    charset: str | None
    body: bytes


class NamedServer:
    """A server by its address, with or without a path: "http://localhost:8080/search-engine"."""

    def __init__(
        self, address: str, *, kind: str, timeout_s: float = 10.0, max_answer_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        """`kind` is what errors call it. Raises ConfigError for an address that is none of a server."""
        self._kind = kind
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self.base, self._auth = _read_address(address, kind)
        self._tls: ssl.SSLContext = httpx.create_ssl_context(trust_env=False)

    def __str__(self) -> str:
        return f"{self._kind} at {self.base}"

    def holds(self, url: str) -> bool:
        """Whether an address is below this server's own, and says so plainly: without ".." however it is written."""
        own = canonical(url)
        if own is None or not own.startswith(f"{self.base}/"):
            return False
        path = unquote(unquote(urlsplit(own).path))
        return not {"..", "."}.intersection(path.replace("\\", "/").split("/"))

    async def get(self, url: str, parameters: Sequence[tuple[str, str]] = ()) -> Answer:
        """What the server answers to a GET of `url`, which it holds. Raises WebError where no whole answer comes."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(url, parameters)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise WebError(url, f"{self} did not answer within {self._timeout_s:g} s", hint="try later") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            what = type(error).__name__  # its text may hold what the server sent
            raise WebError(url, f"{self} cannot be reached ({what})", hint="check that it runs") from error
        except zlib.error as error:
            raise WebError(url, f"{self} answered with damaged bytes ({error})", hint="try later") from error

    async def _follow(self, url: str, parameters: Sequence[tuple[str, str]]) -> Answer:
        async with httpx.AsyncClient(
            trust_env=False,
            verify=self._tls,
            auth=self._auth,
            timeout=self._timeout_s,
            headers=_HEADERS,
        ) as client:
            asked = url if not parameters else str(httpx.URL(url, params=list(parameters)))
            for _ in range(MAX_REDIRECTS + 1):
                async with client.stream("GET", asked) as response:
                    if response.status_code not in _REDIRECTS:
                        return await self._read(asked, response)
                    asked = _target(asked, response.headers.get("location", ""))
                if not self.holds(asked):
                    raise WebError(url, f"{self} leads to {_place(asked)}, which is not below it", hint=_NAME_THAT)
        raise WebError(url, f"{self} leads from one address to the next without end", hint="try another address")

    async def _read(self, url: str, response: httpx.Response) -> Answer:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {*_COMPRESSED, "identity", ""}:
            raise WebError(url, f"{self} answered in an encoding that it was not asked for", hint="try another address")
        expander = zlib.decompressobj(zlib.MAX_WBITS | _ANY_HEADER) if encoding in _COMPRESSED else None
        body = bytearray()
        async for piece in response.aiter_raw():
            # never more than one byte too many is taken out of what is packed, however much is in it
            body += expander.decompress(piece, self._max_answer_bytes - len(body) + 1) if expander else piece
            if len(body) > self._max_answer_bytes:
                limit = self._max_answer_bytes / 2**20
                raise WebError(url, f"{self} answered with more than {limit:g} MiB", hint="try another address")
        content_type = response.headers.get("content-type", "")
        media_type = content_type.partition(";")[0].strip().lower()
        return Answer(url, response.status_code, media_type, charset(content_type), bytes(body))


def _target(base: str, location: str) -> str:
    """Where a redirect leads; "", which no server holds, for what is no address."""
    try:
        return urljoin(base, location)
    except ValueError:
        return ""


def _place(url: str) -> str:
    """The host of an address: the rest of it may be words that the server chose."""
    known = canonical(url)
    return urlsplit(known).netloc[:_MAX_SHOWN_CHARACTERS] if known else "what is no address"


def _read_address(address: str, kind: str) -> tuple[str, tuple[str, str] | None]:
    """The address in its one form without a slash at its end, and the user and password that stood in it."""
    hint = "write it like http://localhost:8080"
    try:
        parts = urlsplit(address.strip())
        user, password = parts.username, parts.password
    except ValueError as error:
        raise ConfigError(f"{address!r} is no address of {kind}", hint=hint) from error
    place = parts.netloc.rpartition("@")[2]
    base = canonical(urlunsplit((parts.scheme.lower(), place, parts.path, "", "")))
    if base is None or parts.query or parts.fragment:
        raise ConfigError(f"{urlunsplit(parts._replace(netloc=place))!r} is no address of {kind}", hint=hint)
    auth = (unquote(user), unquote(password or "")) if user else None
    return base.rstrip("/"), auth
