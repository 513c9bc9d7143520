"""Sentences: where they end, and which of them answer a query best. Pure functions over plain text.

Rules for European languages and full-width stops; no grammar, no meaning. Every sentence is a piece of the
text as it stands.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from localfusion.search.blocks import word_set

STOP_WORDS = word_set(
    "a about after all also an and any are as at be been before between but by can could did do does during "
    "for from had has have he her his how i if in into is it its me more most my no not of on or our over "
    "please say said says she should so some source sources such tell than that the their them then there "
    "these they this those to under us was we were what when where which while who whom whose why will with "
    "would you your s t"
)
_PRONOUNS = word_set("it its he his she her they their this these")
_TITLES = word_set(
    "mr mrs ms dr prof rev hon st ste sr capt col gen lt maj sgt adm gov pres no nos fig figs vol vols p pp ch "
    "sec art approx ca cf vs viz e.g i.e eg ie al nr jr"
)
"""A full stop after one of these never ends a sentence."""
_SHORT_FORMS = word_set("inc ltd co corp bros est dept univ assn ave rd mt ft etc a.m p.m u.s u.k")
"""A full stop after one of these ends a sentence only where the next word is a plain word that opens one."""

_WORD = re.compile(r"[^\W_]+")
_END = re.compile(r"(?:[.!?…]+[\"'”’»)\]]*(?=\s)|[。\uff01\uff1f]+[」』”’]*)\s*")
_LAST_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*$")
_NEXT_WORD = re.compile(r"[\"'“‘«(\[¿¡]*([^\W_]*)")
_SHORT_FORM_WIDTH = 16
"""Characters before a full stop that are looked at: more than any title or short form has."""
_PAIR_BONUS = 0.5
_CONTEXT_SHARE = 0.5
_PRONOUN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for: distinct `words` as written, their folded `stems`, and pairs of neighbouring stems.

    `words` are for an index, which folds them in its own way; all else is for the functions here.
    `names` are the stems of words that are capitalised: who or what the query is about.
    """

    words: tuple[str, ...]
    stems: tuple[str, ...]
    pairs: frozenset[tuple[str, str]]
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    line: int


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences of `text` in order, trimmed, none empty; a newline always ends one."""
    return tuple(sentence for line in text.splitlines() for sentence in _split_line(line))


def parse_query(text: str) -> Query:
    """The words of a free text that matter; all of them where only stop words are there, none where no word is."""
    written = _written_words(unicodedata.normalize("NFC", text))
    kept = [word for word in written if not STOP_WORDS.issuperset(fold_words(word))] or written
    distinct: dict[str, str] = {}
    for word in kept:
        distinct.setdefault(word.lower(), word)
    folded = set(fold_words(" ".join(kept)))
    return Query(
        words=tuple(distinct.values()),
        stems=tuple(dict.fromkeys(stems(" ".join(kept)))),
        pairs=frozenset((stem(a), stem(b)) for a, b in pairwise(fold_words(" ".join(written))) if {a, b} <= folded),
        names=frozenset(stems(" ".join(word for word in kept if word[0].isupper()))),
    )


def _written_words(text: str) -> list[str]:
    """The words of `text` as they stand, each letter with its marks."""
    return "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()


def stems(text: str) -> list[str]:
    """The stem of each word of `text`, in order."""
    return [stem(word) for word in fold_words(text)]


def fold_words(text: str) -> list[str]:
    """The words of `text` without case, diacritics and width."""
    folded = text.casefold()
    if not folded.isascii():
        folded = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    return _WORD.findall(folded)


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A folded word without its plural or its -ed and -ing; light, so that two words rarely fall together."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def coverage(text: str, query: Query, weights: Mapping[str, float], *, context: str = "") -> float:
    """How much of the query the best sentence of `text` holds, 0 to about 1; `context` (title, headings) counts half.

    `weights` says how much each stem matters (its idf); a stem that it lacks counts 1.
    """
    whole = sum(_weight(stem_, weights) for stem_ in query.stems)
    if not whole:
        return 0.0
    around = set(stems(context))
    scores = _scores(split_sentences(text), query, weights, around)
    return max(scores, default=0.0) / whole


def select(text: str, query: Query, weights: Mapping[str, float], *, max_characters: int) -> str:
    """The whole sentences of `text` that match the query best, in the order of the text, within `max_characters`.

    Sentences without any match are left out unless none matches. Neighbours stay on one line, so every line
    of the result is a run of the text as it stands. Where not even the best sentence fits, its beginning.
    """
    sentences = [_Sentence(s, line) for line, row in enumerate(text.splitlines()) for s in _split_line(row)]
    scores = _scores([sentence.text for sentence in sentences], query, weights, frozenset())
    matching = [index for index, score in enumerate(scores) if score > 0] or list(range(len(sentences)))
    ranked = sorted(matching, key=lambda index: (-scores[index], index))
    chosen: list[int] = []
    room = max_characters
    for index in ranked:
        if len(sentences[index].text) <= room:
            chosen.append(index)
            room -= len(sentences[index].text) + 1
    if not chosen and ranked:
        return _cut(sentences[ranked[0]].text, max_characters)
    return _assemble(sentences, sorted(chosen))


def leading_sentences(text: str, max_characters: int) -> str:
    """The longest beginning of `text`, white space around it aside, that ends with a sentence and fits."""
    text = text.strip()
    if len(text) <= max_characters:
        return text
    end = 0
    start = 0
    for sentence in split_sentences(text):
        start = text.index(sentence, start) + len(sentence)
        if start > max_characters:
            break
        end = start
    return text[:end] if end else _cut(text, max_characters)


def _split_line(line: str) -> list[str]:
    line = line.strip()
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(line):
        if _ends_here(line, start, match):
            sentences.append(line[start : match.end()].strip())
            start = match.end()
    if start < len(line):
        sentences.append(line[start:].strip())
    return sentences


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
    opener = following.lower() in STOP_WORDS
    if word.lower() in _TITLES:
        # "no" is also a plain word, and an article number is a number.
        return word.lower() in ("no", "art", "p") and not following[:1].isdigit()
    initial = len(word) == 1 and word.isalpha() and word.isupper()
    if initial or word.lower() in _SHORT_FORMS:
        return opener
    return True


def _scores(
    sentences: Sequence[str], query: Query, weights: Mapping[str, float], around: frozenset[str] | set[str]
) -> list[float]:
    """A sentence's weight of distinct matches; one that opens with a pronoun inherits part of the one before."""
    scores: list[float] = []
    for sentence in sentences:
        words = fold_words(sentence)
        stems = [stem(word) for word in words]
        here = set(stems)
        score = sum(_weight(s, weights) * _share(s, here, around) for s in query.stems)
        neighbours = set(pairwise(stems))
        score += _PAIR_BONUS * sum(min(_weight(a, weights), _weight(b, weights)) for a, b in query.pairs & neighbours)
        if scores and words and words[0] in _PRONOUNS:
            score = max(score, _PRONOUN_SHARE * scores[-1])
        scores.append(score)
    return scores


def _share(stem_: str, here: set[str], around: frozenset[str] | set[str]) -> float:
    return 1.0 if stem_ in here else _CONTEXT_SHARE if stem_ in around else 0.0


def _weight(stem_: str, weights: Mapping[str, float]) -> float:
    return weights.get(stem_, 1.0)


def _assemble(sentences: Sequence[_Sentence], chosen: Sequence[int]) -> str:
    pieces: list[str] = []
    for position, index in enumerate(chosen):
        if position:
            before = chosen[position - 1]
            together = before == index - 1 and sentences[before].line == sentences[index].line
            pieces.append(" " if together else "\n")
        pieces.append(sentences[index].text)
    return "".join(pieces)


def _cut(text: str, max_characters: int) -> str:
    """The beginning of `text` up to a word's end within `max_characters`."""
    if len(text) <= max_characters:
        return text
    words = text[: max_characters + 1].rsplit(maxsplit=1)
    return words[0] if len(words) == 2 else text[:max_characters].rstrip()
