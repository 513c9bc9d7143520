"""Choosing the next token from logits, in numpy, with llama.cpp's definitions and order of steps.

Order: mask of the constraint, repeat penalty, then (unless greedy) top-k, top-p, min-p, temperature, draw.
Greedy takes the highest logit, the lowest id among equals. Not here: the constraint itself.

A vocabulary has up to 260 000 tokens and a step of a small model takes ten milliseconds: nothing here sorts
or copies the whole of it where a look at it will do.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localfusion.messages import Sampling

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
PENALTY_LAST_N = 64
"""llama.cpp's default: how many of the last tokens the repeat penalty looks at."""
COLDEST = 1e-6
"""A lower temperature is this one: the highest has all there is, and nothing overflows."""
BLOCK = 64
"""Logits whose highest stands for them all in the search for the top k."""


class LogitsError(Exception):
    """Logits among which none is the highest: NaN, infinity, or minus infinity for every token that may come."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Which tokens a constraint admits: one bit a token, the lowest bit of the first byte for token 0."""

    packed: NDArray[np.uint8]

    def __contains__(self, token: int) -> bool:
        return bool(self.packed[token >> 3] >> (token & 7) & 1)

    def any(self) -> bool:
        """Whether it admits a token at all."""
        return bool(self.packed.any())

    @property
    def is_narrow(self) -> bool:
        """It admits so few tokens that they are better looked at one by one."""
        return int(np.count_nonzero(self.packed)) * 8 < len(self.packed)

    def ids(self) -> Ids:
        """The tokens it admits, in order."""
        filled = np.flatnonzero(self.packed)
        bits = np.flatnonzero(np.unpackbits(self.packed[filled], bitorder="little"))
        ids: Ids = (filled[bits >> 3] << 3) + (bits & 7)
        return ids

    def applied_to(self, logits: Floats) -> Floats:
        """The logits (n_vocab) with minus infinity for all that it does not admit."""
        admitted = np.unpackbits(self.packed, count=len(logits), bitorder="little").view(np.bool_)
        return np.where(admitted, logits, np.float32(-np.inf))


class Sampler:
    """The choices of one request: its own seeded generator and its own window of recent tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._recent: deque[int] = deque(maxlen=PENALTY_LAST_N)

    def accept(self, tokens: Iterable[int]) -> None:
        """Count tokens that now stand in the text, chosen or forced, prompt included."""
        self._recent.extend(tokens)

    def choose(self, logits: Floats, allowed: Mask | None = None) -> int:
        """The next token of `logits` (n_vocab), of those that the constraint admits (`allowed`); raises LogitsError."""
        logits = apply_penalty(logits, self._recent, self._sampling.repeat_penalty)
        if self._sampling.temperature <= 0.0:
            highest = _highest(logits)
            if allowed is None or highest in allowed:
                return highest
        if allowed is None:
            return self._pick(logits)
        if allowed.is_narrow:
            ids = allowed.ids()
            return int(ids[self._pick(logits[ids])])
        return self._pick(allowed.applied_to(logits))

    def _pick(self, logits: Floats) -> int:
        highest = _highest(logits)
        if self._sampling.temperature <= 0.0:
            return highest
        ids, probabilities = distribution(logits, self._sampling)
        return int(self._random.choice(ids, p=probabilities))


def _highest(logits: Floats) -> int:
    """The place of the highest logit; raises LogitsError. To numpy a NaN is the highest of all."""
    highest = int(np.argmax(logits))
    if not np.isfinite(logits[highest]):
        raise LogitsError(f"the model rates its next token {logits[highest]}")
    return highest


def apply_penalty(logits: Floats, recent: Iterable[int], penalty: float) -> Floats:
    """Logits of recent tokens divided by the penalty where positive, multiplied by it where not."""
    if penalty == 1.0:
        return logits
    ids = np.unique(np.fromiter(recent, dtype=np.int64))
    penalized = logits.copy()
    seen = penalized[ids]
    penalized[ids] = np.where(seen > 0, seen / penalty, seen * penalty)
    return penalized


def distribution(logits: Floats, sampling: Sampling) -> tuple[Ids, NDArray[np.float64]]:
    """The candidates that are left, most likely first, and their probabilities (sum 1)."""
    if 0 < sampling.top_k < len(logits):
        ids = top_k(logits, sampling.top_k)
        total = sum_of_exponents(logits[ids], logits[ids[0]])
    else:
        ids = in_order(np.flatnonzero(np.isfinite(logits)), logits, at_least=_floor(logits, sampling.min_p))
        total = sum_of_exponents(logits, logits[ids[0]]) if sampling.top_p < 1.0 else 1.0
    kept = logits[ids].astype(np.float64)
    if sampling.top_p < 1.0:
        shares = np.exp(kept - kept[0]) / total
        n_kept = int(np.count_nonzero(np.cumsum(shares) - shares < max(sampling.top_p, 0.0)))
        kept = kept[: max(n_kept, 1)]
    if sampling.min_p > 0.0:
        kept = kept[kept >= kept[0] + np.log(sampling.min_p)]
    return ids[: len(kept)], softmax((kept - kept[0]) / max(sampling.temperature, COLDEST))


def top_k(logits: Floats, k: int) -> Ids:
    """The ids of the k highest logits (fewer where fewer are finite), highest first, the lowest id among equals."""
    n_blocks = len(logits) // BLOCK
    at_least = np.finfo(np.float32).min
    if k < n_blocks:
        heights = logits[: n_blocks * BLOCK].reshape(BLOCK, n_blocks).max(axis=0)
        at_least = max(at_least, np.partition(heights, n_blocks - k)[n_blocks - k])  # k blocks reach it, so k logits do
    return in_order(np.flatnonzero(logits >= at_least), logits)[:k]


def in_order(ids: Ids, logits: Floats, *, at_least: float = -np.inf) -> Ids:
    """Those of `ids` whose logits reach `at_least`, highest logit first, the lowest id among equals."""
    if at_least > -np.inf:
        ids = ids[logits[ids] >= at_least]
    return ids[np.lexsort((ids, -logits[ids]))]


def _floor(logits: Floats, min_p: float) -> float:
    """The logit that min-p asks for; what top-p keeps and what min-p keeps both are the head of one order."""
    return float(logits.max()) + float(np.log(min_p)) if min_p > 0.0 else -np.inf


def sum_of_exponents(logits: Floats, highest: np.float32) -> float:
    """What probabilities are shares of, with the highest logit taken as 0."""
    return float(np.exp(logits - highest).sum(dtype=np.float64))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of logits; empty for empty."""
    exponents = np.exp(logits - logits.max(initial=-np.inf))
    total: NDArray[np.float64] = exponents / exponents.sum()
    return total
