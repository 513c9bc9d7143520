"""Ranking by meaning: cosines of vectors, and the sentence that is closest to a claim.

Pure functions over arrays that an embedding model made elsewhere. That the ranking is the one of numpy is tested; how
good it is depends on the model and is not: no embedding model ships, and the tests' own know nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localfusion.messages import TextKind

Vectors = NDArray[np.float32]
"""(n, d): a row of length 1 for each text, or of zeros."""

DIGITS = 6
"""How far two cosines are told apart; what float32 makes of one text in another company differs behind it."""


class Embedder(Protocol):
    """What makes vectors of texts."""

    @property
    def identity(self) -> str:
        """The same for the same model with the same settings, and for no other: vectors of two cannot be compared."""
        ...

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Vectors:
        """A row for each text. Raises ModelError."""
        ...


@dataclass(frozen=True, slots=True)
class Match:
    """Which of several texts is the closest, and the cosine, -1 to 1."""

    index: int
    similarity: float


def similarities(query: NDArray[np.float32], vectors: Vectors) -> NDArray[np.float64]:
    """The cosine of a vector (d) with each of several (n, d), to `DIGITS`; 0 with one of zeros."""
    cosines = vectors.astype(np.float64) @ query.astype(np.float64)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(query.astype(np.float64))
    rounded: NDArray[np.float64] = np.round(cosines / np.where(lengths > 0, lengths, 1), DIGITS)
    return rounded


def rank(query: NDArray[np.float32], vectors: Vectors) -> list[int]:
    """The rows of `vectors` from the closest to the farthest; of equally close ones the first comes first."""
    order: list[int] = np.argsort(-similarities(query, vectors), kind="stable").tolist()
    return order


def closest(claim: NDArray[np.float32], sentences: Vectors) -> Match | None:
    """The sentence (a row) that is closest to a claim; None where there is none."""
    if not len(sentences):
        return None
    found = similarities(claim, sentences)
    index = int(np.argmax(found))
    return Match(index, float(found[index]))


async def closest_sentence(embedder: Embedder, claim: str, sentences: Sequence[str]) -> Match | None:
    """The sentence that says most nearly what a claim says. Raises ModelError.

    All are embedded as passages: a claim is compared with its like, it asks nothing.
    """
    if not sentences:
        return None
    vectors = await embedder.embed([claim, *sentences], kind="passage")
    return closest(vectors[0], vectors[1:])
