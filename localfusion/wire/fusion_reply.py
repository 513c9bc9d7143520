"""A deliberation as the Responses protocol tells it: the item `openrouter:fusion` and its nine events.

`model` is always a model's name. `panelist` is an extra of ours, the seat's id: it tells two copies of one model apart.
"""

from typing import Literal, TypedDict

from localfusion.errors import FailureReason
from localfusion.wire.document import Part, SourcePart
from localfusion.wire.sparse import Sparse


class FusionStance(Part):
    model: str
    panelist: str
    stance: str


class FusionContradiction(Part):
    topic: str
    stances: list[FusionStance]


class FusionPartialCoverage(Part):
    """`panelists` are the ids of `models`, in the same order."""

    models: list[str]
    panelists: list[str]
    point: str


class FusionInsight(Part):
    model: str
    panelist: str
    insight: str


class FusionAnalysis(Part):
    consensus: list[str]
    contradictions: list[FusionContradiction]
    partial_coverage: list[FusionPartialCoverage]
    unique_insights: list[FusionInsight]
    blind_spots: list[str]


class FusionResponse(Part):
    model: str
    panelist: str
    content: str


class FusionFailedModel(Part):
    model: str
    panelist: str
    error: str
    status_code: Sparse[int] = None


class FusionItem(Part):
    """What a deliberation came to. Failure is data: what there is none of is left out, and `failure_reason` says why.

    `run_id` is an extra of ours: the run as it is stored.
    """

    type: Literal["openrouter:fusion"] = "openrouter:fusion"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    run_id: Sparse[str] = None
    analysis: Sparse[FusionAnalysis] = None
    responses: Sparse[list[FusionResponse]] = None
    sources: Sparse[list[SourcePart]] = None
    failed_models: Sparse[list[FusionFailedModel]] = None
    error: Sparse[str] = None
    failure_reason: Sparse[FailureReason] = None


class Place(TypedDict):
    """What every event of a deliberation says of itself."""

    item_id: str
    output_index: int
    sequence_number: int


class Seat(TypedDict):
    """What every event of a panelist says of it."""

    model: str
    panelist: str


class FusionEvent(Part):
    item_id: str
    output_index: int
    sequence_number: int


class FusionInProgress(FusionEvent):
    type: Literal["response.fusion_call.in_progress"] = "response.fusion_call.in_progress"


class PanelEvent(FusionEvent):
    model: str
    panelist: str


class PanelAdded(PanelEvent):
    type: Literal["response.fusion_call.panel.added"] = "response.fusion_call.panel.added"


class PanelDelta(PanelEvent):
    type: Literal["response.fusion_call.panel.delta"] = "response.fusion_call.panel.delta"
    delta: str


class PanelReasoningDelta(PanelEvent):
    type: Literal["response.fusion_call.panel.reasoning.delta"] = "response.fusion_call.panel.reasoning.delta"
    delta: str


class PanelCompleted(PanelEvent):
    type: Literal["response.fusion_call.panel.completed"] = "response.fusion_call.panel.completed"
    content: str


class PanelFailed(PanelEvent):
    type: Literal["response.fusion_call.panel.failed"] = "response.fusion_call.panel.failed"
    error: str
    status_code: Sparse[int] = None


class AnalysisInProgress(FusionEvent):
    """Both names of the judge's model have the same value."""

    type: Literal["response.fusion_call.analysis.in_progress"] = "response.fusion_call.analysis.in_progress"
    analyst_model: str
    judge_model: str


class AnalysisCompleted(FusionEvent):
    type: Literal["response.fusion_call.analysis.completed"] = "response.fusion_call.analysis.completed"
    analysis: FusionAnalysis


class FusionCompleted(FusionEvent):
    type: Literal["response.fusion_call.completed"] = "response.fusion_call.completed"


AnyFusionEvent = (
    FusionInProgress
    | PanelAdded
    | PanelDelta
    | PanelReasoningDelta
    | PanelCompleted
    | PanelFailed
    | AnalysisInProgress
    | AnalysisCompleted
    | FusionCompleted
)
