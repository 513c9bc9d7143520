"""What every request body has in common: how it is read, and what is said of a field that cannot be obeyed.

One rule for all fields, at every depth: what could change the answer is obeyed, or refused by its name; what cannot is
declared, and accepted. A field that is declared nowhere is refused, since nobody knows which of the two it is. A field
that is null is one that is not there.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, GetPydanticSchema, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from localfusion.errors import InvalidRequest

Body = TypeVar("Body", bound="Asked")

UNSUPPORTED_VALUE = "unsupported_value"
UNSUPPORTED_PARAMETER = "unsupported_parameter"

_CODES: Mapping[str, str] = {
    "missing": "missing_required_parameter",
    "union_tag_not_found": "missing_required_parameter",
    "extra_forbidden": UNSUPPORTED_PARAMETER,
    "union_tag_invalid": UNSUPPORTED_VALUE,
    "literal_error": UNSUPPORTED_VALUE,
    UNSUPPORTED_VALUE: UNSUPPORTED_VALUE,
}
"""What is wrong, for programs, by pydantic's types of errors."""
_SENTENCES: Mapping[str, str] = {
    "missing": "is missing",
    "union_tag_not_found": "is missing",
    "extra_forbidden": "is not supported",
    "union_tag_invalid": "is not supported as {tag!a:.100}",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "dict_type": "must be an object",
}
_TAGS = ("type", "role", "id")
"""The keys that say which of several classes a part of a body is."""
_MAX_PARAM = 200


class Asked(BaseModel):
    """A part of a request: no unknown keys, no conversions, no change afterwards; null is not there."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_there(cls, value: object) -> object:
        return {key: entry for key, entry in value.items() if entry is not None} if isinstance(value, dict) else value


def read(kind: type[Body], value: JsonValue) -> Body:
    """A body as a value. Raises InvalidRequest, which names the field."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is no JSON of Unicode text", hint="send JSON as RFC 8259 has it") from error
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False, include_input=False), value) from error


def refusal(details: Sequence[ErrorDetails], value: JsonValue) -> InvalidRequest:
    """What is said of a body that cannot be obeyed: of what is not supported, else of what is wrong first."""
    first = min(details, key=lambda detail: _CODES.get(detail["type"]) != UNSUPPORTED_VALUE)
    kind = first["type"]
    param = _param(first["loc"], value, is_missing=kind == "missing")
    code = _CODES.get(kind, "invalid_type" if kind.endswith("_type") else "invalid_value")
    context = first.get("ctx", {})
    if kind.startswith("union_tag"):
        param = f"{param}.{str(context.get('discriminator')).strip(chr(39))}".removeprefix(".")
    hint = "leave it out" if code == UNSUPPORTED_PARAMETER else ""
    if kind == "union_tag_invalid":
        hint = f"possible are {context.get('expected_tags')}"
    return InvalidRequest(f"{param or 'the body'} {_sentence(first)}", param=param or None, code=code, hint=hint)


def only(*harmless: JsonValue) -> GetPydanticSchema:
    """For a setting that is not supported: the values with which it sets nothing, and which its description names."""

    def check(value: JsonValue) -> JsonValue:
        if value not in harmless:
            possible = " or ".join(json.dumps(one) for one in harmless)
            raise PydanticCustomError(
                UNSUPPORTED_VALUE, "is not supported, other than {possible}", {"possible": possible}
            )
        return value

    return GetPydanticSchema(
        lambda source, handler: core_schema.no_info_after_validator_function(
            check, handler(source), metadata={"pydantic_js_updates": {"enum": list(harmless)}}
        )
    )


def text_or_other(value: object) -> str:
    """Which of two shapes a value has that may be a text, or something of parts."""
    return "text" if isinstance(value, str) else "other"


def _sentence(detail: ErrorDetails) -> str:
    if detail["type"] in _SENTENCES:
        return _SENTENCES[detail["type"]].format(**detail.get("ctx", {}))
    return re.sub(r"^\w+ should", "must", detail["msg"].removeprefix("Value error, "))


def _param(location: Sequence[str | int], value: JsonValue, *, is_missing: bool) -> str:
    """A place in the body as clients write it, `messages[0].content`; pydantic names branches of unions, too."""
    found = ""
    tagged: JsonValue = None
    for i, part in enumerate(location):
        if isinstance(part, int):
            if isinstance(value, list) and part < len(value):
                found, value = f"{found}[{part}]", value[part]
        elif isinstance(value, dict):
            if value is not tagged and any(value.get(key) == part for key in _TAGS):
                tagged = value
            elif part in value or (is_missing and i == len(location) - 1):
                found, value = f"{found}.{part}", value.get(part)
    return found.removeprefix(".")[:_MAX_PARAM]
