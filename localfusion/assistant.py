"""One turn of one model in a caller's own conversation: text, JSON of a schema, or calls of the caller's functions.

What is constrained is always valid. Nothing is carried out, searched or cited here, and no panel is asked.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal

from localfusion.engine.interface import Model
from localfusion.messages import (
    Completion,
    Delta,
    FinishReason,
    FunctionCall,
    FunctionSpec,
    GenerateRequest,
    Json,
    Message,
    Progress,
    Sampling,
    TokenLogprobs,
    Usage,
)

Choice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """The text is one JSON value: of `schema` (JSON Schema), or any object where that is None."""

    schema: Json = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What a model is asked to write next in a conversation.

    `choice` says whether it may, must not or must call one of `functions`; a function that must be called is the only
    one then. `is_parallel`: it may make several calls in one turn. `output` None is plain text. `sequence` names the
    conversation, for what is kept of it.
    """

    messages: tuple[Message, ...]
    functions: tuple[FunctionSpec, ...] = ()
    choice: Choice = "auto"
    is_parallel: bool = True
    output: JsonFormat | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    thinking: bool = False
    max_thinking_tokens: int | None = None
    n_logprobs: int | None = None
    sequence: str = "chat"


@dataclass(frozen=True, slots=True)
class Written:
    """The turn that was written; where `calls` are made, `content` is what stood before them, mostly nothing."""

    content: str
    thinking: str
    calls: tuple[FunctionCall, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()


async def write(model: Model, ask: Ask) -> AsyncGenerator[Progress | Delta | FunctionCall | Written]:
    """Write the turn; deltas are of text only, a call is told when it is whole, the Written is the last.

    Raises ModelError: ContextOverflow, WorkerDied, MalformedOutput for a call that breaks off; InvalidRequest for a
    schema that cannot be followed.
    """
    request = GenerateRequest(ask.sequence, ask.messages)
    async for item in model.generate(request):
        if isinstance(item, Completion):
            yield Written(item.content, item.thinking, (), item.finish_reason, item.usage, item.logprobs)
        else:
            yield item
