"""What a turn of a conversation says: a text, or parts of it. Images, audio and files are refused by name."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, JsonValue, Tag

from localfusion.wire.asked import Asked, text_or_other


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must have no NUL in it")
    return value


Words = Annotated[str, AfterValidator(_without_nul)]
"""A text that a model is to read."""


def _arguments(value: str) -> str:
    if not value.strip():
        return "{}"
    try:
        is_object = isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise ValueError("must be the text of a JSON object")
    return value


Arguments = Annotated[Words, AfterValidator(_arguments)]
"""What a function was called with."""


class TextPart(Asked):
    """A text; marks of caches and of earlier replies change nothing."""

    type: Literal["text", "input_text", "output_text"]
    text: Words
    annotations: JsonValue = None
    logprobs: JsonValue = None
    parsed: JsonValue = None
    cache_control: JsonValue = None
    prompt_cache_breakpoint: JsonValue = None


class RefusalPart(Asked):
    """What an earlier reply said instead of an answer."""

    type: Literal["refusal"]
    refusal: Words


Part = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
Content = Annotated[
    Annotated[Words, Tag("text")] | Annotated[list[Part], Tag("other")],
    Discriminator(text_or_other),
]


def text_of(content: str | Sequence[TextPart | RefusalPart] | None) -> str:
    """What is said, in one text."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)
