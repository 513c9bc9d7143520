"""What a run has come to, folded from its events."""

from localfusion.analysis import Analysis, FailedModel, Response, ToolStep
from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnswerCompleted,
    CloudCalled,
    CloudCharged,
    Event,
    FallbackTaken,
    Generated,
    PanelistCompleted,
    PanelistFailed,
    RunEnded,
    RunResumed,
    RunStarted,
    ToolCalled,
    ToolReturned,
    WarningRaised,
)
from localfusion.messages import Substitution, ToolCall, Usage
from localfusion.outcome import CloudUse
from localfusion.run_state import RunState, apply, fold, to_outcome

CALL = ToolCall("web_search", {"query": "height"})
STARTED = RunStarted("run_1", "How high?", {"a": "m1", "b": "m2", "c": "m3"}, "j", 7)
B_DONE = PanelistCompleted(Response("b", "m2", "Forty."))
A_DONE = PanelistCompleted(Response("a", "m1", "Forty."))
C_FAILED = PanelistFailed(FailedModel("c", "m3", "died"))


def test_responses_come_in_panel_order_whoever_was_first() -> None:
    state = fold([STARTED, B_DONE, A_DONE])
    assert [response.id for response in state.in_panel_order()] == ["a", "b"]


def test_steps_of_a_panelist_are_kept_for_resuming() -> None:
    state = fold([STARTED, ToolCalled("a", 1, CALL), ToolReturned("a", 1, ToolStep(CALL)), ToolCalled("a", 2, CALL)])
    assert state.steps == {"a": (ToolStep(CALL),)}


def test_a_run_that_never_ended_was_interrupted() -> None:
    assert to_outcome(fold([STARTED, B_DONE]), ()).status == "interrupted"


def test_a_resumed_run_tries_again_what_failed_and_keeps_what_is_finished() -> None:
    state = fold([STARTED, B_DONE, C_FAILED, RunEnded("error", "unexpected_error", "x"), RunResumed("run_1", ("b",))])
    assert dict(state.failed) == {}
    assert list(state.responses) == ["b"]
    assert (state.status, state.failure_reason, state.error) == (None, None, None)


def test_a_new_answer_undoes_what_was_judged_without_it() -> None:
    events: list[Event] = [
        STARTED,
        B_DONE,
        PanelistFailed(FailedModel("a", "m1", "died")),
        AnalysisCompleted(Analysis(consensus=("“Forty” [1]",)), "{}", Usage(seconds=1.0)),
        AnswerCompleted("“Forty” [1]", (), Usage(seconds=2.0)),
        RunResumed("run_1", ("b",)),
    ]
    assert fold(events).answer == "“Forty” [1]"
    state = fold([*events, A_DONE])
    assert (state.analysis, state.raw_analysis, state.answer) == (None, None, None)


def test_what_the_judge_cost_is_summed_even_where_it_failed() -> None:
    events: list[Event] = [
        STARTED,
        AnalysisFailed("judge_not_valid_json", "no JSON", Usage(prompt_tokens=5)),
        AnswerCompleted("Forty.", (), Usage(prompt_tokens=6, cached_tokens=5)),
        RunEnded("ok"),
    ]
    outcome = to_outcome(fold(events), ())
    assert (outcome.judge_usage.prompt_tokens, outcome.judge_usage.cached_tokens) == (11, 5)
    assert (outcome.status, outcome.failure_reason, outcome.analysis) == ("ok", "judge_not_valid_json", None)


def test_what_left_is_one_use_for_each_model_and_counts_what_failed() -> None:
    called = CloudCalled("b", "cloud", "https://x", "far", 500, "maker/far-1")
    events: list[Event] = [
        STARTED,
        called,
        CloudCharged("b", "cloud", "far", Usage(10, 0, 1, cost=0.5)),
        called,
        CloudCharged("b", "cloud", "far", Usage(10, 0, 4, cost=0.25)),
        Generated("b", "far", Usage(10, 0, 4, cost=0.25), "cloud"),
        RunResumed("run_1", ()),
    ]
    state = fold(events)
    assert state.cloud == (CloudUse("b", "cloud", "far", "https://x", 2, Usage(20, 0, 5, cost=0.75), "maker/far-1"),)
    assert state.usage == Usage(20, 0, 5, cost=0.75)


def test_a_run_took_what_its_models_took_whatever_came_of_it() -> None:
    events: list[Event] = [
        STARTED,
        Generated("a", "m1", Usage(100)),
        FallbackTaken(Substitution("a", "m1", "m9", "died", "it died")),
        Generated("a", "m9", Usage(200)),
        RunResumed("run_1", ()),
        Generated("a", "m9", Usage(400)),
        PanelistCompleted(Response("a", "m9", "Forty.", usage=Usage(400))),
        Generated("c", "m3", Usage(800)),
        C_FAILED,
        PanelistCompleted(Response("b", "m2", "Forty.", usage=Usage(1600))),  # as an early version stored it
        Generated("judge", "j", Usage(3200)),
        AnalysisFailed("judge_upstream_error", "it died", Usage()),
    ]
    state = fold(events)
    outcome = to_outcome(state, state.in_panel_order())
    assert outcome.usage == Usage(6300)
    assert outcome.judge_usage == Usage(3200)


def test_the_whole_of_a_run_is_in_its_outcome() -> None:
    analysis = Analysis(consensus=("Forty.",))
    events: list[Event] = [
        STARTED,
        WarningRaised("a.pdf was skipped"),
        A_DONE,
        C_FAILED,
        AnalysisCompleted(analysis, "{}", Usage(seconds=1.0)),
        AnswerCompleted("Forty.", (), Usage(seconds=2.0)),
        RunEnded("ok"),
    ]
    state = fold(events)
    outcome = to_outcome(state, state.in_panel_order())
    assert outcome.question == "How high?"
    assert outcome.analysis == analysis
    assert outcome.warnings == ("a.pdf was skipped",)
    assert [failed.id for failed in outcome.failed_models] == ["c"]
    assert outcome.usage.seconds == 3.0


def test_events_that_do_not_last_change_nothing() -> None:
    assert apply(RunState(), ToolCalled("a", 1, CALL)) == RunState()
