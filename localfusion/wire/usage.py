"""What an answer took, as both protocols write it, and in an extra field who took what of it. Adds nothing up."""

from typing import Literal

from localfusion.wire.document import Part
from localfusion.wire.sparse import Sparse

SeatRole = Literal["panelist", "judge", "writer", "outer", "other"]
"""`outer` is the model that was asked, `writer` wrote the answer after a deliberation, `other` came to nothing."""


class SeatUsage(Part):
    """What one seat took; `panelist` is its id in the panel. The seats together are the whole."""

    role: SeatRole
    panelist: Sparse[str] = None
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    seconds: float
    cost: float


class LocalUsage(Part):
    """`seconds` are of all seats, also of those that worked side by side; `energy_wh` is an estimate."""

    seats: list[SeatUsage]
    seconds: float
    energy_wh: Sparse[float] = None


class ToolUse(Part):
    tool_calls_requested: int
    tool_calls_executed: int
    web_search_requests: int


class PromptTokensDetails(Part):
    cached_tokens: int


class CompletionTokensDetails(Part):
    reasoning_tokens: int


class ChatCostDetails(Part):
    upstream_inference_cost: float
    upstream_inference_prompt_cost: float
    upstream_inference_completions_cost: float


class ChatUsage(Part):
    """The usage of a chat completion; `cost_details` are there where it is known what cost what."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    cost: float
    cost_details: Sparse[ChatCostDetails] = None
    server_tool_use_details: ToolUse
    localfusion: LocalUsage


class InputTokensDetails(Part):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Part):
    reasoning_tokens: int


class ResponsesCostDetails(Part):
    upstream_inference_cost: float
    upstream_inference_input_cost: float
    upstream_inference_output_cost: float


class ResponsesUsage(Part):
    """The usage of a response; `cost_details` are there where it is known what cost what."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    cost: float
    cost_details: Sparse[ResponsesCostDetails] = None
    server_tool_use_details: ToolUse
    localfusion: LocalUsage
