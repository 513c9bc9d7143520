"""Chat completions as they are answered: whole, and in chunks. Requests are in `chat`.

`reasoning` and `reasoning_content` are the same text under the two names that clients look for it. What a deliberation
is doing is no chunk: it is a ChatProgress, which is sent where clients do not look (see `server.sse`).
"""

from typing import Literal

from localfusion.wire.annotations import ChatAnnotation
from localfusion.wire.document import Part
from localfusion.wire.logprobs import LogprobPart
from localfusion.wire.sparse import Sparse
from localfusion.wire.usage import ChatUsage

ChatFinish = Literal["stop", "length", "tool_calls"]


class CalledFunction(Part):
    name: str
    arguments: str


class ChatToolCall(Part):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatToolCallDelta(Part):
    """A call comes whole, in one chunk."""

    index: int
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatLogprobs(Part):
    content: list[LogprobPart]
    refusal: None = None


class ChatMessage(Part):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning: Sparse[str] = None
    reasoning_content: Sparse[str] = None
    tool_calls: Sparse[list[ChatToolCall]] = None
    annotations: Sparse[list[ChatAnnotation]] = None


class ChatChoice(Part):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinish


class ChatCompletion(Part):
    """The reply to a chat request that is not streamed; `model` wrote the text."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None = None
    choices: list[ChatChoice]
    usage: ChatUsage


class ChatDelta(Part):
    role: Sparse[Literal["assistant"]] = None
    content: Sparse[str] = None
    reasoning: Sparse[str] = None
    reasoning_content: Sparse[str] = None
    tool_calls: Sparse[list[ChatToolCallDelta]] = None
    annotations: Sparse[list[ChatAnnotation]] = None


class ChatChunkChoice(Part):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinish | None = None


class ChatChunk(Part):
    """One piece of a streamed reply: `usage` is there only where it was asked for, null before the end."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Sparse[ChatUsage] = None


class CountedChatChunk(ChatChunk):
    """The same where the usage was asked for."""

    usage: ChatUsage | None = None


class ChatProgress(Part):
    """What a deliberation is doing for a chat reply; `panelist` is an id of its panel, or "judge"."""

    object: Literal["localfusion.progress"] = "localfusion.progress"
    index: int
    stage: Literal[
        "started",
        "resumed",
        "reading_documents",
        "loading",
        "waiting_for_memory",
        "tool_called",
        "tool_returned",
        "panelist_completed",
        "panelist_failed",
        "fallback",
        "analysis_started",
        "analysis_completed",
        "analysis_failed",
        "answer_started",
        "ended",
    ]
    panelist: Sparse[str] = None
    model: Sparse[str] = None
    detail: Sparse[str] = None
