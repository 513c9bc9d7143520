"""Runs on disk: kept in order, owned by one process, read back as they were, and gone when removed."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from localfusion.analysis import Page, Response
from localfusion.errors import ConfigError, LocalFusionError
from localfusion.events import (
    Event,
    PanelistCompleted,
    PromptRead,
    RunEnded,
    RunResumed,
    RunStarted,
    TextWritten,
    WarningRaised,
)
from localfusion.messages import JudgeSpec, ModelSpec, PanelistSpec, PanelSpec, Sampling, SourcesSpec
from localfusion.owner import is_alive, owner_of, this_process
from localfusion.store import RunRequest, Store

SMALL = ModelSpec("small", Path("/models/small.gguf"))
PANEL = PanelSpec((PanelistSpec("a", SMALL, Sampling(seed=7)), PanelistSpec("b", SMALL)), JudgeSpec(SMALL))
REQUEST = RunRequest("How high is Skerry?", PANEL, SourcesSpec(docs=(Path("examples/harbour"),)), seed=3)
DEAD = replace(this_process(), started=-10.0)


def page(url: str, text: str) -> Page:
    return Page(url, "A title", text, sha256(text.encode()).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path)) as opened:
        yield opened


def test_events_come_back_in_order_without_the_live_ones(store: Store) -> None:
    run = store.create_run(REQUEST)
    told: list[Event] = [
        RunStarted(run, REQUEST.question, {"a": "small", "b": "small"}, "small", 3),
        PromptRead("a", 1, 2),
        TextWritten("a", "content", "x"),
        PanelistCompleted(Response("a", "small", "“40 metres” [1]")),
        WarningRaised("one file was skipped"),
        RunEnded("ok"),
    ]
    for event in told:
        store.append(run, event)
    assert store.events(run) == (told[0], *told[3:])


def test_a_request_is_enough_to_begin_again(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as first:
        run = first.create_run(REQUEST)
    with closing(Store(tmp_path)) as second:
        assert second.request(run) == REQUEST


def test_runs_are_listed_newest_first_with_their_time(tmp_path: Path) -> None:
    times = iter([1000.0, 1002.5, 2000.0])
    with closing(Store(tmp_path, clock=lambda: next(times))) as store:
        old = store.create_run(REQUEST)
        store.append(old, RunEnded("error", "all_panels_failed", "nobody answered"))
        new = store.create_run(REQUEST)
        first, second = store.list_runs()
    assert (first.id, first.status, first.seconds) == (new, "running", None)
    assert (second.id, second.status, second.seconds) == (old, "error", 2.5)
    assert second.created == datetime.fromtimestamp(1000, UTC)
    assert old < new


def test_pages_are_kept_as_they_were_read_first(store: Store) -> None:
    run = store.create_run(REQUEST)
    store.save_page(run, page("doc://h/a.md", "as it was"))
    store.save_page(run, page("doc://h/a.md", "as it is now"))
    assert store.page(run, "doc://h/a.md") == page("doc://h/a.md", "as it was")
    assert store.page(run, "doc://h/b.md") is None
    assert [kept.text for kept in store.pages(run)] == ["as it was"]


def test_removing_a_run_leaves_the_others_and_what_they_share(store: Store) -> None:
    first, second = store.create_run(REQUEST), store.create_run(REQUEST)
    for run in (first, second):
        store.save_page(run, page("doc://h/a.md", "shared"))
        store.append(run, RunEnded("ok"))
    store.remove(first)
    assert [run.id for run in store.list_runs()] == [second]
    assert store.page(second, "doc://h/a.md") is not None
    with pytest.raises(ConfigError):
        store.events(first)


def test_nothing_of_a_removed_run_stays_in_its_tables(store: Store) -> None:
    run = store.create_run(REQUEST)
    store.save_page(run, page("doc://h/a.md", "private"))
    store.append(run, RunEnded("interrupted"))
    store.remove(run)
    assert store.pages(run) == ()
    again = store.create_run(REQUEST)
    assert store.events(again) == ()


def test_runs_are_forgotten_but_for_those_of_others_and_no_word_is_left(tmp_path: Path) -> None:
    secret = replace(REQUEST, question="How high is the-secret?")

    def n_words() -> int:
        return sum(path.read_bytes().count(b"the-secret") for path in tmp_path.iterdir())

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = owner_of(child.pid)
    assert other is not None
    with closing(Store(tmp_path)) as store, closing(Store(tmp_path, owner=other)) as others:
        own, discarded, removed, foreign = (one.create_run(secret) for one in (store, store, store, others))
        store.save_page(own, page("file:///a", "the-secret is 40 metres high"))
        store.append(removed, RunEnded("ok"))
        assert n_words() > 8
        store.forget([own, "run_none", foreign])
        store.remove(removed)
        assert {run.id for run in store.list_runs()} == {discarded, foreign}
        child.communicate(b"\n")
        store.forget([foreign])
        store.discard(discarded)
        assert n_words() == 0


def test_the_final_document_is_kept(store: Store) -> None:
    run = store.create_run(REQUEST)
    assert store.document(run) is None
    store.finish(run, {"answer": "40 metres “…”", "citations": [], "cost": 0.5})
    assert store.document(run) == {"answer": "40 metres “…”", "citations": [], "cost": 0.5}


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    with closing(Store(tmp_path, owner=DEAD)) as store:
        run = store.create_run(REQUEST)
        assert store.summary(run).status == "interrupted"


def test_a_run_is_claimed_by_one_process_only(tmp_path: Path) -> None:
    with closing(Store(tmp_path, owner=DEAD)) as gone, closing(Store(tmp_path)) as store:
        run = gone.create_run(REQUEST)
        assert store.claim(run) == REQUEST
        assert store.summary(run).status == "running"
        with pytest.raises(ConfigError, match="still running"):
            store.claim(run)
        with pytest.raises(ConfigError, match="still running"):
            store.remove(run)
        store.append(run, RunResumed(run, ("a",)))
        store.append(run, RunEnded("ok"))
        assert store.summary(run).status == "ok"


@pytest.mark.parametrize("call", ["events", "summary", "request", "document", "claim", "remove"])
def test_an_unknown_run_is_the_users_mistake(store: Store, call: str) -> None:
    with pytest.raises(ConfigError, match="there is no run run_x") as caught:
        getattr(store, call)("run_x")
    assert "runs list" in caught.value.hint


def test_an_event_of_an_unknown_run_is_refused(store: Store) -> None:
    with pytest.raises(LocalFusionError):
        store.append("run_x", WarningRaised("lost"))


def test_without_a_home_nothing_is_written(tmp_path: Path) -> None:
    with closing(Store(None)) as store:
        store.append(store.create_run(REQUEST), RunEnded("ok"))
        assert len(store.list_runs()) == 1
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from localfusion.events import WarningRaised
from localfusion.store import Store
from tests.test_store import REQUEST
store = Store(Path(sys.argv[1]))
run = store.create_run(REQUEST)
print(run, flush=True)
for number in range(int(sys.argv[2])):
    store.append(run, WarningRaised(str(number)))
    print(number, flush=True)
"""


def start_writer(home: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(home), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_killed_process_loses_nothing_finished(tmp_path: Path, after: int) -> None:
    with start_writer(tmp_path, 1_000_000) as writer:
        assert writer.stdout is not None
        run = writer.stdout.readline().strip()
        said = [writer.stdout.readline().strip() for _ in range(after)]
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    with closing(Store(tmp_path)) as store:
        kept = [event.message for event in store.events(run) if isinstance(event, WarningRaised)]
        assert kept == [str(number) for number in range(len(kept))]
        assert kept[: len(said)] == said
        assert store.summary(run).status == "interrupted"
        assert store.claim(run) == REQUEST


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, 30) for _ in range(4)]
    runs = [writer.communicate()[0].split()[0] for writer in writers]
    with closing(Store(tmp_path)) as store:
        assert [len(store.events(run)) for run in runs] == [30] * 4


def test_a_process_is_told_from_another_with_its_pid() -> None:
    assert is_alive(this_process())
    assert not is_alive(DEAD)
    unused = next(pid for pid in range(2**22 - 1, 1, -1) if not psutil.pid_exists(pid))
    assert not is_alive(replace(this_process(), pid=unused))
    assert not is_alive(replace(this_process(), boot="another boot"))


def test_a_process_that_ended_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        owner = owner_of(ended.pid)
        psutil.wait_procs([psutil.Process(ended.pid)], timeout=60)
    assert not is_alive(owner)
