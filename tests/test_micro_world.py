"""The micro panel's generated world: the contract that tests and the benchmark rely on."""

import itertools
import random
import re

import pytest

from scripts.micro import names, world
from scripts.micro.lexicon import ATTRIBUTES, RESERVED
from scripts.micro.world import Kind, World, generate

SEEDS = range(40)
KINDS: tuple[Kind, ...] = ("answerable", "unanswerable", "contradictory", "open")


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [generate(seed) for seed in SEEDS]


def test_a_seed_always_gives_the_same_world() -> None:
    assert generate(7) == generate(7)
    assert generate(7) != generate(8)


def test_every_kind_of_question_occurs(worlds: list[World]) -> None:
    kinds = {question.kind for made in worlds for question in made.questions}
    assert kinds == set(KINDS)


def test_facts_stand_in_their_documents(worlds: list[World]) -> None:
    for made in worlds:
        texts = {document.name: document.text for document in made.documents}
        for fact in made.facts:
            assert fact.sentence in texts[fact.document]
            assert fact.value in fact.sentence
            assert fact.entity in fact.sentence


def test_gold_facts_are_what_the_folder_says(worlds: list[World]) -> None:
    for made, question in ((one, question) for one in worlds for question in one.questions):
        wanted = {
            fact
            for fact in made.facts
            if fact.entity == question.entity and question.attribute in (None, fact.attribute)
        }
        assert set(question.gold) == wanted
        assert question.entity in question.text


@pytest.mark.parametrize(
    ("kind", "least", "most"), [("unanswerable", 0, 0), ("answerable", 1, 1), ("contradictory", 2, 2)]
)
def test_a_kind_has_so_many_values(worlds: list[World], kind: Kind, least: int, most: int) -> None:
    asked = [question for made in worlds for question in made.questions if question.kind == kind]
    assert asked
    assert all(least <= len(question.values) <= most for question in asked)


def test_names_are_never_reserved(worlds: list[World]) -> None:
    words = {word.lower() for made in worlds for fact in made.facts for word in re.findall(r"\w+", fact.sentence)}
    assert not words & RESERVED


def test_documents_are_as_large_as_promised(worlds: list[World]) -> None:
    for made in worlds:
        assert 1 <= len(made.documents) <= 20
        assert len({document.name for document in made.documents}) == len(made.documents)
        for document in made.documents:
            assert 1 <= document.text.count(".") <= 40


def test_entities_of_a_world_differ(worlds: list[World]) -> None:
    for made in worlds:
        by_subject = itertools.groupby(sorted(made.facts, key=lambda f: f.subject), key=lambda f: f.subject)
        assert all(len({fact.value for fact in group}) <= 2 for _, group in by_subject)


def test_every_form_states_every_attribute() -> None:
    rng = random.Random(0)
    for attribute, form in itertools.product(ATTRIBUTES, range(len(world.FORMS))):
        value = world.value(rng, attribute)
        made = world.fact(rng, names.entity(rng), attribute, value, form)
        assert attribute.name in made.sentence
        assert made.sentence.endswith(f"{value}.")
