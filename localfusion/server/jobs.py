"""What is being answered, and what was: a numbered log of events for each, for whoever listens, now or later.

A job in the foreground ends when nobody listens any more; one in the background does not, and goes on after the server
was started again. What is asked and how it is answered is not known here.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from weakref import WeakValueDictionary

from localfusion.errors import InvalidRequest, LocalFusionError, NoSuchResponse, QueueFull
from localfusion.messages import Json
from localfusion.server.job import Job, JobKind, JobRequest, JobStatus, Teller, Told, Work
from localfusion.server.job_store import JobRecord, JobStore
from localfusion.server.live_job import UNWIND_S, LiveJob, Patience, as_text
from localfusion.server.scribe import Scribe
from localfusion.server.stored_job import StoredJob, page, request_of

__all__ = ["Job", "JobKind", "JobRequest", "JobStatus", "Jobs", "Patience", "Teller", "Told", "Work"]

_PREFIX: dict[JobKind, str] = {"chat": "chatcmpl-", "responses": "resp_"}
_DAY_S = 86_400.0
_TIDY_S = 60.0
_MAX_STARTS = 3
_MAX_KEPT = 10_000
_MAX_KEPT_BYTES = 64 * 2**20
"""Of jobs that are over and on no disk (nobody wanted that, or the disk is full), so many are kept in memory.

Counted are their events, their requests and their bodies, as text.
"""


class Jobs:
    """All jobs of a server; an async context manager, open in one event loop."""

    def __init__(
        self,
        home: Path | None,
        *,
        keep_days: float,
        revive: Callable[[JobRequest], Work],
        stopped: Callable[[JobRequest, Json], Json] = lambda _, body: body,
        forget_runs: Callable[[Sequence[str]], None] = lambda _: None,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the jobs that are stored under `home`; where it is None, the latest are kept in memory.

        `revive` makes the work of a job in the background again that a server left; it may raise LocalFusionError.
        `stopped` is what a client is told of a job that ended with its server, made of what it was told last.
        `forget_runs` blocks, and forgets the deliberations of jobs that are forgotten.
        """
        self._scribe = Scribe(JobStore(home, clock=clock))
        self._keep_s = keep_days * _DAY_S
        self._revive = revive
        self._stopped = stopped
        self._forget_runs = forget_runs
        self._patience = patience or Patience()
        self._clock = clock
        self._jobs: dict[str, LiveJob] = {}
        self._by_key: dict[tuple[str, str], LiveJob] = {}
        self._over: dict[str, tuple[LiveJob, int]] = {}
        self._over_bytes = 0
        self._starting: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._tidying: asyncio.Task[None] | None = None
        self._is_closing = False
        self._ending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Jobs":
        """Go on with what an earlier server left."""
        self._scribe.start()
        await self._tidy()
        self._tidying = asyncio.create_task(self._now_and_then())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close without waiting for anybody."""
        await self.close(0)

    @property
    def n_under_way(self) -> int:
        """Jobs that have no end yet."""
        return len(self._jobs) - len(self._over)

    async def start(self, request: JobRequest, work: Work, *, admit: Callable[[], None] = lambda: None) -> Job:
        """Begin a job, or find the one that its idempotency key names, which is over or under way.

        Before one is begun `admit` is called, which may raise LocalFusionError.

        A job that failed or was cancelled is begun anew. Raises InvalidRequest where the key was used for another
        request, or where something is to go on in the background and is not to be stored; QueueFull when the server
        is about to end.
        """
        if request.is_background and not request.is_stored:
            raise InvalidRequest("what runs in the background must be stored", param="store", hint="leave out `store`")
        if not request.idempotency_key:
            return await self._begin(request, work, admit)
        async with self._starting.setdefault((request.owner, request.idempotency_key), asyncio.Lock()):
            found = await self._keyed(request)
            return await self._begin(request, work, admit) if found is None else _same(found, request)

    async def get(self, id: str, owner: str) -> Job:
        """A job that is stored or under way. Raises NoSuchResponse, also where it is another owner's."""
        job: Job | None = self._jobs.get(id) or await self._stored(id)
        if job is None or job.request.owner != owner:
            raise NoSuchResponse(f"there is no response {id}", hint="it was never there, is gone, or was not stored")
        return job

    async def cancel(self, id: str, owner: str) -> Job:
        """Stop a job; one that is over stays as it is. Raises as `get`, LocalFusionError if it is another server's."""
        job = await self.get(id, owner)
        if isinstance(job, LiveJob):
            await job.stop()
        elif isinstance(job, StoredJob) and not job.is_over:
            for record in await self._scribe.call(self._scribe.store.claim, id):
                return await self._give_up(record, "cancelled")
            raise LocalFusionError(f"another server works on {id}", hint="ask that one to cancel it")
        return job

    async def delete(self, id: str, owner: str) -> None:
        """Stop a job if it is under way, and forget it with all that was told of it and its run. Raises as `cancel`."""
        job = await self.cancel(id, owner)
        await self._forget_run(job)
        if isinstance(job, LiveJob):
            job.drop()
            self._forget(job)
        await self._scribe.call(self._scribe.store.delete, id)

    async def _forget_run(self, job: Job) -> None:
        """Forget the run of a job: now, or when work has ended that does not want to."""
        if job.run_id is None:
            return
        run_ids, task = [job.run_id], job.task if isinstance(job, LiveJob) else None
        if task is not None and not task.done():
            task.add_done_callback(lambda _: self._scribe.later(self._forget_runs, run_ids))
        else:
            await self._scribe.call(self._forget_runs, run_ids)

    async def close(self, stop_s: float) -> None:
        """Take no more jobs, give those under way so many seconds, then stop them.

        Those in the background are left for the next server to go on with. Work that does not stop is not waited for.
        Where this is cancelled while it waits, to be asked again stops them at once.
        """
        if not self._is_closing:
            self._is_closing = True
            if self._tidying is not None:
                self._tidying.cancel()
                await asyncio.wait([self._tidying])
            tasks = self._tasks()
            if tasks and stop_s > 0:
                await asyncio.wait(tasks, timeout=stop_s)
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [job.task for job in self._jobs.values() if job.task is not None]

    async def _end(self) -> None:
        """Stop what is under way, and write all there is to write."""
        tasks = self._tasks()
        left = [job for job in self._jobs.values() if job.ended is None and job.request.is_background]
        for job in left:
            job.leave()
        await asyncio.gather(*(job.stop() for job in [*self._jobs.values()]))
        if tasks:
            await asyncio.wait(tasks, timeout=UNWIND_S)
        await self._scribe.close()
        await self._release(left)

    async def _release(self, left: Sequence[LiveJob]) -> None:
        try:
            await self._scribe.call(self._scribe.store.release, [job.id for job in left])
        except LocalFusionError as error:
            self._scribe.warn(error)
        await self._scribe.end()

    # As a Keeper of its jobs.

    def changed(self, job: LiveJob, *, at_once: bool = False) -> None:
        """See Keeper."""
        if job.ended is not None:
            self._keep(job)
        if job.request.is_stored:
            self._scribe.note(job, at_once=at_once)
        elif job.ended is not None and not (job.request.idempotency_key and job.status in {"completed", "incomplete"}):
            self._forget(job)

    def settled(self, job: LiveJob) -> None:
        """See Keeper."""
        self._forget(job)

    async def page(self, job_id: str, at: int) -> Sequence[str]:
        """See Keeper."""
        return await page(self._scribe, job_id, at)

    async def _begin(self, request: JobRequest, work: Work, admit: Callable[[], None]) -> Job:
        self._check_open()
        admit()
        id = f"{_PREFIX[request.kind]}{secrets.token_hex(16)}"
        record = JobRecord(
            *(id, self._clock(), request.kind, request.owner, as_text(request.request), int(request.is_background)),
            *(request.idempotency_key, "queued", "null", None, None, 1),
        )
        job = self._live(record, request)
        if request.is_stored and (request.is_background or request.idempotency_key):
            found = await self._recorded(job, record)
            if found is not None:
                return _same(StoredJob(found, self._scribe), request)
        self._run(job, work)
        return job

    async def _recorded(self, job: LiveJob, record: JobRecord) -> JobRecord | None:
        """Store a job before anybody hears of it; returns the one that another server stored for its key."""
        store = self._scribe.store
        try:
            found = await self._scribe.call(store.create, record)
        except LocalFusionError as error:
            self._scribe.warn(error)
            return None
        except asyncio.CancelledError:
            self._scribe.later(store.delete, record.id)
            raise
        if found.id != record.id:
            return found
        if self._is_closing:
            await self._scribe.call(store.delete, record.id)
        self._check_open()
        job.recorded()
        return None

    def _check_open(self) -> None:
        if self._is_closing:
            raise QueueFull("the server is about to end", hint="ask again when it was started anew")

    def _live(self, record: JobRecord, request: JobRequest) -> LiveJob:
        return LiveJob(record, request, keeper=self, patience=self._patience, clock=self._clock)

    def _run(self, job: LiveJob, work: Work) -> None:
        self._jobs[job.id] = job
        if job.request.idempotency_key:
            self._by_key[job.request.owner, job.request.idempotency_key] = job
        job.run(work)

    async def _keyed(self, request: JobRequest) -> Job | None:
        """The job of a request's key, unless it came to nothing; one on disk is found when this request is stored."""
        job = self._by_key.get((request.owner, request.idempotency_key))
        if job is not None and job.status not in {"failed", "cancelled"}:
            return job
        store, record = self._scribe.store, None
        try:
            if job is not None:
                await self._scribe.call(store.let_go, job.id)
            if not request.is_stored:
                record = await self._scribe.call(store.keyed, request.owner, request.idempotency_key)
        except LocalFusionError as error:
            self._scribe.warn(error)
        return None if record is None else StoredJob(record, self._scribe)

    async def _stored(self, id: str) -> StoredJob | None:
        record = await self._scribe.call(self._scribe.store.record, id)
        return None if record is None else StoredJob(record, self._scribe)

    def _keep(self, job: LiveJob) -> None:
        """Keep a job that is over until it is written, or for its key; the oldest give way."""
        if job.id not in self._jobs or job.id in self._over:
            return
        n_bytes = job.n_bytes
        self._over[job.id] = job, n_bytes
        self._over_bytes += n_bytes
        while len(self._over) > _MAX_KEPT or self._over_bytes > _MAX_KEPT_BYTES:
            oldest, _ = next(iter(self._over.values()))
            oldest.drop()
            self._forget(oldest)

    def _forget(self, job: LiveJob) -> None:
        self._jobs.pop(job.id, None)
        _, n_bytes = self._over.pop(job.id, (job, 0))
        self._over_bytes -= n_bytes
        key = job.request.owner, job.request.idempotency_key
        if self._by_key.get(key) is job:
            del self._by_key[key]

    async def _now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            await self._tidy()

    async def _tidy(self) -> None:
        """Go on with what other servers left, and forget what is old."""
        try:
            for record in await self._scribe.call(self._scribe.store.claim):
                await self._take_over(record)
            tidy, forget_runs = self._scribe.store.tidy, self._forget_runs
            await self._scribe.call(tidy, keep_s=self._keep_s, forget_runs=forget_runs)
        except LocalFusionError as error:
            self._scribe.warn(error)
        old = self._clock() - _DAY_S
        for job in [job for job, _ in self._over.values() if job.ended is not None and job.ended < old]:
            self._forget(job)

    async def _take_over(self, record: JobRecord) -> None:
        if not record.is_background or record.n_starts > _MAX_STARTS:
            await self._give_up(record, "failed")
            return
        job = await self._claimed(record)
        try:
            work = self._revive(job.request)
        except LocalFusionError:
            await self._give_up(record, "failed")
            return
        self._run(job, work)

    async def _give_up(self, record: JobRecord, status: JobStatus) -> LiveJob:
        """End a job that its server left, without its work."""
        job = await self._claimed(record)
        self._jobs[job.id] = job
        job.update(status, self._stopped(job.request, job.body))
        job.end(status)
        return job

    async def _claimed(self, record: JobRecord) -> LiveJob:
        """A stored job as one of this server, its log going on where the stored one ends."""
        job = self._live(record, request_of(record))
        job.recorded(await self._scribe.call(self._scribe.store.n_events, record.id))
        return job


def _same(job: Job, request: JobRequest) -> Job:
    """The job that an idempotency key names. Raises InvalidRequest where something else is asked now."""
    if (job.request.kind, _sorted(job.request.request)) == (request.kind, _sorted(request.request)):
        return job
    raise InvalidRequest(
        "this idempotency key was used for another request",
        code="idempotency_key_reused",
        hint="send a new key with each new request",
    )


def _sorted(value: Json) -> str:
    """JSON that is the same for objects of the same members."""
    return json.dumps(value, sort_keys=True)
