"""Servers in processes of their own, on ports of the loopback: ours over an instant engine, ours over the micro panel,
and litellm's proxy.

Each is up when it takes connections, and is ended with what it is used for.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from scripts.server_bench.instant_server import NAME, WORDS

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
END_S = 30.0

LITELLM_CONFIG = f"""\
model_list:
  - model_name: {NAME}
    litellm_params: {{model: openai/{NAME}, api_key: none, mock_response: "{WORDS}"}}
litellm_settings: {{telemetry: false}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is up."""

    port: int
    pid: int

    def resident_bytes(self) -> int:
        """What its process holds in memory now."""
        found: int = psutil.Process(self.pid).memory_info().rss
        return found

    def cpu_seconds(self) -> float:
        """The processor time that it has taken until now."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def instant() -> Iterator[Server]:
    """Ours, over an engine that answers at once."""
    with TemporaryDirectory() as home:
        command = [sys.executable, "-m", "scripts.server_bench.instant_server", home]
        with _running(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            yield Server(int(process.stdout.readline()), process.pid)


@contextmanager
def micro(docs: Path) -> Iterator[Server]:
    """Ours as it is started by anybody, offline and searching one folder; the micro panel is what it asks."""
    with TemporaryDirectory() as home:
        options = ("--port", "0", "--offline", "--docs", str(docs))
        environ = {"LOCALFUSION_HOME": home}
        command = [sys.executable, "-m", "localfusion", "serve", *options]
        with _running(command, environ=environ, stderr=Path(home) / "log") as process:
            yield Server(_said_port(Path(home) / "log", process), process.pid)


@contextmanager
def litellm(executable: Path) -> Iterator[Server]:
    """litellm's proxy, whose answers are as instant as ours."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(LITELLM_CONFIG, encoding="utf-8")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        command = [str(executable), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        with _running(command, environ=environ, stderr=Path(folder) / "log") as process:
            _wait_for(port, process, Path(folder) / "log")
            yield Server(port, process.pid)


@contextmanager
def _running(
    command: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    stdout: int = subprocess.DEVNULL,
    stderr: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    log = None if stderr is None else stderr.open("w", encoding="utf-8")
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(environ or {})}, stdout=stdout, stderr=log, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if log is not None:
            log.close()


def _said_port(log: Path, process: "subprocess.Popen[str]") -> int:
    """The port that a server says that it serves on."""
    for _ in _waiting(process):
        if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8")):
            return int(found[1])
    raise RuntimeError(f"the server did not start: {_last_line(log)}")


def _wait_for(port: int, process: "subprocess.Popen[str]", log: Path) -> None:
    for _ in _waiting(process):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise RuntimeError(f"the server did not start: {_last_line(log)}")


def _last_line(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]


def _waiting(process: "subprocess.Popen[str]") -> Iterator[None]:
    """As long as a server may take to start, and is there."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        yield
        time.sleep(0.1)
