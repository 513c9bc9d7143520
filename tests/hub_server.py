"""A model hub on loopback: what huggingface_hub's client asks of one, over real sockets, and what can go wrong with it.

Two servers, as in the world: the hub itself, which says what a file is and sends elsewhere, and the storage behind it.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

PIECE = 16 << 10


@dataclass(frozen=True)
class Asked:
    """A request, and how many bytes of a body it got."""

    method: str
    path: str
    range: str
    authorization: str
    user_agent: str
    sent: int = 0


@dataclass
class Fault:
    """What is wrong the next `times` times: the hub or the storage answers with `status`, or the storage breaks off
    behind `cut_after` bytes, waits between pieces, or sends something else."""

    times: int = 1_000_000
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    at_hub: bool = False
    cut_after: int | None = None
    pause_s: float = 0.0
    body: bytes | None = None
    media_type: str = "application/octet-stream"
    ignores_range: bool = False
    content_range: str = ""
    claimed_bytes: int = 0


@dataclass
class Repo:
    """A repository: its files by name, and who may have them. `linked` says other sizes and hashes than are true."""

    files: dict[str, bytes]
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False
    linked: dict[str, tuple[int, str]] = field(default_factory=dict)
    plain_etag: bool = False


class HubServer:
    """The hub and its storage. `faults` are by file name."""

    def __init__(self, repos: Mapping[str, Repo]) -> None:
        self.repos = dict(repos)
        self.faults: dict[str, Fault] = {}
        self.asked: list[Asked] = []
        self.token = "hf_" + "right"
        self._lock = threading.Lock()
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(kind)) for kind in (_Hub, _Storage)]
        for server in self._servers:
            server.daemon_threads = True
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def storage_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}"

    def sent_bytes(self) -> int:
        """Bytes of files that left the storage."""
        return sum(asked.sent for asked in self.asked)

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def note(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def fault(self, file: str, *, at_hub: bool) -> Fault:
        """What goes wrong now, used up by one."""
        with self._lock:
            fault = self.faults.get(file)
            if fault is None or fault.at_hub is not at_hub or fault.times <= 0:
                return Fault()
            fault.times -= 1
            return fault

    def _handler(self, kind: type["_Handler"]) -> type["_Handler"]:
        return type("Handler", (kind,), {"hub": self})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    sent = 0

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.sent = 0
        try:
            self.answer()
        except OSError:
            self.close_connection = True
        self.hub.note(
            Asked(
                self.command,
                self.path,
                self.headers["Range"] or "",
                self.headers["Authorization"] or "",
                self.headers["User-Agent"] or "",
                self.sent,
            )
        )

    def answer(self) -> None:
        raise NotImplementedError

    def refuse(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        said = {"X-Error-Message": message} if message else {}
        body = json.dumps({"error": message or code}).encode()
        self.head(status, {**named, **said, **(headers or {}), "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Hub(_Handler):
    """`/owner/name/resolve/revision/file`."""

    def answer(self) -> None:
        owner, name, _, revision, file = (*unquote(urlsplit(self.path).path).lstrip("/").split("/", 4), "", "", "")[:5]
        repo = self.hub.repos.get(f"{owner}/{name}")
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        fault = self.hub.fault(file, at_hub=True)
        if fault.status:
            self.refuse(fault.status, headers=fault.headers)
        elif fault.body is not None:
            self.head(200, {"Content-Type": fault.media_type, "Content-Length": str(len(fault.body))})
            self.wfile.write(b"" if self.command == "HEAD" else fault.body)
        elif token and token != self.hub.token:
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not token):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.gated:
            self.refuse(403 if token else 401, "GatedRepo", f"Access to model {owner}/{name} is restricted.")
        elif revision not in (*repo.revisions, repo.commit):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif file not in repo.files:
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})
        else:
            self._send_elsewhere(repo, f"{owner}/{name}/{file}", file)

    def _send_elsewhere(self, repo: Repo, path: str, file: str) -> None:
        content = repo.files[file]
        size, sha256 = repo.linked.get(file, (len(content), hashlib.sha256(content).hexdigest()))
        etag = sha256[:40] if repo.plain_etag else sha256
        self.head(
            302,
            {
                "X-Repo-Commit": repo.commit,
                "X-Linked-Etag": f'"{etag}"',
                "X-Linked-Size": str(size),
                "X-Xet-Hash": sha256,
                "Link": f'<{self.hub.url}/api/models/{path}/xet-read-token>; rel="xet-auth"',
                "X-HF-Warning": "unwanted; \x1b[2J what servers say is not printed",
                "Location": f"{self.hub.storage_url}/{path}",
                "Content-Length": "0",
            },
        )


class _Storage(_Handler):
    """`/owner/name/file`, by ranges."""

    def answer(self) -> None:
        owner, name, file = unquote(self.path).lstrip("/").split("/", 2)
        fault = self.hub.fault(file, at_hub=False)
        if fault.status:
            self.refuse(fault.status, headers=fault.headers)
            return
        content = self.hub.repos[f"{owner}/{name}"].files[file] if fault.body is None else fault.body
        start, stop = self._range(len(content), ignored=fault.ignores_range or fault.media_type != Fault.media_type)
        if start >= len(content):
            self.refuse(416, headers={"Content-Range": f"bytes */{len(content)}"})
            return
        is_part = (start, stop) != (0, len(content)) or (self.headers["Range"] and not fault.ignores_range)
        headers = {"Content-Type": fault.media_type, "Content-Length": str(stop - start)}
        if is_part and fault.media_type == Fault.media_type:
            headers["Content-Range"] = (
                fault.content_range or f"bytes {start}-{stop - 1}/{fault.claimed_bytes or len(content)}"
            )
        self.head(206 if "Content-Range" in headers else 200, headers)
        if self.command != "HEAD":
            self._send(content[start:stop], fault)

    def _range(self, size: int, *, ignored: bool) -> tuple[int, int]:
        named = (self.headers["Range"] or "").removeprefix("bytes=")
        if ignored or not named:
            return 0, size
        first, _, last = named.partition("-")
        return int(first), min(size, int(last) + 1) if last else size

    def _send(self, content: bytes, fault: Fault) -> None:
        end = len(content) if fault.cut_after is None else min(fault.cut_after, len(content))
        for at in range(0, end, PIECE):
            piece = content[at : min(at + PIECE, end)]
            self.wfile.write(piece)
            self.sent += len(piece)
            time.sleep(fault.pause_s)
        if end < len(content):
            self.close_connection = True


@contextmanager
def serve_hub(repos: Mapping[str, Repo]) -> Iterator[HubServer]:
    """A hub that has these repositories, by `owner/name`."""
    server = HubServer(repos)
    try:
        yield server
    finally:
        server.close()
