"""What a run has come to so far, folded from its events: what is shown, what is resumed, what is exported.

Pure: `apply` takes a state and an event and gives the next state. Nothing is read or stored here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from localfusion.analysis import Analysis, Citation, FailedModel, Response, ToolStep
from localfusion.errors import FailureReason
from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnalysisStarted,
    AnswerCompleted,
    AnswerStarted,
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
    ToolReturned,
    WarningRaised,
)
from localfusion.messages import JUDGE, WRITER, Substitution, Usage
from localfusion.outcome import CloudUse, Outcome, Status


@dataclass(frozen=True, slots=True)
class RunState:
    """`responses` hold the panelists' own numbers; `steps` the finished tool calls of those that still work.

    `used` is what each seat (or "judge") took, whatever came of it; `told` are those that say so one by one.
    """

    run_id: str = ""
    question: str = ""
    panelists: Mapping[str, str] = field(default_factory=dict)
    judge: str = ""
    writer: str = ""
    seed: int = 0
    sources: tuple[str, ...] = ()
    substitutions: tuple[Substitution, ...] = ()
    cloud: tuple[CloudUse, ...] = ()
    used: Mapping[str, Usage] = field(default_factory=dict)
    told: frozenset[str] = frozenset()
    steps: Mapping[str, tuple[ToolStep, ...]] = field(default_factory=dict)
    responses: Mapping[str, Response] = field(default_factory=dict)
    failed: Mapping[str, FailedModel] = field(default_factory=dict)
    analysis: Analysis | None = None
    raw_analysis: str | None = None
    answer: str | None = None
    citations: tuple[Citation, ...] = ()
    warnings: tuple[str, ...] = ()
    status: Status | None = None
    failure_reason: FailureReason | None = None
    error: str | None = None

    @property
    def usage(self) -> Usage:
        """What the whole run took."""
        return sum(self.used.values(), Usage())

    def in_panel_order(self) -> tuple[Response, ...]:
        """The finished responses, as the panel is seated."""
        return tuple(self.responses[id] for id in self.panelists if id in self.responses)

    def failed_in_panel_order(self) -> tuple[FailedModel, ...]:
        """The panelists that failed, as the panel is seated."""
        return tuple(self.failed[id] for id in self.panelists if id in self.failed)


def fold(events: Iterable[Event]) -> RunState:
    """The state after all of `events`."""
    state = RunState()
    for event in events:
        state = apply(state, event)
    return state


def apply(state: RunState, event: Event) -> RunState:
    """The state after one more event; events that change nothing that lasts leave it as it is."""
    match event:
        case RunStarted():
            return RunState(
                event.run_id,
                event.question,
                event.panelists,
                event.judge,
                seed=event.seed,
                sources=event.sources,
            )
        case RunResumed():
            sources = event.sources or state.sources
            return replace(state, status=None, failure_reason=None, error=None, failed={}, sources=sources)
        case WarningRaised(message=message):
            return replace(state, warnings=(*state.warnings, message))
        case CloudCalled():
            return replace(state, cloud=_with_use(state.cloud, event))
        case CloudCharged() | Generated():
            return _with_usage(state, event)
        case RunEnded(status=status, failure_reason=reason, error=error):
            return replace(
                state, status=status, failure_reason=reason or state.failure_reason, error=error or state.error
            )
        case _:
            return _apply_judged(_apply_seated(_with_sum(state, event), event), event)


def _apply_seated(state: RunState, event: Event) -> RunState:
    match event:
        case ToolReturned(id=id, result=result):
            return replace(state, steps={**state.steps, id: (*state.steps.get(id, ()), result)})
        case PanelistCompleted(response=response):
            return _with_response(state, response)
        case PanelistFailed(failed=failed):
            return replace(state, failed={**state.failed, failed.id: failed})
        case FallbackTaken(substitution=substitution):
            return _with_substitution(state, substitution)
        case _:
            return state


def _with_substitution(state: RunState, found: Substitution) -> RunState:
    said = state.substitutions if found in state.substitutions else (*state.substitutions, found)
    if found.id == JUDGE:
        return replace(state, substitutions=said, judge=found.to)
    if found.id == WRITER:
        return replace(state, substitutions=said, writer=found.to)
    return replace(state, substitutions=said, panelists={**state.panelists, found.id: found.to})


def _with_use(uses: tuple[CloudUse, ...], event: CloudCalled | CloudCharged) -> tuple[CloudUse, ...]:
    """What a run took of providers, after a call to one or what it came to."""
    key = (event.id, event.provider, event.model)
    known = {(use.id, use.provider, use.model): use for use in uses}
    use = known.get(key) or CloudUse(*key, base_url="")
    if isinstance(event, CloudCalled):
        use = replace(use, base_url=event.base_url, remote_model=event.remote_model, calls=use.calls + 1)
    else:
        use = replace(use, usage=use.usage + event.usage)
    return tuple({**known, key: use}.values())


def _with_usage(state: RunState, event: CloudCharged | Generated) -> RunState:
    """The state after one more generation of a model here, or one more request to a provider."""
    state = replace(state, told=state.told | {event.id})
    if isinstance(event, CloudCharged):
        state = replace(state, cloud=_with_use(state.cloud, event))
    elif event.provider:
        return state
    return _with_more(state, event.id, event.usage)


def _with_sum(state: RunState, event: Event) -> RunState:
    """The state after what a seat came to, which counts where its generations were not told one by one."""
    id, usage = came_to(event)
    return state if not id or id in state.told else _with_more(state, id, usage)


def _with_more(state: RunState, id: str, usage: Usage) -> RunState:
    return replace(state, used={**state.used, id: state.used.get(id, Usage()) + usage})


def came_to(event: Event) -> tuple[str, Usage]:
    """What a seat says that it took, several generations together; nothing, of "", for any other event."""
    match event:
        case PanelistCompleted(response=response):
            return response.id, response.usage
        case AnalysisCompleted(usage=usage) | AnalysisFailed(usage=usage):
            return JUDGE, usage
        case AnswerCompleted(id=id, usage=usage):
            return id, usage
        case _:
            return "", Usage()


def _with_response(state: RunState, response: Response) -> RunState:
    """The state with one more answer; what was judged without it, under other run-wide numbers, no longer holds."""
    responses = {**state.responses, response.id: response}
    steps = {id: found for id, found in state.steps.items() if id != JUDGE}
    return replace(state, responses=responses, steps=steps, analysis=None, raw_analysis=None, answer=None, citations=())


def _apply_judged(state: RunState, event: Event) -> RunState:
    match event:
        case AnswerStarted(model=model, id=id) if id == WRITER:
            return replace(state, writer=model)
        case AnalysisStarted(model=model) | AnswerStarted(model=model):
            return replace(state, judge=model)
        case AnalysisCompleted(analysis=analysis, raw=raw):
            return replace(state, analysis=analysis, raw_analysis=raw, failure_reason=None, error=None)
        case AnalysisFailed(failure_reason=reason, error=error):
            return replace(state, failure_reason=reason, error=error)
        case AnswerCompleted(content=content, citations=citations):
            return replace(state, answer=content, citations=citations)
        case _:
            return state


def to_outcome(state: RunState, responses: tuple[Response, ...]) -> Outcome:
    """The outcome of a state; `responses` are those of the state under the run's numbers.

    A run that never said how it ended was interrupted.
    """
    return Outcome(
        run_id=state.run_id,
        status=state.status or "interrupted",
        question=state.question,
        seed=state.seed,
        judge_model=state.judge,
        writer_model=state.writer,
        answer=state.answer or "",
        citations=state.citations,
        analysis=state.analysis,
        responses=responses,
        failed_models=state.failed_in_panel_order(),
        failure_reason=state.failure_reason,
        error=state.error,
        usage=state.usage,
        judge_usage=state.used.get(JUDGE, Usage()),
        writer_usage=state.used.get(WRITER, Usage()),
        judge_steps=state.steps.get(JUDGE, ()),
        searched=state.sources,
        substitutions=state.substitutions,
        cloud=state.cloud,
        warnings=state.warnings,
    )
