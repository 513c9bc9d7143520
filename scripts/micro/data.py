"""Training examples: conversations of a panelist and of the judge, with the model's own turns and line labels marked.

A panelist's context is composed as search would bring it: sentences that share words with the query, and idle
ones. An example knows nothing of tensors; `encode` turns it into ids, targets and marks.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from localfusion.analysis import Passage, ToolStep
from localfusion.messages import ToolCall
from localfusion.tools import result_message
from scripts.micro import names, tokenizer
from scripts.micro.lexicon import ATTRIBUTES, Attribute
from scripts.micro.rendering import ChatMessage, render
from scripts.micro.world import FORMS, Fact, Kind, fact, idle_sentence, other_value, question_text, value

Style = Literal["a", "b", "c"]
STYLES: tuple[Style, ...] = ("a", "b", "c")
NOT_SAID = "The sources do not say."
MAX_STATED, MAX_OPEN = 3, 4
OTHER, NEAR, QUOTED, SHARED, REPEATED, DISPUTED = range(6)
ENTITY_DIFFERS, ENTITY_SAME, ATTRIBUTE_DIFFERS, ATTRIBUTE_SAME = range(6, 10)
LABELS = 10
SPECIALTIES: dict[Style, str] = {
    "a": "height depth length width weight age cost population speed capacity",
    "b": "keeper owner founder architect captain builder",
    "c": "colour material home port birthplace river county year founding completion",
}


@dataclass(frozen=True, slots=True)
class Level:
    """How hard the drawn contexts are: sentence forms allowed and how many sentences a context may have."""

    forms: tuple[int, ...]
    sentences: int


LEVELS = (
    Level((0, 2), 2),
    Level((0, 1, 2), 4),
    Level((0, 1, 2, 4), 6),
    Level(tuple(range(len(FORMS))), 8),
    Level(tuple(range(len(FORMS))), 12),
)


@dataclass(frozen=True, slots=True)
class Example:
    """Pieces of text with whether the model wrote them, and the label of each line of results or answers.

    `hints` label words inside lines: (line, byte at which the word ends, label).
    """

    kind: str
    pieces: tuple[tuple[str, bool], ...]
    labels: tuple[int, ...]
    hints: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, whether each is to be predicted, and (position, label) of each marked word, line end and cue."""

    kind: str
    ids: list[int]
    predicted: list[bool]
    marks: list[tuple[int, int]]


def query(style: Style, entity: str, attribute: Attribute | None) -> str:
    """What a panelist of this style searches for."""
    if attribute is None:
        return f"{entity} {SPECIALTIES[style]}"
    if style == "a":
        return f"{attribute.name} of {entity}"
    return f"{entity} {attribute.name}" if style == "b" else f"{entity} {attribute.name} records"


def specialty(style: Style) -> tuple[Attribute, ...]:
    """The attributes that a panelist of this style looks for when the question is open."""
    words = SPECIALTIES[style].split()
    return tuple(attribute for attribute in ATTRIBUTES if attribute.name.split()[-1] in words)


def quote(found: Fact, number: int) -> str:
    """A sentence as it is quoted and cited."""
    return f"“{found.sentence}” [{number}]"


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence as a panelist sees it; `fact` is None for an idle one."""

    text: str
    fact: Fact | None
    number: int


@dataclass(frozen=True, slots=True)
class _Draw:
    """A random source with the level of difficulty that it draws at."""

    rng: random.Random
    level: Level

    def fact(self, entity: str, attribute: Attribute, stated: str | None = None) -> Fact:
        text = value(self.rng, attribute) if stated is None else stated
        return fact(self.rng, entity, attribute, text, self.rng.choice(self.level.forms))

    def wanted(self, kind: Kind, entity: str, attribute: Attribute | None) -> list[Fact]:
        """The facts that answer the question."""
        rng = self.rng
        if kind == "unanswerable":
            return []
        if attribute is None:
            pool = specialty(rng.choice(STYLES)) if rng.random() < 0.6 else ATTRIBUTES
            count = min(rng.randint(1, 6), self.level.sentences, len(pool))
            found = [self.fact(entity, drawn) for drawn in rng.sample(pool, count)]
            if rng.random() < 0.15:
                again = next(drawn for drawn in ATTRIBUTES if drawn.name == found[0].attribute)
                text = found[0].value if rng.random() < 0.5 else other_value(rng, again, [found[0].value])
                found.append(self.fact(entity, again, text))
            return found
        stated = [value(rng, attribute)]
        if kind == "contradictory":
            stated.append(other_value(rng, attribute, stated))
            if rng.random() < 0.15:
                stated.append(other_value(rng, attribute, stated))
        if rng.random() < 0.25:
            stated.append(rng.choice(stated))
        return [self.fact(entity, attribute, text) for text in stated]

    def distractors(self, count: int, entity: str, attribute: Attribute | None) -> list[Fact | None]:
        """Facts that share the entity or the attribute with the question, or neither; None is an idle sentence."""
        rng = self.rng
        others = [names.sibling(rng, entity) for _ in range(2)]
        found: list[Fact | None] = []
        for _ in range(count):
            draw = rng.random()
            if draw < 0.12:
                found.append(None)
            elif draw < 0.5 and attribute is not None:
                found.append(self.fact(entity, rng.choice([one for one in ATTRIBUTES if one != attribute])))
            elif draw < 0.85 and attribute is not None:
                found.append(self.fact(rng.choice(others), attribute))
            else:
                found.append(self.fact(rng.choice(others), rng.choice(ATTRIBUTES)))
        return found

    def lines(self, kind: Kind, entity: str, attribute: Attribute | None) -> list[Line]:
        """The sentences of one search, in the order and with the numbers in which they are shown."""
        rng = self.rng
        wanted = self.wanted(kind, entity, attribute)
        room = max(self.level.sentences - len(wanted), 0 if wanted else 1)
        shown = [*wanted, *self.distractors(rng.randint(0 if wanted else 1, room), entity, attribute)]
        rng.shuffle(shown)
        number = 1
        found: list[Line] = []
        for index, one in enumerate(shown):
            if index and number < 3 and rng.random() < 3 / len(shown):
                number += 1
            found.append(Line(one.sentence if one else idle_sentence(rng), one, number))
        if rng.random() < 0.1:
            order = rng.sample(range(1, 7), 3)
            found = [Line(line.text, line.fact, order[line.number - 1]) for line in found]
        return found


def label_lines(lines: Sequence[Line], entity: str, attribute: str | None) -> list[int]:
    """What each line is to the question: quoted, beyond what is quoted, near, or nothing to do with it."""
    labels: list[int] = []
    limit = MAX_OPEN if attribute is None else MAX_STATED
    for line in lines:
        if line.fact is None or line.fact.entity != entity:
            labels.append(OTHER)
        elif attribute is not None and line.fact.attribute != attribute:
            labels.append(NEAR)
        else:
            labels.append(QUOTED if labels.count(QUOTED) < limit else REPEATED)
    return labels


def attribute_end(found: Fact) -> int:
    """The character of the sentence at which its attribute's name ends."""
    named = re.search(rf"\b{found.attribute}\b", found.sentence)
    return named.end() if named else 0


def hint_words(lines: Sequence[Line], entity: str, attribute: str | None) -> list[tuple[int, int, int]]:
    """Where each line names its entity and its attribute, and whether these are the ones asked for.

    The entity's name is labelled at every character, of which those that end a token are kept.
    """
    hints = []
    for index, line in enumerate(lines):
        if line.fact is None:
            continue
        start, named = line.text.index(line.fact.entity), line.fact.entity
        for length in range(1, len(named) + 1):
            whole = length == len(named)
            agrees = named == entity if whole else entity.startswith(named[:length])
            hints.append((index, start + length, ENTITY_SAME if agrees else ENTITY_DIFFERS))
        if attribute is not None:
            same = ATTRIBUTE_SAME if line.fact.attribute == attribute else ATTRIBUTE_DIFFERS
            hints.append((index, attribute_end(line.fact), same))
    return hints


def panelist_answer(lines: Sequence[Line], labels: Sequence[int]) -> str:
    """What a panelist should write: each distinct value once, in reading order."""
    quoted = [
        quote(line.fact, line.number)
        for line, label in zip(lines, labels, strict=True)
        if label == QUOTED and line.fact is not None
    ]
    return " ".join(quoted) or NOT_SAID


def _result(call: ToolCall, lines: Sequence[Line]) -> ChatMessage:
    """What the search brought, as a run tells it."""
    texts: dict[int, list[str]] = {}
    for line in lines:
        texts.setdefault(line.number, []).append(line.text)
    found = (Passage(number, "", "", " ".join(sentences)) for number, sentences in texts.items())
    message = result_message(ToolStep(call, tuple(found)))
    return {**message.fields, "role": message.role, "content": message.content}


def conversation(
    messages: Sequence[ChatMessage], turns: Sequence[str], style: str = ""
) -> tuple[tuple[str, bool], ...]:
    """The text up to each of the model's turns and the turn itself; `messages` hold assistant turns already."""
    pieces: list[tuple[str, bool]] = []
    done = ""
    own = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for index, turn in zip(own, turns, strict=True):
        prompt = render(messages[:index], style)
        pieces += [(prompt.removeprefix(done), False), (turn + tokenizer.END, True)]
        done = prompt + turn + tokenizer.END
    return tuple(pieces)


def panelist_example(rng: random.Random, level: Level, style: Style) -> Example:
    """Draw one question, one search, what it brought and the answer."""
    kind: Kind = rng.choices(("answerable", "unanswerable", "contradictory", "open"), (45, 15, 20, 20))[0]
    entity = names.entity(rng)
    attribute = None if kind == "open" else rng.choice(ATTRIBUTES)
    lines = _Draw(rng, level).lines(kind, entity, attribute)
    if kind == "unanswerable" and rng.random() < 0.06:
        lines = []
    labels = label_lines(lines, entity, attribute.name if attribute else None)
    asked, searched = question_text(rng, entity, attribute), query(style, entity, attribute)
    answer = panelist_answer(lines, labels)
    call = ToolCall("web_search", {"query": searched})
    function: ChatMessage = {"name": call.name, "arguments": call.arguments}
    messages: list[ChatMessage] = [
        {"role": "user", "content": asked, "question": asked},
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
        _result(call, lines),
        {"role": "assistant", "content": answer},
    ]
    pieces = conversation(messages, (f"<|call|>web_search<|arg|>{searched}", answer), style)
    hints = hint_words(lines, entity, attribute.name if attribute else None)
    return Example(kind, pieces, tuple(labels), tuple(hints))


def encode(example: Example) -> Encoded:
    """Tokenize piece by piece; the lines of the last results or answers end with a newline and a cue.

    The cue repeats how the line began: there, unlike at the beginning itself, it is known what the line says.
    """
    ids: list[int] = []
    predicted: list[bool] = []
    newline = tokenizer.encode("\n")[0]
    for text, own in example.pieces:
        piece = tokenizer.encode(text)
        ids += piece
        predicted += [own] * len(piece)
    openings = [tokenizer.encode(opening)[0] for opening in ("<|results|>", "<|answers|>")]
    opened = max(at for at, token in enumerate(ids) if token in openings and not predicted[at]) + 1
    ends = [at for at, token in enumerate(ids) if at > opened and token == newline and not predicted[at]]
    cues = [_cue(ids, end) for end in ends]
    marks = [(at, label) for cue, label in zip(cues, example.labels, strict=False) for at in cue[:-1]]
    return Encoded(example.kind, ids, predicted, marks + _locate(example, ids, ends, cues))


def _cue(ids: Sequence[int], end: int) -> range:
    """The positions from a line's end to the mark that closes its cue; only the end where there is none."""
    closing = tokenizer.encode(">")[0]
    at = end
    while at < min(end + 40, len(ids) - 1) and ids[at] != closing:
        at += 1
    return range(end, at + 1) if ids[at] == closing else range(end, end + 2)


def _locate(example: Example, ids: Sequence[int], ends: Sequence[int], cues: Sequence[range]) -> list[tuple[int, int]]:
    """The positions of the tokens at which the hinted words end."""
    found = []
    for line, end_byte, label in example.hints:
        at = cues[line - 1][-1] + 1 if line else ends[0] - _line_tokens(ids, ends[0])
        length = 0
        while length < end_byte:
            length += len(tokenizer.vocabulary().tokens[ids[at]])
            at += 1
        if length == end_byte:
            found.append((at - 1, label))
    return found


def _line_tokens(ids: Sequence[int], end: int) -> int:
    """How many tokens stand between the newline before `end` and `end`."""
    return list(reversed(ids[:end])).index(ids[end])
