"""An HTTP server on loopback that sends the bytes it is told to, well-formed or not, and counts who comes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]
Answer = bytes | Script
"""The bytes to send before the connection is closed, or what writes them."""

END_OF_HEAD = b"\r\n\r\n"


@dataclass(slots=True)
class WebServer:
    """`answers` by path: one for every request, or several, one a request, the last of which stays."""

    answers: Mapping[str, Answer | Sequence[Answer]]
    port: int = 0
    connections: int = 0
    requests: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    handlers: set[asyncio.Task[None] | None] = field(default_factory=set)

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [request.split(" ")[1] for request in self.requests]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.at_once += 1
        self.handlers.add(asyncio.current_task())
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            head = (await reader.readuntil(END_OF_HEAD)).decode()
            self.requests.append(head)
            await _send(self._answer(head.split(" ")[1]), writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the server was stopped
        finally:
            self.at_once -= 1
            self.handlers.discard(asyncio.current_task())
            writer.close()

    def stop(self) -> None:
        """Break off what is still being answered."""
        for handler in self.handlers:
            if handler is not None:
                handler.cancel()

    def _answer(self, path: str) -> Answer:
        answers = self.answers.get(path, page("", status="404 Not Found"))
        if isinstance(answers, bytes) or callable(answers):
            return answers
        return answers[min(self.paths.count(path), len(answers)) - 1]


@asynccontextmanager
async def serve(
    answers: Mapping[str, Answer | Sequence[Answer]],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[WebServer]:
    """A server for the time of a block."""
    web = WebServer(answers)
    async with await asyncio.start_server(web.handle, host, port, ssl=tls) as server:
        web.port = int(server.sockets[0].getsockname()[1])
        try:
            yield web
        finally:
            web.stop()


async def _send(answer: Answer, writer: asyncio.StreamWriter) -> None:
    if callable(answer):
        await answer(writer)
    else:
        writer.write(answer)
    await writer.drain()


def page(
    body: str | bytes,
    *,
    status: str = "200 OK",
    content_type: str = "text/plain; charset=utf-8",
    **headers: str | int,
) -> bytes:
    """A well-formed answer, save for the headers given: `x_y=...` is "x-y", a length included."""
    content = body.encode() if isinstance(body, str) else body
    fields = {"content-length": len(content)} | {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type:
        fields["content-type"] = content_type
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + content


def redirect(location: str, status: str = "302 Found") -> bytes:
    """A redirect."""
    return page("", status=status, location=location)


def endless(start: bytes, again: bytes, pause_s: float = 0.0) -> Script:
    """Sends `again` for ever after `start`."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return write
