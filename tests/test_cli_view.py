"""How a run is shown: the rows that its events add up to, the plain lines, the picture, the final text."""

import io

import pytest
from rich.console import Console

from localfusion.analysis import (
    Analysis,
    Citation,
    Contradiction,
    FailedModel,
    Passage,
    Response,
    Stance,
    ToolStep,
)
from localfusion.cli.answer import analysis_text, answer_text
from localfusion.cli.live import drawing, shown
from localfusion.cli.plain import line
from localfusion.cli.running import Output, carry_out
from localfusion.cli.terminal import head, printable, printable_text, tail
from localfusion.cli.view import RunView, advance
from localfusion.errors import LocalFusionError
from localfusion.events import (
    LIVE_ONLY,
    AnalysisCompleted,
    AnalysisFailed,
    AnalysisStarted,
    AnswerCompleted,
    AnswerStarted,
    Event,
    ModelLoading,
    ModelReady,
    PanelistCompleted,
    PanelistFailed,
    PromptRead,
    RunEnded,
    RunResumed,
    RunStarted,
    TextWritten,
    ToolCalled,
    ToolReturned,
    WarningRaised,
)
from localfusion.messages import ToolCall, Usage
from localfusion.outcome import Outcome

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
CALL = ToolCall("web_search", {"query": "height of Skerry"})
RESPONSE = Response("a", "micro-a", "“40 metres” [1]", usage=Usage(10, 4, 3, 0.5))
CITATION = Citation(1, "doc://a.md", "A", "40 metres", "verified")

EVENTS: tuple[Event, ...] = (
    RunStarted("run_1", "What is the height?", {"a": "micro-a", "b": "micro-b"}, "micro-judge", 0),
    ModelLoading("a", "micro-a"),
    ModelReady("a", "micro-a", 0.25),
    PromptRead("a", 32, 64),
    ToolCalled("a", 1, CALL),
    ToolReturned("a", 1, ToolStep(CALL, (Passage(1, "doc://a.md", "A", "40 metres"),))),
    TextWritten("a", "content", "“40 "),
    TextWritten("a", "content", "metres” [1]"),
    PanelistCompleted(RESPONSE),
    ModelLoading("b", "micro-b"),
    ToolReturned("b", 1, ToolStep(CALL, error="no such page")),
    PanelistFailed(FailedModel("b", "micro-b", "the worker died")),
    WarningRaised("damaged.pdf was skipped"),
    AnalysisStarted("micro-judge"),
    TextWritten("judge", "analysis", '{"consensus":'),
    AnalysisCompleted(Analysis(consensus=("x",)), "{}", Usage(5, 0, 2, 0.1)),
    AnswerStarted("micro-judge"),
    TextWritten("judge", "answer", "“40 metres” [1]"),
    AnswerCompleted("“40 metres” [1]", (CITATION,), Usage(5, 5, 2, 0.1)),
    RunEnded("ok"),
)


def view_after(count: int) -> RunView:
    view = RunView()
    for seconds, event in enumerate(EVENTS[:count]):
        view = advance(view, event, now_s=float(seconds))
    return view


def test_rows_follow_the_events() -> None:
    states = [tuple(row.state for row in view_after(count).rows) for count in (1, 2, 3, 4, 5, 7, 9, 12, 14, 16, 19)]
    assert states == [
        ("waiting", "waiting", "waiting"),
        ("loading", "waiting", "waiting"),
        ("ready", "waiting", "waiting"),
        ("reading", "waiting", "waiting"),
        ("searching", "waiting", "waiting"),
        ("writing", "waiting", "waiting"),
        ("done", "waiting", "waiting"),
        ("done", "failed", "waiting"),
        ("done", "failed", "comparing"),
        ("done", "failed", "done"),
        ("done", "failed", "done"),
    ]


def test_rows_hold_details_and_seconds() -> None:
    assert view_after(4).rows[0].detail == "32 of 64 tokens read"
    assert view_after(5).rows[0].detail == "web_search: height of Skerry"
    assert view_after(6).rows[0].detail == "web_search: 1 result"
    assert view_after(11).rows[1].detail == "web_search failed: no such page"
    last = view_after(len(EVENTS))
    assert last.rows[0].seconds(now_s=100.0) == 7.0
    assert last.answer == "“40 metres” [1]"
    assert last.warnings == ("damaged.pdf was skipped",)


def test_a_resumed_run_keeps_what_is_finished() -> None:
    view = advance(view_after(12), RunResumed("run_1", ("a",)), now_s=0.0)
    assert [row.state for row in view.rows] == ["done", "waiting", "waiting"]


def test_plain_lines_are_one_for_each_stored_event() -> None:
    lines = [line(event) for event in EVENTS]
    for event, text in zip(EVENTS, lines, strict=True):
        assert (text is None) == isinstance(event, LIVE_ONLY)
        assert text is None or "\n" not in text
    assert lines[0] == "run_1: a = micro-a, b = micro-b; judge = micro-judge; seed 0"
    assert lines[4] == "a: 1. web_search: height of Skerry"
    assert lines[8] == "a: “40 metres” [1] (6 tokens read, 4 kept, 3 written, 0.5 s)"
    assert lines[11] == "b: failed: the worker died"
    assert (
        line(AnalysisFailed("judge_not_valid_json", "no JSON", Usage()))
        == "judge: failed: no JSON (judge_not_valid_json)"
    )
    assert line(RunResumed("run_1", ("a",))) == "run_1: goes on; kept: a"


def test_a_terminal_gets_rows_and_a_pipe_gets_lines() -> None:
    written = {}
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=80, legacy_windows=False)
        with shown(console, clock=lambda: 0.0) as emit:
            for event in EVENTS:
                emit(event)
        written[terminal] = file.getvalue()
    assert "\x1b[" in written[True]
    assert "micro-b" in written[True]
    assert "\x1b" not in written[False]
    assert "b: failed: the worker died" in written[False].splitlines()


@pytest.mark.parametrize("width", [8, 20, 40, 80, 200])
@pytest.mark.parametrize("count", [0, 1, 5, 8, len(EVENTS)])
def test_the_picture_keeps_within_the_width(width: int, count: int) -> None:
    view = view_after(count)
    for event in (TextWritten("b", "content", "word " * 500), WarningRaised("warned " * 30)):
        view = advance(view, event, now_s=1.0)
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    lines = console.render_lines(drawing(view, width=width, now_s=2.0), pad=False)
    assert all(sum(segment.cell_length for segment in row) <= width for row in lines)


def test_nothing_that_is_shown_moves_the_cursor() -> None:
    events: tuple[Event, ...] = (
        RunStarted(ESCAPE, ESCAPE, {"a": ESCAPE}, ESCAPE, 0),
        WarningRaised(ESCAPE),
        ToolCalled("a", 1, ToolCall("web_search", {"query": ESCAPE})),
        TextWritten("a", "content", ESCAPE),
        TextWritten("judge", "answer", ESCAPE),
        PanelistFailed(FailedModel("a", ESCAPE, ESCAPE)),
    )
    view = RunView()
    for event in events:
        assert "\x1b" not in (line(event) or "")
        view = advance(view, event, now_s=0.0)
        console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
        segments = [segment.text for row in console.render_lines(drawing(view, width=80, now_s=0.0)) for segment in row]
        assert not any("\x1b" in text or "\x07" in text for text in segments)
    outcome = Outcome(
        "run_1",
        "ok",
        ESCAPE,
        0,
        "j",
        answer=ESCAPE,
        citations=(Citation(1, ESCAPE, ESCAPE, ESCAPE, "weak"),),
        analysis=Analysis(consensus=(ESCAPE,)),
        failed_models=(FailedModel("a", ESCAPE, ESCAPE),),
    )
    assert "\x1b" not in answer_text(outcome) + analysis_text(outcome)


def test_markup_in_a_models_text_is_text() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=False, width=80)
    with shown(console) as emit:
        emit(WarningRaised("[bold]loud[/bold] [/nonsense]"))
    assert file.getvalue() == "warning: [bold]loud[/bold] [/nonsense]\n"


def test_the_answer_lists_each_source_once_with_its_quotes() -> None:
    outcome = Outcome(
        "run_1",
        "ok",
        "Q?",
        0,
        "j",
        answer="“40 metres” [1] “41” [2] “old” [1]",
        citations=(
            Citation(2, "doc://b.md", "B", "41", "weak"),
            CITATION,
            CITATION,
            Citation(1, "doc://a.md", "A", "old", "not_found"),
        ),
    )
    assert answer_text(outcome).splitlines() == [
        "“40 metres” [1] “41” [2] “old” [1]",
        "",
        "Sources",
        "[1] A doc://a.md",
        "    “40 metres”",
        "[2] B doc://b.md",
        "    “41” (weak: not everything said stands there)",
        "",
        "Not found where it was cited",
        "  [1] old",
    ]


def test_where_the_judge_failed_every_panelist_is_heard() -> None:
    outcome = Outcome(
        "run_1", "ok", "Q?", 0, "j", responses=(RESPONSE,), failure_reason="judge_upstream_error", error="it died"
    )
    assert answer_text(outcome) == "a (micro-a):\n“40 metres” [1]"
    assert analysis_text(outcome) == "No analysis\n  it died (judge_upstream_error)"


def test_only_parts_that_say_something_are_shown() -> None:
    analysis = Analysis(contradictions=(Contradiction("height", (Stance("a", "40"), Stance("b", "41"))),))
    outcome = Outcome("run_1", "ok", "Q?", 0, "j", answer="x", analysis=analysis)
    assert analysis_text(outcome) == "Contradictions\n  height:\n    a: 40\n    b: 41"


def test_text_is_cut_to_its_place() -> None:
    assert (head("abcdef", 4), tail("abcdef", 4), head("abc", 4), tail("abc", 4)) == ("abc…", "…def", "abc", "abc")
    assert printable("a\x1b[1mb\nc\u202e") == "a [1mb c"
    assert printable_text("a\x1b[1m\nb\tc\r") == "a[1m\nb\tc"


def test_of_errors_that_tasks_raised_together_the_first_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    async def fail(_: object) -> Outcome:
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [LocalFusionError("the disk is full")])])

    with pytest.raises(LocalFusionError, match="the disk is full"):
        carry_out(fail, Output(), stored=False)
    assert capfd.readouterr().out == ""
