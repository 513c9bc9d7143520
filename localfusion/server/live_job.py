"""One job of this server: its work, its log, and those who listen. Where it is kept is not known here."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from localfusion.errors import LocalFusionError, RunInterrupted
from localfusion.messages import Json
from localfusion.server.job import JobRequest, JobStatus, Told, Work
from localfusion.server.job_log import JobLog
from localfusion.server.job_store import Change, JobRecord

_PAGE_EVENTS = 256
"""Events that whoever listens takes at a time."""
UNWIND_S = 5.0
"""What work that was stopped may take to end; then nobody waits for it any more."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_LOG = logging.getLogger("localfusion.server")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a job in the foreground goes on while nobody listens.

    Until somebody does (`first_s`), and where a client that went away may ask again: it gave an idempotency key
    (`retry_s`). Else not at all.
    """

    first_s: float = 10.0
    retry_s: float = 5.0


class Keeper(Protocol):
    """Who keeps a job, and has those of its events that are not in memory any more."""

    def changed(self, job: "LiveJob", *, at_once: bool = False) -> None:
        """There is something new to be written of it."""
        ...

    def settled(self, job: "LiveJob") -> None:
        """It is over, and all of it is written."""
        ...

    async def page(self, job_id: str, at: int) -> Sequence[str]:
        """Some events of a job, `at` the first. Raises LocalFusionError where that one is gone."""
        ...


class LiveJob:
    """A job whose work is done here; a Teller for its work, a Job for everybody else."""

    def __init__(
        self,
        record: JobRecord,
        request: JobRequest,
        *,
        keeper: Keeper,
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        """`record` is the job as it is stored or would be; it begins with `run`."""
        self.id = record.id
        self.request = request
        self.created = record.created
        self.status: JobStatus = record.status
        self.body: Json = json.loads(record.body)
        self.run_id = record.run_id
        self.ended: float | None = None
        self.error: BaseException | None = None
        self.is_recorded = False
        self.log = JobLog()
        self._record = record
        self._keeper = keeper
        self._patience = patience
        self._task: asyncio.Task[None] | None = None
        self._clock = clock
        self._is_stopped = False
        self._is_dropped = False
        self._n_listening = 0
        self._leaving: asyncio.TimerHandle | None = None

    # What its work says.

    @property
    def n_told(self) -> int:
        """See Teller."""
        return self.log.end

    def tell(self, event: Json) -> None:
        """See Teller."""
        if self.log.is_over:
            return
        if isinstance(event, dict) and "sequence_number" in event:
            event = {**event, "sequence_number": self.log.end}
        self.log.append(as_text(event))
        self._keeper.changed(self)

    def update(self, status: JobStatus, body: Json) -> None:
        """See Teller."""
        if self.log.is_over:
            return
        self.status, self.body = status, body
        self._keeper.changed(self)

    def note_run(self, run_id: str) -> None:
        """See Teller."""
        if self.log.is_over or self.run_id == run_id:
            return
        self.run_id = run_id
        self._keeper.changed(self)

    # Its life.

    def run(self, work: Work) -> None:
        """Begin the work."""
        self._task = asyncio.create_task(self._work(work))
        self._task.add_done_callback(self._done)
        if not self.request.is_background:
            self._allow(self._patience.first_s)

    async def stop(self) -> None:
        """Cancel the work and wait until it has ended, or does not want to."""
        if self._task is None or self.log.is_over:
            return
        await asyncio.sleep(0)  # so that the work has begun, and can say what is told of a job that was cancelled
        self._cancel()
        await asyncio.wait([self._task], timeout=UNWIND_S)
        self.end("cancelled")

    def leave(self) -> None:
        """Stop the work, without a word, for another server to go on with it."""
        self._allow(None)
        self.log.close()
        self._cancel()

    def drop(self) -> None:
        """Keep nothing of the job any more."""
        self._is_dropped = True
        self.leave()

    def end(self, status: JobStatus) -> None:
        """The job is over, as its work said or else as it is said here."""
        if self.log.is_over:
            return
        if self.status in {"queued", "in_progress"}:
            self.status = status
        self.ended = self._clock()
        self._allow(None)
        self.log.close()
        self._keeper.changed(self, at_once=True)

    @property
    def task(self) -> asyncio.Task[None] | None:
        """Its work; None before it was begun."""
        return self._task

    # Who listens.

    async def events(self, *, after: int = -1) -> AsyncGenerator[Told]:
        """See Job."""
        at = max(after + 1, 0)
        with self._listening():
            while not self._is_dropped:
                for text in await self._page(at):
                    yield Told(at, text)
                    at += 1
                if at >= self.log.end:
                    if self.log.is_over:
                        return
                    await self.log.more()

    async def result(self) -> Json:
        """See Job."""
        with self._listening():
            await self.log.over()
        if self.error is not None:
            raise self.error
        if self.body is None and self.status != "completed":
            raise RunInterrupted("what was asked was cancelled before it was answered", hint="ask again")
        return self.body

    # What is written of it.

    @property
    def n_bytes(self) -> int:
        """About what it takes in memory; measured anew each time."""
        return self.log.n_bytes + len(self._record.request) + len(json.dumps(self.body))

    def recorded(self, n_events: int = 0) -> None:
        """It is on disk, with its first events."""
        self.is_recorded = True
        self.log = JobLog(n_events)

    def change(self) -> Change | None:
        """See Writable. A job that is recorded late has no key on disk, which another may have taken meanwhile."""
        if self._is_dropped:
            return None
        first = max(self.log.first, self.log.n_written)
        return Change(
            self.id,
            None if self.is_recorded else replace(self._record, idempotency_key=""),
            self.status,
            self.body,
            self.run_id,
            self.ended,
            first,
            self.log.texts(first),
        )

    def written(self, change: Change) -> None:
        """See Writable."""
        self.is_recorded = True
        self.log.written(change.first + len(change.texts))
        if change.ended is not None:
            self._keeper.settled(self)

    async def _work(self, work: Work) -> None:
        await work(self, self.run_id)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return self.end("cancelled")
        self.error = task.exception()
        if self.error is None:
            return self.end("cancelled" if self._is_stopped else "completed")
        if not isinstance(self.error, LocalFusionError):
            _LOG.error("the work of %s failed in an unexpected way: %s", self.id, type(self.error).__name__)
        return self.end("failed")

    def _cancel(self) -> None:
        self._is_stopped = True
        if self._task is not None:
            self._task.cancel()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self._n_listening += 1
        self._allow(None)
        try:
            yield
        finally:
            self._n_listening -= 1
            if self._n_listening == 0 and not self.request.is_background and not self.log.is_over:
                self._allow(self._patience.retry_s if self.request.idempotency_key else 0)

    def _allow(self, seconds: float | None) -> None:
        """Cancel the work in so many seconds, unless somebody listens then; None for never."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if seconds is not None:
            self._leaving = asyncio.get_running_loop().call_later(seconds, self._cancel)

    async def _page(self, at: int) -> Sequence[str]:
        if at >= self.log.first:
            return self.log.texts(at, limit=_PAGE_EVENTS)
        texts = await self._keeper.page(self.id, at)
        if not texts:
            raise LocalFusionError("what was told so far is not kept any more", hint="ask for the whole response")
        return texts


def as_text(value: Json) -> str:
    """JSON in one line, all ASCII: also half a surrogate pair, which JSON may carry, can be stored and sent."""
    return _ENCODER.encode(value)
