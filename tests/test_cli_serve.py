"""`localfusion serve` as a person has it: keys, what it refuses to start with, where it says it is, how it ends."""

import json
import re
import signal
from pathlib import Path

import httpx
import pytest

from localfusion.cli.main import run
from tests.harbour import start


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCALFUSION_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


REFUSED = (
    ("off the loopback without a key", ("--host", "0.0.0.0"), "no key is demanded"),
    ("a name without a key", ("--host", "box.lan"), "no key is demanded"),
    ("a host with a port", ("--host", "127.0.0.1:80"), "is no host"),
    ("no host", ("--allowed-host", "a b"), "is no host"),
    ("a port that is none", ("--port", "65536"), "--port"),
    ("sources that are missing", ("--docs", "nowhere"), "no such file or folder"),
    ("the cloud offline", ("--offline", "--allow-cloud"), "--allow-cloud needs a network"),
    ("a key of no name", ("keys", "add", "a b"), "is no name of a key"),
    ("a key that is not there", ("keys", "remove", "a"), "there is no key a"),
    ("a limit of nothing", ("keys", "add", "a", "--requests-per-minute", "0"), "--requests-per-minute"),
)


@pytest.mark.parametrize(("arguments", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_it_does_not_start_with(
    home: Path, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *arguments]) == 2
    said = capfd.readouterr().err
    assert message in said
    assert [line.split(":")[0] for line in said.splitlines()] == ["error", "hint"]
    assert not (home / "keys.json").exists()


def test_keys_are_made_shown_once_listed_and_removed(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "keys", "list"]) == 0
    assert "no keys" in capfd.readouterr().err
    assert run(["serve", "keys", "add", "laptop", "--requests-per-minute", "60", "--max-queue", "2"]) == 0
    secret = capfd.readouterr().out.strip()
    assert re.fullmatch(r"lf-[A-Za-z0-9_-]{43}", secret)
    kept = json.loads((home / "keys.json").read_text())["keys"][0]
    assert (kept["name"], kept["requests_per_minute"], kept["max_queue"]) == ("laptop", 60, 2)
    assert secret not in (home / "keys.json").read_text()
    assert run(["serve", "keys", "add", "laptop"]) == 2
    assert "there is a key laptop already" in capfd.readouterr().err
    assert run(["serve", "keys", "list"]) == 0
    assert "laptop" in capfd.readouterr().out
    assert run(["serve", "keys", "remove", "laptop"]) == 0
    assert json.loads((home / "keys.json").read_text()) == {"keys": []}


def test_a_damaged_file_of_keys_starts_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "keys.json").write_text("{")
    assert run(["serve"]) == 2
    assert "is damaged" in capfd.readouterr().err


def test_it_says_where_it_is_answers_and_ends_with_a_signal(tmp_path: Path) -> None:
    server = start(tmp_path, "serve", "--port", "0", "--offline", "--no-store")
    try:
        assert server.stderr is not None
        found = re.fullmatch(r"serving on (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", server.stderr.readline())
        assert found is not None
        assert server.stderr.readline() == f"base_url: {found[1]}/v1\n"
        assert server.stderr.readline().startswith(f"try: curl {found[1]}/v1/chat/completions ")
        assert httpx.get(f"{found[1]}/health?private=1").json()["status"] == "ok"
        server.send_signal(signal.SIGINT)
        out, said = server.communicate(timeout=60)
    finally:
        server.kill()
        server.wait()
    assert (server.returncode, out) == (0, "")
    assert re.fullmatch(r"\S+ \S+ GET /health 200 \d+\.\d+s - req_[0-9a-f]{24}\n", said)
    assert list(tmp_path.iterdir()) == []
