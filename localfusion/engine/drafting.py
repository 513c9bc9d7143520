"""Prompt-lookup drafts: what followed the last tokens when they stood before, as a guess of what comes next.

The source of the idea: https://github.com/apoorvumang/prompt-lookup-decoding. A draft is evaluated in one batch
with the token before it and every token of it is chosen anew from the logits there; only what is chosen stands,
so a draft changes how fast a text is written and never which. Pure: ids in, ids out, seconds in, a decision out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

N_GRAM = 3
"""Tokens that must stand before alike; fewer match by accident."""
SHORTEST, LONGEST = 2, 16
SOONEST_PROBE, LATEST_PROBE = 16, 1024
"""Steps between two tries of the way that was slower."""
_RECENT = 0.2


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


@dataclass(slots=True)
class Pace:
    """Whether drafts pay on this machine and text, by measured steps: tokens a second with them and without.

    The slower way is tried again now and then, the less often the longer it has been the slower one.
    """

    plain: float = 0.0
    drafted: float = 0.0
    _interval: int = SOONEST_PROBE
    _until_probe: int = SOONEST_PROBE
    _paid: bool = True

    def should_draft(self) -> bool:
        """What was faster, but for a probe of the other."""
        pays = self.drafted >= self.plain
        if pays != self._paid:
            self._paid, self._interval, self._until_probe = pays, SOONEST_PROBE, SOONEST_PROBE
        self._until_probe -= 1
        if self._until_probe > 0:
            return pays
        self._interval = min(LATEST_PROBE, 2 * self._interval)
        self._until_probe = self._interval
        return not pays

    def note(self, *, has_drafts: bool, tokens: int, seconds: float) -> None:
        """A step wrote so many tokens, over all sequences, in so many seconds."""
        speed = tokens / max(seconds, 1e-9)
        if has_drafts:
            self.drafted = speed if not self.drafted else self.drafted + _RECENT * (speed - self.drafted)
        else:
            self.plain = speed if not self.plain else self.plain + _RECENT * (speed - self.plain)
