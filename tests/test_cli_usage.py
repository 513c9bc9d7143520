"""`localfusion usage` on real stores: after a real run, on an empty home, with bad options, as a picture."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from localfusion.analysis import Response, ToolStep
from localfusion.cli.main import run
from localfusion.cli.usage import lines
from localfusion.cli.usage_document import UsageDocument
from localfusion.events import (
    CloudCalled,
    CloudCharged,
    Event,
    FallbackTaken,
    Generated,
    PanelistCompleted,
    RunEnded,
    RunStarted,
    ToolReturned,
)
from localfusion.messages import Substitution, ToolCall, Usage
from localfusion.store import Store
from localfusion.usage import KINDS, tally
from localfusion.wire.document import RunDocument
from tests.harbour import HARBOUR, OPEN_QUESTION, request

BEGIN = datetime(2026, 11, 2, 12).astimezone().timestamp()
HOSTILE = "\x1b[2J$x_{1}$ <b>\u202e_\x9b"
PANELISTS = {"a": "small", "b": "small", "c": HOSTILE}


def told(number: int) -> list[Event]:
    """A run, as it is stored."""
    return [
        RunStarted("run_1", "Q?", PANELISTS, "wise", 0),
        FallbackTaken(Substitution("b", "large", "small", "does_not_fit", "it needs more")),
        Generated("a", "small", Usage(900 + number, 100, 40, 2.0)),
        ToolReturned("a", 1, ToolStep(ToolCall("web_search", {"query": "x"}))),
        ToolReturned("a", 2, ToolStep(ToolCall("web_fetch", {"url": "x"}), error="it is not there")),
        Generated("a", "small", Usage(1800, 900, 80, 3.0)),
        CloudCalled("c", "openrouter", "https://x", HOSTILE, 4000),
        CloudCharged("c", "openrouter", HOSTILE, Usage(1000, 0, 120, 1.5, 0.0125, 60)),
        Generated("c", HOSTILE, Usage(1000, 0, 120, 1.5, 0.0125, 60), "openrouter"),
        Generated("judge", "wise", Usage(2500, 200, 400, 9.0)),
        RunEnded("ok"),
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three days, one a day at noon."""
    home = tmp_path_factory.mktemp("home")
    now = [BEGIN]
    with closing(Store(home, clock=lambda: now[0])) as store:
        for number in range(3):
            stored = store.create_run(request())
            for event in told(number):
                store.append(stored, event)
            now[0] += 86_400
    return home


@pytest.fixture
def usage(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command on that home: exit code, stdout, stderr."""
    monkeypatch.setenv("LOCALFUSION_HOME", str(home))

    def at(*arguments: str) -> tuple[int, str, str]:
        code = run(["usage", *arguments])
        shown = capfd.readouterr()
        return code, shown.out, shown.err

    return at


Command = Callable[..., tuple[int, str, str]]


def command(home: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "LOCALFUSION_HOME": str(home), **(environ or {})}
    done = [sys.executable, "-m", "localfusion", *arguments]
    return subprocess.run(done, env=variables, capture_output=True, text=True, check=False)


def test_the_tables_read_well_on_80_columns(usage: Command) -> None:
    code, out, err = usage()
    assert (code, err) == (0, "")
    shown = out.splitlines()
    assert shown[0] == "usage: 3 runs (3 ok)"
    assert shown[2] == "model                     runs     in cached    out think    time  tok/s    cost"
    assert shown[4] == "small                        3   8.1k    37%    360    0%   15.0s   24.0       -"
    assert shown[3] == "wise                         3   7.5k     8%   1.2k    0%   27.0s   44.4       -"
    assert shown[6] == "all                          3  18.6k    19%   1.9k    9%   46.5s   41.3 $0.0375"
    assert "web_fetch                    3       3" in shown
    assert "web_search                   3       0" in shown
    assert "prompt tokens of 12 generations: p50 1000, p90 2500, p99 2500, max 2500" in shown
    assert f"{'up to 4096':>24}{3:>7}  {'#' * 40}" not in shown  # the longest bar is that of the most
    assert any(re.match(r" +up to 1024 +6  #{40}$", line) for line in shown)
    assert "size of panels: 3 seats in 3 runs" in shown
    assert "small stepped in for large (does_not_fit): 3 times" in shown
    assert any(line.startswith("sent to openrouter for") and "3 requests, 12.0k characters" in line for line in shown)
    assert max(len(line) for line in shown if "<b>" not in line) <= 80  # names are long, no table is wide
    assert not any(mark in out for mark in ("\x1b", "\u202e", "\x9b"))


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("day", ["2026-11-02", "2026-11-03", "2026-11-04"]),
        ("model", ["wise", "small", HOSTILE]),
        ("role", ["panelist", "judge"]),
        ("provider", ["this machine", "openrouter"]),
        ("panel", [f"{HOSTILE} + small + small; judge wise"]),
    ],
)
def test_groups(usage: Command, by: str, names: list[str]) -> None:
    code, out, _ = usage("--by", by, "--json")
    document = UsageDocument.model_validate_json(out)
    assert code == 0
    assert [group.name for group in document.groups] == names
    assert sum(group.prompt_tokens for group in document.groups) == document.totals.prompt_tokens
    assert not any(mark in out for mark in ("\x1b", "\u202e", "\x9b"))
    assert usage("--by", by)[1].splitlines()[2].startswith(by)


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ((), 3),
        (("--since", "2026-11-03"), 2),
        (("--until", "2026-11-03"), 2),
        (("--since", "2026-11-03", "--until", "2026-11-03"), 1),
        (("--since", "2026-11-05"), 0),
        (("--until", "2026-11-01"), 0),
    ],
)
def test_periods_are_of_whole_local_days(usage: Command, options: tuple[str, ...], runs: int) -> None:
    code, out, err = usage(*options, "--json")
    document = UsageDocument.model_validate_json(out)
    assert (code, document.runs.total, document.totals.cost) == (0, runs, round(runs * 0.0125, 6))
    assert ("no runs of this period are stored" in err) == (runs == 0)


def test_the_last_days_end_today(tmp_path: Path) -> None:
    now = [time.time()]
    with closing(Store(tmp_path, clock=lambda: now[0])) as store:
        for days in (0, 6, 8):
            now[0] = time.time() - days * 86_400
            stored = store.create_run(request())
            for event in told(0):
                store.append(stored, event)
    document = UsageDocument.model_validate_json(command(tmp_path, "usage", "--since", "7d", "--json").stdout)
    assert document.runs.total in (1, 2)  # six times 24 hours ago is seven days ago where an hour was put in
    first = date.fromisoformat(document.since or "")
    assert first in {datetime.now(UTC).astimezone().date() - timedelta(days=n) for n in (6, 7)}


def test_days_follow_the_time_zone_of_the_machine(home: Path) -> None:
    for zone, day in (("UTC+11", -1), ("UTC-11", 1)):  # POSIX counts them westwards
        noon = datetime.fromtimestamp(BEGIN, UTC)
        shown = command(home, "usage", "--by", "day", "--json", environ={"TZ": zone})
        names = [group.name for group in UsageDocument.model_validate_json(shown.stdout).groups]
        assert names[0] == (noon - timedelta(hours=11 * -day)).date().isoformat()


KEYS = {
    "since": None, "until": None, "by": None,
    "runs": ["total", "ok", "error", "interrupted", "running"],
    "totals": [
        "name", "runs", "prompt_tokens", "cached_tokens", "cached_share", "completion_tokens", "reasoning_tokens",
        "reasoning_share", "seconds", "tokens_per_second", "cost", "tool_calls", "failed_tool_calls",
    ],
    "groups": [
        "name", "runs", "prompt_tokens", "cached_tokens", "cached_share", "completion_tokens", "reasoning_tokens",
        "reasoning_share", "seconds", "tokens_per_second", "cost", "tool_calls", "failed_tool_calls",
    ],
    "tools": ["name", "calls", "failed"],
    "prompt_tokens": ["count", "p50", "p90", "p99", "max", "histogram"],
    "completion_tokens": ["count", "p50", "p90", "p99", "max", "histogram"],
    "panels": ["panelists", "judge", "runs"],
    "panel_sizes": ["seats", "runs"],
    "fallbacks": ["model", "to", "reason", "times"],
    "cloud_calls": ["provider", "model", "calls", "prompt_characters"],
}  # fmt: skip
"""What programs rely on: every key of the document, in order."""


def test_the_document_has_the_keys_that_programs_rely_on(usage: Command) -> None:
    document = json.loads(usage("--json")[1])
    assert list(document) == list(KEYS)
    for name, keys in KEYS.items():
        value = document[name][0] if isinstance(document[name], list) else document[name]
        assert (list(value) if isinstance(value, dict) else None) == keys, name
    assert list(document["prompt_tokens"]["histogram"][0]) == ["up_to", "count"]


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    done = command(tmp_path, "usage", "--plot", str(tmp_path / "usage.png"))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no runs are stored; localfusion ask stores one\n"
    assert not (tmp_path / "usage.png").exists()
    empty = command(tmp_path, "usage", "--json")
    assert UsageDocument.model_validate_json(empty.stdout).totals.prompt_tokens == 0


BAD_OPTIONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--since", "yesterday"), "'yesterday' is no day"),
    (("--since", "2026-02-30"), "'2026-02-30' is no day"),
    (("--since", "20261101"), "'20261101' is no day"),
    (("--since", "0d"), "'0d' is no day"),
    (("--since", "99999d"), "'99999d' is no day"),
    (("--since", "\u0667d"), "is no day"),
    (("--since", ""), "'' is no day"),
    (("--until", "7d"), "'7d' is no day"),
    (("--since", "2026-11-03", "--until", "2026-11-02"), "--until 2026-11-02 is before --since 2026-11-03"),
    (("--by", "colour"), "'colour' is not one of"),
    (("--plot", "usage.gif"), "usage.gif is no picture that can be drawn"),
    (("--plot", "usage"), "usage is no picture that can be drawn"),
    (("--plot", "nowhere/usage.png"), "the folder nowhere is not there"),
    (("more",), "unexpected extra argument"),
)


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options_get_two_lines(usage: Command, options: tuple[str, ...], message: str) -> None:
    code, out, err = usage(*options)
    assert (code, out) == (2, "")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"], err
    assert message in err.splitlines()[0]


@pytest.mark.parametrize(("name", "magic"), [("usage.png", b"\x89PNG\r\n"), ("usage.SVG", b"<?xml")])
def test_a_picture_is_drawn(usage: Command, tmp_path: Path, name: str, magic: bytes) -> None:
    file = tmp_path / name
    code, out, err = usage("--plot", str(file))
    assert (code, err) == (0, f"drawn: {file}\n"), err
    assert out.startswith("usage: 3 runs")
    drawn = file.read_bytes()
    assert drawn.startswith(magic)
    assert len(drawn) > 10_000
    usage("--plot", str(file))
    assert file.read_bytes() == drawn
    if magic == b"<?xml":
        text = drawn.decode()
        assert all(f"<!-- {shown} -->" in text for shown in ("small", "wise", "panelist", "judge", "2026-11-03"))
        assert "<b>" not in text
        assert "\x1b" not in text


def test_a_picture_needs_no_more_than_one_run(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        stored = store.create_run(request())
        for event in (RunStarted(stored, "Q?", {"a": "_一"}, "x", 0), Generated("a", "_一", Usage(0, 0, 0))):
            store.append(stored, event)
    done = command(tmp_path, "usage", "--plot", str(tmp_path / "usage.png"))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"drawn: {tmp_path / 'usage.png'}")


def test_a_missing_matplotlib_is_named(home: Path, tmp_path: Path) -> None:
    """A finder in front says what a machine without the package would say."""
    script = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'matplotlib':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from localfusion.cli.main import run\n"
        f"sys.exit(run(['usage', '--plot', {str(tmp_path / 'x.png')!r}]))\n"
    )
    environ = {**os.environ, "LOCALFUSION_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: this needs matplotlib, which is not installed",
        'hint: install it: pip install "localfusion[bench]"',
    ]


def test_without_a_picture_matplotlib_is_not_imported(home: Path) -> None:
    script = "import sys; from localfusion.cli.main import run; run(['usage']); print('matplotlib' in sys.modules)"
    environ = {**os.environ, "LOCALFUSION_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_long_names_take_lines_of_their_own(tmp_path: Path) -> None:
    name = "a-model-with-a-very-long-name-Q4_K_M"
    with closing(Store(tmp_path)) as store:
        stored = store.create_run(request())
        store.append(stored, RunStarted(stored, "Q?", {"a": name}, name, 0))
        store.append(stored, PanelistCompleted(Response("a", name, "", usage=Usage(5_000_000, 0, 999, 7200.0, 12.5))))
        found = tally(store.histories(KINDS))
    shown = lines(found, "model")
    row = shown.index(name)
    assert shown[row + 1] == f"{'':24}     1   5.0M     0%    999    0%   2h00m    0.1  $12.50"
    assert "1 running" in shown[0]


def test_a_real_run_is_counted_as_its_document_says(tmp_path: Path) -> None:
    asked = command(tmp_path, "ask", "--preset", "micro", "--docs", str(HARBOUR), "--json", OPEN_QUESTION)
    assert asked.returncode == 0, asked.stderr
    document = RunDocument.model_validate_json(asked.stdout)
    shown = command(tmp_path, "usage", "--by", "role", "--json")
    assert shown.returncode == 0, shown.stderr
    used = UsageDocument.model_validate_json(shown.stdout)
    assert (used.runs.total, used.runs.ok) == (1, 1)
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert getattr(used.totals, name) == getattr(document.usage, name) > 0
    by_role = {group.name: group for group in used.groups}
    assert by_role["judge"].completion_tokens == document.judge.usage.completion_tokens
    calls = [call for response in document.responses for call in response.tool_calls] + document.judge.tool_calls
    assert used.totals.tool_calls == len(calls) > 0
    assert used.totals.failed_tool_calls == sum(not call.ok for call in calls)
    assert used.panels[0].panelists == sorted(response.model for response in document.responses)
    assert command(tmp_path, "usage").stdout.startswith("usage: 1 run (1 ok)")
