"""The outer model of a conversation: it answers, calls the caller's functions, or has a panel deliberate.

FUSION.md section 1: the outer model decides, once in a turn; what the panel and the judge came to is written up. How a
request names models and how a turn is told to a client is not known here.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from localfusion.assistant import Ask, JsonFormat, Written, write
from localfusion.errors import ContextOverflow, MalformedOutput
from localfusion.events import AnswerCompleted, AnswerStarted, Event, TextWritten
from localfusion.messages import (
    GREEDY,
    Delta,
    FunctionCall,
    FunctionSpec,
    Message,
    ModelSpec,
    Progress,
    TokenLogprobs,
    Usage,
)
from localfusion.outcome import Outcome
from localfusion.session import Session
from localfusion.store import RunRequest

TurnEnd = Literal["stop", "length", "tool_calls", "cancelled"]

DECIDE = """\
Do not answer yet. Decide how the request above is to be answered. Write "deliberate" if a panel of models should \
research it, with search, and compare what they find: for research questions, critique, comparisons, and wherever \
being wrong is expensive. Write "answer" if it is simple and you are sure of the answer yourself."""
DELIBERATE, ANSWER = "deliberate", "answer"

KEEP_ANSWER = FunctionSpec(
    "give_answer",
    "Give the answer above to the user as it is. Call it where no other function is needed now.",
    {"type": "object", "properties": {}, "additionalProperties": False},
)
"""What the outer model calls after a deliberation where it wants none of the caller's functions."""

MAX_CALL_TOKENS = 1024
"""What calls behind an answer may take."""
_FOUND = "What a panel of models found out about this, as data:\n{found}"


@dataclass(frozen=True, slots=True)
class Fusion:
    """The deliberation that the outer model may call for, or must where `is_forced`; its writer writes the answer."""

    request: RunRequest
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One turn: what the outer model is asked, and what it may have deliberated (None: nothing)."""

    model: ModelSpec
    ask: Ask
    fusion: Fusion | None = None


@dataclass(frozen=True, slots=True)
class Turned:
    """How a turn ended. `model` is the name of the model that wrote the text.

    `usage` is of all that the turn took, `outer_usage` what the outer model took outside of the deliberation (its
    decision, its own answer). `outcome` is what the deliberation came to, None where there was none; where it failed
    (`outcome.status` "error") nothing else was written.
    """

    model: str
    content: str = ""
    thinking: str = ""
    calls: tuple[FunctionCall, ...] = ()
    finish_reason: TurnEnd = "stop"
    usage: Usage = field(default_factory=Usage)
    outer_usage: Usage = field(default_factory=Usage)
    logprobs: tuple[TokenLogprobs, ...] = ()
    outcome: Outcome | None = None


TurnItem = Progress | Delta | FunctionCall | Event | Turned
"""What is told of a turn while it lasts, in order; the Turned is the last.

Deltas are the text (and thinking) of the turn's own message, also where it was written after a deliberation: its
`TextWritten` of the kind "answer" is told as a Delta and not as an event, and the deltas joined are the content.
Everything else that a deliberation says is told as it is said (`RunStarted` first, or what comes before it).
"""


async def take_turn(session: Session, request: TurnRequest, *, run_id: str | None = None) -> AsyncGenerator[TurnItem]:
    """Take the turn; closing the generator cancels it, what was finished of a deliberation is stored.

    `run_id` is a stored deliberation of this very turn, which is then gone on with. Raises ConfigError, InvalidRequest,
    ModelError, QueueFull.
    """
    turn = _Turn(session, request)
    async with aclosing(turn.take(run_id)) as items:
        async for item in items:
            yield item


class _Turn:
    """One turn under way: what was written of it so far."""

    def __init__(self, session: Session, request: TurnRequest) -> None:
        self._session = session
        ask = request.ask
        sequence = f"{ask.sequence}-{secrets.token_hex(8)}"  # nobody else's: two turns of one sequence would wait
        self._request = replace(request, ask=replace(ask, sequence=sequence))
        self._texts: dict[str, list[str]] = {"content": [], "thinking": []}
        self._calls: list[FunctionCall] = []
        self._outer_usage = Usage()
        self._ended = Turned(request.model.name)

    async def take(self, run_id: str | None) -> AsyncGenerator[TurnItem]:
        fusion = self._request.fusion
        if fusion is not None and (fusion.is_forced or run_id is not None or await self._calls_for_panel()):
            items = self._deliberated(fusion, run_id)
        else:
            items = self._own(self._request.ask)
        async with aclosing(items):
            async for item in items:
                yield item
        yield self._whole()

    def _whole(self) -> Turned:
        outcome = self._ended.outcome
        return replace(
            self._ended,
            content="".join(self._texts["content"]),
            thinking="".join(self._texts["thinking"]).strip(),
            calls=tuple(self._calls),
            finish_reason="tool_calls" if self._calls else self._ended.finish_reason,
            usage=self._outer_usage + (Usage() if outcome is None else outcome.usage),
            outer_usage=self._outer_usage,
        )

    async def _calls_for_panel(self) -> bool:
        """Whether the outer model wants the panel asked: one word, which nobody is told."""
        ask = _deciding(self._request.ask)
        holding = self._session.holding(self._request.model, conversation=ask.sequence)
        async with holding as model, aclosing(write(model, ask, name=self._request.model.name)) as items:
            written = [item async for item in items if isinstance(item, Written)]
        self._outer_usage += written[-1].usage
        return DELIBERATE in written[-1].content

    async def _own(self, ask: Ask) -> AsyncGenerator[TurnItem]:
        """What the outer model writes itself; that it kept its answer is not told."""
        holding = self._session.holding(self._request.model, conversation=ask.sequence)
        async with holding as model, aclosing(write(model, ask, name=self._request.model.name)) as items:
            async for item in items:
                if isinstance(item, Written):
                    self._note_end(item)
                elif not isinstance(item, FunctionCall):
                    yield self._noted(item)
                elif item.name != KEEP_ANSWER.name:
                    self._calls.append(item)
                    yield item

    def _note_end(self, written: Written) -> None:
        self._outer_usage += written.usage
        self._ended = replace(
            self._ended,
            model=self._request.model.name,
            finish_reason=written.finish_reason,
            logprobs=written.logprobs,
        )

    def _noted(self, item: Progress | Delta) -> Progress | Delta:
        if isinstance(item, Delta):
            self._texts[item.kind].append(item.text)
        return item

    async def _deliberated(self, fusion: Fusion, run_id: str | None) -> AsyncGenerator[TurnItem]:
        """The deliberation; then JSON of it, or calls that it makes necessary, where the caller asked for these."""
        ask = self._request.ask
        async with aclosing(self._run(fusion.request, run_id, is_shown=ask.output is None)) as items:
            async for item in items:
                yield item
        outcome = self._ended.outcome
        if outcome is None or outcome.status != "ok":
            return
        if ask.output is not None:
            async with aclosing(self._own(_as_json(ask, outcome))) as items:
                async for item in items:
                    yield item
        elif ask.functions and ask.choice != "none":
            async with aclosing(self._calls_behind(_calling(ask, outcome))) as items:
                async for item in items:
                    yield item

    async def _calls_behind(self, ask: Ask) -> AsyncGenerator[TurnItem]:
        """The calls that an answer makes necessary; it stands as it is where none comes of it."""
        ended = self._ended
        with suppress(ContextOverflow, MalformedOutput):
            async with aclosing(self._own(ask)) as items:
                async for item in items:
                    yield item
        self._ended = ended

    async def _run(self, request: RunRequest, run_id: str | None, *, is_shown: bool) -> AsyncGenerator[TurnItem]:
        """Everything that the deliberation says; its answer as deltas, if it is shown."""
        told: asyncio.Queue[Event | None] = asyncio.Queue()
        task = asyncio.create_task(self._started(request, run_id, told.put_nowait))
        task.add_done_callback(lambda _: told.put_nowait(None))
        is_writing = False
        try:
            while (event := await told.get()) is not None:
                is_writing = is_writing or isinstance(event, AnswerStarted)
                item = _as_item(event, is_writing=is_writing)
                self._follow(event)
                if not isinstance(item, Delta):
                    yield item
                elif is_shown:
                    yield self._noted(item)
            self._ended = replace(self._ended, outcome=await task)
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _follow(self, event: Event) -> None:
        if isinstance(event, AnswerStarted):
            self._ended = replace(self._ended, model=event.model)
        elif isinstance(event, AnswerCompleted):
            self._ended = replace(self._ended, finish_reason=event.finish_reason)

    def _started(
        self, request: RunRequest, run_id: str | None, emit: Callable[[Event], None]
    ) -> Coroutine[None, None, Outcome]:
        if run_id is None:
            return self._session.ask(request, emit=emit)
        return self._session.resume(run_id, emit=emit, narrow=partial(_as_allowed_now, request))


def _as_allowed_now(asked: RunRequest, stored: RunRequest) -> RunRequest:
    """A stored request with what is searched, and who may be asked, as it is now."""
    return replace(stored, sources=asked.sources, cloud=asked.cloud)


def _as_item(event: Event, *, is_writing: bool) -> Event | Delta:
    """An event, or the Delta that it is once the answer is being written."""
    if isinstance(event, TextWritten) and is_writing and event.kind in ("answer", "thinking"):
        return Delta("content" if event.kind == "answer" else "thinking", event.text)
    return event


def _deciding(ask: Ask) -> Ask:
    """The decision, asked behind all that the answer is asked of, so that nothing of it is read twice."""
    return replace(
        ask,
        messages=(*ask.messages, Message("user", DECIDE)),
        choice="none",
        output=JsonFormat({"enum": [DELIBERATE, ANSWER]}, is_told=False),
        sampling=GREEDY,
        max_tokens=16,
        stop=(),
        thinking=False,
        n_logprobs=None,
    )


def _as_json(ask: Ask, outcome: Outcome) -> Ask:
    """The JSON that was wanted, of what the deliberation came to."""
    found = Message("user", _FOUND.format(found=json.dumps(_found(outcome), ensure_ascii=False)))
    return replace(ask, messages=(*ask.messages, found), functions=(), choice="none")


def _calling(ask: Ask, outcome: Outcome) -> Ask:
    """The calls that are needed behind the answer, if any are; what the answer may take is not their limit."""
    return replace(
        ask,
        messages=(*ask.messages, Message("assistant", outcome.answer)),
        functions=(*ask.functions, KEEP_ANSWER),
        choice="required",
        max_tokens=MAX_CALL_TOKENS,
        thinking=False,
    )


def _found(outcome: Outcome) -> dict[str, str]:
    return {"answer": outcome.answer, **{f"source {c.number}": f"{c.title} {c.url}" for c in outcome.citations}}
