"""Ranking by meaning against plain definitions of the same, with ties, zeros and nothing at all."""

import asyncio
from collections.abc import Sequence
from math import sqrt

import numpy as np

from localfusion.messages import TextKind
from localfusion.search.meaning import (
    Embedder,
    Match,
    Vectors,
    closest,
    closest_sentence,
    rank,
    similarities,
)


class LetterEmbedder:
    """Counts letters: a model of meaning that anybody can compute."""

    identity = "letters"

    def __init__(self) -> None:
        self.asked: list[tuple[TextKind, tuple[str, ...]]] = []

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Vectors:
        self.asked.append((kind, tuple(texts)))
        return np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], np.float32)


def test_similarities_are_cosines() -> None:
    vectors = np.array([[1, 0], [0, 2], [3, 3], [-4, 0], [0, 0]], np.float32)
    expected = [1, 0, round(1 / sqrt(2), 6), -1, 0]
    assert similarities(np.array([5, 0], np.float32), vectors).tolist() == expected
    assert similarities(np.zeros(2, np.float32), vectors).tolist() == [0] * 5


def test_equally_close_ones_stay_in_order() -> None:
    vectors = np.array([[0, 1], [1, 0], [2, 0], [1, 1], [1, 0]], np.float32)
    assert rank(np.array([1, 0], np.float32), vectors) == [1, 2, 4, 3, 0]
    assert rank(np.array([1, 0], np.float32), vectors[:0]) == []


def test_the_closest_sentence_is_found_with_one_request() -> None:
    letters = LetterEmbedder()
    embedder: Embedder = letters

    async def run(claim: str, *sentences: str) -> Match | None:
        return await closest_sentence(embedder, claim, sentences)

    assert asyncio.run(run("aab", "ccc", "abc", "aaaabb", "aab")) == Match(2, 1.0)
    assert letters.asked == [("passage", ("aab", "ccc", "abc", "aaaabb", "aab"))]
    assert asyncio.run(run("aab")) is None
    assert asyncio.run(run("", "abc")) == Match(0, 0.0)
    assert closest(np.ones(2, np.float32), np.zeros((0, 2), np.float32)) is None
