"""Decides how many tokens of each sequence go into the next batch. Pure: counts in, counts out.

Sequences that write come first, so that nobody's answer stalls. Of those that still read their prompts one has the
batch, and others only where they fit in whole: attention works on 64 tokens of a sequence at a time, and batches
that are shared are cut where it does not. While others write, a prompt gets a part of a batch at a time.
"""

from collections.abc import Sequence

TILE = 64
"""Tokens of one sequence that llama.cpp's attention takes at once on a processor; fewer take nearly as long."""
READING_SHARE = 4
"""While someone writes, prompts get 1/READING_SHARE of a batch per step: bigger steps would stall the writer."""


def plan_batch(writing: Sequence[int], reading: Sequence[int], *, n_batch: int) -> tuple[list[int], list[int]]:
    """Tokens to take of each writing and each reading sequence, given how many each has to evaluate.

    `reading` is in the order of turns: the first has this one.
    """
    taken = share_out(writing, n_batch)
    left = n_batch - sum(taken)
    if writing:  # one more than tiles: the first token is evaluated with those of the writers
        left = min(left, 1 + max(TILE, n_batch // READING_SHARE))
    taken_reading: list[int] = []
    for rank, wanted in enumerate(reading):
        n_taken = min(wanted, left) if rank == 0 or wanted <= left else 0
        taken_reading.append(n_taken)
        left -= n_taken
    return taken, taken_reading


def share_out(wants: Sequence[int], budget: int) -> list[int]:
    """Equal shares of `budget`, none above what is wanted, nothing left over while somebody wants more."""
    shares = [0] * len(wants)
    for rank, index in enumerate(sorted(range(len(wants)), key=lambda i: wants[i])):
        shares[index] = min(wants[index], -(-budget // (len(wants) - rank)))
        budget -= shares[index]
    return shares
