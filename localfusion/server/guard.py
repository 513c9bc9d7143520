"""Who may ask, from where, how often and how much at a time: looked at before a request is, and while its body comes.

ASGI without a framework, since what wraps replies would hide that a client left. What is asked is not known here.
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localfusion.errors import LocalFusionError, QueueFull, RequestRefused
from localfusion.server.hosts import Hosts
from localfusion.server.keys import KeyRing
from localfusion.server.limits import Rates
from localfusion.server.telling import NO_ID, REQUEST_ID, telling

OPEN_PATHS = frozenset({"/health"})
"""What needs no key: whoever watches over the server has none."""
CALLER = "localfusion.caller"
MANY_BYTES = 256 * 2**20
"""What the bodies of all requests under way may take, but for four of the largest that may come."""
DRAIN_S = 0.5
"""How long the rest of a body that is too large is read and dropped, so that its sender hears why it was."""
_BEARER = re.compile(r"bearer +([!-~]{1,500})", flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for every request; `body_s` is how long its body may take to come."""

    hosts: Hosts
    max_body_bytes: int
    cors_origins: Sequence[str] = ()
    body_s: float = 60.0


@dataclass(slots=True)
class Held:
    """What the bodies of all requests under way take."""

    max_bytes: int
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks: his key by its name, to be shown, and by its id, which owns his jobs; "" where none is demanded."""

    name: str = ""
    id: str = ""
    max_queue: int | None = None


def caller_of(scope: Scope) -> Caller:
    """Whoever made this request, which the guard let in."""
    caller: Caller = scope[CALLER]
    return caller


class Guard:
    """Lets in what may come in, answers the rest itself."""

    def __init__(self, app: ASGIApp, *, policy: Policy, keys: KeyRing, rates: Rates) -> None:
        self._app = app
        self._policy = policy
        self._keys = keys
        self._rates = rates
        self._held = Held(max(MANY_BYTES, 4 * policy.max_body_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = Body(receive, self._policy, headers, self._held)
        origin = headers.get("origin", "")
        reply = with_headers(send, body, origin if origin in self._policy.cors_origins else "")
        try:
            self._check_from(scope, headers)
            if _is_preflight(scope, headers):
                await _preflight(headers)(scope, body.receive, reply)
                return
            scope[CALLER] = self._caller(scope, headers)
            await body.check_length()
        except LocalFusionError as error:
            await refused(error, scope)(scope, body.receive, reply)
            return
        try:
            await self._app(scope, body.receive, reply)
        finally:
            body.let_go()

    def _check_from(self, scope: Scope, headers: Headers) -> None:
        """Whether the request names this server, and comes from no page that may not ask."""
        named = headers.getlist("host")
        if len(named) != 1 or not self._policy.hosts.admits(named[0]):
            raise RequestRefused(
                "the server does not answer to the host that the request names",
                refusal="unknown_host",
                hint="start it with --allowed-host NAME, or list the name in `allowed_hosts` of config.yaml",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in (*self._policy.cors_origins, f"{scope['scheme']}://{named[0]}"):
            raise RequestRefused(
                "pages of this origin may not ask",
                refusal="origin_not_allowed",
                hint="list it in `cors_origins` of config.yaml",
            )

    def _caller(self, scope: Scope, headers: Headers) -> Caller:
        if scope["path"] in OPEN_PATHS or not self._keys.is_closed:
            return Caller()
        found = _BEARER.fullmatch(headers.get("authorization", ""))
        entry = self._keys.find(found[1] if found else headers.get("x-api-key", ""))
        if entry is None:
            raise RequestRefused(
                "the request has no key that is known here",
                refusal="invalid_api_key",
                hint="send one as `Authorization: Bearer KEY`; localfusion serve keys add NAME makes one",
            )
        self._rates.take(entry.id, entry.requests_per_minute)
        return Caller(entry.name, entry.id, entry.max_queue)


class Body:
    """The body of one request as it comes: never more than may, never longer than it may take."""

    def __init__(self, receive: Receive, policy: Policy, headers: Headers, held: Held) -> None:
        self._receive = receive
        self._policy = policy
        self._held = held
        self._n_bytes = 0
        self._deadline = asyncio.get_running_loop().time() + policy.body_s
        self._length = headers.get("content-length", "0")
        self.is_whole = self._length == "0" and "transfer-encoding" not in headers

    async def check_length(self) -> None:
        """Refuse a body that says itself that it is too large. One that says nothing, or less, is counted."""
        if self._length.isdigit() and int(self._length[:20]) > self._policy.max_body_bytes:
            await self._refuse()

    async def receive(self) -> Message:
        """The next piece. Raises RequestRefused for one too many, or one too late, QueueFull for too many of all."""
        if self.is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise RequestRefused(
                f"the request was not sent within {self._policy.body_s:g} seconds", refusal="request_timeout"
            ) from None
        self.is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        n_bytes = len(message.get("body", b""))
        self._n_bytes += n_bytes
        self._held.n_bytes += n_bytes
        if self._n_bytes > self._policy.max_body_bytes:
            await self._refuse()
        if self._held.n_bytes > self._held.max_bytes:
            raise QueueFull("too many large requests are under way", hint="ask again later")
        return message

    def let_go(self) -> None:
        """Nobody needs it any more."""
        self._held.n_bytes -= self._n_bytes
        self._n_bytes = 0

    async def _refuse(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while not self.is_whole:
                    message = await self._receive()
                    self.is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        raise RequestRefused(
            f"the request is larger than {self._policy.max_body_bytes} bytes",
            refusal="body_too_large",
            hint="send less, or raise `max_body_mib` of config.yaml",
        )


def with_headers(send: Send, body: Body, origin: str) -> Send:
    """Send replies with what is said to pages of `origin`; a client that has not sent all of its request is let go."""

    async def reply(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-content-type-options"] = "nosniff"
            if origin:
                headers["access-control-allow-origin"] = origin
                headers["access-control-expose-headers"] = "retry-after, x-request-id"
                headers.add_vary_header("Origin")
            if not body.is_whole:
                headers["connection"] = "close"
        await send(message)

    return reply


def refused(error: Exception, scope: Scope) -> Response:
    """The reply that says what is wrong, in the shape of the request's path."""
    answer = telling(error, scope.get(REQUEST_ID, NO_ID))
    return JSONResponse(answer.body(scope["path"]), status_code=answer.row.status, headers=answer.headers)


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return bool(scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers)


def _preflight(headers: Headers) -> Response:
    """What a browser asks before it lets a page ask; only pages that may are answered at all."""
    allowed = {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": headers.get("access-control-request-headers", ""),
        "access-control-max-age": "600",
    }
    return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
