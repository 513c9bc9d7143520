"""A turn as the Responses protocol tells it: events while it lasts, and the response object at any time. A pure fold.

Items stand in the order in which they begin: a thought, the deliberation, the message, calls of functions. The item of
a deliberation is told whole before the message that is written of it begins.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

from localfusion.analysis import Citation
from localfusion.errors import ContextOverflow, InvalidRequest, LocalFusionError, QueueFull
from localfusion.events import AnswerCompleted, AnswerStarted, Event, RunResumed, RunStarted
from localfusion.messages import Delta, FunctionCall, Json, Progress
from localfusion.outcome import Outcome
from localfusion.outer import Turned, TurnItem
from localfusion.server.accounts import bill, responses_usage
from localfusion.server.cited import annotations
from localfusion.server.fusion_events import FusionEvents, failure, fusion_item
from localfusion.server.heard import Heard, hear, names
from localfusion.server.orders import Order
from localfusion.server.responses_items import OpenText, call_events, call_item
from localfusion.wire import responses_reply as wire
from localfusion.wire.fusion_reply import FusionItem
from localfusion.wire.usage import ResponsesUsage

OWN = frozenset(
    {
        "id",
        "object",
        "created_at",
        "completed_at",
        "status",
        "model",
        "output",
        "usage",
        "error",
        "incomplete_details",
        "background",
        "store",
    }
)
"""What the response says itself; everything else of it is what was asked."""


class ResponsesReply:
    """The reply to one Responses request.

    `n_told` events were told before the server was started again: theirs are the first numbers. `watts` is what the
    machine draws; with it the energy is estimated.
    """

    def __init__(
        self,
        id: str,
        created_at: int,
        order: Order,
        *,
        n_told: int = 0,
        watts: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._id = id
        self._created_at = created_at
        self._order = order
        self._echo = _echoed(order.echo)
        self._is_new = n_told == 0
        self._watts = watts
        self._clock = clock
        self._begun = clock()
        self._numbers = count(n_told)
        self._status: wire.ResponseStatus = "in_progress"
        self._model = order.turn.model.name
        self._items: list[wire.OutputItem] = []
        self._open: OpenText | None = None
        self._fusion: FusionEvents | None = None
        self._fusion_index = 0
        self._heard = Heard()
        self._is_cited = False
        self._usage: ResponsesUsage | None = None
        self._error: wire.ResponseError | None = None
        self._completed_at: int | None = None

    def start(self) -> list[wire.ResponsesEvent]:
        """The first events."""
        if not self._is_new:
            return [wire.ResponseInProgress(sequence_number=next(self._numbers), response=self.response())]
        created = wire.ResponseCreated(sequence_number=next(self._numbers), response=self.response())
        return [created, wire.ResponseInProgress(sequence_number=next(self._numbers), response=self.response())]

    def feed(self, item: TurnItem) -> list[wire.ResponsesEvent]:
        """What is told of one more item of the turn; of the last, how it ended."""
        match item:
            case Delta():
                return self._write(item)
            case FunctionCall():
                return self._call(item)
            case Turned():
                return self._turn(item)
            case Progress():
                return []
            case _:
                return self._hear(item)

    def fail(self, error: LocalFusionError) -> list[wire.ResponsesEvent]:
        """What is told where the turn failed; what was begun stays, incomplete."""
        told = self._stop("failed")
        message = f"{error.message}; {error.hint}" if error.hint else error.message
        self._error = wire.ResponseError(code=_code(error), message=message)
        return [*told, wire.ResponseFailed(sequence_number=next(self._numbers), response=self.response())]

    def cancelled(self) -> list[wire.ResponsesEvent]:
        """What is told where the turn was cancelled; what was begun stays, incomplete."""
        told = self._stop("cancelled")
        return [*told, wire.ResponseIncomplete(sequence_number=next(self._numbers), response=self.response())]

    def response(self) -> wire.Response:
        """The response as it is now."""
        own = {
            "id": self._id,
            "created_at": self._created_at,
            "completed_at": self._completed_at,
            "status": self._status,
            "model": self._model,
            "output": self._output(),
            "usage": self._usage,
            "error": self._error,
            "incomplete_details": wire.IncompleteDetails() if self._status == "incomplete" else None,
            "background": self._order.is_background,
            "store": self._order.is_stored,
        }
        return wire.Response.model_validate({**self._echo, **own})

    def _output(self) -> list[wire.OutputItem]:
        return [*self._items, *([] if self._open is None else [self._open.item()])]

    def _write(self, delta: Delta) -> list[wire.ResponsesEvent]:
        is_thought = delta.kind == "thinking"
        if (not delta.text and not delta.logprobs) or (is_thought and self._order.hides_thinking):
            return []
        told: list[wire.ResponsesEvent] = []
        if self._open is None or self._open.is_thought != is_thought:
            told += self._close()
            index = len(self._items)
            kind = "rs" if is_thought else "msg"
            self._open = OpenText(self._item_id(kind, index), index, self._numbers, is_thought=is_thought)
            told += self._open.begin()
        return [*told, *self._open.write(delta)]

    def _call(self, call: FunctionCall) -> list[wire.ResponsesEvent]:
        told = self._close()
        index = len(self._items)
        item = call_item(self._item_id("fc", index), call)
        self._items.append(item)
        return [*told, *call_events(item, index, self._numbers)]

    def _turn(self, turned: Turned) -> list[wire.ResponsesEvent]:
        self._model = turned.model
        elapsed_s = self._clock() - self._begun
        took = bill(self._heard, turned, outer_model=self._order.turn.model.name)
        self._usage = responses_usage([took], watts=self._watts, elapsed_s=elapsed_s)
        told = [] if turned.outcome is None else self._conclude(turned.outcome)
        if turned.outcome is not None and turned.outcome.status == "error":
            return [*told, *self.fail(failure(turned.outcome))]
        told += self._rest(turned)
        if turned.finish_reason == "cancelled":
            return [*told, *self.cancelled()]
        if turned.finish_reason == "length":
            told += self._stop("incomplete")
            return [*told, wire.ResponseIncomplete(sequence_number=next(self._numbers), response=self.response())]
        told += self._stop("completed")
        return [*told, wire.ResponseCompleted(sequence_number=next(self._numbers), response=self.response())]

    def _rest(self, turned: Turned) -> list[wire.ResponsesEvent]:
        """What of the text was not told yet, and its citations."""
        written = "".join(part.text for item in self._messages() for part in item.content)
        told: list[wire.ResponsesEvent] = []
        if turned.content != written and turned.content.startswith(written):
            told += self._write(Delta("content", turned.content.removeprefix(written)))
        return told if turned.outcome is None else [*told, *self._cite(turned.outcome.citations)]

    def _messages(self) -> list[wire.MessageItem]:
        return [item for item in self._output() if isinstance(item, wire.MessageItem)]

    def _hear(self, event: Event) -> list[wire.ResponsesEvent]:
        self._heard = hear(self._heard, event)
        told: list[wire.ResponsesEvent] = []
        if isinstance(event, RunStarted | RunResumed) and self._fusion is None:
            told += self._deliberate()
        if isinstance(event, AnswerStarted):
            self._model = event.model
            if self._heard.is_whole:
                told += self._conclude(self._heard.outcome, is_going_on=True)
        if self._fusion is not None:
            told += self._fusion.tell(event, self._heard)
        if isinstance(event, AnswerCompleted):
            told += self._cite(event.citations)
        return told

    def _cite(self, citations: Sequence[Citation]) -> list[wire.ResponsesEvent]:
        """Say what the open text cites, once it is whole: calls may follow it."""
        if self._is_cited or self._open is None or self._open.is_thought:
            return []
        self._is_cited = True
        return self._open.annotate(annotations(self._open.text, citations))

    def _deliberate(self) -> list[wire.ResponsesEvent]:
        """The item of the deliberation begins."""
        told = self._close()
        index = len(self._items)
        item = FusionItem(id=self._item_id("fus", index), status="in_progress")
        self._items.append(item)
        self._fusion_index = index
        self._fusion = FusionEvents(item.id, index, self._numbers)
        added = wire.ItemAdded(sequence_number=next(self._numbers), output_index=index, item=item)
        return [*told, added, self._fusion.begin()]

    def _conclude(self, outcome: Outcome, *, is_going_on: bool = False) -> list[wire.ResponsesEvent]:
        """The item of the deliberation ends, where it has not ended yet; `is_going_on`: its answer is written now."""
        if self._fusion is None:
            return []
        item = fusion_item(
            self._items[self._fusion_index].id, outcome, names(self._heard, outcome), is_going_on=is_going_on
        )
        self._items[self._fusion_index] = item
        completed = self._fusion.end()
        self._fusion = None
        done = wire.ItemDone(sequence_number=next(self._numbers), output_index=self._fusion_index, item=item)
        return [completed, done]

    def _close(self, status: wire.ItemStatus = "completed") -> list[wire.ResponsesEvent]:
        """The text that is being written ends."""
        if self._open is None:
            return []
        told = self._open.end(status)
        self._items.append(self._open.item(status))
        self._open = None
        return told

    def _stop(self, status: wire.ResponseStatus) -> list[wire.ResponsesEvent]:
        """Everything that is under way ends, and the response has this status."""
        is_whole = status == "completed"
        told = self._close("completed" if is_whole else "incomplete")
        told += self._conclude(_stopped(self._heard.outcome, status))
        self._status = status
        self._completed_at = int(self._clock()) if is_whole else None
        return told

    def _item_id(self, kind: str, index: int) -> str:
        return f"{kind}_{self._id.removeprefix('resp_')}_{index}"


def _echoed(echo: Mapping[str, Json]) -> Mapping[str, Json]:
    """What a response repeats of its request."""
    fields = wire.Response.model_fields
    return {key: value for key, value in echo.items() if key in fields and key not in OWN and value is not None}


def _stopped(outcome: Outcome, status: wire.ResponseStatus) -> Outcome:
    """What a deliberation has come to that was not told to its end."""
    return replace(outcome, failure_reason="cancelled") if status == "cancelled" else outcome


def _code(error: LocalFusionError) -> wire.ErrorCode:
    """The protocol's few words for what went wrong."""
    if isinstance(error, QueueFull):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequest | ContextOverflow) else "server_error"
