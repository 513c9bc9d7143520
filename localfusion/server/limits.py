"""How much may be asked: requests a minute of each key, how many are under way, how long each takes. Knows no HTTP."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from localfusion.errors import QueueFull, RequestRefused

Clock = Callable[[], float]


@asynccontextmanager
async def within(timeout_s: float | None) -> AsyncIterator[None]:
    """Take no longer than this; None is no limit. Raises RequestRefused."""
    try:
        async with asyncio.timeout(timeout_s) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise RequestRefused(
            f"the answer took longer than {timeout_s:g} seconds",
            refusal="timeout",
            hint="raise `timeout_s` of config.yaml; responses in the background have no limit",
        ) from None


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
    """That of one request that is under way or waits, from when it is taken.

    It is given back once: when it is released, or nobody holds it any more: its client left before the work began.
    """

    queue: "Queue"
    owner: str
    max_queue: int | None = None
    is_taken: bool = False

    def take(self) -> None:
        """Take it. Raises QueueFull where too many are taken, of all or of its owner."""
        self.queue.check(self.owner, self.max_queue)
        self.join()

    def join(self) -> None:
        """Take it, whether there is room or not: for what was admitted once, a job that goes on after a restart."""
        self.is_taken = True
        self.queue.enter(self.owner)

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

    def place(self, owner: str, max_queue: int | None = None) -> Place:
        """A place, not yet taken, of which this owner may take at most `max_queue`."""
        return Place(self, owner, max_queue)

    def check(self, owner: str, max_queue: int | None) -> None:
        """Whether one more may come. Raises QueueFull."""
        if self._n >= self.max_queue:
            raise QueueFull(f"{self._n} requests are under way or wait", hint="ask again when one of them has ended")
        if max_queue is not None and self._owners[owner] >= max_queue:
            raise QueueFull(f"{self._owners[owner]} requests of this key are under way", hint="wait for one of them")

    def enter(self, owner: str) -> None:
        """Count one more; `Place` does that once."""
        self._owners[owner] += 1
        self._n += 1

    def leave(self, owner: str) -> None:
        """Count one less; `Place` does that once."""
        self._n -= 1
        self._owners[owner] -= 1
        if not self._owners[owner]:
            del self._owners[owner]
