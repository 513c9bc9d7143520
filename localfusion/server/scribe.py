"""Writes down what jobs tell, behind their back: on one thread, what several told in one transaction.

Where the disk takes nothing it is said once and tried again; a job of which something is refused is written no more,
the others are. Who tells or listens never waits for it. What is written is not known here.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

from localfusion.errors import LocalFusionError, Unstorable
from localfusion.server.job_store import Change, JobStore

P = ParamSpec("P")
T = TypeVar("T")

BATCH_S = 0.1
"""How long an event may wait for others to be written with it; a process that is killed loses no more."""
AGAIN_S = 1.0

_LOG = logging.getLogger("localfusion.server")


class Writable(Protocol):
    """A job of which something is to be written."""

    @property
    def id(self) -> str: ...

    def change(self) -> Change | None:
        """What is not on disk yet; None where nothing is to be kept any more."""
        ...

    def written(self, change: Change) -> None:
        """It is on disk now."""
        ...


class Scribe:
    """The only one who uses a store of jobs while a server runs; in the order of the calls."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "jobs")
        self._waiting: dict[str, Writable] = {}
        self._refused: set[str] = set()
        self._noted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._is_failing = False
        self._closing = asyncio.Event()
        self._is_ended = False
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write, in the loop that runs."""
        self._working = asyncio.create_task(self._work())

    def note(self, job: Writable, *, at_once: bool = False) -> None:
        """Something of this job is to be written, soon or now."""
        if job.id in self._refused:
            return
        self._waiting[job.id] = job
        self._noted.set()
        if at_once:
            self._hurry.set()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have the thread do something with the store. Raises LocalFusionError when that is closed."""
        if self._is_ended:
            raise LocalFusionError("the server has ended", hint="ask again when it was started anew")
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

    def later(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """As `call`, and nobody waits for it, nor hears that it failed."""
        if not self._is_ended:
            self._thread.submit(function, *args, **kwargs)

    async def _work(self) -> None:
        """Write until it is closed."""
        while not self._closing.is_set():
            await self._noted.wait()
            await _within(BATCH_S, self._hurry)
            if not await self._flush():
                await _within(AGAIN_S, self._closing)

    async def _flush(self) -> bool:
        """Write all that is noted; False where the disk took nothing, which is kept for the next time."""
        jobs = [(job, change) for job in self._waiting.values() if (change := job.change()) is not None]
        self._waiting.clear()
        self._noted.clear()
        self._hurry.clear()
        try:
            await self._write(jobs)
        except Unstorable:
            return await self._write_each(jobs)
        except LocalFusionError as error:
            self._again(jobs, error)
            return False
        return True

    async def _write(self, jobs: Sequence[tuple[Writable, Change]]) -> None:
        if not jobs:
            return
        await self.call(self.store.write, [change for _, change in jobs])
        for job, change in jobs:
            job.written(change)
        self._is_failing = False

    async def _write_each(self, jobs: Sequence[tuple[Writable, Change]]) -> bool:
        """Write one job after the other, since one of them is refused; that one is given up. As `_flush`."""
        for at, (job, change) in enumerate(jobs):
            try:
                await self._write([(job, change)])
            except Unstorable as error:
                self._refused.add(job.id)
                _LOG.warning("%s is not stored any more: %s (%s)", job.id, error.message, error.hint)
            except LocalFusionError as error:
                self._again(jobs[at:], error)
                return False
        return True

    def _again(self, jobs: Sequence[tuple[Writable, Change]], error: LocalFusionError) -> None:
        """Keep what the disk did not take for the next time."""
        for job, _ in jobs:
            self.note(job)
        self.warn(error)

    def warn(self, error: LocalFusionError) -> None:
        """Say once that nothing can be written; again only after something could."""
        if not self._is_failing:
            _LOG.warning("%s: what is answered now may be gone after a restart (%s)", error.message, error.hint)
        self._is_failing = True

    async def close(self) -> None:
        """Write what is left, if the disk takes it; calls are still answered."""
        self._closing.set()
        self._noted.set()
        self._hurry.set()
        if self._working is not None:
            await self._working
        await self._flush()

    async def end(self) -> None:
        """Close the store."""
        self._is_ended = True
        await asyncio.wrap_future(self._thread.submit(self.store.close))
        self._thread.shutdown()


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, but not for ever."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
