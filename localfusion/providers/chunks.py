"""One event of a chat completion as a checked value: text, thinking, pieces of a call, the end, the usage.

Providers differ in all of this; what has the wrong type is refused, what is not known is ignored.
"""

import json
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from localfusion.messages import Json


class NotAChunk(ValueError):
    """The data is no part of a chat completion."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Function(_Part):
    name: str | None = None
    arguments: str | None = None


class _Call(_Part):
    index: int = 0
    function: _Function = _Function()


class _Text(_Part):
    """A part of a content that comes as a list, as of models that think: text, or thinking that is a list again."""

    text: str = ""
    thinking: list["_Text"] = []


class _Delta(_Part):
    content: str | list[_Text] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(_Part):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Event(_Part):
    choices: list[_Choice] | None = None
    usage: JsonValue = None
    error: JsonValue = None


_Tokens = Annotated[int, Field(ge=0, le=1_000_000_000)]


class _PromptDetails(_Part):
    cached_tokens: _Tokens | None = None


class _CompletionDetails(_Part):
    reasoning_tokens: _Tokens | None = None


class _Usage(_Part):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    cost: Annotated[float, Field(ge=0, le=1_000_000, strict=False, allow_inf_nan=False)] | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the call number `index`: of its name, or of its arguments' JSON."""

    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Counted:
    """What a provider says that a request took; `cost` None where it says nothing of dollars."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event says; `error` is the provider's own error value, which may come in the middle of a stream."""

    content: str = ""
    thinking: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish_reason: str | None = None
    counted: Counted | None = None
    error: Json = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing of an answer has come yet."""
        return not (self.content or self.thinking or self.calls or self.finish_reason)

    @property
    def length(self) -> int:
        """Characters that were written, white space aside."""
        texts = (self.content, self.thinking, *(call.arguments for call in self.calls))
        return sum(len("".join(text.split())) for text in texts)


def parse_chunk(data: str) -> Chunk:
    """The value of an event's data. Raises NotAChunk."""
    try:
        value: Json = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotAChunk from error
    try:
        event = _Event.model_validate(value)
    except ValidationError as error:
        raise NotAChunk from error
    counted = _counted(event.usage)
    if event.error is not None:
        return Chunk(error=event.error, counted=counted)
    if event.choices is None and counted is None:
        raise NotAChunk
    choice = next((choice for choice in event.choices or () if choice.index == 0), _Choice())
    said = choice.delta or choice.message or _Delta()
    calls = tuple(
        CallPiece(call.index, call.function.name or "", call.function.arguments or "") for call in said.tool_calls or ()
    )
    parts = said.content if isinstance(said.content, list) else [_Text(text=said.content or "")]
    content = "".join(part.text for part in parts)
    thoughts = "".join(thought.text for part in parts for thought in part.thinking)
    thinking = said.reasoning_content or said.reasoning or thoughts
    return Chunk(content, thinking, calls, choice.finish_reason, counted)


def _counted(value: Json) -> Counted | None:
    """The usage, None where there is none that can be believed."""
    try:
        usage = _Usage.model_validate(value)
    except ValidationError:
        return None
    cached = (usage.prompt_tokens_details or _PromptDetails()).cached_tokens or 0
    reasoning = (usage.completion_tokens_details or _CompletionDetails()).reasoning_tokens or 0
    return Counted(
        usage.prompt_tokens,
        min(cached, usage.prompt_tokens),
        usage.completion_tokens,
        min(reasoning, usage.completion_tokens),
        usage.cost,
    )
