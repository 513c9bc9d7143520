"""Choosing the next token from logits, in numpy, with llama.cpp's definitions and order of steps.

Order: mask of the constraint, repeat penalty, then (unless greedy) top-k, top-p, min-p, temperature, draw.
Greedy takes the highest logit, the lowest id among equals. Not here: the constraint itself.
"""

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from localfusion.messages import Sampling

Floats = NDArray[np.float32]
PENALTY_LAST_N = 64
"""llama.cpp's default: how many of the last tokens the repeat penalty looks at."""


class Sampler:
    """The choices of one request: its own seeded generator and its own window of recent tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._recent: deque[int] = deque(maxlen=PENALTY_LAST_N)

    def accept(self, tokens: Iterable[int]) -> None:
        """Count tokens that now stand in the text, chosen or forced, prompt included."""
        self._recent.extend(tokens)

    def choose(self, logits: Floats, allowed: NDArray[np.bool_] | None = None) -> int:
        """The next token of `logits` (n_vocab); `allowed` (n_vocab) names those that the constraint admits."""
        logits = apply_penalty(logits, self._recent, self._sampling.repeat_penalty)
        if allowed is not None:
            logits = np.where(allowed, logits, np.float32(-np.inf))
        if self._sampling.temperature <= 0.0:
            return int(np.argmax(logits))
        ids, probabilities = distribution(logits, self._sampling)
        return int(self._random.choice(ids, p=probabilities))


def apply_penalty(logits: Floats, recent: Iterable[int], penalty: float) -> Floats:
    """Logits of recent tokens divided by the penalty where positive, multiplied by it where not."""
    if penalty == 1.0:
        return logits
    ids = np.unique(np.fromiter(recent, dtype=np.int64))
    penalized = logits.copy()
    seen = penalized[ids]
    penalized[ids] = np.where(seen > 0, seen / penalty, seen * penalty)
    return penalized


def distribution(logits: Floats, sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The candidates that are left, most likely first, and their probabilities (sum 1)."""
    k = sampling.top_k if 0 < sampling.top_k < len(logits) else len(logits)
    ids = np.argpartition(-logits, k - 1)[:k] if k < len(logits) else np.arange(len(logits))
    ids = ids[np.isfinite(logits[ids])]
    ids = ids[np.lexsort((ids, -logits[ids]))]
    kept = logits[ids].astype(np.float64)
    if sampling.top_p < 1.0:
        before = np.cumsum(softmax(kept)) - softmax(kept)
        kept = kept[before < max(sampling.top_p, 0.0)] if sampling.top_p > 0 else kept[:1]
    if sampling.min_p > 0.0:
        kept = kept[kept >= kept[0] + np.log(sampling.min_p)]
    return ids[: len(kept)].astype(np.int64), softmax(kept / sampling.temperature)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of logits; empty for empty."""
    exponents = np.exp(logits - logits.max(initial=-np.inf))
    total: NDArray[np.float64] = exponents / exponents.sum()
    return total
