"""How well passages answer a query, by their terms: bm25 over the whole passage, and its best sentence. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nlargest

from localfusion.search.query import Query
from localfusion.search.sentences import Weights, coverage

_SATURATION = 1.2  # bm25's k1
_LENGTH_SHARE = 0.6  # bm25's b
_TYPICAL_CHARACTERS = 1200
_TITLE_WEIGHT = 3
_HEADINGS_WEIGHT = 2
_SENTENCE_SHARE = 1.0
_MAX_READ = 24
"""Passages whose sentences are looked at."""


@dataclass(frozen=True)
class Hit:
    """A passage that may answer: its terms line by line, of the title, the headings, then of each sentence."""

    id: int
    language: str
    lines: str

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """The terms of title, headings and text; each has a space on both sides."""
        title, headings, *text = self.lines.split("\n", 2)
        return title, headings, text[0] if text else ""


def rank(hits: Sequence[Hit], queries: Mapping[str, Query], weights: Mapping[str, Weights]) -> list[tuple[Hit, float]]:
    """The best hits with their scores, best first: bm25 and the best sentence, each scaled to the best of all.

    Without the scale a query of many words would be won by pages that hold many of them, each in another sentence.
    """
    terms = {
        language: [(f" {t} ", weight) for t, weight in found.items() if weight] for language, found in weights.items()
    }
    relevance = {hit.id: _relevance(hit, terms[hit.language]) for hit in hits}
    read = nlargest(_MAX_READ, hits, key=lambda hit: (relevance[hit.id], -hit.id))
    sentences = {hit.id: _best_sentence(hit, queries[hit.language], weights[hit.language]) for hit in read}
    best_passage = max((relevance[hit.id] for hit in read), default=0.0)
    best_sentence = max(sentences.values(), default=0.0)
    scored = [
        (hit, _scaled(relevance[hit.id], best_passage) + _SENTENCE_SHARE * _scaled(sentences[hit.id], best_sentence))
        for hit in read
    ]
    return sorted(scored, key=lambda item: (-item[1], item[0].id))


def _relevance(hit: Hit, terms: Sequence[tuple[str, float]]) -> float:
    """bm25 where a term in the title or in a heading counts as if it stood in the text several times."""
    title, headings, text = hit.parts
    length = _SATURATION * (1 - _LENGTH_SHARE + _LENGTH_SHARE * len(text) / _TYPICAL_CHARACTERS)
    score = 0.0
    for around, weight in terms:
        count = text.count(around) + _TITLE_WEIGHT * (around in title) + _HEADINGS_WEIGHT * (around in headings)
        if count:
            score += weight * count / (count + length)
    return score


def _best_sentence(hit: Hit, query: Query, weights: Weights) -> float:
    title, headings, text = hit.parts
    return coverage(
        [line.split() for line in text.split("\n")], query, weights, around={*title.split(), *headings.split()}
    )


def _scaled(value: float, best: float) -> float:
    return value / best if best > 0 else 0.0
