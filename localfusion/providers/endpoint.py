"""A provider's model as the layers above know models: generate, count, no vectors. Opens no connection itself.

Lengths are estimates, since only the provider has the tokenizer; they err on the large side (`estimates`).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import NoReturn, Protocol, TypeVar

from localfusion.errors import ContextOverflow, MalformedOutput, ProviderError
from localfusion.events import CloudCalled, CloudCharged
from localfusion.messages import (
    Completion,
    Delta,
    FinishReason,
    GenerateRequest,
    Json,
    Message,
    ModelInfo,
    Progress,
    RemoteModel,
    TextKind,
    ToolSpec,
    Usage,
)
from localfusion.providers.chunks import Chunk, Counted
from localfusion.providers.estimates import estimated_prompt, estimated_tokens, prompt_characters
from localfusion.providers.reading import Reading
from localfusion.providers.refusals import PromptTooLong, Unavailable, Unsupported
from localfusion.providers.spending import Reservation, Spending, price
from localfusion.providers.turns import body_of, tool_syntax

T = TypeVar("T")

TOOLS = ("web_search", "web_fetch")
SILENCE_S = 120.0
"""How long a stream that has begun may say nothing."""
CHARACTERS_A_TOKEN = 8
"""No text has more characters for a token than this, white space aside; a stream that goes over is stopped."""
SPARE_CHARACTERS = 256


class Line(Protocol):
    """What an endpoint needs of its connection."""

    async def persist(self, work: Callable[[], Awaitable[T]]) -> T: ...

    def send(
        self, body: Mapping[str, Json], *, max_tokens: int, on_sent: Callable[[], None]
    ) -> AsyncGenerator[Chunk]: ...


@dataclass(slots=True)
class _Reply:
    """A request, what was put by for it, and its reply so far; `sent` is set once the provider has all of it."""

    body: Mapping[str, Json]
    reserved: Reservation
    chunks: AsyncGenerator[Chunk]
    deadline: float
    sent: asyncio.Event
    started: float = field(default_factory=monotonic)
    first: Chunk = field(default_factory=Chunk)
    counted: Counted | None = None
    may_cost: bool = False

    def broke_off(self) -> None:
        """It ended without a word of the provider, who may have worked on it all the same."""
        self.may_cost = self.may_cost or self.sent.is_set()


class Endpoint:
    """One model at one provider, for one seat (or "judge") of a run."""

    def __init__(
        self,
        model: RemoteModel,
        line: Line,
        *,
        id: str,
        spending: Spending,
        emit: Callable[[CloudCalled | CloudCharged], None],
    ) -> None:
        self._model = model
        self._line = line
        self._id = id
        self._spending = spending
        self._emit = emit
        self._without: set[str] = set()
        n_ctx = model.n_ctx
        self._info = ModelInfo(f"{model.model} at {model.provider.name}", n_ctx, n_ctx, 0, 0, 0, {}, tool_syntax(TOOLS))

    @property
    def info(self) -> ModelInfo:
        """The window that the catalogue gives it; vocabulary and sizes are not known, and 0."""
        return self._info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        """Write; the last item is the Completion. Closing the generator closes the connection.

        Raises ProviderError, LimitReached, ContextOverflow, MalformedOutput.
        """
        if request.n_logprobs is not None or request.functions:
            what = "functions of the caller's own" if request.functions else "logprobs"
            raise ProviderError(
                self._model.name, f"{self._model.name} is not asked for {what}", hint="name a local model"
            )
        reply = await self._line.persist(partial(self._send, request))
        reading = Reading(request, self._model)
        counted = reply.counted
        reason: FinishReason | None = None
        left = CHARACTERS_A_TOKEN * reply.reserved.completion_tokens + SPARE_CHARACTERS
        try:
            async with aclosing(self._chunks(reply)) as chunks:
                async for chunk in chunks:
                    counted = chunk.counted or counted
                    reason = reason or self._reason(chunk)
                    left -= chunk.length
                    for delta in reading.feed(chunk):
                        yield delta
                    if left < 0:
                        reason = "length"
                        break
            content, unshown = self._content(reading, request, reason)
        finally:
            usage = self._usage(reply, reading.written, counted)
            self._settle(reply, usage)
        if unshown:
            yield Delta("content", unshown)
        yield Completion(content, reading.thinking, reason or "stop", usage)

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Estimates, on the large side: what fits by them fits."""
        return tuple(map(estimated_tokens, texts))

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """An estimate, on the large side, of the request that is made of a conversation."""
        return estimated_prompt(body_of(GenerateRequest(self._id, tuple(messages), tuple(tools)), self._model))

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> NoReturn:
        """Raises ProviderError: providers are asked for answers only."""
        del texts, kind
        raise ProviderError(self._model.name, f"{self._model.name} is asked for answers and makes no vectors")

    # Sending

    async def _send(self, request: GenerateRequest) -> _Reply:
        """Send a request until its first word has come. Raises ProviderError, ContextOverflow."""
        while True:
            body = body_of(request, self._model, without=tuple(self._without))
            prompt_tokens = estimated_prompt(body)
            try:
                return await self._begun(body, request, prompt_tokens)
            except Unsupported as error:
                if error.parameter in self._without:
                    raise
                self._without.add(error.parameter)
            except PromptTooLong as error:
                raise ContextOverflow(self._model.name, tokens=prompt_tokens, n_ctx=self._model.n_ctx) from error

    async def _begun(self, body: dict[str, Json], request: GenerateRequest, prompt_tokens: int) -> _Reply:
        room = max(self._model.n_ctx - prompt_tokens, self._model.n_ctx // 8)  # what is estimated may well fit
        wanted = room if request.max_tokens is None else min(request.max_tokens, room)
        reserved = await self._spending.reserve(self._model, prompt_tokens=prompt_tokens, wanted=wanted)
        most = reserved.completion_tokens
        body["max_completion_tokens" if "max_tokens" in self._without else "max_tokens"] = most
        self._emit(self._called(body))
        sent = asyncio.Event()
        chunks = self._line.send(body, max_tokens=most, on_sent=sent.set)
        reply = _Reply(body, reserved, chunks, monotonic() + self._model.provider.timeout_s, sent)
        try:
            reply.first = await self._first(reply)
        except asyncio.CancelledError:
            reply.broke_off()
            raise
        except ProviderError as error:
            if error.status is None:
                reply.broke_off()
            raise
        finally:
            if reply.first.is_empty:
                self._settle(reply, self._usage(reply, "", reply.counted) if reply.may_cost else Usage())
        return reply

    def _called(self, body: dict[str, Json]) -> CloudCalled:
        model, provider = self._model, self._model.provider
        n_characters = prompt_characters(body)
        return CloudCalled(self._id, provider.name, provider.base_url, model.name, n_characters, model.model)

    async def _first(self, reply: _Reply) -> Chunk:
        """The first chunk that says something. Raises ProviderError, Unavailable where the stream ends without one."""
        while True:
            chunk = await self._next(reply, limit_s=self._model.provider.timeout_s)
            if chunk is None:
                raise Unavailable(self._model.name, f"{self._model.provider.name} sent an empty answer", status=200)
            reply.may_cost = True
            reply.counted = chunk.counted or reply.counted
            if not chunk.is_empty:
                return chunk

    async def _chunks(self, reply: _Reply) -> AsyncGenerator[Chunk]:
        async with aclosing(reply.chunks):
            yield reply.first
            while (chunk := await self._next(reply, limit_s=SILENCE_S)) is not None:
                yield chunk

    async def _next(self, reply: _Reply, *, limit_s: float) -> Chunk | None:
        """The next chunk, None at the end. Raises ProviderError where it takes too long."""
        left = reply.deadline - monotonic()
        try:
            async with asyncio.timeout(min(limit_s, left)):
                return await anext(reply.chunks, None)
        except TimeoutError:
            reply.broke_off()
            provider = self._model.provider
            what = f"sent nothing for {limit_s:g} s" if limit_s < left else f"took longer than {provider.timeout_s:g} s"
            hint = "" if limit_s < left else f"raise timeout_s of {provider.name} in models.yaml"
            raise ProviderError(self._model.name, f"{provider.name} {what}", status=200, hint=hint) from None

    # What came

    def _reason(self, chunk: Chunk) -> FinishReason | None:
        """How the model ended, None while it goes on. Raises ProviderError where it was kept from it."""
        reason, provider = chunk.finish_reason, self._model.provider.name
        if not reason:
            return None
        if reason == "content_filter":
            raise ProviderError(self._model.name, f"{provider} withholds the answer by its content filter", status=200)
        if reason == "error":
            raise ProviderError(self._model.name, f"{provider} gave up in the middle of the answer", status=200)
        return "length" if reason in ("length", "max_tokens") else "stop"

    def _content(self, reading: Reading, request: GenerateRequest, reason: FinishReason | None) -> tuple[str, str]:
        """The content, and what of it was not shown. Raises ProviderError, MalformedOutput."""
        if reason is None:
            raise ProviderError(
                self._model.name, f"{self._model.provider.name} ended in the middle of the answer", status=200
            )
        content, unshown = reading.finish(reason)
        if not content.strip() and reason == "stop" and request.output.schema is None:
            raise MalformedOutput(self._model.name, f"{self._model.name} wrote nothing", text=reading.written)
        return content, unshown

    def _settle(self, reply: _Reply, usage: Usage) -> None:
        """The request has ended and took this."""
        self._spending.settle(reply.reserved, usage)
        self._emit(CloudCharged(self._id, self._model.provider.name, self._model.name, usage))

    def _usage(self, reply: _Reply, written: str, counted: Counted | None) -> Usage:
        """What a request took: as the provider says, else as it is estimated."""
        if counted is None:
            counted = Counted(estimated_prompt(dict(reply.body)), 0, estimated_tokens(written), 0, None)
        cost, prices = counted.cost, self._model.prices
        if cost is None:
            cost = (
                0.0
                if prices is None
                else float(
                    price(
                        prices,
                        prompt_tokens=counted.prompt_tokens,
                        completion_tokens=counted.completion_tokens,
                        cached_tokens=counted.cached_tokens,
                    )
                )
            )
        return Usage(
            counted.prompt_tokens,
            counted.cached_tokens,
            counted.completion_tokens,
            monotonic() - reply.started,
            cost,
            counted.reasoning_tokens,
        )
