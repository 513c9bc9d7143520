"""Reciprocal rank fusion: one ranking out of several (Cormack, Clarke and Buettcher 2009). Pure, blind to scores."""

from collections.abc import Hashable, Sequence
from math import fsum
from typing import TypeVar

K = 60
"""The paper's constant: how little the first ranks weigh more than those after."""

T = TypeVar("T", bound=Hashable)


def fuse(rankings: Sequence[Sequence[T]], *, k: int = K) -> list[tuple[T, float]]:
    """Every item of the rankings once, with the sum of 1 / (k + rank) over the rankings that have it, best first.

    An item that stands twice in one ranking counts where it stands first. Of equal items the one that an earlier
    ranking has is first.
    """
    shares: dict[T, list[float]] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            shares.setdefault(item, []).append(1 / (k + rank))
    scores = {item: fsum(parts) for item, parts in shares.items()}
    return sorted(scores.items(), key=lambda scored: -scored[1])  # stable: items were met in the order of rankings
