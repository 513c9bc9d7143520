"""An application served in this event loop until a signal ends it; what still runs then has some time to finish.

uvicorn does the work. Here stands what it lacks: time limits for heads of requests and for what a client leaves unread,
a bound on connections that is told as every error is, and an end that a second signal does not wait for.
"""

import asyncio
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from localfusion.errors import ConfigError, QueueFull
from localfusion.machine import allow_open_files
from localfusion.server.guard import refused

IDLE_S = 15
"""How long a connection may be silent between requests, and how long the head of a request may take to come."""
MAX_HEAD_BYTES = 64 * 1024
STALLED_S = 60.0
"""How long a client may leave what it is sent unread."""
MAX_CONNECTIONS = 2048
MAX_REFUSED = 64
"""Connections above `MAX_CONNECTIONS` whose requests are refused in words; further ones are closed unheard."""
OTHER_FILES = 512
"""What else a server and what it starts hold open beside connections."""
BACKLOG = 1024
MOMENT_S = 8.0
"""What stopping work may take, and sending replies to their end after that."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"nowhere": {"class": "logging.NullHandler"}},
    "loggers": {"uvicorn": {"handlers": ["nowhere"], "level": "CRITICAL", "propagate": False}},
}
"""uvicorn's own log would hold paths and traces."""


class PromptProtocol(H11Protocol):
    """uvicorn's protocol, with time limits for the head of each request and for unread replies, and a bound."""

    max_connections = MAX_CONNECTIONS
    stalled_s = STALLED_S
    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.timeout_keep_alive, transport.abort)
        if len(self.connections) > self.max_connections:
            self.app = _one_too_many
        if len(self.connections) > self.max_connections + MAX_REFUSED:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        self._heed_unread(0)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More is unread than is kept for a client: it is given time, and sent nothing."""
        super().pause_writing()
        self._heed_unread(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        self._heed_unread(0)

    def on_response_complete(self) -> None:
        """The end of a reply has to be read too, so that the connection can be used again, or closed."""
        super().on_response_complete()
        self._heed_unread(self.transport.get_write_buffer_size())

    def _heed_unread(self, n_bytes: int) -> None:
        """Look again at what is unread now, if anything is."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        self._unread_timer = self.loop.call_later(self.stalled_s, self._look, n_bytes) if n_bytes else None

    def _look(self, before: int) -> None:
        """Let go of a client that has read nothing since."""
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        else:
            self._heed_unread(left)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class GracefulServer(Server):
    """uvicorn's server, whose end may be waited for, and which any second signal ends at once."""

    def __init__(self, config: Config, on_stop: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Without raising them again in the end: a server that was asked to stop has not failed."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests and jobs finish side by side, or not at all."""
        stopping = asyncio.ensure_future(self._on_stop())
        await super().shutdown(sockets)
        while not (stopping.done() or self.force_exit):
            await asyncio.wait({stopping}, timeout=0.1)
        stopping.cancel()
        await asyncio.wait({stopping})
        if not stopping.cancelled():
            stopping.result()


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(BACKLOG)
        except OSError:
            found.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no name"
        raise ConfigError(
            f"the server cannot listen on {host}, port {port}: {reason}", hint="name another with --host and --port"
        ) from error
    return found


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    stop_s: float,
    on_stop: Callable[[], Awaitable[None]],
    idle_s: int = IDLE_S,
) -> None:
    """Serve until SIGINT or SIGTERM. Then nothing new is taken, and `on_stop` is called, which ends what runs.

    A moment after `stop_s`, and what that takes, replies that still are not ended are cut.
    """
    config = Config(
        app,
        http=_protocol(),
        ws="none",
        lifespan="off",
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=idle_s,
        timeout_graceful_shutdown=math.ceil(stop_s + MOMENT_S),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    await GracefulServer(config, on_stop).serve(sockets=[listening])


def _protocol() -> type[PromptProtocol]:
    """The protocol, for as many connections as this process may have."""
    n_files = allow_open_files(MAX_CONNECTIONS + MAX_REFUSED + OTHER_FILES)

    class Bounded(PromptProtocol):
        max_connections = max(1, min(MAX_CONNECTIONS, n_files - MAX_REFUSED - OTHER_FILES))

    return Bounded


async def _one_too_many(scope: Scope, receive: Receive, send: Send) -> None:
    reply = refused(QueueFull("too many connections are open", hint="ask again later"), scope)
    reply.headers["connection"] = "close"
    await reply(scope, receive, send)
