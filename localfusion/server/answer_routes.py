"""The routes that ask models: chat completions, responses and what is kept of them, embeddings."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import JSONResponse, Response

from localfusion.errors import InvalidRequest, NoSuchResponse, RunInterrupted
from localfusion.messages import Json
from localfusion.server.access import LOG
from localfusion.server.answering import Answering
from localfusion.server.bodies import read_json
from localfusion.server.errors import ROUTER_PREFIX
from localfusion.server.guard import caller_of
from localfusion.server.jobs import Job, JobKind, JobRequest, Work
from localfusion.server.limits import Place, Queue, within
from localfusion.server.live_job import as_text
from localfusion.server.openapi import (
    DEPTH_HEADER,
    IDEMPOTENCY_KEY,
    OF_ANY,
    OF_WORK,
    asking,
    body_of,
    errors,
    shape,
    streamed,
)
from localfusion.server.orders import Order, OrderBook
from localfusion.server.served import Served
from localfusion.server.sse import DONE, frame
from localfusion.server.streaming import EventStream, WholeReply, unless_left
from localfusion.server.telling import REQUEST_ID, telling
from localfusion.wire.asked import read
from localfusion.wire.chat import ChatRequest
from localfusion.wire.chat_reply import ChatChunk, ChatCompletion
from localfusion.wire.embeddings import EmbeddingsRequest
from localfusion.wire.listings import Deleted, EmbeddingList
from localfusion.wire.responses import ResponsesRequest
from localfusion.wire.responses_reply import Response as WireResponse
from localfusion.wire.responses_reply import StreamedEvent

After = Annotated[int, Query(ge=-1, le=2**53)]
"""The number of an event, as far as every reader of JSON can count."""
_FAILED = b"event: response.failed\n"


class AnswerRoutes:
    """The endpoints, over what the server stands on."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._jobs = served.jobs
        self._answering = served.answering

    def add_to(self, app: FastAPI, prefix: str) -> None:
        """Put the routes under a prefix."""
        work, kept = errors(prefix, OF_WORK), errors(prefix, OF_ANY | {404})
        app.post(
            f"{prefix}/chat/completions",
            response_model=ChatCompletion,
            openapi_extra=asking(ChatRequest),
            responses=work | streamed(ChatChunk, shape(prefix)),
        )(self.chat)
        app.post(
            f"{prefix}/responses",
            response_model=WireResponse,
            openapi_extra=asking(ResponsesRequest),
            responses=work | streamed(StreamedEvent),
        )(self.respond)
        path = f"{prefix}/responses/{{id}}"
        app.get(path, response_model=WireResponse, responses=work | streamed(StreamedEvent))(self.get)
        app.delete(path, response_model=Deleted, responses=kept)(self.delete)
        app.post(f"{path}/cancel", response_model=WireResponse, responses=kept)(self.cancel)
        app.post(
            f"{prefix}/embeddings",
            response_model=EmbeddingList,
            openapi_extra=body_of(EmbeddingsRequest),
            responses=work,
        )(self.embed)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, whole or in pieces."""
        value = await self._read(request)
        body = read(ChatRequest, value)
        order = await asyncio.to_thread(self._served.orders.chat, body, depth=_depth(request))
        place = self._place(request)
        job = await self._start(
            order, {"body": value}, self._answering.chat(order, place), place=place, kind="chat", request=request
        )
        if order.is_streamed:
            last = ChatChunk(id=job.id, created=int(job.created), model=order.turn.model.name, choices=[])
            return await self._stream(_chat_frames(job), request, beside=last.model_dump(mode="json"))
        return await self._whole(job, request)

    async def respond(self, request: Request) -> Response:
        """Answer as the Responses API does: whole, in pieces, or in the background."""
        value = await self._read(request)
        body = read(ResponsesRequest, value)
        history = await self._history(value.get("previous_response_id"), request)
        depth = _depth(request)
        order = await asyncio.to_thread(self._served.orders.responses, body, depth=depth, history=history)
        place = self._place(request)
        asked: Json = {"body": value, "depth": depth, "history": list(history)}
        job = await self._start(
            order, asked, self._answering.responses(order, place), place=place, kind="responses", request=request
        )
        if order.is_streamed:
            return await self._stream(_response_frames(job, request.scope["path"]), request, after=-1)
        if order.is_background:
            return JSONResponse(await _begun(job))
        return await self._whole(job, request)

    async def get(self, request: Request, id: str, stream: bool = False, starting_after: After = -1) -> Response:
        """A response as it is now, or its events behind `starting_after`."""
        job = await self._kept(id, request)
        if stream:
            frames = _response_frames(job, request.scope["path"], after=starting_after)
            return await self._stream(frames, request, after=starting_after)
        return JSONResponse(_as_it_is(job))

    async def delete(self, request: Request, id: str) -> Response:
        """Forget a response; one that is under way is cancelled."""
        await self._kept(id, request)
        await self._jobs.delete(id, caller_of(request.scope).id)
        return JSONResponse(Deleted(id=id).model_dump())

    async def cancel(self, request: Request, id: str) -> Response:
        """Stop a response; what was done stays as it is."""
        await self._kept(id, request)
        return JSONResponse(_as_it_is(await self._jobs.cancel(id, caller_of(request.scope).id)))

    async def embed(self, request: Request) -> Response:
        """The vectors of texts."""
        asked = read(EmbeddingsRequest, await self._read(request))
        place = self._place(request)
        place.take()
        try:
            work = self._served.embedding.vectors(
                asked.model, asked.texts, encoding=asked.encoding_format, dimensions=asked.dimensions
            )
            async with within(self._served.settings.timeout_s):
                return JSONResponse((await unless_left(work, request.receive)).model_dump())
        finally:
            place.release()

    async def _read(self, request: Request) -> dict[str, Json]:
        """What is asked, which only a log that was asked for is told."""
        value = await read_json(request)
        if self._served.settings.log_prompts:
            LOG.info("%s asked %s", request.scope[REQUEST_ID], json.dumps(value))
        return value

    def _place(self, request: Request) -> Place:
        """A place of the queue, which is taken once there is something to be done."""
        caller = caller_of(request.scope)
        return self._served.queue.place(caller.id, caller.max_queue)

    async def _start(
        self, order: Order, asked: Json, work: Work, *, place: Place, kind: JobKind, request: Request
    ) -> Job:
        job_request = JobRequest(
            kind,
            caller_of(request.scope).id,
            asked,
            is_background=order.is_background,
            is_stored=order.is_stored,
            idempotency_key=request.headers.get(IDEMPOTENCY_KEY, ""),
        )
        job = None
        try:
            job = await self._jobs.start(job_request, work, admit=place.take)
        finally:
            if job is None or job.request is not job_request:  # it was asked before: the work is not done again
                place.release()
        return job

    async def _stream(
        self,
        frames: AsyncGenerator[bytes],
        request: Request,
        *,
        after: int | None = None,
        beside: Mapping[str, Json] = MappingProxyType({}),
    ) -> Response:
        """The frames as a reply; those of a response are numbered, behind `after`.

        `beside` is what clients need to read beside an error that ends it.
        """

        def failed(error: BaseException, n_sent: int) -> bytes:
            answer = telling(error, request.scope[REQUEST_ID])
            if after is not None:
                return frame(as_text(answer.event(after + 1 + n_sent)))
            return frame(as_text({**beside, **answer.body(request.scope["path"])}))

        return await EventStream(frames, heartbeat_s=self._served.settings.heartbeat_s, failed=failed).begin()

    async def _whole(self, job: Job, request: Request) -> Response:
        """The reply in one piece. OpenRouter's client gives up after seconds without a byte, OpenAI's waits."""
        path = request.scope["path"]
        if not path.startswith(ROUTER_PREFIX):
            return JSONResponse(await unless_left(job.result(), request.receive))

        def failed(error: BaseException, _n_sent: int) -> bytes:
            return as_text(telling(error, request.scope[REQUEST_ID]).body(path)).encode()

        reply = WholeReply(_document(job), heartbeat_s=self._served.settings.heartbeat_s, failed=failed)
        return await unless_left(reply.begin(), request.receive)

    async def _kept(self, id: str, request: Request) -> Job:
        job = await self._jobs.get(id, caller_of(request.scope).id)
        if job.request.kind != "responses":
            raise NoSuchResponse(f"there is no response {id[:80]!a}")
        return job

    async def _history(self, previous: Json, request: Request) -> Sequence[Json]:
        """What was said up to the end of an earlier response."""
        if not isinstance(previous, str):
            return ()
        try:
            return history_of(await self._kept(previous, request))
        except NoSuchResponse as error:
            raise InvalidRequest(
                error.message, param="previous_response_id", code="previous_response_not_found"
            ) from error


def revived(orders: OrderBook, answering: Answering, queue: Queue, request: JobRequest) -> Work:
    """The work of a job in the background that goes on after a restart. Raises InvalidRequest where it cannot."""
    asked = request.request if isinstance(request.request, dict) else {}
    body, history, depth = asked.get("body"), asked.get("history"), asked.get("depth")
    order = orders.responses(
        read(ResponsesRequest, body),
        depth=depth if isinstance(depth, int) else 0,
        history=history if isinstance(history, list) else (),
    )
    place = queue.place(request.owner)
    place.join()
    return answering.responses(order, place)


def stopped(_request: JobRequest, body: Json) -> Json:
    """What is told of a job that ended with its server, by what it came to before."""
    error: Json = {"code": "server_error", "message": "the server was stopped before the answer was written"}
    return {**body, "status": "failed", "error": error} if isinstance(body, dict) else body


def history_of(job: Job) -> list[Json]:
    """The items of a conversation up to the end of a response: what came before, what was asked, what was answered."""
    asked = job.request.request if isinstance(job.request.request, dict) else {}
    body = asked.get("body")
    before, said = asked.get("history"), body.get("input") if isinstance(body, dict) else None
    answered = job.body.get("output") if isinstance(job.body, dict) else None
    if isinstance(said, str):
        said = [{"type": "message", "role": "user", "content": said}]
    return [item for part in (before, said, answered) if isinstance(part, list) for item in part]


async def _document(job: Job) -> AsyncGenerator[bytes]:
    """The reply in one piece."""
    yield json.dumps(await job.result(), separators=(",", ":")).encode()


async def _chat_frames(job: Job) -> AsyncGenerator[bytes]:
    """The chunks of a chat completion. Raises what went wrong."""
    async with aclosing(job.events()) as events:
        async for event in events:
            yield frame(event.text)
    if job.status == "cancelled":  # somebody listens, so it was the end of the server
        raise RunInterrupted("the server ended before the answer was written", hint="ask again")
    if job.status == "failed":
        await job.result()
    yield DONE


async def _response_frames(job: Job, path: str, *, after: int = -1) -> AsyncGenerator[bytes]:
    """The events of a response, numbered as they are kept. Raises what went wrong, where no event tells it."""
    last = b""
    async with aclosing(job.events(after=after)) as events:
        async for event in events:
            last = frame(event.text)
            yield last
    if job.status == "failed" and not last.startswith(_FAILED):
        await job.result()
    if path.startswith(ROUTER_PREFIX):
        yield DONE


async def _begun(job: Job) -> Json:
    """What a client is told of a job that has begun: its body once its first event is there."""
    async with aclosing(job.events()) as events:
        await anext(events, None)
    return _as_it_is(job)


def _as_it_is(job: Job) -> Json:
    if not isinstance(job.body, dict):
        return {"id": job.id, "object": "response", "created_at": int(job.created), "status": job.status}
    return job.body | {"status": job.status}


def _depth(request: Request) -> int:
    """How many deliberations the request comes from the inside of."""
    text = request.headers.get(DEPTH_HEADER, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise InvalidRequest(f"{DEPTH_HEADER} is a small whole number", param=DEPTH_HEADER)
    return int(text)
