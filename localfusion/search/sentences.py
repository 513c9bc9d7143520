"""Sentences: where they end, and which of them answer a query best. Pure functions over plain text.

Rules for European languages and full-width stops; no grammar, no meaning. Every sentence is a piece of the
text as it stands.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

from localfusion.search.blocks import word_set
from localfusion.search.languages import DEFAULT, STOP_WORDS
from localfusion.search.query import Query
from localfusion.search.tokens import terms

Weights = Mapping[str, float]

_PRONOUNS = frozenset(terms("it its he his she her they their this these"))
_TITLES = word_set(
    "mr mrs ms dr prof rev hon st ste sr capt col gen lt maj sgt adm gov pres no nos fig figs vol vols p pp ch "
    "sec art approx ca cf vs viz e.g i.e eg ie al nr jr"
)
"""A full stop after one of these never ends a sentence."""
_SHORT_FORMS = word_set("inc ltd co corp bros est dept univ assn ave rd mt ft etc a.m p.m u.s u.k")
"""A full stop after one of these ends a sentence only where the next word is a plain word that opens one."""

_END = re.compile(r"(?:[.!?…]+[\"'”’»)\]]*(?=\s)|[。\uff01\uff1f]+[」』”’]*)\s*")
_ROUGH_END = re.compile(r"[.!?…](?<=[^\W_]{3}[.!?…])[.!?…]*[\"'”’»)\]]*\s+(?![a-z])|[。\uff01\uff1f]+[」』”’]*")
_LAST_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*$")
_NEXT_WORD = re.compile(r"[\"'“‘«(\[¿¡]*([^\W_]*)")
_SHORT_FORM_WIDTH = 16
"""Characters before a full stop that are looked at: more than any title or short form has."""
_BEHIND = re.compile(r"\s*\S{0,200}\s*\S{0,200}")
"""What must be known behind a place to tell whether a sentence ends there."""
_PAIR_BONUS = 0.5
_CONTEXT_SHARE = 0.5
_PRONOUN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class _Sentence:
    """Where a sentence stands in a text, and in which of its lines."""

    start: int
    end: int
    line: int


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences of `text` in order, trimmed, none empty; a newline always ends one."""
    return tuple(text[start:end] for start, end in sentence_spans(text))


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of `text` begin and end."""
    return ((sentence.start, sentence.end) for sentence in _sentences(text))


def break_roughly(text: str) -> str:
    """`text` with a newline behind what looks like the end of a sentence, short forms and all; twenty times as fast."""
    return _ROUGH_END.sub("\n", text)


def coverage(sentences: Sequence[Sequence[str]], query: Query, weights: Weights, *, around: Collection[str]) -> float:
    """How much of the query the best sentence holds, 0 to about 1; each sentence is given by its terms.

    `around` holds the terms of title and headings, which count half. `weights` says how much each stem of the query
    matters (its idf); a stem that it lacks counts 1.
    """
    whole = sum(_weight(stem, weights) for stem in query.stems)
    if not whole:
        return 0.0
    return max(_scores(sentences, query, weights, around), default=0.0) / whole


def select(text: str, query: Query, weights: Weights, *, max_characters: int) -> str:
    """The whole sentences of `text` that match the query best, in the order of the text, within `max_characters`.

    Sentences without any match are left out unless none matches. Neighbours stay on one line, so every line
    of the result is a run of the text as it stands. Where not even the best sentence fits, its beginning.
    """
    sentences = list(_sentences(text))
    written = [text[sentence.start : sentence.end] for sentence in sentences]
    by_sentence = [terms(sentence, query.language, with_characters=True) for sentence in written]
    scores = _scores(by_sentence, query, weights, ())
    matching = [index for index, score in enumerate(scores) if score > 0] or list(range(len(sentences)))
    ranked = sorted(matching, key=lambda index: (-scores[index], index))
    chosen: list[int] = []
    room = max_characters
    for index in ranked:
        taken = len(written[index]) + max(_gap(sentences, index) - 1, 0)
        if taken <= room:
            chosen.append(index)
            room -= taken + 1
    if not chosen and ranked:
        return _cut(written[ranked[0]], max_characters)
    return _assemble(text, sentences, sorted(chosen))


def leading_sentences(text: str, max_characters: int) -> str:
    """The longest beginning of `text`, white space around it aside, that ends with a sentence and fits."""
    text = text.strip()
    if len(text) <= max_characters:
        return text
    behind = _BEHIND.match(text, max(max_characters, 0))
    end = 0
    start = 0
    for sentence in split_sentences(text[: behind.end()] if behind else text):
        start = text.index(sentence, start) + len(sentence)
        if start > max_characters:
            break
        end = start
    return text[:end] if end else _cut(text, max_characters)


def _sentences(text: str) -> Iterator[_Sentence]:
    start = 0
    for number, row in enumerate(text.splitlines(keepends=True)):
        line = row.strip()
        first = start + len(row) - len(row.lstrip())
        for begin, end in _split_line(line):
            yield _Sentence(first + begin, first + end, number)
        start += len(row)


def _split_line(line: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of a trimmed line stand."""
    start = 0
    for match in _END.finditer(line):
        if _ends_here(line, start, match):
            yield start, start + len(line[start : match.end()].rstrip())
            start = match.end()
    if start < len(line):
        yield start, len(line)


def _gap(sentences: Sequence[_Sentence], index: int) -> int:
    """The characters between a sentence and the next one of its line."""
    one, *after = sentences[index : index + 2]
    return after[0].start - one.end if after and after[0].line == one.line else 0


def _ends_here(line: str, start: int, match: re.Match[str]) -> bool:
    if match.end() == len(line) or line[match.start()] in "。\uff01\uff1f":
        return True
    following = _NEXT_WORD.match(line, match.end())
    word = following.group(1) if following else ""
    if word and word[0].islower():
        return False
    if line[match.start()] != "." or line[match.start() : match.end()].startswith(".."):
        return True
    return _full_stop_ends(line[max(start, match.start() - _SHORT_FORM_WIDTH) : match.start()], word)


def _full_stop_ends(before: str, following: str) -> bool:
    """Whether the full stop after `before` ends a sentence when `following` is the next word."""
    last = _LAST_WORD.search(before)
    word = last.group(0) if last else ""
    opener = following.lower() in STOP_WORDS[DEFAULT]
    if word.lower() in _TITLES:
        # "no" is also a plain word, and an article number is a number.
        return word.lower() in ("no", "art", "p") and not following[:1].isdigit()
    initial = len(word) == 1 and word.isalpha() and word.isupper()
    if initial or word.lower() in _SHORT_FORMS:
        return opener
    return True


def _scores(sentences: Sequence[Sequence[str]], query: Query, weights: Weights, around: Collection[str]) -> list[float]:
    """A sentence's weight of distinct matches; one that opens with a pronoun inherits part of the one before."""
    elsewhere = sum(_CONTEXT_SHARE * _weight(stem, weights) for stem in query.stems if stem in around)
    shares = {stem: (1 - _CONTEXT_SHARE * (stem in around)) * _weight(stem, weights) for stem in query.stems}
    scores: list[float] = []
    for stems in sentences:
        here = shares.keys() & stems
        score = elsewhere + sum(shares[stem] for stem in here) + _PAIR_BONUS * _beside(stems, here, query, weights)
        if scores and stems and stems[0] in _PRONOUNS:
            score = max(score, _PRONOUN_SHARE * scores[-1])
        scores.append(score)
    return scores


def _beside(stems: Sequence[str], here: Set[str], query: Query, weights: Weights) -> float:
    """The weight of the query's pairs that stand side by side in a sentence."""
    if len(here) < 2 or not query.pairs:
        return 0.0
    found = query.pairs.intersection(pairwise(stems))
    return sum(min(_weight(a, weights), _weight(b, weights)) for a, b in found)


def _weight(stem: str, weights: Weights) -> float:
    return weights.get(stem, 1.0)


def _assemble(text: str, sentences: Sequence[_Sentence], chosen: Sequence[int]) -> str:
    pieces: list[str] = []
    for position, index in enumerate(chosen):
        sentence = sentences[index]
        if position:
            before = chosen[position - 1]
            together = before == index - 1 and sentences[before].line == sentence.line
            pieces.append(text[sentences[before].end : sentence.start] if together else "\n")
        pieces.append(text[sentence.start : sentence.end])
    return "".join(pieces)


def _cut(text: str, max_characters: int) -> str:
    """The beginning of `text` up to a word's end within `max_characters`."""
    if len(text) <= max_characters:
        return text
    words = text[: max_characters + 1].rsplit(maxsplit=1)
    return words[0] if len(words) == 2 else text[:max_characters].rstrip()
