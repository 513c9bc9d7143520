"""Sentences: where they end, which are chosen, and that nothing shown was not in the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.search.blocks import Block, squeeze
from localfusion.search.passages import cut_passages
from localfusion.search.query import Query, parse_query
from localfusion.search.sentences import (
    break_roughly,
    coverage,
    leading_sentences,
    select,
    split_sentences,
)
from localfusion.search.tokens import terms

PIECES = st.sampled_from(
    [
        "The height of Skerry is 40 metres.",
        "Mr. A. Vole slept.",
        "It rained!",
        "3.5 m",
        "“Who?”",
        "e.g. ropes",
        "\n",
        "。",
        "etc.",
        "Skerry",
    ]
)
TEXTS = st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=20).map(" ".join))
QUERIES = st.one_of(
    st.text(max_size=60), st.lists(st.sampled_from(["height", "skerry", "of", "the", "vole", "rain"])).map(" ".join)
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two.", ["One.", "Two."]),
        ("The height is 3.5 metres. It is old.", ["The height is 3.5 metres.", "It is old."]),
        ("Mr. Vole met Dr. Quill. They spoke.", ["Mr. Vole met Dr. Quill.", "They spoke."]),
        ("J. R. Tamsin wrote it. So it is said.", ["J. R. Tamsin wrote it.", "So it is said."]),
        ("She took vitamin C. The crew did not.", ["She took vitamin C.", "The crew did not."]),
        ("He sold ropes, e.g. hemp ones. Nobody paid.", ["He sold ropes, e.g. hemp ones.", "Nobody paid."]),
        (
            "See No. 5 on the quay. Is it open? No. It is not.",
            ["See No. 5 on the quay.", "Is it open?", "No.", "It is not."],
        ),
        ("“Is it high?” Orla asked. “No.” She left.", ["“Is it high?”", "Orla asked.", "“No.”", "She left."]),
        ("It ended (at last.) Then rain.", ["It ended (at last.)", "Then rain."]),
        ("Wait... and see. Wait... Then go.", ["Wait... and see.", "Wait...", "Then go."]),
        ("A heading\nThe text is here.", ["A heading", "The text is here."]),
        ("The U.S. Navy came. Hall Ltd. The end.", ["The U.S. Navy came.", "Hall Ltd.", "The end."]),
        ("It was 1871. 40 men came.", ["It was 1871.", "40 men came."]),
        ("高さは四十。色は白。", ["高さは四十。", "色は白。"]),
        ("no stop at the end", ["no stop at the end"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == tuple(sentences)


@given(TEXTS)
def test_splitting_loses_and_invents_nothing(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() and sentence in text for sentence in sentences)


@given(TEXTS)
def test_splitting_a_sentence_again_leaves_it(text: str) -> None:
    for sentence in split_sentences(squeeze(text)):
        assert "".join(split_sentences(sentence)).split() == sentence.split() or len(split_sentences(sentence)) == 1


def covered(text: str, query: Query, *, around: frozenset[str] | set[str] = frozenset()) -> float:
    return coverage([terms(sentence) for sentence in split_sentences(text)], query, {}, around=around)


@given(TEXTS)
def test_a_rough_break_loses_no_word(text: str) -> None:
    assert terms(break_roughly(text)) == terms(text)


@given(TEXTS, QUERIES, st.integers(1, 400))
def test_every_line_of_a_selection_stands_in_the_text(text: str, query: str, room: int) -> None:
    text = "\n".join(filter(None, map(squeeze, text.splitlines())))
    chosen = select(text, parse_query(query), {}, max_characters=room)
    assert len(chosen) <= room
    assert all(line in text for line in chosen.splitlines())
    assert bool(chosen) == bool(text.strip())


@given(TEXTS, QUERIES)
def test_a_selection_is_whole_sentences_in_order(text: str, query: str) -> None:
    text = "\n".join(filter(None, map(squeeze, text.splitlines())))
    chosen = iter(split_sentences(select(text, parse_query(query), {}, max_characters=10_000)))
    every = list(split_sentences(text))
    for sentence in chosen:
        assert sentence in every
        every = every[every.index(sentence) + 1 :]


@given(TEXTS, QUERIES)
def test_coverage_is_a_share(text: str, query: str) -> None:
    assert 0.0 <= covered(text, parse_query(query), around={"skerri"}) <= 1.5


TEXT = (
    "The storm bell rings. The height of Skerry is 40 metres. Gulls wait for bread. "
    "Skerry's keeper is Orla. It is not far. The height of Hallow is 3 metres."
)


@pytest.mark.parametrize(
    ("query", "room", "chosen"),
    [
        ("height of Skerry", 40, "The height of Skerry is 40 metres."),
        ("What is the height of Skerry?", 70, "The height of Skerry is 40 metres.\nSkerry's keeper is Orla."),
        ("Skerry", 100, "The height of Skerry is 40 metres.\nSkerry's keeper is Orla. It is not far."),
        ("bells", 100, "The storm bell rings."),
        ("nothing here matches", 56, "The storm bell rings. The height of Skerry is 40 metres."),
        ("Skerry height", 12, "The height"),
        ("height Skerry Hallow", 1, "T"),
    ],
)
def test_which_sentences_are_chosen(query: str, room: int, chosen: str) -> None:
    assert select(TEXT, parse_query(query), {}, max_characters=room) == chosen


def test_rare_words_weigh_more() -> None:
    weights = {"skerri": 0.1, "keeper": 2.0}
    chosen = select("Skerry is far. The keeper sleeps.", parse_query("keeper Skerry"), weights, max_characters=20)
    assert chosen == "The keeper sleeps."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is the height of Skerry?", ("height", "Skerry")),
        ("Who is it", ("Who", "is", "it")),
        ("Ångström's café", ("Ångström", "café")),
        ("cafe\u0301", ("café",)),
        ("Straße Strasse STRASSE", ("Straße", "Strasse")),
        ("Район 한국 हिन्दी", ("Район", "한국", "हिन्दी")),
        ('"rope" NEAR(lamp*)', ("rope", "NEAR", "lamp")),
        ("?!", ()),
        ("height Height HEIGHT", ("height",)),
    ],
)
def test_the_words_of_a_query(text: str, words: tuple[str, ...]) -> None:
    assert parse_query(text).words == words


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("Straße", "Die Straße ist lang."),
        ("STRASSE", "Die Straße ist lang."),
        ("Größe", "Die größe zählt."),
        ("Район", "Это наш район."),
        ("한국", "여기는 한국 입니다."),
        ("İstanbul", "We saw Istanbul."),
        ("istanbul", "We saw İSTANBUL."),
        ("naive", "A nai\u0308ve man."),
        ("\uff26\uff55\uff4c\uff4c", "The moon is full."),
        ("full", "The moon is \uff26\uff55\uff4c\uff4c."),
        ("हिन्दी", "यह हिन्दी है."),
    ],
)
def test_words_of_any_script_count(query: str, text: str) -> None:
    assert covered(f"Rain fell. {text}", parse_query(query)) >= 1.0
    assert select(f"Rain fell. {text}", parse_query(query), {}, max_characters=99) == text


@given(TEXTS, st.integers(1, 300))
def test_the_beginning_of_a_text_is_its_beginning(text: str, room: int) -> None:
    beginning = leading_sentences(text, room)
    assert len(beginning) <= room
    assert text.strip().startswith(beginning)


def test_the_beginning_ends_with_a_sentence() -> None:
    assert leading_sentences("One is here. Two is here.\nThree is here.", 30) == "One is here. Two is here."


@given(TEXTS, st.integers(0, 60), st.sampled_from(["", " ", "\n"]))
def test_the_beginning_is_the_same_whatever_is_behind(text: str, room: int, gap: str) -> None:
    known = text.strip() + gap + "the end of it. " * 100
    sentences = split_sentences(known)
    ends, start = [0], 0
    for sentence in sentences:
        start = known.index(sentence, start) + len(sentence)
        ends.append(start)
    end = max(one for one in ends if one <= room)
    if end:
        assert leading_sentences(known, room) == known[:end]


def test_the_beginning_of_a_text_without_end_is_found_without_reading_it() -> None:
    assert leading_sentences("One is here. " * 1_000_000, 26) == "One is here. One is here."
    assert leading_sentences("x" * 10_000_000, 3) == "xxx"


@given(st.lists(st.builds(Block, TEXTS.map(squeeze).filter(bool), st.integers(0, 2)), max_size=8), st.integers(1, 30))
def test_passages_hold_every_sentence_whole_and_in_order(blocks: list[Block], target: int) -> None:
    pieces = cut_passages(blocks, target_words=target)
    paragraphs = [block.text for block in blocks if not block.level]
    expected = [s for text in paragraphs or [b.text for b in blocks] for s in split_sentences(text)]
    assert "".join("".join(piece.text.split()) for piece in pieces) == "".join("".join(expected).split())
    if paragraphs:
        found = [line for piece in pieces for line in piece.text.splitlines()]
        assert all(any(line in paragraph for paragraph in paragraphs) for line in found)


def test_passages_know_the_headings_above_them() -> None:
    blocks = [
        Block("The lights", 1),
        Block("Skerry", 2),
        Block("One two three. Four five six."),
        Block("Hallow", 2),
        Block("Seven eight nine."),
    ]
    pieces = cut_passages(blocks, target_words=4)
    assert [(piece.headings, piece.text) for piece in pieces] == [
        ("The lights > Skerry", "One two three."),
        ("The lights > Skerry", "Four five six."),
        ("The lights > Hallow", "Seven eight nine."),
    ]


@given(
    st.lists(st.sampled_from(["一は赤い。", "二は青い。", "Three is grey.", "  ", "\u3000", " ", "\n"])).map("".join),
    st.integers(5, 60),
)
def test_every_line_stands_in_the_text_word_for_word(text: str, room: int) -> None:
    for piece in cut_passages([Block(text)] if text.strip() else [], target_words=3):
        assert piece.text in text
        shown = select(piece.text, parse_query("赤い 青い grey"), {}, max_characters=room)
        assert len(shown) <= room
        assert all(line in text for line in shown.splitlines())
