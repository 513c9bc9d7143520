"""Prompt-lookup drafts: what followed the last tokens when they stood before, as a guess of what comes next.

The source of the idea: https://github.com/apoorvumang/prompt-lookup-decoding. A draft is evaluated in one batch
with the token before it and every token of it is chosen anew from the logits there; only what is chosen stands,
so a draft changes how fast a text is written and never which. Pure: ids in, ids out.
"""

from collections.abc import Sequence

N_GRAM = 3
"""Tokens that must stand before alike; fewer match by accident."""
SHORTEST, LONGEST = 2, 16


class Lookup:
    """The tokens of one sequence, and where each run of N_GRAM of them was last followed by something."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._length = SHORTEST

    def follow(self, ids: Sequence[int]) -> None:
        """Take in what `ids` has beyond what is known."""
        for token in ids[len(self._ids) :]:
            if len(self._ids) >= N_GRAM:
                self._after[tuple(self._ids[-N_GRAM:])] = len(self._ids)
            self._ids.append(token)

    def draft(self, n_max: int) -> list[int]:
        """A guess of at most `n_max` next tokens; none where the last ones are new."""
        start = self._after.get(tuple(self._ids[-N_GRAM:]))
        return [] if start is None else self._ids[start : start + min(n_max, self._length)]

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        """Guess further after a guess that held, and less far after one that failed."""
        self._length = min(LONGEST, 2 * self._length) if n_accepted == n_drafted else max(SHORTEST, n_accepted)
