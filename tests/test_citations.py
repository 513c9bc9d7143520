"""Grounding: marks, quotations, and what counts as verified."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion import citations
from localfusion.analysis import Citation, Passage, Response
from localfusion.citations import Claim, StoredText
from localfusion.search.meaning import Match

PAGE = (
    "Skerry stands on a rock. The height of Skerry is 40 metres.\n"
    "According to Mara Teld, the keeper of Skerry is Orrin Vey. The light costs 1,250 crowns."
)
SOURCES = {1: StoredText("doc://h/a.md", "A", PAGE), 2: StoredText("doc://h/b.md", "B", "Nothing of note.")}


@pytest.mark.parametrize(
    ("answer", "number", "support"),
    [
        ("“The height of Skerry is 40 metres.” [1]", 1, "verified"),
        ("“height of Skerry is 40 metres” [1]", 1, "verified"),
        ("The tower is high: “The height of Skerry is 40 metres.” [1]", 1, "verified"),
        ("Skerry, 41 metres high: “The height of Skerry is 40 metres.” [1]", 1, "weak"),
        ("The lamp of Hallow: “The height of Skerry is 40 metres.” [1]", 1, "weak"),
        ("“The height of Skerry is 44 metres.” [1]", 1, "not_found"),
        ("“The height of Skerry is 40 metres.” [2]", 2, "not_found"),
        ("The height of Skerry is 40 metres [1].", 1, "verified"),
        ("The height of the tower at Skerry is 40 metres [1].", 1, "weak"),
        ("The height of Skerry is 44 metres [1].", 1, "not_found"),
        ("Whales sing in the deep [1].", 1, "not_found"),
        ("“The height of Skerry is 40 metres.” [9]", 9, "not_found"),
        ("“The height of Skerry is 4” [1]", 1, "not_found"),
        ("“eight of Skerry is 40 metres” [1]", 1, "weak"),
        ("“The light costs 1” [1]", 1, "not_found"),
        ("“250 crowns” [1]", 1, "not_found"),
        ("“1,250 crowns” [1]", 1, "verified"),
        ("The height of Skerry is 4 [1].", 1, "not_found"),
        ("“the Height of Skerry is 40 metres” [1]", 1, "weak"),
        ("“According to Mara Teld \u2013 the keeper of Skerry is Orrin Vey” [1]", 1, "weak"),
        ("“According to Mara Teld, the keeper of Skerry is Orrin Vex” [1]", 1, "not_found"),
        ("“Skerry stands on a rok” [1]", 1, "weak"),
        ("Skerry's heights are 40 metre [1].", 1, "weak"),
        ("The height of Skerry is 40 metres, and whales sing in the deep at night [1].", 1, "not_found"),
    ],
)
def test_support(answer: str, number: int, support: str) -> None:
    (citation,) = citations.check(answer, SOURCES)
    assert (citation.number, citation.support) == (number, support)


def test_a_quotation_may_span_a_line_break_of_the_page() -> None:
    (citation,) = citations.check("“is 40 metres. According to Mara Teld” [1]", SOURCES)
    assert citation.support == "verified"


def test_each_mark_answers_for_its_own_part() -> None:
    claims = citations.find_claims("The sources disagree: “is 40 metres.” [1] “is 44 metres.” [2]")
    assert claims == (
        Claim(1, "The sources disagree: is 40 metres.", "is 40 metres."),
        Claim(2, "is 44 metres.", "is 44 metres."),
    )


def test_two_marks_behind_one_sentence_share_it() -> None:
    claims = citations.find_claims("The light is old [1] [2].")
    assert [(claim.number, claim.text) for claim in claims] == [(1, "The light is old"), (2, "The light is old")]


def test_numbers_are_run_wide_and_unsupported_marks_go() -> None:
    def cited(id: str, *urls: str) -> Response:
        found = tuple(Citation(i, url, url, "q", "verified") for i, url in enumerate(urls, start=1))
        marks = " ".join(f"q [{i}]" for i in range(1, len(urls) + 1))
        return Response(id, "m", marks + " x [7]", citations=(*found, Citation(7, "", "", "x", "not_found")))

    a, b = citations.renumber((cited("a", "u", "v"), cited("b", "w", "u")))
    assert a.content == "q [1] q [2] x"
    assert b.content == "q [3] q [1] x"
    assert [citation.number for citation in b.citations] == [3, 1, 0]


def test_the_marks_of_a_source_are_its_own() -> None:
    source = StoredText("doc://a", "A", "Skerry was lit in 1890.[3] It is 40 metres [2] high.")
    answer = "“Skerry was lit in 1890.[3] It is 40 metres [2] high.” [1] So it is [7]."
    found, unknown = citations.check(answer, {1: source, 2: SOURCES[2]})
    assert (found.number, found.quote, found.support) == (1, source.text, "verified")
    assert unknown.number == 7
    (response,) = citations.renumber([Response("a", "m", answer, citations=(replace(found, number=1), unknown))])
    assert response.content == f"“{source.text}” [1] So it is."
    assert [citation.number for citation in response.citations] == [1, 0]
    assert citations.drop_unknown_marks(answer, [1]) == f"“{source.text}” [1] So it is."


def test_what_may_be_quoted_later_is_what_was_found() -> None:
    response = Response(
        "a",
        "m",
        "",
        citations=(
            Citation(1, "u", "", "is 40 metres", "verified"),
            Citation(1, "u", "", "Skerry is 40 metres.", "weak"),
            Citation(2, "v", "", "invented", "not_found"),
        ),
    )
    assert citations.quotable([response]) == {1: ("Skerry is 40 metres.",)}


def test_passages_are_kept_apart_by_number() -> None:
    passages = [Passage(1, "u", "", "one"), Passage(2, "v", "", "two"), Passage(1, "u", "", "one")]
    assert citations.passages_by_number(passages) == {1: ("one",), 2: ("two",)}


@given(st.text(max_size=200))
def test_any_text_is_read_without_failing(answer: str) -> None:
    for citation in citations.check(answer, SOURCES):
        assert citation.number in SOURCES or citation.support == "not_found"


@given(st.integers(0, len(PAGE.split()) - 1), st.integers(1, 12))
def test_every_run_of_words_of_the_page_is_found(start: int, length: int) -> None:
    run = " ".join(PAGE.split()[start : start + length])
    (citation,) = citations.check(f"“{run}” [1]", SOURCES)
    assert citation.support == "verified"


def by_meaning(answer: str, similarity: float) -> tuple[Citation, ...]:
    """The citations of an answer where the second sentence of a source is always the closest."""

    async def closest(claim: str, sentences: Sequence[str]) -> Match | None:
        asked.append((claim, tuple(sentences)))
        return Match(len(sentences) - 1, similarity) if sentences else None

    asked: list[tuple[str, tuple[str, ...]]] = []
    checked = citations.check(answer, SOURCES)
    return asyncio.run(citations.check_meaning(answer, checked, SOURCES, closest))


@pytest.mark.parametrize(
    ("answer", "similarity", "support", "quote"),
    [
        ("Its tower rises from a cliff [1].", 0.9, "weak", "The light costs 1,250 crowns."),
        ("Its tower rises from a cliff [1].", 0.7, "not_found", "Its tower rises from a cliff"),
        ("One pays 1,250 of them [1].", 0.9, "weak", "The light costs 1,250 crowns."),
        ("One pays 1,251 of them [1].", 0.99, "not_found", "One pays 1,251 of them"),
        ("“Its tower rises” [1]", 0.99, "not_found", "Its tower rises"),
        ("“Skerry stands on a rock.” [1]", 0.99, "verified", "Skerry stands on a rock."),
        ("Its tower rises from a cliff [9].", 0.99, "not_found", "Its tower rises from a cliff"),
    ],
)
def test_what_no_words_support_may_be_supported_by_meaning(
    answer: str, similarity: float, support: str, quote: str
) -> None:
    (citation,) = by_meaning(answer, similarity)
    assert (citation.support, citation.quote.rstrip(".")) == (support, quote.rstrip("."))


def test_a_snippet_supports_weakly_and_never_against_the_page() -> None:
    source = StoredText("https://e.com/", "E", "", snippets="The bridge is open.")
    (citation,) = citations.check("“The bridge is open.” [1]", {1: source})
    assert (citation.support, citation.quote) == ("weak", "The bridge is open.")
    (citation,) = citations.check("The bridge is open [1].", {1: source})
    assert citation.support == "weak"
    (citation,) = citations.check("“The bridge is shut.” [1]", {1: source})
    assert citation.support == "not_found"


@pytest.mark.parametrize(
    ("answer", "support"),
    [
        ("Brannock is “the keeper of Skerry” [1].", "weak"),
        ("Nobody is “the keeper of Skerry” [1].", "weak"),
        ("The keeper: “Orrin Vey” [1]", "verified"),
        ("According to it, “the keeper of Skerry is Orrin Vey” [1].", "verified"),
        ("Skerry costs “1,250 crowns” [1].", "weak"),
        ("Light costs “1,250 crowns” [1].", "verified"),
    ],
)
def test_the_word_that_opens_a_sentence_may_be_a_name(answer: str, support: str) -> None:
    (citation,) = citations.check(answer, SOURCES)
    assert citation.support == support


PIECES = st.sampled_from(
    ["a", " ", "\n", "[1]", "[2", "]", " [9]", "“", "”", "“x”", "” [1]", "12", "[", "“a [2] b” [1]"]
)


@given(st.lists(PIECES, max_size=14), st.data())
def test_marks_are_dropped_alike_from_a_text_that_comes_in_pieces(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    dropper = citations.MarkDropper([1])
    shown = ""
    while text:
        n = data.draw(st.integers(1, len(text)))
        shown += dropper.feed(text[:n])
        text = text[n:]
    assert shown + dropper.finish() == citations.drop_unknown_marks("".join(pieces).strip(), [1])
