"""The judge's prompt, its fair cuts and its parser; the real model is in test_deliberation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion import judge
from localfusion.analysis import Response
from localfusion.errors import MalformedOutput

EMPTY = '{"consensus":[],"contradictions":[],"partial_coverage":[],"unique_insights":[],"blind_spots":[]}'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", MalformedOutput),
        ("no JSON", MalformedOutput),
        (EMPTY[:-1], MalformedOutput),
        ("[]", judge.SchemaMismatch),
        ("{}", judge.SchemaMismatch),
        (EMPTY.replace("[]", "[3]", 1), judge.SchemaMismatch),
        (EMPTY.replace("consensus", "agreement"), judge.SchemaMismatch),
        (
            EMPTY.replace('"unique_insights":[]', '"unique_insights":[{"model":"z","insight":"x"}]'),
            judge.SchemaMismatch,
        ),
    ],
)
def test_what_is_no_analysis_is_refused(text: str, error: type[MalformedOutput]) -> None:
    with pytest.raises(error) as caught:
        judge.parse_analysis(text, ["a"], model="m")
    assert type(caught.value) is error


def test_the_five_parts_are_read() -> None:
    text = (
        '{"consensus":["x","x"],"contradictions":[{"topic":"t","stances":[{"model":"a","stance":"1"},'
        '{"model":"b","stance":"2"}]}],"partial_coverage":[{"models":["a","a"],"point":"p"}],'
        '"unique_insights":[{"model":"b","insight":"i"}],"blind_spots":["?"]}'
    )
    analysis = judge.parse_analysis(text, ["a", "b"], model="m")
    assert analysis.consensus == ("x",)
    assert [stance.model for stance in analysis.contradictions[0].stances] == ["a", "b"]
    assert analysis.partial_coverage[0].models == ("a",)
    assert analysis.unique_insights[0].insight == "i"
    assert analysis.blind_spots == ("?",)


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=1), min_size=1, unique=True), st.integers())
def test_the_order_is_seeded_and_not_that_of_arrival(ids: list[str], seed: int) -> None:
    assert judge.seeded_order(ids, seed) == judge.seeded_order(ids[::-1], seed)
    assert sorted(judge.seeded_order(ids, seed)) == sorted(ids)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.integers(1000, 20000))
def test_a_fair_share_fits_and_spares_the_short(lengths: list[int], budget: int) -> None:
    share = judge.fair_share(lengths, budget)
    kept = [min(length, share) for length in lengths]
    assert sum(kept) <= max(budget, 48 * len(lengths))
    if sum(lengths) <= budget:
        assert kept == lengths


def test_a_cut_answer_keeps_its_marks_and_loses_uncited_sentences_first() -> None:
    content = "An opening remark. “Cited one.” [1] A remark between. “Cited two.” [2] A last remark."
    assert judge.shorten(content, 40) == "“Cited one.” [1] “Cited two.” [2] …"
    assert judge.shorten(content, 20) == "“Cited one.” [1] … [2]"


def test_only_long_answers_are_cut() -> None:
    long = "“word word word word.” [1] " * 40
    responses = (Response("a", "m", "Short. [2]"), Response("b", "m", long))
    kept, cut = judge.cut_fairly(responses, tokens={"a": 5, "b": 400}, budget_tokens=200)
    assert cut == ("b",)
    assert kept[0] is responses[0]
    assert 100 < len(kept[1].content) < len(long)


def test_the_prompt_names_panelists_by_id_alone() -> None:
    messages = judge.conversation("Why?", [Response("b", "secret-model", "Because. [1]")])
    assert "## Answer of b\nBecause. [1]" in messages[1].content
    assert "secret-model" not in str(messages)
    assert messages[1].fields["answers"] == [{"id": "b", "text": "Because. [1]"}]
