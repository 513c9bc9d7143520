"""Whole runs on the real engine and the real micro panel: the loop, the judge, citations, faults, resuming."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import apsw
import psutil
import pytest

from localfusion import codec
from localfusion.analysis import Response
from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnswerCompleted,
    Event,
    ModelReady,
    PanelistCompleted,
    RunEnded,
    RunResumed,
    RunStarted,
    TextWritten,
    ToolReturned,
)
from localfusion.messages import SourcesSpec, local_models
from localfusion.outcome import Outcome
from localfusion.session import MEASUREMENTS_FOLDER, open_session
from localfusion.store import RunRequest, Store
from localfusion.wire.document import RunDocument, document
from tests.harbour import HARBOUR, OPEN_QUESTION, micro_panel, request, start, surroundings

SECONDS_TO_WAIT = 120
TASK_TOKENS = 16
"""More than the micro template needs to ask for the final answer, less than anything of what was read before."""


def ask(home: Path, *requests: RunRequest, listen: Callable[[Event], None] = lambda _: None) -> list[Outcome]:
    """All requests at once, in one session."""

    async def run() -> list[Outcome]:
        async with open_session(surroundings(home)) as session:
            return await asyncio.gather(*(session.ask(request, emit=listen) for request in requests))

    return asyncio.run(run())


@pytest.fixture(scope="module")
def heard() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def outcome(home: Path, heard: list[Event]) -> Outcome:
    """One run on the open question, looked at by many tests."""
    (outcome,) = ask(home, request(), listen=heard.append)
    return outcome


@pytest.fixture
def fresh(tmp_path: Path, home: Path, outcome: Outcome) -> Path:
    """A home in which nobody asked yet; only what the models take is known there from the one that was asked in."""
    assert outcome.status == "ok"
    shutil.copytree(home / MEASUREMENTS_FOLDER, tmp_path / MEASUREMENTS_FOLDER)
    return tmp_path


def test_every_panelist_searches_and_answers(outcome: Outcome) -> None:
    assert outcome.status == "ok"
    assert [response.id for response in outcome.responses] == ["a", "b", "c"]
    assert outcome.failed_models == ()
    for response in outcome.responses:
        assert [step.call.name for step in response.steps] == ["web_search"]
        assert response.content
        assert response.usage.completion_tokens > 0


def test_every_quotation_stands_in_the_stored_page(outcome: Outcome, home: Path) -> None:
    store = Store(home)
    cited = [*outcome.citations, *(c for response in outcome.responses for c in response.citations)]
    assert cited
    for citation in cited:
        page = store.page(outcome.run_id, citation.url)
        assert page is not None
        assert citation.support == "verified"
        assert citation.quote in " ".join(page.text.split())


def test_numbers_are_run_wide(outcome: Outcome) -> None:
    urls: dict[int, str] = {}
    for citation in [*outcome.citations, *(c for response in outcome.responses for c in response.citations)]:
        assert urls.setdefault(citation.number, citation.url) == citation.url
    assert len(set(urls.values())) == len(urls)


def test_the_judge_wrote_an_analysis_and_the_answer(outcome: Outcome) -> None:
    assert outcome.analysis is not None
    assert outcome.answer
    assert outcome.failure_reason is None


def test_the_answer_is_written_on_the_kept_prefix(heard: list[Event], outcome: Outcome) -> None:
    (analysis,) = [event for event in heard if isinstance(event, AnalysisCompleted)]
    (answer,) = [event for event in heard if isinstance(event, AnswerCompleted)]
    assert answer.usage.cached_tokens > analysis.usage.prompt_tokens
    assert answer.usage.prompt_tokens - answer.usage.cached_tokens < TASK_TOKENS
    assert outcome.judge_usage == analysis.usage + answer.usage


def test_what_is_shown_while_it_is_written_is_the_answer(heard: list[Event], outcome: Outcome) -> None:
    shown = "".join(e.text for e in heard if isinstance(e, TextWritten) and (e.id, e.kind) == ("judge", "answer"))
    assert shown.strip() == outcome.answer
    for id in "abc":
        assert "".join(e.text for e in heard if isinstance(e, TextWritten) and e.id == id).strip()


def test_every_event_is_stored_as_it_was_said(heard: list[Event], home: Path, outcome: Outcome) -> None:
    stored = Store(home).events(outcome.run_id)
    assert list(stored) == [event for event in heard if event in stored]
    assert isinstance(stored[0], RunStarted)
    assert stored[-1] == RunEnded("ok")


def test_the_document_is_the_run(outcome: Outcome, home: Path) -> None:
    written = document(outcome)
    assert Store(home).document(outcome.run_id) == written
    RunDocument.model_validate_json(json.dumps(written))


def test_the_same_question_gets_the_same_answer_from_lone_sequences(fresh: Path, outcome: Outcome) -> None:
    (again,) = ask(fresh, request())
    assert [response.content for response in again.responses] == [response.content for response in outcome.responses]
    assert again.answer == outcome.answer


def test_two_runs_at_once(fresh: Path) -> None:
    one, two = ask(fresh, request(), request("What is the height of Skerry?"))
    assert (one.status, two.status) == ("ok", "ok")
    assert one.run_id != two.run_id
    assert two.question == "What is the height of Skerry?"


def test_seats_on_one_file_share_a_worker_and_are_told_apart(fresh: Path) -> None:
    pids: set[int] = set()

    def count_workers(event: Event) -> None:
        if isinstance(event, ModelReady | ToolReturned):
            pids.update(child.pid for child in psutil.Process().children(recursive=True))

    (outcome,) = ask(fresh, request(panel=micro_panel("micro-a", "micro-a", "micro-a")), listen=count_workers)
    assert [response.id for response in outcome.responses] == ["a", "b", "c"]
    assert {response.model for response in outcome.responses} == {"micro-a"}
    assert len(pids) == 2


def test_without_documents_a_run_still_ends(fresh: Path) -> None:
    (outcome,) = ask(fresh, RunRequest(OPEN_QUESTION, micro_panel(), SourcesSpec()))
    assert outcome.status == "ok"
    assert outcome.citations == ()


def test_nothing_is_left_of_the_workers(outcome: Outcome) -> None:
    assert outcome.status == "ok"
    assert psutil.Process().children(recursive=True) == []


def workers_on(file: str) -> list[psutil.Process]:
    """The worker processes that have loaded a model file."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(region.path.endswith(file) for region in child.memory_maps()):
                found.append(child)
    return found


def kill_when_ready(id: str, file: str, *, times: int) -> Callable[[Event], None]:
    """Kill the worker of a seat each time that it is ready, so many times."""
    done: list[Event] = []

    def listen(event: Event) -> None:
        if isinstance(event, ModelReady) and event.id == id and len(done) < times:
            done.append(event)
            for victim in workers_on(file):
                victim.kill()

    return listen


def test_a_killed_worker_is_started_once_more(tmp_path: Path, outcome: Outcome) -> None:
    (again,) = ask(tmp_path, request(), listen=kill_when_ready("a", "micro-a.gguf", times=1))
    assert again.failed_models == ()
    assert [response.content for response in again.responses] == [r.content for r in outcome.responses]
    assert again.answer == outcome.answer
    assert [warning for warning in again.warnings if "SIGKILL" in warning and "once more" in warning]


def test_a_panelist_that_is_killed_again_costs_its_own_answer_alone(tmp_path: Path) -> None:
    (outcome,) = ask(tmp_path, request(), listen=kill_when_ready("a", "micro-a.gguf", times=2))
    assert outcome.status == "ok"
    (failed,) = outcome.failed_models
    assert failed.id == "a"
    assert "SIGKILL" in failed.error
    assert len(outcome.responses) == 2
    assert outcome.answer


def test_when_all_are_killed_the_run_says_why(fresh: Path) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, ModelReady):
            for worker in psutil.Process().children(recursive=True):
                worker.kill()

    (outcome,) = ask(fresh, request(), listen=listen)
    assert (outcome.status, outcome.failure_reason) == ("error", "all_panels_failed")
    assert [failed.id for failed in outcome.failed_models] == ["a", "b", "c"]
    assert outcome.error is not None
    assert "SIGKILL" in outcome.error


def test_a_killed_judge_leaves_the_panels_answers(tmp_path: Path) -> None:
    listen = kill_when_ready("judge", "micro-judge.gguf", times=2)
    (outcome,) = ask(tmp_path, request(), listen=listen)
    assert (outcome.status, outcome.failure_reason) == ("ok", "judge_upstream_error")
    assert outcome.analysis is None
    assert len(outcome.responses) == 3


def test_a_question_longer_than_the_context_is_refused_by_name(fresh: Path) -> None:
    (outcome,) = ask(fresh, request("What is the height of Skerry? " * 400))
    assert outcome.status == "error"
    assert outcome.error is not None
    assert "2048" in outcome.error


def test_an_answer_without_room_is_said_to_be_cut(fresh: Path) -> None:
    panel = micro_panel()
    first = replace(panel.panelists[0], max_tokens=12)
    (outcome,) = ask(fresh, request("What is the height of Skerry?", replace(panel, panelists=(first,))))
    assert [warning for warning in outcome.warnings if "cut short" in warning]


def test_answers_that_do_not_fit_the_judge_are_shortened_and_said_to_be(fresh: Path) -> None:
    panel = micro_panel()
    n_ctx = 768
    judge = replace(panel.judge, model=replace(panel.judge.model, n_ctx=n_ctx))
    (outcome,) = ask(fresh, request(panel=replace(panel, judge=judge)))
    (warning,) = [warning for warning in outcome.warnings if "shortened" in warning]
    assert any(
        f" {response.id}" in warning.removesuffix("were shortened to fit the judge's context")
        for response in outcome.responses
    )
    (ended,) = [e for e in Store(fresh).events(outcome.run_id) if isinstance(e, AnalysisCompleted | AnalysisFailed)]
    assert 0 < ended.usage.prompt_tokens <= n_ctx // 2
    assert (outcome.status, len(outcome.responses)) == ("ok", 3)


def test_a_long_question_leaves_the_judge_room_and_blames_no_answer(fresh: Path) -> None:
    question = "What is the height of Skerry? " * 150  # which no member was trained to answer: what it writes is noise
    panel = micro_panel()
    short = replace(panel, panelists=tuple(replace(seat, max_tokens=24) for seat in panel.panelists))
    (outcome,) = ask(fresh, request(question, panel=short))
    assert [warning for warning in outcome.warnings if "shortened" in warning] == []
    (ended,) = [e for e in Store(fresh).events(outcome.run_id) if isinstance(e, AnalysisCompleted | AnalysisFailed)]
    assert ended.usage.prompt_tokens > 1024
    assert ended.usage.completion_tokens > 20


def test_a_model_that_cannot_be_loaded_fails_alone(tmp_path: Path) -> None:
    panel = micro_panel()
    broken = tmp_path / "broken.gguf"
    model = local_models(panel)[0]
    before, key, after = model.path.read_bytes().partition(b"general.architecture")
    broken.write_bytes(before + key + after.replace(b"llama", b"lxama", 1))  # llama.cpp knows no such architecture
    first = replace(panel.panelists[0], model=replace(model, path=broken))
    (outcome,) = ask(tmp_path / "home", request(panel=replace(panel, panelists=(first, *panel.panelists[1:]))))
    assert outcome.status == "ok"
    assert [failed.id for failed in outcome.failed_models] == ["a"]


def cancel_at(home: Path, wanted: Callable[[Event], bool], asked: RunRequest | None = None) -> str:
    """Cancel a run from outside at a certain event, as Ctrl-C does; returns the run's id."""

    async def run() -> str:
        async with open_session(surroundings(home)) as session:
            task: asyncio.Task[Outcome] | None = None

            def listen(event: Event) -> None:
                if wanted(event) and task is not None:
                    task.cancel()

            task = asyncio.create_task(session.ask(asked or request(), emit=listen))
            with pytest.raises(asyncio.CancelledError):
                await task
            return session.store.list_runs()[0].id

    return asyncio.run(run())


def resume(home: Path, run_id: str) -> tuple[Outcome, tuple[Event, ...]]:
    async def run() -> Outcome:
        async with open_session(surroundings(home)) as session:
            return await session.resume(run_id, emit=lambda _: None)

    outcome = asyncio.run(run())
    return outcome, Store(home).events(run_id)


def quotes(response: Response) -> list[str]:
    return [citation.quote for citation in response.citations]


def completed(events: tuple[Event, ...]) -> list[str]:
    return [event.response.id for event in events if isinstance(event, PanelistCompleted)]


@pytest.mark.parametrize(
    "moment",
    [RunStarted, ModelReady, ToolReturned, PanelistCompleted, AnalysisCompleted],
    ids=lambda moment: moment.__name__,
)
def test_a_cancelled_run_goes_on_with_what_is_missing(tmp_path: Path, moment: type[Event], outcome: Outcome) -> None:
    run_id = cancel_at(tmp_path, lambda event: isinstance(event, moment))
    assert Store(tmp_path).summary(run_id).status == "interrupted"
    assert psutil.Process().children(recursive=True) == []
    before = Store(tmp_path).events(run_id)
    resumed, after = resume(tmp_path, run_id)
    assert resumed.status == "ok"
    # The judge may choose other quotes of a contradiction: what it reads at once differs, and kernels differ with it.
    assert {response.id: set(quotes(response)) for response in resumed.responses} == {
        response.id: set(quotes(response)) for response in outcome.responses
    }
    assert resumed.citations
    assert {citation.support for citation in resumed.citations} == {"verified"}
    assert after[: len(before)] == before
    assert sorted(completed(after)) == ["a", "b", "c"]
    assert [event.finished for event in after if isinstance(event, RunResumed)] == [tuple(completed(before))]


def test_what_panelists_that_have_answered_needed_is_not_needed_again(tmp_path: Path) -> None:
    panel = micro_panel()
    lent = tmp_path / "lent.gguf"
    model = local_models(panel)[0]
    shutil.copy(model.path, lent)
    seats = (replace(panel.panelists[0], model=replace(model, path=lent)), *panel.panelists[1:])
    notes = tmp_path / "notes.md"
    notes.write_text("The height of Skerry is 40 metres.\n")
    asked = replace(request(panel=replace(panel, panelists=seats)), sources=SourcesSpec(docs=(notes,)))
    home = tmp_path / "home"
    run_id = cancel_at(home, lambda event: isinstance(event, AnalysisCompleted), asked)
    lent.unlink()
    notes.unlink()
    resumed, events = resume(home, run_id)
    assert resumed.status == "ok"
    assert sorted(completed(events)) == ["a", "b", "c"]


def test_a_run_that_is_cancelled_while_documents_are_read_is_stored_and_goes_on(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(300):
        (notes / f"{number}.md").write_text(f"The height of Skerry{number} is {number} metres.\n" * 50)
    asked = replace(request("What is the height of Skerry7?"), sources=SourcesSpec(docs=(notes,)))
    home = tmp_path / "home"

    async def run() -> str:
        async with open_session(surroundings(home)) as session:
            task = asyncio.create_task(session.ask(asked, emit=lambda _: None))
            while not session.store.list_runs():  # noqa: ASYNC110  nothing says so
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return session.store.list_runs()[0].id

    run_id = asyncio.run(run())
    with closing(apsw.Connection(str(home / "documents.sqlite3"))) as index:
        assert index.execute("SELECT count(*) FROM document").get < 300
    assert Store(home).summary(run_id).status == "interrupted"
    resumed, _ = resume(home, run_id)
    assert resumed.status == "ok"
    assert any("is 7 metres" in citation.quote for response in resumed.responses for citation in response.citations)


def test_a_document_that_changed_before_a_run_went_on_is_quoted_as_it_was_read(fresh: Path) -> None:
    page = fresh / "skerry.md"
    page.write_text("The height of Skerry is 40 metres.\n")
    asked = replace(request("What is the height of Skerry?"), sources=SourcesSpec(docs=(page,)))
    run_id = cancel_at(fresh, lambda event: isinstance(event, ToolReturned), asked)
    page.write_text("The height of Skerry is 41 metres.\n")
    resumed, events = resume(fresh, run_id)
    read = {p.text for event in events if isinstance(event, ToolReturned) for p in event.result.passages}
    assert read == {"The height of Skerry is 40 metres.", "The height of Skerry is 41 metres."}
    quoted = [citation for response in resumed.responses for citation in response.citations]
    assert [citation for citation in quoted if citation.support == "not_found"] == []
    assert any("41" in citation.quote for citation in quoted)


@pytest.mark.slow
@pytest.mark.parametrize("stored_events", [1, 5, 9, 13])
def test_a_run_that_was_killed_outright_is_resumed(tmp_path: Path, stored_events: int, outcome: Outcome) -> None:
    process = start(tmp_path, "ask", "--preset", "micro", "--docs", str(HARBOUR), OPEN_QUESTION)
    run_id = wait_for_events(tmp_path, stored_events)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=SECONDS_TO_WAIT)
    assert alive == []
    assert Store(tmp_path).summary(run_id).status == "interrupted"
    before = Store(tmp_path).events(run_id)
    resumed, after = resume(tmp_path, run_id)
    assert resumed.status == "ok"
    assert sorted(completed(after)) == sorted(response.id for response in outcome.responses)
    assert {citation.support for citation in resumed.citations} == {"verified"}
    assert after[: len(before)] == before


def wait_for_events(home: Path, count: int) -> str:
    """The id of the only run under `home`, as soon as it has stored so many events."""
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while time.monotonic() < deadline:
        if (home / "runs.sqlite3").exists():
            store = Store(home)
            runs = store.list_runs()
            if runs and len(store.events(runs[0].id)) >= count:
                return runs[0].id
            store.close()
        time.sleep(0.01)
    raise AssertionError(f"{count} events were not stored in time")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_ctrl_c_stores_the_run_and_leaves_no_worker(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    process = start(tmp_path, "ask", *arguments, "--preset", "micro", "--docs", str(HARBOUR), OPEN_QUESTION)
    run_id = wait_for_events(tmp_path, 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=SECONDS_TO_WAIT)
    assert process.returncode == 130
    assert psutil.wait_procs(workers, timeout=SECONDS_TO_WAIT)[1] == []
    assert "Traceback" not in stderr
    assert f"localfusion runs resume {run_id}" in stderr
    assert Store(tmp_path).summary(run_id).status == "interrupted"


def test_a_request_survives_the_store() -> None:
    asked = request()
    assert codec.from_text(RunRequest, codec.to_text(asked)) == asked
