"""The Responses protocol's replies: the response object, its items, and the events that tell how it comes to be.

Requests are in `responses`, the deliberation's item and events in `fusion_reply`.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, RootModel

from localfusion.wire.annotations import ResponsesAnnotation
from localfusion.wire.document import Part
from localfusion.wire.fusion_reply import AnyFusionEvent, FusionItem
from localfusion.wire.logprobs import LogprobPart
from localfusion.wire.usage import ResponsesUsage

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]


class OutputText(Part):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[ResponsesAnnotation]
    logprobs: list[LogprobPart]


class ReasoningText(Part):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class MessageItem(Part):
    type: Literal["message"] = "message"
    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ReasoningItem(Part):
    """The thinking as it was thought; nobody sums it up."""

    type: Literal["reasoning"] = "reasoning"
    id: str
    status: ItemStatus
    summary: list[JsonValue] = Field(default_factory=list)
    content: list[ReasoningText]


class FunctionCallItem(Part):
    type: Literal["function_call"] = "function_call"
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = Annotated[
    MessageItem | ReasoningItem | FunctionCallItem | FusionItem,
    Field(discriminator="type"),
]


class ResponseError(Part):
    code: ErrorCode
    message: str


class IncompleteDetails(Part):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


def _plain_text() -> JsonValue:
    return {"format": {"type": "text"}}


class Response(Part):
    """A response as it is now. From `background` on: what was asked, repeated; defaults are the protocol's."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseStatus
    model: str
    output: list[OutputItem]
    usage: ResponsesUsage | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    background: bool = False
    store: bool = True
    instructions: JsonValue = None
    metadata: dict[str, str] = Field(default_factory=dict)
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: JsonValue = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    temperature: float | None = None
    text: JsonValue = Field(default_factory=_plain_text)
    tool_choice: JsonValue = "auto"
    tools: list[JsonValue] = Field(default_factory=list)
    top_logprobs: int = 0
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    truncation: str = "disabled"
    user: str | None = None


class Numbered(Part):
    """Every event has its number: from 0 on, without gaps."""

    sequence_number: int


class ResponseCreated(Numbered):
    type: Literal["response.created"] = "response.created"
    response: Response


class ResponseInProgress(Numbered):
    type: Literal["response.in_progress"] = "response.in_progress"
    response: Response


class ResponseCompleted(Numbered):
    type: Literal["response.completed"] = "response.completed"
    response: Response


class ResponseFailed(Numbered):
    type: Literal["response.failed"] = "response.failed"
    response: Response


class ResponseIncomplete(Numbered):
    """Also how a cancelled response ends: the protocol has no event for that, its `status` says it."""

    type: Literal["response.incomplete"] = "response.incomplete"
    response: Response


class ErrorEvent(Numbered):
    """The last event where the stream itself went wrong, and not the response."""

    type: Literal["error"] = "error"
    code: str | None
    message: str
    param: str | None


class ItemAdded(Numbered):
    type: Literal["response.output_item.added"] = "response.output_item.added"
    output_index: int
    item: OutputItem


class ItemDone(Numbered):
    type: Literal["response.output_item.done"] = "response.output_item.done"
    output_index: int
    item: OutputItem


class OfItem(Numbered):
    item_id: str
    output_index: int


class ArgumentsDelta(OfItem):
    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    delta: str


class ArgumentsDone(OfItem):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


class OfContent(OfItem):
    content_index: int = 0


class PartAdded(OfContent):
    type: Literal["response.content_part.added"] = "response.content_part.added"
    part: OutputText | ReasoningText


class PartDone(OfContent):
    type: Literal["response.content_part.done"] = "response.content_part.done"
    part: OutputText | ReasoningText


class TextDelta(OfContent):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    delta: str
    logprobs: list[LogprobPart]


class AnnotationAdded(OfContent):
    type: Literal["response.output_text.annotation.added"] = "response.output_text.annotation.added"
    annotation_index: int
    annotation: ResponsesAnnotation


class TextDone(OfContent):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str
    logprobs: list[LogprobPart]


class ReasoningDelta(OfContent):
    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    delta: str


class ReasoningDone(OfContent):
    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    text: str


ResponsesEvent = (
    ResponseCreated
    | ResponseInProgress
    | ResponseCompleted
    | ResponseFailed
    | ResponseIncomplete
    | ErrorEvent
    | ItemAdded
    | ItemDone
    | PartAdded
    | PartDone
    | TextDelta
    | AnnotationAdded
    | TextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
    | AnyFusionEvent
)
"""Every event of a streamed response."""


class StreamedEvent(RootModel[ResponsesEvent]):
    """One event of a streamed response."""
