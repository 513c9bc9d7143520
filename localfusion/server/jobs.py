"""What is being answered, and what was: a numbered log of events for each, for whoever listens, now or later.

A job in the foreground ends when nobody listens any more; one in the background does not, and goes on after the server
was started again. What is asked and how it is answered is not known here.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from localfusion.messages import Json

JobStatus = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a job; `sequence` counts from 0 without gaps, and is the event's own `sequence_number`, if any."""

    sequence: int
    event: Json


class Teller(Protocol):
    """How work says what comes of it."""

    @property
    def id(self) -> str:
        """The job's own."""
        ...

    @property
    def created(self) -> float:
        """The job's own."""
        ...

    def tell(self, event: Json) -> None:
        """Append an event to the job's log, for all who listen."""
        ...

    def update(self, status: JobStatus, body: Json) -> None:
        """What a client is told that asks for the job now."""
        ...

    def note_run(self, run_id: str) -> None:
        """The deliberation of this job, with which it goes on after a restart."""
        ...


Work = Callable[[Teller, str | None], Awaitable[None]]
"""Does a job to its end; is given the deliberation that it goes on with after a restart. Cancelled to stop it."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is to be remembered of a request: `kind` and `request` are enough to make its work again.

    `owner` is whoever asked, by the name of his key ("" where there are none): nobody else sees the job. `is_stored`:
    it can be asked for later. `idempotency_key`: the same key and owner give the same job; with another `request`,
    InvalidRequest.
    """

    kind: Literal["chat", "responses"]
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

    def events(self, *, after: int = -1) -> AsyncGenerator[Told]:
        """Every event behind `after`, to the end of the job. Listening; the last listener's leaving may cancel it."""
        ...

    async def result(self) -> Json:
        """The body at the end. Listening, as `events`. Raises what the work raised."""
        ...
