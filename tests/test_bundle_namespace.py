"""A bundle made in one home and loaded in another that has no network at all: the question is answered there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import QUESTION, Home, micro_home
from tests.harbour import HARBOUR, ROOT

WAYS = (["unshare", "--net"], ["unshare", "--net", "--map-root-user"])
"""As root, and as a user who may make a namespace of users."""
NO_NETWORK = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"


@pytest.fixture(scope="module")
def unshare() -> list[str]:
    """The command that opens a namespace without a network."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    for way in WAYS:
        if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return way
    pytest.skip("no network namespace may be made here")


def test_a_bundle_answers_in_a_room_without_a_network(unshare: list[str], tmp_path: Path) -> None:
    maker, file, room = micro_home(tmp_path / "maker"), tmp_path / "room.tar", Home(tmp_path / "room")
    docs = shutil.copytree(HARBOUR, tmp_path / "harbour")
    assert maker.run("docs", "add", str(docs)).code == 0
    made = maker.run("models", "bundle", str(file), "--preset", "carried", "--docs", str(docs))
    assert made.code == 0, made.err
    shutil.rmtree(docs)
    shutil.rmtree(maker.path)
    reached = subprocess.run([*unshare, sys.executable, "-c", NO_NETWORK], cwd=ROOT, capture_output=True, check=False)
    assert b"unreachable" in reached.stderr
    loaded = room.run("models", "load", str(file), prefix=unshare)
    assert loaded.code == 0, loaded.err
    for stored in ((), ("--no-store",)):
        done = room.run("ask", "--offline", "--json", *stored, "--preset", "carried", QUESTION, prefix=unshare)
        assert done.code == 0, done.err
        document = json.loads(done.out)
        assert document["status"] == "ok"
        assert "40 metres" in json.dumps(document), document
        assert "doc://harbour/" in done.out
