"""How much may be asked: requests a minute of each key, requests under way of all and of each key. Knows no HTTP."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from localfusion.errors import QueueFull, RequestRefused

Clock = Callable[[], float]


@dataclass(slots=True)
class Bucket:
    """A bucket that fills with `per_minute` tokens a minute and holds as many; a request takes one."""

    per_minute: int
    tokens: float
    filled: float

    def take(self, now: float) -> float:
        """Take a token: 0, or the seconds until there is one."""
        rate = self.per_minute / 60
        self.tokens = min(float(self.per_minute), self.tokens + max(0.0, now - self.filled) * rate)
        self.filled = now
        if self.tokens < 1:
            return (1 - self.tokens) / rate
        self.tokens -= 1
        return 0.0


@dataclass(slots=True)
class Rates:
    """The buckets of all keys; a limit that changed begins with a full bucket."""

    clock: Clock = time.monotonic
    _buckets: dict[str, Bucket] = field(default_factory=dict)

    def take(self, owner: str, per_minute: int | None) -> None:
        """Count one request of a key. Raises RequestRefused where it has made too many."""
        if per_minute is None:
            return
        now = self.clock()
        bucket = self._buckets.get(owner)
        if bucket is None or bucket.per_minute != per_minute:
            bucket = self._buckets[owner] = Bucket(per_minute, float(per_minute), now)
        wait_s = bucket.take(now)
        if wait_s > 0:
            raise RequestRefused(
                f"this key may ask {per_minute} times a minute",
                refusal="rate_limit_exceeded",
                retry_after_s=wait_s,
                hint="ask again later",
            )


@dataclass(slots=True)
class Place:
    """One request that is under way or waits; given back once, when it is released or nobody holds it any more.

    The latter is for work that never began: its client left before.
    """

    queue: "Queue"
    owner: str
    is_taken: bool = True

    def release(self) -> None:
        if self.is_taken:
            self.is_taken = False
            self.queue.leave(self.owner)

    def __del__(self) -> None:
        self.release()


@dataclass(slots=True)
class Queue:
    """The requests that are under way or wait, at most `max_queue` of all."""

    max_queue: int
    _owners: Counter[str] = field(default_factory=Counter)
    _n: int = 0

    @property
    def n(self) -> int:
        """How many are under way or wait."""
        return self._n

    def take(self, owner: str, max_queue: int | None = None) -> Place:
        """A place for a request, at most `max_queue` of this owner. Raises QueueFull."""
        if self._n >= self.max_queue:
            raise QueueFull(f"{self._n} requests are under way or wait", hint="ask again when one of them has ended")
        if max_queue is not None and self._owners[owner] >= max_queue:
            raise QueueFull(f"{self._owners[owner]} requests of this key are under way", hint="wait for one of them")
        return self.join(owner)

    def join(self, owner: str) -> Place:
        """A place for what was admitted once, whether there is one or not: a job that goes on after a restart."""
        self._owners[owner] += 1
        self._n += 1
        return Place(self, owner)

    def leave(self, owner: str) -> None:
        """Give a place back; `Place.release` does that once."""
        self._n -= 1
        self._owners[owner] -= 1
        if not self._owners[owner]:
            del self._owners[owner]
