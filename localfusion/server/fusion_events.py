"""A deliberation as the Responses protocol tells it: its events become the protocol's nine, its outcome an item.

FUSION.md sections 3 to 5. What the model writes of it is a message of its own, and not told here.
"""

from collections.abc import Iterator, Mapping

from localfusion.analysis import Analysis, FailedModel
from localfusion.errors import DeliberationFailed
from localfusion.events import (
    AnalysisCompleted,
    AnalysisStarted,
    Event,
    FallbackTaken,
    MemoryAwaited,
    ModelLoading,
    ModelReady,
    PanelistCompleted,
    PanelistFailed,
    PromptRead,
    TextWritten,
    ToolCalled,
)
from localfusion.outcome import Outcome
from localfusion.server.heard import Heard
from localfusion.wire import fusion_reply as wire
from localfusion.wire.document import SourcePart, sources

STARTS = (ModelLoading, MemoryAwaited, ModelReady, PromptRead, TextWritten, ToolCalled)
"""What a seat says first of all when it begins to work."""


class FusionEvents:
    """Tells the events of one deliberation as those of the item `item_id`; `numbers` are the events' own."""

    def __init__(self, item_id: str, output_index: int, numbers: Iterator[int]) -> None:
        self._item_id = item_id
        self._output_index = output_index
        self._numbers = numbers
        self._added: dict[str, str] = {}
        self._analyst = ""

    def begin(self) -> wire.FusionInProgress:
        """The first event."""
        return wire.FusionInProgress(**self._place())

    def end(self) -> wire.FusionCompleted:
        """The last event, however it ended."""
        return wire.FusionCompleted(**self._place())

    def tell(self, event: Event, heard: Heard) -> list[wire.AnyFusionEvent]:
        """What the protocol says of an event; `heard` has it already."""
        match event:
            case AnalysisStarted(model=model):
                return self._analysing(model)
            case AnalysisCompleted(analysis=analysis):
                told = fusion_analysis(analysis, heard.state.panelists)
                return [wire.AnalysisCompleted(**self._place(), analysis=told)]
            case PanelistCompleted(response=response):
                added = self._adding(response.id, response.model)
                seat = self._seat(response.id)
                return [*added, wire.PanelCompleted(**self._place(), **seat, content=response.content)]
            case PanelistFailed(failed=failed):
                return self._failing(failed)
            case FallbackTaken(substitution=taken):
                return self._adding(taken.id, taken.to) if taken.id in self._added else []
            case _:
                return self._working(event, heard.state.panelists)

    def _working(self, event: Event, models: Mapping[str, str]) -> list[wire.AnyFusionEvent]:
        if not isinstance(event, STARTS) or event.id not in models:
            return []
        told = self._adding(event.id, models[event.id])
        if not isinstance(event, TextWritten):
            return told
        seat = self._seat(event.id)
        if event.kind == "thinking":
            return [*told, wire.PanelReasoningDelta(**self._place(), **seat, delta=event.text)]
        return [*told, wire.PanelDelta(**self._place(), **seat, delta=event.text)]

    def _adding(self, id: str, model: str) -> list[wire.AnyFusionEvent]:
        """A panelist is added when it begins, and again where another model steps in for it."""
        if self._added.get(id) == model:
            return []
        self._added[id] = model
        return [wire.PanelAdded(**self._place(), **self._seat(id))]

    def _failing(self, failed: FailedModel) -> list[wire.AnyFusionEvent]:
        added = self._adding(failed.id, failed.model)
        seat = self._seat(failed.id)
        told = wire.PanelFailed(**self._place(), **seat, error=failed.error, status_code=failed.status_code)
        return [*added, told]

    def _analysing(self, model: str) -> list[wire.AnyFusionEvent]:
        if model == self._analyst:
            return []
        self._analyst = model
        return [wire.AnalysisInProgress(**self._place(), analyst_model=model, judge_model=model)]

    def _place(self) -> wire.Place:
        return {
            "item_id": self._item_id,
            "output_index": self._output_index,
            "sequence_number": next(self._numbers),
        }

    def _seat(self, id: str) -> wire.Seat:
        return {"model": self._added[id], "panelist": id}


def fusion_item(id: str, outcome: Outcome, models: Mapping[str, str], *, is_going_on: bool = False) -> wire.FusionItem:
    """The item of a deliberation; `models` are the panelists' by id.

    It is over, or there is nothing left but to write the answer (`is_going_on`).
    """
    failed_models = [
        wire.FusionFailedModel(model=one.model, panelist=one.id, error=one.error, status_code=one.status_code)
        for one in outcome.failed_models
    ]
    responses = [
        wire.FusionResponse(model=one.model, panelist=one.id, content=one.content) for one in outcome.responses
    ]
    return wire.FusionItem(
        id=id,
        status="completed" if is_going_on or outcome.status == "ok" else "incomplete",
        run_id=outcome.run_id or None,
        analysis=None if outcome.analysis is None else fusion_analysis(outcome.analysis, models),
        responses=responses or None,
        sources=_sources(outcome) or None,
        failed_models=failed_models or None,
        error=outcome.error,
        failure_reason=outcome.failure_reason,
    )


def fusion_analysis(analysis: Analysis, models: Mapping[str, str]) -> wire.FusionAnalysis:
    """The five parts, in which panelists have the names of their models beside their ids."""
    return wire.FusionAnalysis(
        consensus=list(analysis.consensus),
        contradictions=[
            wire.FusionContradiction(
                topic=one.topic,
                stances=[
                    wire.FusionStance(model=_name(models, held.model), panelist=held.model, stance=held.stance)
                    for held in one.stances
                ],
            )
            for one in analysis.contradictions
        ],
        partial_coverage=[
            wire.FusionPartialCoverage(
                models=[_name(models, id) for id in one.models], panelists=list(one.models), point=one.point
            )
            for one in analysis.partial_coverage
        ],
        unique_insights=[
            wire.FusionInsight(model=_name(models, one.model), panelist=one.model, insight=one.insight)
            for one in analysis.unique_insights
        ],
        blind_spots=list(analysis.blind_spots),
    )


def failure(outcome: Outcome) -> DeliberationFailed:
    """The error of a deliberation that came to nothing: its one sentence has every panelist's reason.

    What to do about it is the operator's business, and in the run that he can look at.
    """
    return DeliberationFailed(
        outcome.error or "the deliberation came to nothing",
        failure_reason=outcome.failure_reason or "unexpected_error",
        failed_models=tuple((one.id, one.error) for one in outcome.failed_models),
    )


def _sources(outcome: Outcome) -> list[SourcePart]:
    """What answers cite and what the judge looked up, each page once."""
    titles = {source.url: source.title for source in sources(outcome)}
    for step in outcome.judge_steps:
        for passage in step.passages:
            titles.setdefault(passage.url, passage.title)
    return [SourcePart(url=url, title=title) for url, title in titles.items()]


def _name(models: Mapping[str, str], id: str) -> str:
    return models.get(id, id)
