"""The events of one job that are in memory, numbered, and the waking of those who wait for more.

What is on disk too leaves the memory, but for a tail; a log that is on no disk is bounded, and loses its beginning.
It reads and writes no disk.
"""

import asyncio
from collections import deque
from itertools import islice

TAIL_EVENTS = 256
"""Of what is on disk, so many stay in memory: whoever listens is seldom further behind."""
MAX_BYTES = 16 * 2**20
"""What one job's events may take in memory."""


class JobLog:
    """Texts with the sequences `first`, `first + 1`, ... `end - 1`; all below `n_written` are on disk.

    Sequences never have a gap: what is not in memory any more is asked of the disk, or is told to be gone.
    """

    def __init__(self, first: int = 0, *, max_bytes: int = MAX_BYTES) -> None:
        self.first = first
        self.end = first
        self.n_written = first
        self.n_bytes = 0
        self.is_over = False
        self._max_bytes = max_bytes
        self._texts: deque[str] = deque()
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = asyncio.Event()

    def append(self, text: str) -> None:
        """Add the next event; never waits for anybody."""
        self._texts.append(text)
        self.end += 1
        self.n_bytes += len(text)
        self._trim()
        self._wake()

    def close(self) -> None:
        """Nothing comes any more."""
        self.is_over = True
        self._closed.set()
        self._wake()

    def written(self, end: int) -> None:
        """All below `end` is on disk."""
        self.n_written = max(self.n_written, end)
        self._trim()

    def texts(self, at: int, *, limit: int | None = None) -> list[str]:
        """The texts from `at` on that are in memory; `at` is not below `first`."""
        start = at - self.first
        return list(islice(self._texts, start, None if limit is None else start + limit))

    async def more(self) -> None:
        """Wait until something was appended, or nothing comes any more."""
        if self.is_over:
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    async def over(self) -> None:
        """Wait until nothing comes any more, without a look at what comes."""
        await self._closed.wait()

    def _wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def _trim(self) -> None:
        """The newest event always stays."""
        while len(self._texts) > 1 and (
            self.n_bytes > self._max_bytes or (self.first < self.n_written and len(self._texts) > TAIL_EVENTS)
        ):
            self.n_bytes -= len(self._texts.popleft())
            self.first += 1
