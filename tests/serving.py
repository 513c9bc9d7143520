"""What the server's tests share: an application behind a real socket, served in the test's own event loop."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from localfusion.server.running import IDLE_S, bound_socket, serve


async def nothing() -> None:
    """No jobs are waited for."""


@asynccontextmanager
async def served(
    app: ASGIApp, *, stop_s: float = 1, on_stop: Callable[[], Awaitable[None]] = nothing, idle_s: int = IDLE_S
) -> AsyncIterator[str]:
    """Serve on a free port until the block ends; a signal ends the server, as it would the command."""
    listening = bound_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    running = asyncio.create_task(serve(app, listening, stop_s=stop_s, on_stop=on_stop, idle_s=idle_s))
    await _answers(port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        if not running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await running
        listening.close()


async def raw(url: str, sent: bytes) -> bytes:
    """What the server answers to some bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    writer.write(sent)
    try:
        return await reader.read()
    finally:
        writer.close()


async def _answers(port: int) -> None:
    """Wait until the server takes connections, which is when its signal handlers are there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")
    await reader.read()
    writer.close()
