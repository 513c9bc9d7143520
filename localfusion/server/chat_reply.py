"""A turn as OpenAI's chat protocol tells it: chunks while it lasts, the completion at its end. A pure fold.

Chunks name the model that writes: the outer model, or after a deliberation the one that writes its answer. What a
deliberation does meanwhile is told as progress, in stages and without its texts, since some clients give up after a
few hundred lines that are no chunk.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from localfusion.events import AnswerStarted, Event
from localfusion.messages import Delta, FunctionCall, Progress, TokenLogprobs
from localfusion.outer import Turned, TurnEnd, TurnItem
from localfusion.server.accounts import Bill, bill, chat_usage
from localfusion.server.chat_progress import progress
from localfusion.server.cited import annotations
from localfusion.server.heard import Heard, hear
from localfusion.server.orders import Order
from localfusion.wire import chat_reply as wire
from localfusion.wire.annotations import ChatAnnotation
from localfusion.wire.logprobs import logprob_parts
from localfusion.wire.usage import ChatUsage

ChatEvent = wire.ChatChunk | wire.ChatProgress

FINISH: dict[TurnEnd, wire.ChatFinish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "cancelled": "length",
}
"""What was cancelled ends before its end, as what has no room does; the protocol has no other word for it."""


@dataclass(slots=True)
class _Choice:
    """What has been told of one choice; `written` is its text so far."""

    heard: Heard = field(default_factory=Heard)
    has_role: bool = False
    written: str = ""
    n_calls: int = 0
    turned: Turned | None = None


class ChatReply:
    """The reply to one chat request; every choice is fed the items of its own turn, in order.

    Where only the completion is wanted, it need not be fed deltas: the end of a turn has the whole text.
    `watts` is what the machine draws; with it the energy is estimated.
    """

    def __init__(
        self,
        id: str,
        created: int,
        order: Order,
        *,
        watts: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._id = id
        self._created = created
        self._order = order
        self._watts = watts
        self._clock = clock
        self._begun = clock()
        self._model = order.turn.model.name
        self._choices = [_Choice() for _ in range(order.n)]
        self._bills: list[Bill] = []

    def feed(self, item: TurnItem, index: int = 0) -> list[ChatEvent]:
        """What is told of one more item of the choice `index`."""
        choice = self._choices[index]
        match item:
            case Delta():
                return self._write(choice, index, item)
            case FunctionCall():
                return self._call(choice, index, item)
            case Turned():
                return self._turn(choice, index, item)
            case Progress():
                return []
            case _:
                return self._hear(choice, index, item)

    def end(self) -> list[wire.ChatChunk]:
        """The chunk with the usage, where it was asked for, when every choice has ended."""
        return [self._chunk([], usage=self._usage())] if self._order.includes_usage else []

    def completion(self) -> wire.ChatCompletion:
        """The whole reply, when every choice has ended."""
        turns = [(index, one.turned) for index, one in enumerate(self._choices) if one.turned]
        return wire.ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[_choice(index, turned, hides_thinking=self._order.hides_thinking) for index, turned in turns],
            usage=self._usage(),
        )

    def _write(self, choice: _Choice, index: int, item: Delta) -> list[ChatEvent]:
        if (not item.text and not item.logprobs) or self._hides(item):
            return []
        if item.kind == "thinking":
            delta = wire.ChatDelta(reasoning=item.text, reasoning_content=item.text)
        else:
            choice.written += item.text
            delta = wire.ChatDelta(content=item.text)
        return [*self._role(choice, index), self._piece(index, delta, logprobs=_logprobs(item.logprobs))]

    def _hides(self, delta: Delta) -> bool:
        return delta.kind == "thinking" and self._order.hides_thinking

    def _call(self, choice: _Choice, index: int, call: FunctionCall) -> list[ChatEvent]:
        function = wire.CalledFunction(name=call.name, arguments=call.arguments)
        told = wire.ChatToolCallDelta(index=choice.n_calls, id=call.id, function=function)
        choice.n_calls += 1
        return [*self._role(choice, index), self._piece(index, wire.ChatDelta(tool_calls=[told]))]

    def _turn(self, choice: _Choice, index: int, turned: Turned) -> list[ChatEvent]:
        """The end of a choice: what was not told yet, the citations, the reason why it ended."""
        choice.turned = turned
        self._model = turned.model
        self._bills.append(bill(choice.heard, turned, outer_model=self._order.turn.model.name))
        told = self._role(choice, index)
        rest = turned.content.removeprefix(choice.written) if turned.content.startswith(choice.written) else ""
        if rest:
            told.append(self._piece(index, wire.ChatDelta(content=rest)))
        cited = _annotations(turned)
        if cited:
            told.append(self._piece(index, wire.ChatDelta(annotations=cited)))
        return [*told, self._piece(index, wire.ChatDelta(), finish_reason=FINISH[turned.finish_reason])]

    def _hear(self, choice: _Choice, index: int, event: Event) -> list[ChatEvent]:
        choice.heard = hear(choice.heard, event)
        if isinstance(event, AnswerStarted):
            self._model = event.model
        told = progress(event, index=index, models=choice.heard.state.panelists)
        return [] if told is None else [told]

    def _role(self, choice: _Choice, index: int) -> list[ChatEvent]:
        """The first chunk of a choice, once."""
        if choice.has_role:
            return []
        choice.has_role = True
        return [self._piece(index, wire.ChatDelta(role="assistant", content=""))]

    def _piece(
        self,
        index: int,
        delta: wire.ChatDelta,
        *,
        logprobs: wire.ChatLogprobs | None = None,
        finish_reason: wire.ChatFinish | None = None,
    ) -> wire.ChatChunk:
        piece = wire.ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        return self._chunk([piece])

    def _chunk(self, choices: list[wire.ChatChunkChoice], *, usage: ChatUsage | None = None) -> wire.ChatChunk:
        kind = wire.CountedChatChunk if self._order.includes_usage else wire.ChatChunk
        return kind(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)

    def _usage(self) -> ChatUsage:
        return chat_usage(self._bills, watts=self._watts, elapsed_s=self._clock() - self._begun)


def _choice(index: int, turned: Turned, *, hides_thinking: bool) -> wire.ChatChoice:
    thinking = None if hides_thinking else turned.thinking or None
    calls = [
        wire.ChatToolCall(id=call.id, function=wire.CalledFunction(name=call.name, arguments=call.arguments))
        for call in turned.calls
    ]
    message = wire.ChatMessage(
        content=None if calls and not turned.content else turned.content,
        reasoning=thinking,
        reasoning_content=thinking,
        tool_calls=calls or None,
        annotations=_annotations(turned) or None,
    )
    finish_reason = FINISH[turned.finish_reason]
    return wire.ChatChoice(
        index=index, message=message, logprobs=_logprobs(turned.logprobs), finish_reason=finish_reason
    )


def _annotations(turned: Turned) -> list[ChatAnnotation]:
    citations = () if turned.outcome is None else turned.outcome.citations
    return [ChatAnnotation(url_citation=one) for one in annotations(turned.content, citations)]


def _logprobs(tokens: Iterable[TokenLogprobs]) -> wire.ChatLogprobs | None:
    parts = logprob_parts(tokens)
    return wire.ChatLogprobs(content=parts) if parts else None
