"""The smallest parts that the routes can stand on: orders of one model, replies of plain text, jobs in memory.

What they say on the wire is their own; the turns are real.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from localfusion.assistant import Ask
from localfusion.errors import LocalFusionError, NoSuchResponse
from localfusion.messages import Delta, Json, Message, ModelSpec, Sampling
from localfusion.outer import Turned, TurnItem, TurnRequest
from localfusion.server.jobs import Job, JobRequest, JobStatus, Told, Work
from localfusion.server.parts import Order, Parts, Wire


class Asked(BaseModel):
    """A request: a text, and how it is to be answered."""

    model: str
    input: str = ""
    n: int = 1
    max_tokens: int = 8
    stream: bool = False
    background: bool = False
    previous_response_id: str | None = None


class Said(BaseModel):
    """Any reply, and any event of one."""

    type: str = "said"
    id: str = ""
    status: str = "completed"
    output: list[str] = []
    error: str | None = None


class Texts(BaseModel):
    """A request for vectors."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


@dataclass(frozen=True)
class PlainOrder:
    """An order of one text."""

    turn: TurnRequest
    n: int = 1
    is_streamed: bool = False
    is_background: bool = False
    is_stored: bool = True
    echo: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainOrders:
    """Orders of one model, whatever is named."""

    spec: ModelSpec

    def chat(self, body: BaseModel, *, depth: int) -> Order:
        return self.responses(body, depth=depth)

    def responses(self, body: BaseModel, *, depth: int, history: Sequence[Json] = ()) -> Order:
        assert isinstance(body, Asked)
        text = " ".join([*(str(item) for item in history), body.input, "x" * depth])
        ask = Ask((Message("user", text),), sampling=Sampling(seed=1), max_tokens=body.max_tokens)
        return PlainOrder(TurnRequest(self.spec, ask), body.n, body.stream, body.background)

    def names(self) -> Sequence[str]:
        return (self.spec.name,)


class PlainReply:
    """A reply whose choices are texts."""

    def __init__(self, id: str, _created: int, order: Order) -> None:
        self._said = Said(id=id, status="in_progress", output=[""] * order.n)

    def start(self) -> Sequence[BaseModel]:
        return [Said(type="created", id=self._said.id)]

    def feed(self, item: TurnItem, index: int = 0) -> Sequence[BaseModel]:
        if isinstance(item, Turned):
            self._said.status = "completed"
        if not isinstance(item, Delta):
            return ()
        self._said.output[index] += item.text
        return [Said(type="delta", output=[item.text])]

    def end(self) -> Sequence[BaseModel]:
        return [Said(type="end")]

    def fail(self, error: LocalFusionError) -> Sequence[BaseModel]:
        self._said.status, self._said.error = "failed", error.message
        return [Said(type="failed", error=error.message)]

    def cancelled(self) -> Sequence[BaseModel]:
        self._said.status = "cancelled"
        return [Said(type="cancelled")]

    def completion(self) -> BaseModel:
        return self._said

    response = completion


class PlainJob:
    """A job in memory that ends when its last listener leaves."""

    def __init__(self, id: str, request: JobRequest) -> None:
        self.id, self.request, self.created = id, request, time.time()
        self.status: JobStatus = "queued"
        self.body: Json = None
        self._log: list[Told] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def run(self, work: Work) -> None:
        self._task = asyncio.ensure_future(_finished(work, self))
        self._task.add_done_callback(lambda _: self._ring())

    def tell(self, event: Json) -> None:
        self._log.append(Told(len(self._log), event))
        self._ring()

    def update(self, status: JobStatus, body: Json) -> None:
        self.status, self.body = status, body

    def note_run(self, run_id: str) -> None:
        del run_id

    async def events(self, *, after: int = -1) -> AsyncGenerator[Told]:
        at = after + 1
        try:
            while at < len(self._log) or not self.task.done():
                if at < len(self._log):
                    at += 1
                    yield self._log[at - 1]
                else:
                    await self._news.wait()
        finally:
            if not self.request.is_background:
                self.task.cancel()

    async def result(self) -> Json:
        try:
            await self.task
        finally:
            self.task.cancel()
        return self.body

    @property
    def task(self) -> "asyncio.Task[None]":
        assert self._task is not None
        return self._task

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _finished(work: Work, job: PlainJob) -> None:
    try:
        await work(job, None)
    except LocalFusionError:
        job.status = "failed"
        raise


class PlainJobs:
    """Every job that was ever started."""

    def __init__(self) -> None:
        self.all: dict[str, PlainJob] = {}

    async def start(self, request: JobRequest, work: Work) -> Job:
        job = PlainJob(f"resp_{len(self.all)}", request)
        self.all[job.id] = job
        job.run(work)
        return job

    async def get(self, id: str, owner: str) -> Job:
        return self._get(id, owner)

    async def cancel(self, id: str, owner: str) -> Job:
        job = self._get(id, owner)
        job.task.cancel()
        await asyncio.wait({job.task})
        return job

    async def delete(self, id: str, owner: str) -> None:
        await self.cancel(id, owner)
        del self.all[id]

    def _get(self, id: str, owner: str) -> PlainJob:
        if id not in self.all or self.all[id].request.owner != owner:
            raise NoSuchResponse("there is no such response")
        return self.all[id]


def plain_parts(spec: ModelSpec) -> Parts:
    """All of it for one model."""
    return Parts(PlainOrders(spec), Wire(Asked, Said, Said, Asked, Said, Said, Texts), PlainReply, PlainReply)
