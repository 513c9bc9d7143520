"""A server on loopback that gives recorded answers: over HTTP, or over TLS as any host behind a CONNECT proxy."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import trustme


@dataclass(frozen=True)
class Asked:
    """A request: `host` as its Host header says, `fields` from the query or from the body of a form."""

    method: str
    host: str
    path: str
    fields: Mapping[str, list[str]]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Recorded:
    """An answer; with `wait` it is only begun, and goes on when the server closes."""

    body: bytes | str = b""
    status: int = 200
    media_type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: bool = False


Answer = Recorded | Callable[[Asked], Recorded]


class RecordedServer:
    """Answers by "host/path" or by "/path" alone; what was asked is in `asked`, in order."""

    def __init__(self, answers: Mapping[str, Answer], authority: trustme.CA | None = None) -> None:
        self.answers = dict(answers)
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self._authority = authority
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, asked: Asked) -> Recorded:
        self.asked.append(asked)
        host = asked.host.partition(":")[0]
        found = self.answers.get(f"{host}{asked.path}", self.answers.get(asked.path))
        if found is None:
            return Recorded("not found", 404)
        return found if isinstance(found, Recorded) else found(asked)

    def context(self, host: str) -> ssl.SSLContext:
        """How this server is `host` over TLS, with a certificate of its authority."""
        if host not in self._contexts:
            assert self._authority
            self._contexts[host] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._authority.issue_cert(host).configure_cert(self._contexts[host])
        return self._contexts[host]

    def _handler(self) -> type["_Handler"]:
        return type("Handler", (_Handler,), {"recorded": self})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    recorded: RecordedServer

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            context = self.recorded.context(self.path.partition(":")[0])
            self.connection = context.wrap_socket(self.connection, server_side=True)
        except OSError:
            self.close_connection = True
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False
        while not self.close_connection:
            self.handle_one_request()
        self.connection.close()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        fields = parse_qs(self.rfile.read(length).decode() or parts.query, keep_blank_values=True)
        asked = Asked(self.command, self.headers["Host"] or "", parts.path, fields, dict(self.headers))
        self._send(self.recorded.answer(asked))

    def do_POST(self) -> None:
        self.do_GET()

    def _send(self, recorded: Recorded) -> None:
        body = recorded.body.encode() if isinstance(recorded.body, str) else recorded.body
        try:
            self.send_response(recorded.status)
            self.send_header("Content-Type", recorded.media_type)
            self.send_header("Content-Length", str(len(body) + recorded.wait))
            for name, value in recorded.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
        if recorded.wait:
            self.recorded.closing.wait()
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(answers: Mapping[str, Answer]) -> Iterator[RecordedServer]:
    """A server over plain HTTP."""
    server = RecordedServer(answers)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def serve_behind_proxy(answers: Mapping[str, Answer], authority: trustme.CA) -> Iterator[RecordedServer]:
    """A proxy that is itself every host it is asked to connect to, with certificates of `authority`."""
    server = RecordedServer(answers, authority)
    try:
        yield server
    finally:
        server.close()
