"""Decides how many tokens of each sequence go into the next batch. Pure: counts in, counts out.

Sequences that write come first, so that nobody's answer stalls; sequences that still read their prompts
share what is left equally, and while others write they take at most a part of a batch at a time.
"""

from collections.abc import Sequence

READING_SHARE = 4
"""While someone writes, prompts get 1/READING_SHARE of a batch per step: bigger steps would stall the writer."""
READING_MINIMUM = 64


def plan_batch(writing: Sequence[int], reading: Sequence[int], *, n_batch: int) -> tuple[list[int], list[int]]:
    """Tokens to take of each writing and each reading sequence, given how many each has to evaluate."""
    taken = share_out(writing, n_batch)
    left = n_batch - sum(taken)
    if writing:
        left = min(left, max(READING_MINIMUM, n_batch // READING_SHARE))
    return taken, share_out(reading, left)


def share_out(wants: Sequence[int], budget: int) -> list[int]:
    """Equal shares of `budget`, none above what is wanted, nothing left over while somebody wants more."""
    shares = [0] * len(wants)
    for rank, index in enumerate(sorted(range(len(wants)), key=lambda i: wants[i])):
        shares[index] = min(wants[index], -(-budget // (len(wants) - rank)))
        budget -= shares[index]
    return shares
