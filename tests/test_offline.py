"""Offline means offline: a closed process, a run in a namespace without network, and what is refused at once."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from localfusion.cli.sources import NamedSources
from localfusion.errors import ConfigError
from tests.harbour import HARBOUR, ROOT, surroundings

NOTHING = NamedSources((), (), False, (), None, (), (), (), (), False)

CLOSED = """
import asyncio, socket, sys
from localfusion.errors import WebError
from localfusion.offline import close_network

listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
close_network()
close_network()

async def opened(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.close()

def udp(family, send):
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        send(one)

inside = {
    "loopback": lambda: socket.create_connection(("127.0.0.1", port)).close(),
    "localhost": lambda: socket.create_connection(("localhost", port)).close(),
    "asyncio": lambda: asyncio.run(opened("127.0.0.1", port)),
    "a server": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "its own kind": lambda: [one.close() for one in socket.socketpair()],
}
outside = {
    "an address": lambda: socket.create_connection(("93.184.216.34", 80), 1),
    "a private one": lambda: socket.create_connection(("10.0.0.1", 80), 1),
    "a number": lambda: socket.create_connection(("2130706434", 80), 1),
    "IPv6": lambda: udp(socket.AF_INET6, lambda one: one.connect(("2001:db8::1", 53))),
    "a name": lambda: socket.getaddrinfo("example.com", 80),
    "an old lookup": lambda: socket.gethostbyname("example.com"),
    "sendto": lambda: udp(socket.AF_INET, lambda one: one.sendto(b"x", ("8.8.8.8", 53))),
    "sendmsg": lambda: udp(socket.AF_INET, lambda one: one.sendmsg([b"x"], [], 0, ("8.8.8.8", 53))),
    "asyncio": lambda: asyncio.run(opened("93.184.216.34", 80)),
    "asyncio, a name": lambda: asyncio.run(opened("example.com", 80)),
}
for name, use in inside.items():
    use()
for name, use in outside.items():
    try:
        use()
    except WebError as error:
        assert "offline" in error.message, error.message
    else:
        sys.exit(f"{name} was not refused")
print("closed")
"""


def run(*command: str, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LOCALFUSION_HOME": str(home), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)


def test_a_closed_process_reaches_the_loopback_and_nothing_else(tmp_path: Path) -> None:
    ended = run(sys.executable, "-c", CLOSED, home=tmp_path)
    assert (ended.stdout, ended.returncode) == ("closed\n", 0), ended.stderr


ZIM_READER = """
import socket, sys
from localfusion.errors import WebError
from localfusion.search import zim_reader

zim_reader.main()
try:
    socket.create_connection(("192.0.2.1", 80), 1)
except WebError as error:
    print(error.message, file=sys.stderr)
"""


def test_what_reads_archives_has_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ZIM_READER, str(tmp_path / "missing.zim")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "192.0.2.1 is not reached: this process is offline\n"


HUB = """
import os
from localfusion.cli.sources import go_offline
go_offline()
print(os.environ["HF_HUB_OFFLINE"])
"""


def test_the_hub_is_told_to_use_no_network(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", HUB, home=tmp_path).stdout == "1\n"


def without_network() -> list[str]:
    """The command that runs another in a namespace without network."""
    command = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no namespace without network can be made here")
    return command


@pytest.mark.slow
def test_a_whole_run_needs_no_network(tmp_path: Path) -> None:
    ask = [
        sys.executable,
        "-m",
        "localfusion",
        "ask",
        "--preset",
        "micro",
        "--offline",
        "--docs",
        str(HARBOUR),
        "--json",
    ]
    ended = run(*without_network(), *ask, "What is the height of Skerry?", home=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "40 metres" in json.loads(ended.stdout)["answer"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "--docs", str(HARBOUR), "--offline", "keeper of Skerry"),
        ("fetch", "--docs", str(HARBOUR), "--offline", "doc://harbour/council.md"),
    ],
)
def test_the_tools_work_without_a_network(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = run(*without_network(), sys.executable, "-m", "localfusion", *arguments, home=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "[1]" in ended.stdout


def test_a_page_of_the_web_is_not_fetched_offline(tmp_path: Path) -> None:
    ended = run(sys.executable, "-m", "localfusion", "fetch", "--offline", "https://example.com/", home=tmp_path)
    assert ended.returncode == 1
    assert "error: " in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"web": True}, "--web needs a network"),
        ({"searxng": "http://127.0.0.1:1"}, "--searxng needs a network"),
        ({"kiwix": ("http://127.0.0.1:1",)}, "--kiwix needs a network"),
    ],
)
def test_what_needs_a_network_is_refused_by_name(tmp_path: Path, named: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(NOTHING, offline=True, **named).spec(surroundings(tmp_path))  # type: ignore[arg-type]
    (tmp_path / "config.yaml").write_text("offline: true\n")
    with pytest.raises(ConfigError, match=said):
        replace(NOTHING, **named).spec(surroundings(tmp_path))  # type: ignore[arg-type]


def test_settings_that_need_a_network_are_left_out_offline(tmp_path: Path) -> None:
    settings = "search: {web: true, searxng: 'http://127.0.0.1:1', kiwix: ['http://127.0.0.1:2']}\n"
    (tmp_path / "config.yaml").write_text(settings)
    online = NOTHING.spec(surroundings(tmp_path))
    assert (online.web, online.searxng, online.kiwix) == (True, "http://127.0.0.1:1", ("http://127.0.0.1:2",))
    (tmp_path / "config.yaml").write_text(f"offline: true\n{settings}")
    offline = NOTHING.spec(surroundings(tmp_path))
    assert (offline.web, offline.searxng, offline.kiwix, offline.offline) == (False, "", (), True)
