"""A request's body as a checked value: bytes, then JSON that means the same to everybody."""

import asyncio
import json
import math
import re
from collections import Counter

from starlette.requests import ClientDisconnect, Request

from localfusion.errors import InvalidRequest, RequestRefused
from localfusion.messages import Json

MAX_DIGITS = 19
"""Digits of a whole number: what 64 bits hold."""
MAX_DEPTH = 64
MAX_VALUES = 250_000
"""Members of all lists and objects together: some bytes of JSON can take fifty times their size in memory."""
BRIEF_BYTES = 64 * 1024
"""What is parsed where it is; more is in a thread, so that others are answered meanwhile."""
MAX_ECHO = 200
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_json(request: Request) -> dict[str, Json]:
    """The JSON object of a request. Raises InvalidRequest, RequestRefused."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestRefused("the request is not application/json", refusal="unsupported_media_type")
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise InvalidRequest("the request was not sent to its end", code="invalid_json") from None
    return parse_object(raw) if len(raw) <= BRIEF_BYTES else await asyncio.to_thread(parse_object, raw)


def parse_object(raw: bytes) -> dict[str, Json]:
    """The JSON object of some bytes. Raises InvalidRequest: two parsers must not read two things in it."""
    try:
        value: Json = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError:
        raise _bad("the request is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise _bad(f"the request is no JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _bad(f"the request is nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise _bad("the request is not a JSON object")
    _check_shape(value)
    if _SURROGATE.search(raw):
        _check_text(value)
    return value


def _bad(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_json")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        count = Counter(name for name, _ in pairs)
        twice = next(name for name in count if count[name] > 1)
        raise _bad(f"the request has {twice[:MAX_ECHO]!a} twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise _bad(f"the request has a number of more than {MAX_DIGITS} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _bad("the request has a number that is too large")
    return value


def _constant(text: str) -> float:
    raise _bad(f"the request has {text}, which is no JSON")


def _check_shape(value: dict[str, Json]) -> None:
    level: list[dict[str, Json] | list[Json]] = [value]
    n_values = 0
    for _ in range(MAX_DEPTH):
        n_values += sum(map(len, level))
        if n_values > MAX_VALUES:
            raise _bad(f"the request has more than {MAX_VALUES} values")
        level = [inner for one in level for inner in _inner(one)]
        if not level:
            return
    raise _bad(f"the request is nested deeper than {MAX_DEPTH} levels")


def _inner(value: dict[str, Json] | list[Json]) -> list[dict[str, Json] | list[Json]]:
    found = value.values() if isinstance(value, dict) else value
    return [one for one in found if isinstance(one, dict | list)]


def _check_text(value: dict[str, Json]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _bad("the request has half of a character (a lone surrogate)") from None
