"""Which of several ways to take a step is the fastest, by measured steps: with drafts or without, on how many threads.

What is fast depends on the model, the machine and what else runs there, and changes while a text is written; so the
ways are compared by tokens a second, the fastest is used, and the others are tried again now and then. Pure: seconds
come in, a decision goes out.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Generic, TypeVar

Way = TypeVar("Way")

SOONEST_PROBE, LATEST_PROBE = 16, 1024
"""Steps between two tries of a way that was slower."""
FIRST_TRIES = 3
"""Steps of each way that are taken at the beginning; the first of them finds cold caches and does not count."""
LARGE_STEP = 32
"""Tokens from which on a step is of reading: its time grows with its tokens, that of a smaller one hardly does."""
_RECENT = 0.2


class Pace(Generic[Way]):
    """Ways to take a step, the one expected to be fastest first.

    Each is tried `first_tries` times at the beginning. After that a slower one is tried the less often the longer the
    same one has been the fastest.
    """

    def __init__(self, ways: Sequence[Way], *, first_tries: int = FIRST_TRIES) -> None:
        self._ways = tuple(ways)
        self._first_tries = first_tries
        self._tries: Counter[Way] = Counter()
        self._speeds: dict[Way, float] = {}
        self._fastest = self._ways[0]
        self._interval = self._until_probe = SOONEST_PROBE
        self._n_probes = 0

    @property
    def fastest(self) -> Way:
        """The way that was the fastest when one was last chosen."""
        return self._fastest

    def choose(self) -> Way:
        """How to take the next step."""
        untried = next((way for way in self._ways if self._tries[way] < self._first_tries), None)
        if untried is not None:
            return untried
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
        self._tries[way] += 1
        speed = tokens / max(seconds, 1e-9)
        n_counted = self._tries[way] - 1
        if n_counted <= 1:
            self._speeds[way] = speed
        else:
            self._speeds[way] += max(_RECENT, 1 / n_counted) * (speed - self._speeds[way])


class ThreadPace:
    """On how many threads to take steps of each size, where at most `most` may be used.

    A thread more is no gain where another program wants its core: threads wait for each other many times in a step.
    Large steps are tried on fewer threads only late, since each such try may take twice the time.
    """

    def __init__(self) -> None:
        self._paces: dict[tuple[int, int], Pace[int]] = {}

    def choose(self, n_tokens: int, *, most: int) -> int:
        """How many threads the next step, of so many tokens, is taken on."""
        return self._pace(n_tokens, most).choose()

    def note(self, n_tokens: int, *, most: int, n_threads: int, seconds: float) -> None:
        """A step of so many tokens took so many seconds."""
        tokens = n_tokens if n_tokens >= LARGE_STEP else 1
        self._pace(n_tokens, most).note(n_threads, tokens=tokens, seconds=seconds)

    def _pace(self, n_tokens: int, most: int) -> Pace[int]:
        size = min(n_tokens, LARGE_STEP).bit_length()
        if (most, size) not in self._paces:
            first_tries = FIRST_TRIES if n_tokens < LARGE_STEP else 0
            self._paces[most, size] = Pace(thread_counts(most), first_tries=first_tries)
        return self._paces[most, size]


def thread_counts(most: int) -> tuple[int, ...]:
    """Numbers of threads worth trying: all, one less (a core is busy with something else), half, one."""
    return tuple(dict.fromkeys(n for n in (most, most - 1, most // 2, 1) if n >= 1))
