"""Bodies of requests: what is no JSON, or not the same JSON to everybody, is refused in one sentence."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.errors import InvalidRequest
from localfusion.messages import Json
from localfusion.server.bodies import MAX_DEPTH, parse_object

BAD: tuple[tuple[str, bytes, str], ...] = (
    ("nothing", b"", "is no JSON"),
    ("cut short", b'{"a": ', "is no JSON"),
    ("no object", b"[1]", "is not a JSON object"),
    ("two values", b"{} {}", "is no JSON"),
    ("not UTF-8", b'{"a": "\xff"}', "is not UTF-8"),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), "is not UTF-8"),
    ("a key twice", b'{"a": 1, "b": {"c": 1, "c": 2}}', "has 'c' twice"),
    (
        "the last of many keys twice",
        b"{" + b"".join(b'"%d":1,' % n for n in range(100_000)) + b'"x":1,"x":2}',
        "'x' twice",
    ),
    ("many values", b'{"a":[' + b"0," * 250_000 + b"0]}", "more than 250000 values"),
    ("many lists", b'{"a":[' + b"[]," * 300_000 + b"[]]}", "more than 250000 values"),
    ("a huge whole number", b'{"a": ' + b"9" * 5000 + b"}", "more than 19 digits"),
    ("a huge number", b'{"a": 1e999}', "too large"),
    ("no number", b'{"a": NaN}', "has NaN"),
    ("half a character", b'{"a": "\\ud800"}', "half of a character"),
    ("half a character in a key", b'{"\\udfff": 1}', "half of a character"),
    ("deep", b'{"a":' * 70 + b"1" + b"}" * 70, "nested deeper"),
    ("deeper than the parser", b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested deeper"),
)


@pytest.mark.parametrize(("raw", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_not_plain_json_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        parse_object(raw)
    assert caught.value.code == "invalid_json"


def test_what_is_written_with_surrogates_and_is_a_character_is_taken() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_what_is_just_not_too_deep_is_taken() -> None:
    depth = MAX_DEPTH - 1
    assert parse_object(b'{"a":' * depth + b"{}" + b"}" * depth)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), VALUES, max_size=5), st.booleans())
def test_json_is_read_as_it_was_written(value: dict[str, Json], is_ascii: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=is_ascii).encode()) == value


@given(st.binary(max_size=60) | st.text('{}[]",:0123456789.eE-+tfn\\u d8', max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_refused(raw: bytes) -> None:
    found: object = {}
    with suppress(InvalidRequest):
        found = parse_object(raw)
    assert isinstance(found, dict)
