"""`localfusion serve` under clients that leave, workers and servers that are killed, disks that are full, and attacks.

Every test is against the command in a process of its own, with the micro panel; docs/server.md tells the outcomes.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from localfusion.machine import allow_open_files
from tests.harbour import HARBOUR, OPEN_QUESTION, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals, and processes that are held, are as Unix has them"),
]

CONFIG = "server: {stop_s: 1, heartbeat_s: 0.2, max_queue: 3, max_body_mib: 1}\n"
MESSAGES = [{"role": "user", "content": OPEN_QUESTION}]
FUSION = {"model": "localfusion/micro", "tool_choice": "required", "stream": True}
CHAT = {**FUSION, "messages": MESSAGES}
BACKGROUND = {**FUSION, "input": OPEN_QUESTION, "background": True}
LONG_S = 60
"""What may pass until something is called missing."""
CLIENT = httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0))
"""Without a connection that is kept: each request finds the server as it is then."""
N_LISTENERS = 1000
N_DRIPPING = 400

FAULTS = (
    ("a client leaves at any moment", "its work is cancelled, its place in the queue is free, nobody else notices"),
    (
        "a worker is killed",
        "its model's own answers are lost or asked again; the run goes on, or the reply says why not",
    ),
    ("the server is killed", "what runs in the background goes on after a restart, its stream with `starting_after`"),
    (
        "a signal",
        "what runs has `stop_s` to end; a stream that is cut says so; the background is left for the next start",
    ),
    ("a second signal", "the server ends at once"),
    ("the disk is full", "requests are answered, or refused in one sentence; the server lives"),
    ("a body without end, or JSON that is none", "400 or 413, cut at `max_body_mib`; memory does not grow with it"),
    ("connections that drip", "closed after 15 seconds in the head, 60 in the body; others are served meanwhile"),
    ("a thousand streams of one response", "all are served; requests beyond `max_queue` get 503 and Retry-After"),
    ("a listener that never reads", "sent nothing more, and let go after 60 seconds; others are served meanwhile"),
    ("pages of other origins, names of other hosts", "403 and 421, before anything is read"),
)
"""As the table of docs/server.md has them."""


@dataclass(frozen=True)
class Running:
    """A `localfusion serve` in a process of its own."""

    process: psutil.Process
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def workers(self) -> list[psutil.Process]:
        found = list[psutil.Process]()
        with suppress(psutil.NoSuchProcess):
            for child in self.process.children(recursive=True):
                if "localfusion.engine.worker" in child.cmdline():
                    found.append(child)
        return found

    def n_under_way(self) -> int:
        found = re.search(r"^localfusion_queue ([0-9.]+)$", CLIENT.get(f"{self.url}/metrics").text, flags=re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    @contextmanager
    def held(self) -> Iterator[None]:
        """No worker does anything, those that are started meanwhile included."""
        stopped, done = list[psutil.Process](), threading.Event()

        def hold() -> None:
            while not done.is_set():
                for worker in self.workers():
                    if worker not in stopped:
                        worker.suspend()
                        stopped.append(worker)
                done.wait(0.01)

        holding = threading.Thread(target=hold)
        holding.start()
        try:
            yield
        finally:
            done.set()
            holding.join()
            for worker in stopped:
                with suppress(psutil.Error):
                    worker.resume()


@contextmanager
def serving(home: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[Running]:
    """Start it, wait until it serves; in the end it is ended by force, if it was not before."""
    home.mkdir(exist_ok=True)
    config = home.parent / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    log = (home.parent / "log").open("w+", encoding="utf-8")
    with log:
        command = (sys.executable, "-m", "localfusion", "serve", "--port", "0", "--offline", "--docs", str(HARBOUR))
        started = subprocess.Popen(
            [*prefix, *command, *arguments],
            cwd=ROOT,
            env={**os.environ, "LOCALFUSION_HOME": str(home), "LOCALFUSION_CONFIG": str(config), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            path = Path(log.name)
            eventually(lambda: "base_url" in path.read_text() or started.poll() is not None)
            found = re.search(r"serving on (\S+) ", path.read_text())
            assert found is not None, path.read_text()
            yield Running(psutil.Process(started.pid), found[1])
        finally:
            started.kill()
            started.wait()
        said = Path(log.name).read_text()
        assert "Traceback" not in said, said


def eventually(holds: Callable[[], object]) -> None:
    """Wait until it holds."""
    until = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("serving") / "home") as running:
        yield running


def connected(server: Running, sent: bytes = b"") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S)
    found.sendall(sent)
    return found


def posted(path: str, body: object) -> bytes:
    """A request as it is sent."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def read_until(connection: socket.socket, text: bytes) -> bytes:
    """What comes, to the end of `text`, or of the connection."""
    found = b""
    while text not in found and (piece := connection.recv(65536)):
        found += piece
    assert text in found, found
    return found


def answers(server: Running) -> None:
    """Whether it still answers a whole question."""
    reply = CLIENT.post(f"{server.url}/v1/chat/completions", json={**CHAT, "stream": False}, timeout=LONG_S)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"]


WHOLE = posted("/v1/chat/completions", CHAT)
HEAD, BODY = WHOLE.split(b"\r\n\r\n")
CUTS = (
    ("nothing was sent", b"", b""),
    ("in the head", HEAD[:60], b""),
    ("after the head", HEAD + b"\r\n\r\n", b""),
    ("in the body", WHOLE[:-10], b""),
    ("after the head of the reply", WHOLE, b"\r\n\r\n"),
    ("while panelists write", WHOLE, b'"stage":"panelist_'),
    ("while the answer is written", WHOLE, b'"content":"'),
    ("just before the end", WHOLE, b'"finish_reason":"stop"'),
)


def test_a_client_that_leaves_leaves_nothing_behind(server: Running) -> None:
    for name, sent, until in CUTS:
        connection = connected(server, sent)
        if until:
            read_until(connection, until)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # gone without a word
        connection.close()
        eventually(lambda: server.n_under_way() == 0)
        assert CLIENT.get(f"{server.url}/health").status_code == 200, name
    answers(server)


def test_a_client_that_leaves_while_it_waits_frees_its_place(server: Running) -> None:
    with server.held(), ExitStack() as stack:
        waiting = [stack.enter_context(connected(server, WHOLE)) for _ in range(3)]
        eventually(lambda: server.n_under_way() == 3)
        full = CLIENT.post(f"{server.url}/v1/chat/completions", json=CHAT)
        assert (full.status_code, full.headers["retry-after"]) == (503, "5")
        for connection in waiting:
            connection.close()
        eventually(lambda: server.n_under_way() == 0)
    answers(server)


def test_a_worker_that_is_killed_does_not_end_the_server(server: Running) -> None:
    with connected(server, posted("/v1/chat/completions", CHAT)) as connection:
        with server.held():
            eventually(server.workers)
            for worker in server.workers():
                worker.kill()
        said = _to_the_end(connection)
    assert b"data: [DONE]" in said or b'"error":{' in said, said
    eventually(lambda: server.n_under_way() == 0)
    answers(server)


def _to_the_end(connection: socket.socket) -> bytes:
    """A stream up to its last event."""
    found = b""
    while b"\r\n0\r\n\r\n" not in found and b'"error":{' not in found and (piece := connection.recv(65536)):
        found += piece
    return found


def _events(text: str) -> list[dict[str, object]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def _begun_in_background(server: Running) -> tuple[str, int]:
    """A response that cannot end while workers are held: its id, and the last event that was read of it."""
    with connected(server, posted("/v1/responses", BACKGROUND)) as connection:
        events = _events(read_until(connection, b"response.in_progress\n").decode() + connection.recv(65536).decode())
    first = events[0]["response"]
    assert isinstance(first, dict)
    return str(first["id"]), int(str(events[0]["sequence_number"]))


def test_a_server_that_is_killed_goes_on_with_the_background(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as first, first.held():
        id, seen = _begun_in_background(first)
        workers = first.workers()
        first.process.kill()
        first.process.wait()
    psutil.wait_procs(workers, timeout=LONG_S)
    assert not any(worker.is_running() for worker in workers)
    with serving(home) as second:
        stream = CLIENT.get(f"{second.url}/v1/responses/{id}?stream=true&starting_after={seen}", timeout=LONG_S)
        events = _events(stream.text)
        assert [event["sequence_number"] for event in events] == list(range(seen + 1, seen + 1 + len(events)))
        assert events[-1]["type"] == "response.completed"
        kept = CLIENT.get(f"{second.url}/v1/responses/{id}").json()
        assert (kept["status"], bool(kept["output"])) == ("completed", True)


def test_a_signal_leaves_the_background_and_tells_the_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as first, first.held():
        id, _ = _begun_in_background(first)
        with connected(first, WHOLE) as connection:
            read_until(connection, b": waiting")
            first.process.send_signal(signal.SIGTERM)
            said = _to_the_end(connection)
        assert b"the server ended before the answer was written" in said
        assert b"[DONE]" not in said
        assert first.process.wait(LONG_S) == 0
    with serving(home) as second:
        eventually(lambda: CLIENT.get(f"{second.url}/v1/responses/{id}").json()["status"] == "completed")


def test_a_second_signal_waits_for_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as running, running.held(), connected(running, WHOLE) as connection:
        read_until(connection, b": waiting")
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(LONG_S) == 0


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there are no namespaces")
def test_a_full_disk_does_not_end_the_server(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    mount = f'mount -t tmpfs -o size=4m none \'{home}\' || exit 77; exec "$0" "$@"'
    prefix = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount)
    tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace may be made here: {tried.stderr!r}")
    with serving(home, prefix=prefix) as running:
        answers(running)
        filling = Path(f"/proc/{running.process.pid}/root{home}/filling")
        with suppress(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for body in (CHAT, {**CHAT, "stream": False}):
            reply = CLIENT.post(f"{running.url}/v1/chat/completions", json=body, timeout=LONG_S)
            assert "is full" in reply.text or reply.status_code == 200, reply.text
        reply = CLIENT.post(f"{running.url}/v1/responses", json={**BACKGROUND, "stream": False}, timeout=LONG_S)
        assert reply.status_code in (200, 500), reply.text
        eventually(lambda: running.n_under_way() == 0)
        filling.unlink()
        answers(running)


DEEP = b'{"a":' * 100_000
BAD = (
    ("no JSON", b'{"model": ', 400),
    ("deep", DEEP, 400),
    ("deep to the end", DEEP + b"1" + b"}" * 100_000, 400),
    ("not UTF-8", b'{"model": "\xff\xfe"}', 400),
    ("half a character", b'{"model": "\\ud800"}', 400),
    ("a name twice, the last of many", b"{" + b"".join(b'"%d":0,' % n for n in range(60_000)) + b'"x":0,"x":0}', 400),
    ("a value too many", b"[" + b"[]," * 300_000 + b"[]]", 400),
)


def test_bodies_that_are_none_are_refused_and_take_no_memory(server: Running) -> None:
    before = server.process.memory_info().rss
    for name, body, status in BAD:
        for path in ("chat/completions", "responses", "embeddings"):
            reply = CLIENT.post(
                f"{server.url}/v1/{path}",
                content=body,
                headers={"content-type": "application/json"},
                timeout=LONG_S,
            )
            assert (reply.status_code, reply.json()["error"]["type"]) == (status, "invalid_request_error"), name
    piece = bytes(2**20)
    for head in (b"content-length: 104857600\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"):
        opening = HEAD.rsplit(b"\r\n", 1)[0] + b"\r\n" + head
        with connected(server, opening) as connection, suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(piece if b"length" in head else b"100000\r\n" + piece + b"\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    with connected(server, b"GET /health HTTP/1.1\r\nhost: localhost\r\n") as connection, suppress(ConnectionError):
        for _ in range(1000):
            connection.sendall(b"x-filler: " + b"x" * 4096 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert server.process.memory_info().rss - before < 64 * 2**20
    assert CLIENT.get(f"{server.url}/health").status_code == 200


def test_hundreds_that_drip_keep_nobody_out(server: Running) -> None:
    allow_open_files(4 * N_DRIPPING)
    with ExitStack() as stack:
        dripping = [
            stack.enter_context(connected(server, HEAD + b"\r\n\r\n{" if index % 2 else HEAD[:40]))
            for index in range(N_DRIPPING)
        ]
        for connection in dripping:
            with suppress(ConnectionError):
                connection.sendall(b"x")
        assert CLIENT.get(f"{server.url}/health").status_code == 200
        answers(server)
    eventually(lambda: len(server.process.net_connections()) < N_DRIPPING)


def test_a_thousand_hear_one_response(server: Running) -> None:
    if allow_open_files(2 * N_LISTENERS) < 2 * N_LISTENERS:
        pytest.skip("so many connections may not be opened here")
    before = server.process.memory_info().rss
    with ExitStack() as stack:
        with server.held():
            id, _ = _begun_in_background(server)
            ask = f"GET /v1/responses/{id}?stream=true HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
            listening = [stack.enter_context(connected(server, ask)) for _ in range(N_LISTENERS)]
            for n_under_way in (2, 3):
                stack.enter_context(connected(server, WHOLE))
                eventually(lambda n=n_under_way: server.n_under_way() == n)  # type: ignore[misc]
            full = CLIENT.post(f"{server.url}/v1/chat/completions", json=CHAT)
            assert (full.status_code, full.headers["retry-after"]) == (503, "5")
        n_whole = sum(b"\nevent: response.completed\n" in _to_the_end(connection) for connection in listening)
    assert n_whole == N_LISTENERS
    assert server.process.memory_info().rss - before < 256 * 2**20
    eventually(lambda: len(server.process.net_connections()) < N_LISTENERS)


def test_who_never_reads_keeps_nobody_waiting(server: Running) -> None:
    ask = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(20):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.setblocking(False)
            with suppress(BlockingIOError):
                connection.send(ask * 200)
            stack.enter_context(connection)
        answers(server)


ATTACKS = (
    ({"host": "evil.example"}, 421),
    ({"host": "127.0.0.1.evil.example"}, 421),
    ({"host": "localhost", "origin": "http://evil.example"}, 403),
    ({"host": "localhost", "origin": "null"}, 403),
    ({"host": "localhost", "origin": "http://localhost.evil.example"}, 403),
)


def test_pages_that_were_led_here_get_nothing(server: Running) -> None:
    for headers, status in ATTACKS:
        for path in ("/v1/models", "/metrics", "/health", "/v1/responses/resp_0", "/openapi.json"):
            reply = CLIENT.get(server.url + path, headers=headers)
            assert (reply.status_code, "access-control-allow-origin" in reply.headers) == (status, False), headers


def test_the_page_tells_what_is_tested_here() -> None:
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    rows = "".join(f"| {fault} | {outcome} |\n" for fault, outcome in FAULTS)
    assert f"| what happens | what comes of it |\n|---|---|\n{rows}\n" in page
