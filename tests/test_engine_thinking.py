"""Thinking and stop strings are split off the same way however the text arrives in pieces."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.engine.text import CharacterDecoder, StopMatcher
from localfusion.engine.thinking import HARMONY, ThinkingSplitter, ThinkingTags, find_tags

THINK = ThinkingTags("<think>", "</think>")
PARTS = ["<think>", "</think>", "<", "/", "think", ">", "</thi", " ", "\n", "a", "<b>", "“x”"]


def split(pieces: list[str], *, inside: bool = False) -> tuple[str, str]:
    splitter = ThinkingSplitter(THINK, inside=inside)
    found = [piece for text in pieces for piece in splitter.feed(text)] + splitter.finish()
    thinking = "".join(text for kind, text in found if kind == "thinking")
    return thinking, "".join(text for kind, text in found if kind == "content")


@pytest.mark.parametrize(
    ("text", "inside", "thinking", "content"),
    [
        ("plain", False, "", "plain"),
        ("  plain", False, "", "  plain"),
        ("<think>a</think>b", False, "a", "b"),
        ("\n<think>\na\n</think>\n\nb <think>c</think>", False, "\na\n", "b <think>c</think>"),
        ("a</think>\n\nb", True, "a", "b"),
        ("never closed </thin", True, "never closed </thin", ""),
        ("<thin", False, "", "<thin"),
        ("<thing>", False, "", "<thing>"),
        ("<think></think>  ", False, "", ""),
    ],
)
def test_splits(text: str, inside: bool, thinking: str, content: str) -> None:
    assert split([text], inside=inside) == (thinking, content)


@given(parts=st.lists(st.sampled_from(PARTS), max_size=12), cuts=st.lists(st.integers(0, 60)), inside=st.booleans())
def test_any_pieces_give_the_same(parts: list[str], cuts: list[int], inside: bool) -> None:
    text = "".join(parts)
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert split(pieces, inside=inside) == split([text], inside=inside)


@given(parts=st.lists(st.sampled_from(PARTS), max_size=12))
def test_nothing_is_shown_that_must_be_taken_back(parts: list[str]) -> None:
    splitter = ThinkingSplitter(THINK, inside=True)
    shown = "".join(text for part in parts for kind, text in splitter.feed(part) if kind == "thinking")
    thinking = "".join(parts).partition(THINK.close)[0]
    assert thinking.startswith(shown)
    if THINK.close in "".join(parts):
        assert shown == thinking


def test_tags_are_found_in_template_or_vocabulary() -> None:
    assert find_tags(["{{ '<think>\\n' }}"], []) == THINK
    assert find_tags(["plain"], ["<think>", "</think>"]) == THINK
    assert find_tags(["plain"], ["[THINK]", "[/THINK]"]) == ThinkingTags("[THINK]", "[/THINK]", gap="")
    assert find_tags(["plain"], ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"]) == HARMONY
    assert find_tags(["plain"], ["<think>"]) is None


@given(
    text=st.text(alphabet="abX", max_size=30),
    stop=st.text(alphabet="abX", min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 30)),
)
def test_stop_strings_cut_in_any_pieces(text: str, stop: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    matcher = StopMatcher((stop,))
    shown = "".join(matcher.feed(text[start:end]) for start, end in pairwise(edges))
    assert shown + matcher.finish() == text.partition(stop)[0]
    assert matcher.is_stopped == (stop in text)


@given(st.text(max_size=20))
def test_characters_are_whole(text: str) -> None:
    decoder = CharacterDecoder()
    assert "".join(decoder.feed(bytes([byte])) for byte in text.encode()) == text


@given(st.lists(st.integers(1, 9), max_size=30), st.sampled_from(["", " ", "\n\n"]))
def test_what_opens_the_next_turn_is_neither_thinking_nor_content(cuts: list[int], space: str) -> None:
    tags = replace(HARMONY, gap=f"{HARMONY.gap}<|channel|>final<|message|>")
    text = f"deep{space}{tags.close}{tags.gap}{space}<|start|> is said"
    splitter = ThinkingSplitter(tags, inside=True)
    pieces = []
    for cut in [*cuts, len(text)]:
        pieces += splitter.feed(text[:cut])
        text = text[cut:]
    pieces += splitter.finish()
    assert "".join(piece for kind, piece in pieces if kind == "thinking").strip() == "deep"
    assert "".join(piece for kind, piece in pieces if kind == "content") == "<|start|> is said"
