"""Invented worlds: folders of documents, the facts that stand in them, and questions with what is right about each.

`generate(seed)` is the one entry for evaluation: the same seed gives the same world, and no name in it is
a reserved one. `training` uses the sentences and questions, never whole worlds. Nothing here reads or writes files.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scripts.micro import names
from scripts.micro.lexicon import (
    ATTRIBUTES,
    COLOURS,
    IDLE_ADJECTIVES,
    IDLE_NOUNS,
    IDLE_VERBS,
    MATERIALS,
    Attribute,
)

Kind = Literal["answerable", "unanswerable", "contradictory", "open"]
Format = Literal["md", "txt", "html", "pdf"]
FORMS = (
    "The {a} of {e} is {v}.",
    "{e} has {article} {a} of {v}.",
    "{e}'s {a} is {v}.",
    "According to {s}, the {a} of {e} is {v}.",
    "Records give the {a} of {e} as {v}.",
    "In {y} the {a} of {e} was given as {v}.",
)
QUESTIONS = (
    "What is the {a} of {e}?",
    "Tell me the {a} of {e}.",
    "What {a} does {e} have?",
    "What is {e}'s {a}?",
    "Give the {a} of {e}.",
)
QUESTION_WHO = "Who is the {a} of {e}?"
OPEN_QUESTIONS = (
    "What do the sources say about {e}?",
    "What is known about {e}?",
    "What is known of {e}?",
    "Tell me about {e}.",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """That `attribute` of `entity` is `value`, as one sentence says it; `document` is empty outside a folder."""

    entity: str
    attribute: str
    value: str
    sentence: str
    document: str = ""

    @property
    def subject(self) -> tuple[str, str]:
        """What it is a fact of: two facts with one subject and two values contradict each other."""
        return self.entity, self.attribute


@dataclass(frozen=True, slots=True)
class Document:
    """A file of the folder: its name without ending, the format it is to be written in, and its plain text.

    Blocks of the text stand between blank lines; a block that starts with "# " is a heading.
    """

    name: str
    format: Format
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked and every fact in the folder that answers it; open questions have no attribute."""

    kind: Kind
    text: str
    entity: str
    attribute: str | None
    gold: tuple[Fact, ...]

    @property
    def values(self) -> tuple[str, ...]:
        """The distinct values of the gold facts, in the order in which they stand in the folder."""
        return tuple(dict.fromkeys(fact.value for fact in self.gold))

    @property
    def documents(self) -> tuple[str, ...]:
        """The names of the documents that hold gold facts."""
        return tuple(dict.fromkeys(fact.document for fact in self.gold))


@dataclass(frozen=True, slots=True)
class World:
    """A folder of documents, the facts in it and the questions to ask about it."""

    seed: int
    documents: tuple[Document, ...]
    facts: tuple[Fact, ...]
    questions: tuple[Question, ...]


def value(rng: random.Random, attribute: Attribute) -> str:
    """Draw a value of the attribute's kind, with its unit where it has one."""
    if attribute.kind == "number":
        top = attribute.high if rng.random() < 0.5 else max(attribute.low + 5, attribute.high // 10)
        return f"{rng.randint(attribute.low, top)} {rng.choice(attribute.units)}"
    if attribute.kind == "colour":
        return rng.choice(COLOURS)
    if attribute.kind == "material":
        return rng.choice(MATERIALS)
    if attribute.kind == "person":
        return names.person(rng)
    if attribute.kind == "place":
        return names.place(rng)
    return str(rng.randint(1400, 2020))


def other_value(rng: random.Random, attribute: Attribute, taken: Sequence[str]) -> str:
    """Draw a value that is none of `taken`; a number keeps the unit of the first of them."""
    while True:
        drawn = value(rng, attribute)
        if attribute.kind == "number" and taken:
            drawn = " ".join([drawn.split()[0], *taken[0].split()[1:]])
        if drawn not in taken:
            return drawn


def fact(rng: random.Random, entity: str, attribute: Attribute, value: str, form: int | None = None) -> Fact:
    """State the fact in one of the sentence forms, any of them unless `form` names one."""
    chosen = FORMS[rng.randrange(len(FORMS)) if form is None else form]
    sentence = chosen.format(
        a=attribute.name,
        e=entity,
        v=value,
        article="an" if attribute.name[0] in "aeiou" else "a",
        s=names.source(rng) if "{s}" in chosen else "",
        y=rng.randint(1500, 2020) if "{y}" in chosen else "",
    )
    return Fact(entity, attribute.name, value, sentence)


def question_text(rng: random.Random, entity: str, attribute: Attribute | None) -> str:
    """Ask for the attribute of the entity, or for all that is said of it."""
    if attribute is None:
        return rng.choice(OPEN_QUESTIONS).format(e=entity)
    if attribute.kind == "person" and rng.random() < 0.5:
        return QUESTION_WHO.format(a=attribute.name, e=entity)
    return rng.choice(QUESTIONS).format(a=attribute.name, e=entity)


def idle_sentence(rng: random.Random) -> str:
    """A sentence that states nothing of any entity."""
    noun, other, verb = rng.choice(IDLE_NOUNS), rng.choice(IDLE_NOUNS), rng.choice(IDLE_VERBS)
    adjective = rng.choice(IDLE_ADJECTIVES)
    word = names.word(rng) if rng.random() < 0.4 else names.word(rng).lower()
    forms = (
        f"The {noun} {verb} before the {adjective} {other}.",
        f"Every {noun} {verb} in {rng.choice(('winter', 'summer', 'spring', 'autumn'))}.",
        f"Most {other} {noun} in {word} is {adjective}.",
        f"The {adjective} {noun} of {word} {verb} after the {other}.",
        f"In {word} the {noun} {verb} at the {other}.",
        f"There is a {adjective} {noun} near {word}.",
        f"{word.capitalize()} has a {adjective} {noun}.",
        f"According to {names.person(rng)}, the {noun} {verb} over the {other}.",
        f"No {noun} {verb} without a {other}.",
        f"Records of the {noun} were {verb[:-1]}n by {word.capitalize()} in {rng.randint(1500, 2020)}.",
    )
    return rng.choice(forms)


def _entities(rng: random.Random, count: int) -> list[str]:
    """Distinct names, some of which share a word."""
    found: list[str] = []
    while len(found) < count:
        name = names.sibling(rng, rng.choice(found)) if found and rng.random() < 0.25 else names.entity(rng)
        if name not in found:
            found.append(name)
    return found


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which attributes of one entity are stated, which are contradicted and which are left out."""

    entity: str
    stated: tuple[Attribute, ...]
    contradicted: tuple[Attribute, ...]
    missing: tuple[Attribute, ...]


def _plan(rng: random.Random, entity: str) -> _Plan:
    shuffled = rng.sample(ATTRIBUTES, len(ATTRIBUTES))
    stated = tuple(shuffled[: rng.randint(3, 8)])
    return _Plan(entity, stated, stated[: rng.choice((0, 0, 1))], tuple(shuffled[8:]))


def _facts(rng: random.Random, plan: _Plan, document_names: Sequence[str]) -> list[Fact]:
    """The facts of one entity, spread over documents; at times one is stated twice in different words."""
    found = []
    for attribute in plan.stated:
        first = value(rng, attribute)
        stated = [first]
        if attribute in plan.contradicted:
            stated.append(other_value(rng, attribute, [first]))
        elif rng.random() < 0.3:
            stated.append(first)
        homes = rng.sample(document_names, min(len(stated), len(document_names)))
        for text, home in zip(stated, homes, strict=False):
            made = fact(rng, plan.entity, attribute, text)
            found.append(Fact(made.entity, made.attribute, made.value, made.sentence, home))
    return found


def _document(rng: random.Random, name: str, facts: Sequence[Fact]) -> Document:
    """Facts and idle sentences in blocks of one to four, under headings."""
    room = max(0, 40 - len(facts))
    sentences = [fact.sentence for fact in facts] + [idle_sentence(rng) for _ in range(rng.randint(0, min(12, room)))]
    rng.shuffle(sentences)
    sentences = sentences or [idle_sentence(rng)]
    blocks = [f"# {name.capitalize()}"] if rng.random() < 0.8 else []
    while sentences:
        size = rng.randint(1, 4)
        blocks.append(" ".join(sentences[:size]))
        sentences = sentences[size:]
        if sentences and rng.random() < 0.15:
            blocks.append(f"# {names.word(rng)}")
    return Document(name, rng.choice(("md", "txt", "html")), "\n\n".join(blocks))


def _in_folder_order(facts: Sequence[Fact], documents: Sequence[Document]) -> tuple[Fact, ...]:
    place = {document.name: index for index, document in enumerate(documents)}
    text = {document.name: document.text for document in documents}
    return tuple(sorted(facts, key=lambda fact: (place[fact.document], text[fact.document].find(fact.sentence))))


def _questions(rng: random.Random, plan: _Plan, facts: Sequence[Fact]) -> list[Question]:
    """At most one question of each kind about one entity."""
    about = tuple(fact for fact in facts if fact.entity == plan.entity)
    asked: list[tuple[Kind, Attribute | None]] = [("unanswerable", rng.choice(plan.missing)), ("open", None)]
    disputed = {fact.attribute for fact in about if len({f.value for f in about if f.subject == fact.subject}) > 1}
    plain = [attribute for attribute in plan.stated if attribute.name not in disputed]
    if plain:
        asked.append(("answerable", rng.choice(plain)))
    asked += [("contradictory", attribute) for attribute in plan.stated if attribute.name in disputed]
    return [
        Question(
            kind,
            question_text(rng, plan.entity, attribute),
            plan.entity,
            None if attribute is None else attribute.name,
            tuple(fact for fact in about if attribute is None or fact.attribute == attribute.name),
        )
        for kind, attribute in asked
    ]


def generate(seed: int, *, documents: tuple[int, int] = (4, 20), entities: tuple[int, int] = (3, 8)) -> World:
    """Generate the world of `seed` with as many documents and entities as the two ranges allow, ends included."""
    rng = random.Random(f"world {seed}")
    document_names = list(dict.fromkeys(names.word(rng).lower() for _ in range(rng.randint(*documents))))
    plans = [_plan(rng, entity) for entity in _entities(rng, rng.randint(*entities))]
    facts = [fact for plan in plans for fact in _facts(rng, plan, document_names)]
    rng.shuffle(facts)
    made = tuple(_document(rng, name, [fact for fact in facts if fact.document == name]) for name in document_names)
    ordered = _in_folder_order(facts, made)
    questions = tuple(question for plan in plans for question in _questions(rng, plan, ordered))
    return World(seed, made, ordered, questions)
