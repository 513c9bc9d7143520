"""A provider on loopback whose replies are given byte by byte, and which keeps all that it was sent."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP

from localfusion.messages import Json


@dataclass(frozen=True)
class Sent:
    """A request as it came: its first line, every header as it was spelt, and its JSON body."""

    line: str
    headers: Mapping[str, str]
    body: dict[str, Json]

    @property
    def texts(self) -> list[str]:
        """The content of its messages."""
        messages = self.body["messages"]
        assert isinstance(messages, list)
        return [str(message["content"]) for message in messages if isinstance(message, dict)]

    @property
    def calls(self) -> frozenset[str]:
        """The tools that may be called, in either way to say so."""
        text = json.dumps([self.body.get("response_format"), self.body.get("tools")])
        is_barred = self.body.get("tool_choice") not in (None, "auto", "required")
        return frozenset(() if is_barred else (name for name in ("web_search", "web_fetch") if f'"{name}"' in text))


@dataclass(frozen=True)
class Reply:
    """Bytes that are sent as they are; then the connection is closed or, with `hang`, left open until it is closed."""

    raw: bytes
    hang: bool = False


def http(body: bytes | str, *, status: int = 200, kind: str = "text/event-stream", **headers: str) -> Reply:
    """A whole reply, its length said."""
    content = body.encode() if isinstance(body, str) else body
    fields = {"content-type": kind, "content-length": str(len(content)), "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return Reply(f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + content)


def refused(status: int, error: Json = None, **headers: str) -> Reply:
    """An error as OpenAI says it."""
    return http(json.dumps({"error": error or {"message": "no"}}), status=status, kind="application/json", **headers)


def events(*values: Json, done: bool = True) -> str:
    """Values as a stream of events."""
    said = "".join(f"data: {json.dumps(value)}\n\n" for value in values)
    return said + ("data: [DONE]\n\n" if done else "")


def delta(finish: str | None = None, **fields: Json) -> Json:
    """One event of a chat."""
    return {"id": "x", "choices": [{"index": 0, "delta": dict(fields), "finish_reason": finish}]}


def usage(prompt: int = 10, completion: int = 5, **more: Json) -> Json:
    """The event that counts."""
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **more}}


def spoken(text: str, *, size: int = 7, finish: str = "stop") -> Reply:
    """A text in small pieces, and its usage."""
    pieces = [delta(content=text[at : at + size]) for at in range(0, len(text), size)]
    return http(events(delta(role="assistant"), *pieces, delta(finish), usage()))


def called(name: str, arguments: str) -> Reply:
    """A call of a tool in pieces."""
    half = len(arguments) // 2
    first: Json = {"index": 0, "id": "1", "type": "function", "function": {"name": name, "arguments": ""}}
    rest: list[Json] = [{"index": 0, "function": {"arguments": part}} for part in (arguments[:half], arguments[half:])]
    pieces = [delta(tool_calls=[piece]) for piece in (first, *rest)]
    return http(events(delta(role="assistant", content=None), *pieces, delta("tool_calls"), usage()))


Answer = Reply | Callable[[Sent], Reply]


class ProviderServer:
    """Gives its replies in order, the last one again and again; `asked` is set by a request.

    `closed` is set when a client hung up on a reply.
    """

    def __init__(self, replies: Sequence[Answer]) -> None:
        self.sent: list[Sent] = []
        self.asked = threading.Event()
        self.closed = threading.Event()
        self._replies = list(replies)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError):
            reader = connection.makefile("rb")
            line = reader.readline().decode().strip()
            if not line:
                return
            head = b""
            while (field := reader.readline()) not in (b"\r\n", b""):
                head += field
            headers = dict(BytesParser(policy=HTTP).parsebytes(head).items())
            length = int(headers.get("Content-Length", headers.get("content-length", "0")))
            self.sent.append(Sent(line, headers, json.loads(reader.read(length) or b"{}")))
            self.asked.set()
            answer = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
            reply = answer if isinstance(answer, Reply) else answer(self.sent[-1])
            connection.sendall(reply.raw)
            if reply.hang:
                if not connection.recv(1):
                    self.closed.set()
                return
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextmanager
def provider(*replies: Answer) -> Iterator[ProviderServer]:
    """A server for as long as the block lasts."""
    server = ProviderServer(replies)
    try:
        yield server
    finally:
        server.close()
