"""The engine's bench: rows end to end in small sizes, a row that fails, and the pure parts. No time is looked at."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.messages import Completion, GenerateRequest, Message, ModelSpec, Usage
from scripts.engine_bench import instant_worker, steering
from scripts.engine_bench.counting import Cells, Tree
from scripts.engine_bench.deliberations import to_replays
from scripts.engine_bench.figures import FailedRow, Figure, line, measure, write_json
from scripts.engine_bench.panels import N_FILES, Rates, seats
from scripts.engine_bench.prompts import Reader
from scripts.engine_bench.random_models import RandomModel, write_random_model
from scripts.engine_bench.setting import Setting
from scripts.engine_bench.steering import GrammarChanged, Written

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {"name", "value", "unit", "against", "wanted", "ok"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench-engine"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_rows_are_measured_end_to_end(tmp_path: Path) -> None:
    written = tmp_path / "out.json"
    done = run("--quick", "--only", "panel", "--only", "orchestration", "--json", str(written))
    assert done.returncode == 0, done.stderr
    heading, *lines = done.stdout.splitlines()
    assert "cores" in heading
    figures = json.loads(written.read_text())
    assert len(figures) == len(lines)
    assert all(set(figure) == FIELDS for figure in figures)
    assert all(isinstance(figure["value"], float) for figure in figures)
    assert [f["ok"] for f in figures if f["unit"] == "times"] == [
        f["value"] >= f["wanted"] for f in figures if f["unit"] == "times"
    ]
    assert [figure["name"] for figure in figures if figure["unit"] == "ms"] == [
        "orchestration per token",
        "orchestration per request",
    ]


def test_an_unknown_row_is_refused() -> None:
    done = run("--only", "nothing")
    assert done.returncode == 2
    assert "orchestration" in done.stderr


def test_a_row_that_fails_costs_no_other_and_no_figure_before(tmp_path: Path) -> None:
    def broken(_: Setting) -> Iterator[Figure]:
        yield Figure("before", 1.0, "s")
        raise OSError("the disk is gone")

    def sound(_: Setting) -> Iterator[Figure]:
        yield Figure("after", 2.0, "times", "nothing", 3.0)

    setting = Setting(quick=True, cores=1, models_dir=tmp_path, say=lambda _: None)
    found = list(measure({"broken": broken, "sound": sound}, setting))
    before, failed, after = found
    assert before == Figure("before", 1.0, "s")
    assert failed == FailedRow("broken", "OSError: the disk is gone")
    assert "the disk is gone" in line(failed)
    assert isinstance(after, Figure)
    assert after.ok is False
    write_json(tmp_path / "out.json", found)
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [(entry["name"], entry["ok"]) for entry in entries] == [
        ("before", None),
        ("broken", False),
        ("after", False),
    ]
    assert all(set(entry) == FIELDS for entry in entries)


def test_a_limit_is_kept_from_above() -> None:
    assert Figure("x", 1.04, "of 1", wanted=1.05, is_limit=True).ok is True
    assert Figure("x", 1.06, "of 1", wanted=1.05, is_limit=True).ok is False


@given(st.floats(1, 1e4), st.floats(1, 1e4), st.integers(1, 64))
def test_no_way_to_share_cores_is_faster_than_the_bound(read: float, written: float, cores: int) -> None:
    """Whatever more cores bring, from nothing to as much as the first did, for each of the two plain schedules."""
    for gain in (1.0, cores**0.5, float(cores)):
        rates = Rates(read, written, read * gain, written * gain)
        bound = rates.bound(cores=cores, n_read=256, n_written=128)
        in_turn = N_FILES * (256 / rates.read_by_all + 128 / rates.written_by_all)
        rounds = -(-N_FILES // cores)
        side_by_side = rounds * (256 / read + 128 / written)
        assert bound <= min(in_turn, side_by_side) * (1 + 1e-9)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = RandomModel(n_vocab=2_000, n_embd=256, n_layer=1, n_ff=256, n_head=4, n_head_kv=2)
    return write_random_model(tmp_path_factory.mktemp("models") / "random.gguf", shape)


def test_prompts_have_the_length_that_was_asked_for(file: Path) -> None:
    reader = Reader(file)
    works = seats(reader, ModelSpec("random", file), 300, 10, seed=3)
    prompts = [reader.prompt_ids(request) for _, request in works]
    assert all(abs(len(prompt) - 300) <= 10 for prompt in prompts)
    assert len({tuple(prompt) for prompt in prompts}) == len(prompts)
    assert len({tuple(prompt[:260]) for prompt in prompts}) == 1


def written(file: Path, request: GenerateRequest, content: str, usage: Usage) -> Written:
    return Written(file, request, Completion(content, "", "stop", usage))


def test_what_a_prompt_goes_on_from_is_not_read_again_by_a_replay(file: Path) -> None:
    reader = Reader(file)
    first = GenerateRequest("a", (Message("user", "Where?"),))
    second = GenerateRequest("a", (*first.messages, Message("assistant", "Here."), *first.messages))
    other = GenerateRequest("judge", (Message("user", "Who?"),))
    n_first, n_second = len(reader.prompt_ids(first)), len(reader.prompt_ids(second))
    complaints: list[str] = []
    record = [
        written(file, other, "Nobody.", Usage(len(reader.prompt_ids(other)), 0, 5)),
        written(file, first, "Here.", Usage(n_first, 0, 2)),
        written(file, second, "There.", Usage(n_second, 0, 3)),
    ]
    one, two, three = to_replays(record, complaints.append)
    assert (one.after, two.after, three.after) == (None, 0, None)
    assert one.ids == reader.prompt_ids(first)
    n_rest = len(reader.ids(reader.prompt(second.messages).removeprefix(reader.prompt(first.messages) + "Here.")))
    assert (len(two.ids), two.n_written) == (n_rest, 3)


def test_a_grammar_that_is_no_longer_known_is_not_measured() -> None:
    with pytest.raises(GrammarChanged):
        steering.narrow(GenerateRequest("a", (), grammar="start: call_0 | answer\n"), n_answer=1)


def test_the_instant_engine_calls_where_it_may() -> None:
    assert "".join(instant_worker.text("start: call_0\n", 3)).startswith(instant_worker.CALL)
    assert instant_worker.text("start: answer\n", 3) == [" word"] * 3
    json.loads("".join(instant_worker.text("STRING_INNER", 3)))


def test_a_token_that_is_read_twice_is_counted_twice_and_needed_once() -> None:
    tree = Tree()
    one, two = Cells(tree), Cells(tree)
    for cells in (one, two):
        for position, token in enumerate((5, 6, 7)):
            cells.put(0, position, token)
        cells.settle()
    assert (tree.n_evaluated, len(tree.needed)) == (6, 3)


def test_a_draft_that_was_taken_back_was_not_needed() -> None:
    tree = Tree()
    cells = Cells(tree)
    for position, token in enumerate((5, 6, 7)):
        cells.put(0, position, token)
    del cells.held[0][2:]
    cells.settle()
    assert (tree.n_evaluated, len(tree.needed)) == (3, 2)
