"""Which of several ways to take a step is the fastest, by measured steps: with drafts or without, on how many threads.

What is fast depends on the model, the machine and what else runs there, and changes while a text is written; so the
ways are compared by tokens a second, the fastest is used, and the others are tried again now and then. Pure: seconds
come in, a decision goes out.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

Way = TypeVar("Way")

SOONEST_PROBE, LATEST_PROBE = 16, 1024
"""Steps between two tries of a way that was slower."""
_RECENT = 0.2


class Pace(Generic[Way]):
    """Ways to take a step, the one expected to be fastest first.

    Each is tried once within the first steps. After that a slower one is tried the less often the longer the same one
    has been the fastest.
    """

    def __init__(self, ways: Sequence[Way]) -> None:
        self._ways = tuple(ways)
        self._speeds: dict[Way, float] = {}
        self._fastest = self._ways[0]
        self._interval = self._until_probe = SOONEST_PROBE
        self._n_probes = 0

    def choose(self) -> Way:
        """How to take the next step."""
        untried = [way for way in self._ways if way not in self._speeds]
        if untried and (not self._speeds or self._until_probe < SOONEST_PROBE):
            return untried[0]
        fastest = max(self._ways, key=lambda way: self._speeds.get(way, 0.0))
        if fastest != self._fastest:
            self._fastest, self._interval, self._until_probe = fastest, SOONEST_PROBE, SOONEST_PROBE
        self._until_probe -= 1
        if self._until_probe > 0:
            return fastest
        self._interval = self._until_probe = min(LATEST_PROBE, 2 * self._interval)
        others = [way for way in self._ways if way != fastest]
        self._n_probes += 1
        return others[self._n_probes % len(others)] if others else fastest

    def note(self, way: Way, *, tokens: int, seconds: float) -> None:
        """A step taken this way wrote so many tokens, over all sequences, in so many seconds."""
        speed = tokens / max(seconds, 1e-9)
        before = self._speeds.get(way, speed)
        self._speeds[way] = before + _RECENT * (speed - before)


def thread_counts(most: int) -> tuple[int, ...]:
    """Numbers of threads worth trying: all, one less (a core is busy with something else), half, one."""
    return tuple(dict.fromkeys(n for n in (most, most - 1, most // 2, 1) if n >= 1))
