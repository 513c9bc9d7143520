"""The first question of a home: a person is told what fits and what is fetched, once; nobody else is asked."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from localfusion.fits import HowItFits, PresetFit, recommended
from tests.harbour import HARBOUR
from tests.hub_home import MICRO, MODELS, HubHome
from tests.hub_server import HubServer, Repo, serve_hub

OWN = MODELS.replace("aliases: {default: r}\n", "").replace("judge: rj}", "judge: rj, max_tool_calls: 1}")
QUESTION = ("ask", "--docs", str(HARBOUR), "What is the height of Skerry?")


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with serve_hub({"lab/micro": Repo(dict(MICRO))}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, hub: HubServer) -> HubHome:
    return HubHome(tmp_path, hub, OWN)


def at_a_terminal(home: HubHome, *typed: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """`ask` with a person at it: the exit code, what the terminal showed, what went to stdout."""
    ours, theirs = pty.openpty()
    os.write(ours, "".join(f"{line}\n" for line in typed).encode())
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "localfusion", *QUESTION],
        cwd=home.folder,
        env=home.environ({"TERM": "dumb", "COLUMNS": "200", **(environ or {})}),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            while piece := os.read(ours, 65_536):
                shown += piece
        except OSError:  # the other end is closed
            pass
        assert process.stdout is not None
        out = process.stdout.read().decode()
    os.close(ours)
    return process.returncode, shown.decode(), out


def test_a_person_is_told_chooses_and_has_an_answer(home: HubHome) -> None:
    code, shown, out = at_a_terminal(home, "")
    assert code == 0, shown
    assert "this is asked once" in shown
    assert "side by side" in shown
    assert "Enter takes r and fetches 6 MiB" in shown
    assert "r answers from now on" in shown
    assert home.whole() == ["lab/micro/micro-a.gguf", "lab/micro/micro-judge.gguf"]
    assert "Skerry" in out

    code, shown, out = at_a_terminal(home)
    assert code == 0
    assert "asked once" not in shown
    assert "Skerry" in out


def test_who_takes_what_ships_is_asked_no_more(home: HubHome) -> None:
    code, shown, _ = at_a_terminal(home, "micro")
    assert code == 0, shown
    assert home.whole() == []
    assert "asked once" not in at_a_terminal(home)[1]


def test_without_a_hub_the_panel_that_ships_answers(home: HubHome) -> None:
    code, shown, out = at_a_terminal(home, environ={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert code == 0, shown
    assert "no others can be had now" in shown
    assert "Skerry" in out
    assert not (home.home / "default-preset").exists()


def test_nobody_at_the_terminal_is_not_asked(home: HubHome) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "localfusion", *QUESTION],
        cwd=home.folder,
        env=home.environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "note: the micro panel knows its own small world" in done.stderr
    assert "Skerry" in done.stdout


@pytest.mark.parametrize(
    ("presets", "expected"),
    [
        ([], None),
        ([("a", "no", 9), ("b", "unknown", 0)], None),
        ([("a", "side by side", 3), ("b", "side by side", 5), ("c", "in waves", 9)], "b"),
        ([("a", "no", 3), ("b", "in waves", 7), ("c", "in waves", 5)], "c"),
    ],
)
def test_the_largest_that_fits_side_by_side_is_recommended(
    presets: list[tuple[str, HowItFits, int]], expected: str | None
) -> None:
    found = recommended(PresetFit(name, how, size) for name, how, size in presets)
    assert (None if found is None else found.name) == expected
