"""Replies that come in pieces: heartbeats while nothing is said, and a client's leaving that is noticed at once.

What the pieces say is not known here.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import ClassVar, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from localfusion.server.sse import HEARTBEAT

T = TypeVar("T")


class EventStream(Response):
    """A reply of server-sent events. The frames are closed when all are sent, or the client leaves.

    Once the reply has begun an error has no status any more: it is told as the last frame, which `failed` makes of it
    and the number of frames before.
    """

    media_type = "text/event-stream"
    heartbeat: ClassVar[bytes] = HEARTBEAT

    def __init__(
        self, frames: AsyncGenerator[bytes], *, heartbeat_s: float, failed: Callable[[BaseException, int], bytes]
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._heartbeat_s = heartbeat_s
        self._failed = failed
        self._next: asyncio.Task[bytes | None] | None = None
        self._n_sent = 0

    async def begin(self) -> "EventStream":
        """Wait for the first frame, no longer than a client does without a word; raises what was raised before it."""
        try:
            if await self._arrived():
                self._pending().result()
        except BaseException:
            await self._close()
            raise
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        gone = asyncio.create_task(_left(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_all(send, gone)
        finally:
            gone.cancel()
            await self._close()

    async def _send_all(self, send: Send, gone: "asyncio.Task[None]") -> None:
        is_more = True
        while is_more and not gone.done():
            frame, is_more = self._take() if await self._arrived(gone) else (self.heartbeat, True)
            if not gone.done():
                await send({"type": "http.response.body", "body": frame, "more_body": is_more})

    def _take(self) -> tuple[bytes, bool]:
        """What has arrived, and whether there may be more."""
        arrived, self._next = self._pending(), None
        error = arrived.exception()
        if error is not None:
            return self._failed(error, self._n_sent), False
        self._n_sent += 1
        frame = arrived.result()
        return frame or b"", frame is not None

    async def _arrived(self, *others: "asyncio.Task[None]") -> bool:
        """Whether there is a frame, or the end, before a heartbeat is due or another task is done."""
        frame = self._pending()
        await asyncio.wait({frame, *others}, timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
        return frame.done()

    def _pending(self) -> "asyncio.Task[bytes | None]":
        if self._next is None:
            self._next = asyncio.create_task(_following(self._frames))
        return self._next

    async def _close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
        await self._frames.aclose()


class WholeReply(EventStream):
    """A reply of one JSON document: the empty lines before it say that the server lives."""

    media_type = "application/json"
    heartbeat = b"\n"


async def unless_left(work: Coroutine[None, None, T], receive: Receive) -> T:
    """What the work comes to; it is cancelled, and ClientDisconnect raised, where the client leaves before."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.wait({working, gone})


async def _following(frames: AsyncGenerator[bytes]) -> bytes | None:
    return await anext(frames, None)


async def _left(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
