"""The grammars as llguidance reads them: a quotation cannot be invented, a call cannot break off."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfusion.engine import grammar
from tests.byte_tokenizer import SPECIAL_TOKENS, admits

QUOTABLE = {
    1: ('The height of Skerry is 40 metres. He said "no" there.', "A second passage"),
    2: ("The height of Skerry—tall is 44 metres.",),
}
PROSE = "start: answer\n" + grammar.prose("answer", QUOTABLE)
STRING = "start: string\n" + grammar.json_prose("string", QUOTABLE)


@pytest.mark.parametrize(
    ("quote", "admitted"),
    [
        ("cost 1,250 crowns", True),
        ("cost 1", False),
        ("250 crowns", False),
        ("and -4.5 m", True),
        ("and -4", False),
        ("4.5 m", False),
        ("5 m", False),
        ("in 1890.[3]", True),
        ("12th", True),
        ("12", False),
    ],
)
def test_a_quotation_holds_whole_numbers(quote: str, admitted: bool) -> None:
    source = "It cost 1,250 crowns and -4.5 m in 1890.[3] O'Brien was 12th."
    lark = "start: answer\n" + grammar.prose("answer", {1: (source,)})
    assert admits(lark, f"“{quote}” [1]") is admitted


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        ("The sources do not say.", True),
        ("“The height of Skerry is 40 metres.” [1]", True),
        ("“height of Skerry” [2] — and “second passage” [1].", True),
        ('He left: “said "no" there.” [1]\n\nSo it is.', True),
        ("“The height of Skerry is 44 metres.” [1]", False),
        ("“The height of Skerry is 40 metres.” [2]", False),
        ("“The height of Skerry is 40 metres.”", False),
        ("“there. A second” [1]", False),
        ("“eight of Skerry” [1]", False),
        ("“” [1]", False),
        ("“height of Skerry” [3]", False),
        ("", False),
        (" \n", False),
    ],
)
def test_prose(text: str, admitted: bool) -> None:
    assert admits(PROSE, text) is admitted


@pytest.mark.parametrize(
    ("value", "admitted"),
    [
        ("plain", True),
        ('with "quotes" and\nlines', True),
        ('“said "no" there.” [1] ok', True),
        ('“said "no" ther” [1] ok', False),
        ("", False),
    ],
)
def test_json_string(value: str, admitted: bool) -> None:
    assert admits(STRING, json.dumps(value, ensure_ascii=False)) is admitted


def test_without_sources_nothing_can_be_quoted() -> None:
    lark = "start: answer\n" + grammar.prose("answer", {})
    assert admits(lark, "Words alone.")
    assert not admits(lark, "“Words” [1]")


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=120), st.data())
def test_every_run_of_words_of_any_source_can_be_quoted(source: str, draws: st.DataObject) -> None:
    words = source.split()
    if not words:
        return
    start = draws.draw(st.integers(0, len(words) - 1))
    run = " ".join(words[start : draws.draw(st.integers(start + 1, len(words)))])
    assert admits("start: answer\n" + grammar.prose("answer", {1: (source,)}), f"“{run}” [1]")


@settings(max_examples=60, deadline=None)
@given(st.text('ab "\\\x01.1', min_size=1, max_size=12), st.data())
def test_what_a_json_string_may_quote_is_json(source: str, draws: st.DataObject) -> None:
    escaped = json.dumps(" ".join(source.split()))[1:-1]
    start = draws.draw(st.integers(0, len(escaped)))
    end = draws.draw(st.integers(start, len(escaped)))
    text = f'"“{escaped[start:end]}” [1]"'
    if admits("start: string\n" + grammar.json_prose("string", {1: (source,)}), text):
        assert json.loads(text)[1:-5] in " ".join(source.split())


@pytest.mark.parametrize(
    ("text", "admitted"),
    [("“a” [1]", True), ("b “a” [1] c", True), ("{“a” [1]", False), ("{", False), ("b {“a” [1]{", True)],
)
def test_how_prose_may_not_begin(text: str, admitted: bool) -> None:
    assert admits("start: answer\n" + grammar.prose("answer", {1: ("a",)}, barred="<{"), text) is admitted


@pytest.mark.parametrize(
    ("text", "admitted"),
    [("a line", True), (" - x", True), (" - ", False), ("", False), ("a<b", False), ("a\nb", False), ("a" * 17, False)],
)
def test_a_line_of_text(text: str, admitted: bool) -> None:
    assert admits("start: line\n" + grammar.line_of_text("line", barred="<", max_tokens=16), text) is admitted


def test_special_tokens_are_named_by_id() -> None:
    lark = f"start: {grammar.with_special_tokens('<call>x<arg>y', SPECIAL_TOKENS)}\n"
    assert admits(lark, "<call>x<arg>y")
    assert grammar.with_special_tokens("", SPECIAL_TOKENS) == '""'
    assert grammar.with_special_tokens('say "<"', {}) == '"say \\"<\\""'
