"""Training examples of the judge: answers of a panel, the analysis of them and the final answer.

What counts as consensus, contradiction, partial coverage, unique insight and blind spot is decided in `analyse`.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.micro import names
from scripts.micro.data import (
    ATTRIBUTE_DIFFERS,
    ATTRIBUTE_SAME,
    DISPUTED,
    ENTITY_DIFFERS,
    ENTITY_SAME,
    MAX_OPEN,
    NOT_SAID,
    OTHER,
    QUOTED,
    REPEATED,
    SHARED,
    STYLES,
    Example,
    Level,
    attribute_end,
    conversation,
    quote,
    specialty,
)
from scripts.micro.lexicon import ATTRIBUTES
from scripts.micro.rendering import ChatMessage
from scripts.micro.world import Fact, fact, other_value, question_text, value

Key = tuple[str, str, str]
"""What a fact says, whatever its words: entity, attribute, value."""


@dataclass(frozen=True, slots=True)
class Cited:
    """A fact with the run-wide number of the source that states it."""

    fact: Fact
    number: int

    @property
    def text(self) -> str:
        """The sentence, quoted and cited."""
        return quote(self.fact, self.number)

    @property
    def key(self) -> Key:
        """What it says."""
        return (*self.fact.subject, self.fact.value)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one panelist wrote: quotes, or none where it found nothing."""

    id: str
    quotes: tuple[Cited, ...]

    @property
    def text(self) -> str:
        """The answer as the judge reads it."""
        return " ".join(cited.text for cited in self.quotes) or NOT_SAID


@dataclass(frozen=True, slots=True)
class Found:
    """A fact as it was first met, and the panelists that state it, in reading order."""

    first: Cited
    models: tuple[str, ...]


def gather(answers: Sequence[Answer]) -> list[Found]:
    """The distinct facts of all answers, in reading order."""
    first: dict[Key, Cited] = {}
    models: dict[Key, list[str]] = {}
    for answer in answers:
        for cited in answer.quotes:
            first.setdefault(cited.key, cited)
            said = models.setdefault(cited.key, [])
            if answer.id not in said:
                said.append(answer.id)
    return [Found(cited, tuple(models[key])) for key, cited in first.items()]


def disputes(found: Sequence[Found]) -> list[list[Found]]:
    """Groups of facts of one subject that differ in value."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for one in found:
        groups.setdefault(one.first.fact.subject, []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def analyse(answers: Sequence[Answer]) -> str:
    """The analysis as compact JSON."""
    found = gather(answers)
    disputed = disputes(found)
    settled = [one for one in found if not any(one in group for group in disputed)]
    shared = [one for one in settled if len(one.models) > 1]
    analysis = {
        "consensus": [one.first.text for one in shared],
        "contradictions": [
            {
                "topic": group[0].first.fact.attribute,
                "stances": [{"model": one.models[0], "stance": one.first.text} for one in group],
            }
            for group in disputed
        ],
        "partial_coverage": [
            {"models": list(one.models), "point": one.first.text} for one in shared if len(one.models) < len(answers)
        ],
        "unique_insights": [
            {"model": one.models[0], "insight": one.first.text} for one in settled if len(one.models) == 1
        ],
        "blind_spots": [] if found else [NOT_SAID],
    }
    return json.dumps(analysis, ensure_ascii=False, separators=(",", ":"))


def conclude(answers: Sequence[Answer]) -> str:
    """The final answer: what is agreed, what one alone adds, and both sides of what is disputed."""
    found = gather(answers)
    disputed = disputes(found)
    settled = [one for one in found if not any(one in group for group in disputed)]
    parts = [one.first.text for one in settled if len(one.models) > 1]
    parts += [one.first.text for one in settled if len(one.models) == 1]
    for group in disputed:
        parts.append("The sources disagree: " + " ".join(one.first.text for one in group))
    return " ".join(parts) or NOT_SAID


def label_quotes(answers: Sequence[Answer]) -> list[int]:
    """What each line is to the analysis, those after it considered too: the judge reads the answers twice."""
    found = gather(answers)
    shared = {one.first.key for one in found if len(one.models) > 1}
    disputed = {one.first.key for group in disputes(found) for one in group}
    labels: list[int] = []
    said: set[Key] = set()
    for answer in answers:
        if not answer.quotes:
            labels.append(OTHER)
        for key in (cited.key for cited in answer.quotes):
            if key in said:
                labels.append(REPEATED)
            elif key in disputed:
                labels.append(DISPUTED)
            else:
                labels.append(SHARED if key in shared else QUOTED)
            said.add(key)
    return labels


def hint_quotes(answers: Sequence[Answer], entity: str) -> list[tuple[int, int, int]]:
    """Where each line names its entity and attribute: whether asked for, and whether another line has it too."""
    hints = []
    line = 0
    count = Counter(cited.fact.attribute for answer in answers for cited in answer.quotes)
    for answer in answers:
        for cited in answer.quotes:
            start = len(f"{answer.id} “".encode())
            name_end = start + cited.fact.sentence.index(cited.fact.entity) + len(cited.fact.entity)
            hints.append((line, name_end, ENTITY_SAME if cited.fact.entity == entity else ENTITY_DIFFERS))
            same = ATTRIBUTE_SAME if count[cited.fact.attribute] > 1 else ATTRIBUTE_DIFFERS
            hints.append((line, start + attribute_end(cited.fact), same))
            line += 1
        line += not answer.quotes
    return hints


def _single(rng: random.Random, level: Level, entity: str) -> tuple[list[list[Cited]], str]:
    """Three answers to a question for one fact, before anything goes wrong."""
    attribute = rng.choice(ATTRIBUTES)
    stated = [value(rng, attribute)]
    if rng.random() < 0.4:
        stated.append(other_value(rng, attribute, stated))
    if rng.random() < 0.4:
        stated.append(rng.choice(stated))
    pool = [
        Cited(fact(rng, entity, attribute, text, rng.choice(level.forms)), number)
        for number, text in enumerate(stated, start=1)
    ]
    rng.shuffle(pool)
    answers = []
    for _ in range(3):
        seen = pool if rng.random() < 0.6 else rng.sample(pool, rng.randint(1, len(pool)))
        distinct: dict[str, Cited] = {}
        for cited in rng.sample(seen, len(seen)) if rng.random() < 0.3 else seen:
            distinct.setdefault(cited.fact.value, cited)
        answers.append(list(distinct.values()))
    return answers, question_text(rng, entity, attribute)


def _open(rng: random.Random, level: Level, entity: str) -> tuple[list[list[Cited]], str]:
    """Three answers to an open question, each mostly from its own specialty."""
    most = max(1, min(MAX_OPEN, level.sentences // 2))
    pool: list[Cited] = []
    answers: list[list[Cited]] = []
    for style in STYLES:
        drawn = rng.sample(specialty(style), rng.randint(1, most))
        own = [
            Cited(fact(rng, entity, one, value(rng, one), rng.choice(level.forms)), rng.randint(1, 8)) for one in drawn
        ]
        for cited in rng.sample(pool, min(len(pool), rng.choice((0, 1, 1, 2, 3)))):
            own[rng.randrange(len(own))] = _again(rng, level, cited)
        pool += own
        answers.append(own)
    return answers, question_text(rng, entity, None)


def _again(rng: random.Random, level: Level, cited: Cited) -> Cited:
    """The same fact as another panelist met it: the same sentence, other words, or another value."""
    draw = rng.random()
    if draw < 0.4:
        return cited
    attribute = next(one for one in ATTRIBUTES if one.name == cited.fact.attribute)
    stated = cited.fact.value if draw < 0.65 else other_value(rng, attribute, [cited.fact.value])
    return Cited(fact(rng, cited.fact.entity, attribute, stated, rng.choice(level.forms)), rng.randint(1, 9))


def _spoil(rng: random.Random, level: Level, quotes: list[Cited]) -> list[Cited]:
    """At times a panelist finds nothing, or quotes what was not asked for."""
    draw = rng.random()
    if draw < 0.12:
        return []
    if draw < 0.2:
        attribute = rng.choice(ATTRIBUTES)
        stray = fact(rng, names.entity(rng), attribute, value(rng, attribute), rng.choice(level.forms))
        return [Cited(stray, rng.randint(1, 9)), *quotes[1:]]
    return quotes


def judge_example(rng: random.Random, level: Level) -> Example:
    """Draw a question, the answers of one to three panelists, the analysis and the final answer."""
    entity = names.entity(rng)
    drawn, asked = _open(rng, level, entity) if rng.random() < 0.7 else _single(rng, level, entity)
    kept = [[]] * 3 if rng.random() < 0.08 else [_spoil(rng, level, quotes) for quotes in drawn]
    rng.shuffle(kept)
    count = rng.choices((3, 2, 1), (85, 12, 3))[0]
    ids = rng.sample("abc", 3)
    answers = [Answer(name, tuple(quotes)) for name, quotes in zip(ids[:count], kept, strict=False)]
    analysis, final = analyse(answers), conclude(answers)
    shown: list[ChatMessage] = [{"id": answer.id, "text": answer.text} for answer in answers]
    messages: list[ChatMessage] = [
        {"role": "user", "content": asked, "question": asked, "answers": shown},
        {"role": "assistant", "content": analysis},
        {"role": "user", "content": "", "task": "answer"},
        {"role": "assistant", "content": final},
    ]
    pieces = conversation(messages, (analysis, final))
    return Example("judge", pieces, tuple(label_quotes(answers)), tuple(hint_quotes(answers, entity)))
