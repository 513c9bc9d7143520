"""Ranking by meaning against plain definitions of the same, with ties, zeros and nothing at all."""

import asyncio
from collections.abc import Sequence
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.messages import TextKind
from localfusion.search.meaning import (
    RANK_OFFSET,
    Embedder,
    Match,
    Vectors,
    closest,
    closest_sentence,
    fuse,
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


FUSED: tuple[tuple[tuple[str, ...], list[str]], ...] = (
    ((), []),
    (("", ""), []),
    (("abc",), ["a", "b", "c"]),
    (("abc", "abc"), ["a", "b", "c"]),
    (("abc", "cba"), ["a", "c", "b"]),
    (("ab", "bc"), ["b", "a", "c"]),
    (("ab", "cd"), ["a", "c", "b", "d"]),
    (("abcdefgh", "h"), ["h", "a", "b", "c", "d", "e", "f", "g"]),
)


@pytest.mark.parametrize(("rankings", "order"), FUSED)
def test_rankings_are_fused(rankings: tuple[str, ...], order: list[str]) -> None:
    assert list(fuse(*rankings)) == order


@given(st.lists(st.permutations(range(12)).flatmap(lambda p: st.integers(0, 12).map(lambda n: p[:n])), max_size=4))
def test_scores_are_sums_over_the_rankings(rankings: list[list[int]]) -> None:
    fused = fuse(*rankings)
    assert list(fused.values()) == sorted(fused.values(), reverse=True)
    assert fused.keys() == {item for ranking in rankings for item in ranking}
    for item, score in fused.items():
        wanted = sum(1 / (RANK_OFFSET + 1 + ranking.index(item)) for ranking in rankings if item in ranking)
        assert score == pytest.approx(wanted)


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
