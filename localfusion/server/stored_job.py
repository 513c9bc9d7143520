"""A job as it is stored: one that is over, or one of another server, which is looked at until it is over."""

import asyncio
import json
from collections.abc import AsyncGenerator

from localfusion.errors import LocalFusionError
from localfusion.messages import Json
from localfusion.server.job import JobRequest, JobStatus, Told
from localfusion.server.job_store import JobRecord
from localfusion.server.scribe import Scribe

_PAGE_EVENTS = 256
_LOOK_S = 0.25
"""How often a job of another server is looked at."""


class StoredJob:
    """A Job that nobody of this server works on; listening to it keeps nothing going."""

    def __init__(self, record: JobRecord, scribe: Scribe) -> None:
        """`record` is how it was last seen."""
        self.request = request_of(record)
        self._record = record
        self._scribe = scribe

    @property
    def id(self) -> str:
        """See Job."""
        return self._record.id

    @property
    def created(self) -> float:
        """See Job."""
        return self._record.created

    @property
    def status(self) -> JobStatus:
        """How it stood when it was last looked at."""
        return self._record.status

    @property
    def body(self) -> Json:
        """See Job."""
        body: Json = json.loads(self._record.body)
        return body

    @property
    def run_id(self) -> str | None:
        """See Job."""
        return self._record.run_id

    @property
    def is_over(self) -> bool:
        """Whether it had its end when it was last looked at."""
        return self._record.ended is not None

    async def events(self, *, after: int = -1) -> AsyncGenerator[Told]:
        """See Job."""
        at = max(after + 1, 0)
        while True:
            was_over = self.is_over
            texts = await page(self._scribe, self.id, at)
            for text in texts:
                yield Told(at, text)
                at += 1
            if not texts:
                if was_over:
                    return
                await self._look()

    async def result(self) -> Json:
        """See Job; what the work raised is not kept."""
        while not self.is_over:
            await self._look()
        return self.body

    async def _look(self) -> None:
        """Look at it again in a while. Raises LocalFusionError where it was deleted."""
        await asyncio.sleep(_LOOK_S)
        record = await self._scribe.call(self._scribe.store.record, self.id)
        if record is None:
            raise LocalFusionError(f"{self.id} was deleted", hint="ask again")
        self._record = record


async def page(scribe: Scribe, job_id: str, at: int) -> list[str]:
    """Some events of a job, `at` the first; none where it has none. Raises LocalFusionError where that one is gone."""
    found = await scribe.call(scribe.store.events, job_id, at, limit=_PAGE_EVENTS)
    if found and found[0][0] != at:
        raise LocalFusionError("what was told so far is not kept any more", hint="ask for the whole response")
    return [text for _, text in found]


def request_of(record: JobRecord) -> JobRequest:
    """What was asked, as it was when the job was stored."""
    return JobRequest(
        record.kind,
        record.owner,
        json.loads(record.request),
        is_background=bool(record.is_background),
        idempotency_key=record.idempotency_key,
    )
