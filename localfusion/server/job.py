"""What a job is: what was asked, how its work says what comes of it, what whoever listens is told. It runs nothing."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from localfusion.messages import Json

JobKind = Literal["chat", "responses"]
JobStatus = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a job; `sequence` counts from 0 without gaps, and is the event's own `sequence_number`, if any.

    `text` is the event as JSON, all ASCII: it is written once for all who listen and for the disk.
    """

    sequence: int
    text: str

    @property
    def event(self) -> Json:
        """The event read back from its text."""
        event: Json = json.loads(self.text)
        return event


class Teller(Protocol):
    """How work says what comes of it."""

    @property
    def n_told(self) -> int:
        """Events of the job so far: more than none where the work goes on after a restart."""
        ...

    @property
    def id(self) -> str:
        """The job's own."""
        ...

    @property
    def created(self) -> float:
        """The job's own."""
        ...

    @property
    def run_id(self) -> str | None:
        """The job's own."""
        ...

    def tell(self, event: Json) -> None:
        """Append an event to the job's log, for all who listen. A `sequence_number` that it has is set to its place."""
        ...

    def update(self, status: JobStatus, body: Json) -> None:
        """What a client is told that asks for the job now; `body` is not changed afterwards."""
        ...

    def note_run(self, run_id: str) -> None:
        """The deliberation of this job, with which it goes on after a restart."""
        ...


Work = Callable[[Teller, str | None], Awaitable[None]]
"""Does a job to its end; is given the deliberation that it goes on with after a restart. Cancelled to stop it.

It updates the job before it waits for anything, so that there is always a body, and when it is cancelled too. A job
that it leaves without an end is completed, failed (it raised) or cancelled.
"""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is to be remembered of a request: `kind` and `request` are enough to make its work again.

    `owner` is whoever asked, by the id of his key ("" where there are none): nobody else sees the job. `is_stored`:
    it can be asked for later. `idempotency_key`: the same key and owner give the same job; with another `request`,
    InvalidRequest.
    """

    kind: JobKind
    owner: str
    request: Json
    is_background: bool = False
    is_stored: bool = True
    idempotency_key: str = ""


class Job(Protocol):
    """One job, under way or done."""

    @property
    def id(self) -> str: ...

    @property
    def request(self) -> JobRequest: ...

    @property
    def created(self) -> float:
        """Seconds since 1970."""
        ...

    @property
    def status(self) -> JobStatus: ...

    @property
    def body(self) -> Json:
        """What was last said by `update`."""
        ...

    @property
    def run_id(self) -> str | None:
        """The deliberation that was noted, if there was one."""
        ...

    def events(self, *, after: int = -1) -> AsyncGenerator[Told]:
        """Every event behind `after`, to the end of the job. Listening; the last listener's leaving may cancel it."""
        ...

    async def result(self) -> Json:
        """The body at the end. Listening, as `events`.

        Raises what the work raised; RunInterrupted where it was cancelled and there is no body.
        """
        ...
