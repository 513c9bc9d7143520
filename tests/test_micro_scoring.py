"""The grades of the micro bench: what is right gets 1, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.analysis import Analysis, Citation, Contradiction, Response, Stance
from localfusion.outcome import Outcome
from scripts.micro.scoring import Key, grade, grade_outcome, paired_interval, search_found
from scripts.micro.world import Fact, Question, World, generate


def key_of(world: World) -> Key:
    return Key.of(world, {document.name: f"{document.name}.md" for document in world.documents})


def cite(*facts: Fact) -> tuple[Citation, ...]:
    return tuple(Citation(n, f"doc://w/{f.document}.md", "", f.sentence, "verified") for n, f in enumerate(facts, 1))


def distinct(question: Question) -> list[Fact]:
    return list({(fact.attribute, fact.value): fact for fact in question.gold}.values())


@given(st.integers(0, 300))
def test_the_gold_facts_get_all_and_one_wrong_fact_costs(seed: int) -> None:
    world = generate(seed)
    key = key_of(world)
    for question in world.questions:
        perfect = cite(*distinct(question))
        said = "The sources do not say." if question.kind == "unanswerable" else "x"
        assert grade(question, said, perfect, key) == 1
        stray = next(fact for fact in world.facts if fact.entity != question.entity)
        assert grade(question, said, (*perfect, *cite(stray)), key) < 1
        assert grade(question, "", (), key) == 0


def contradiction() -> tuple[Question, Key]:
    for seed in range(100):
        world = generate(seed)
        for question in world.questions:
            if question.kind == "contradictory":
                return question, key_of(world)
    raise AssertionError("no world contradicts itself")


def test_one_side_of_a_contradiction_is_not_enough() -> None:
    question, key = contradiction()
    both = distinct(question)
    assert grade(question, "x", cite(*both), key) == 1
    assert grade(question, "x", cite(both[0]), key) == 0


def test_the_right_sentence_under_the_wrong_source_is_wrong() -> None:
    question, key = contradiction()
    (right,) = cite(distinct(question)[0])
    assert key.stated(right) is not None
    assert key.stated(Citation(1, "doc://w/elsewhere.md", "", right.quote, "verified")) is None
    assert key.stated(Citation(1, right.url, "", right.quote, "not_found")) is None


def test_a_contradiction_is_reported_when_every_value_has_its_stance() -> None:
    question, key = contradiction()
    one, two = question.values
    stances = (Stance("a", f"“… {one}.” [1]"), Stance("b", f"“… {two}.” [2]"))
    for shown, score in ((stances, 1.0), (stances[:1], 0.0)):
        analysis = Analysis(contradictions=(Contradiction("height", shown),))
        outcome = Outcome("r", "ok", question.text, 0, "j", analysis=analysis, responses=(Response("a", "m", ""),))
        assert grade_outcome(question, outcome, key)["judge"].score == score


def test_search_found_needs_every_value() -> None:
    question, _ = contradiction()
    one, two = distinct(question)
    assert search_found(question, [one.sentence, two.sentence])
    assert not search_found(question, [one.sentence])


def test_paired_interval() -> None:
    mean, low, high = paired_interval([1.0, 0.0] * 50)
    assert mean == pytest.approx(0.5)
    assert (low, high) == pytest.approx((0.4015, 0.5985), abs=1e-3)
