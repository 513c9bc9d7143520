"""From an order to a reply: the work of a job, which takes the turns of the order and tells what comes of them.

What is asked was understood before, and how a turn is told is the replies' business.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel

from localfusion.errors import LocalFusionError
from localfusion.events import DocumentsRead, RunStarted
from localfusion.messages import Delta, Json
from localfusion.outcome import Outcome
from localfusion.outer import Turned, TurnItem, TurnRequest, take_turn
from localfusion.server.chat_reply import ChatReply
from localfusion.server.errors import first_of
from localfusion.server.fusion_events import failure
from localfusion.server.jobs import JobStatus, Teller, Work
from localfusion.server.limits import Place, within
from localfusion.server.metrics import Metrics
from localfusion.server.orders import Order
from localfusion.server.responses_reply import ResponsesReply
from localfusion.server.telling import tellable
from localfusion.session import Session

_LOG = logging.getLogger("localfusion.server")

Hear = Callable[[TurnItem, int], None]

STATUSES: dict[str, JobStatus] = {
    "completed": "completed",
    "failed": "failed",
    "incomplete": "incomplete",
    "cancelled": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Answering:
    """Makes the work of orders; `timeout_s` bounds those that are waited for, `watts` is what the machine draws.

    `keeps_runs`: deliberations stay in the store where the request does not say otherwise.
    """

    session: Session
    metrics: Metrics
    timeout_s: float
    watts: float | None = None
    keeps_runs: bool = True

    def chat(self, order: Order, place: Place) -> Work:
        """The work of a chat completion. It raises what the client is told as an error."""
        return partial(self._chat, order, place)

    def responses(self, order: Order, place: Place) -> Work:
        """The work of a response. Where somebody asked for its events, or nobody waits, a failure is told as events."""
        return partial(self._responses, order, place)

    async def _chat(self, order: Order, place: Place, teller: Teller, run_id: str | None) -> None:
        reply = ChatReply(teller.id, int(teller.created), order, watts=self.watts)

        def hear(item: TurnItem, index: int) -> None:
            if order.is_streamed:
                _tell(teller, reply.feed(item, index))
            elif not isinstance(item, Delta):
                reply.feed(item, index)

        async with self._limited(order, place):
            await self._turns(order, hear, teller, run_id)
        if order.is_streamed:
            _tell(teller, reply.end())
        teller.update("completed", _json(reply.completion()))

    async def _responses(self, order: Order, place: Place, teller: Teller, run_id: str | None) -> None:
        reply = ResponsesReply(teller.id, int(teller.created), order, n_told=teller.n_told, watts=self.watts)
        teller.update("in_progress", _json(reply.response()))
        _tell(teller, reply.start())

        def hear(item: TurnItem, _index: int) -> None:
            _tell(teller, reply.feed(item))

        try:
            async with self._limited(order, place):
                await self._turns(order, hear, teller, run_id, fails=False)
        except LocalFusionError as error:
            _tell(teller, reply.fail(tellable(error, teller.id)))
            teller.update("failed", _json(reply.response()))
            if order.is_streamed or order.is_background:
                return
            raise
        except asyncio.CancelledError:
            _tell(teller, reply.cancelled())
            teller.update("cancelled", _json(reply.response()))
            raise
        body = _json(reply.response())
        status = str(body.get("status")) if isinstance(body, dict) else "completed"
        teller.update(STATUSES.get(status, "completed"), body)

    async def _turns(self, order: Order, hear: Hear, teller: Teller, run_id: str | None, *, fails: bool = True) -> None:
        """Take the turns of an order side by side; of errors that are raised together the first is.

        Where the request is not to be stored its deliberation is forgotten, however it ended.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(order.n):
                    group.create_task(
                        self._turn(order.turn_of(index), partial(_hear, hear, index, teller), run_id, fails=fails)
                    )
        except BaseExceptionGroup as group_error:
            raise first_of(group_error) from None
        finally:
            if teller.run_id is not None and not (order.keeps_run and self.keeps_runs):
                self._forget(teller.run_id)

    def _forget(self, run_id: str) -> None:
        try:
            self.session.store.forget([run_id])
        except LocalFusionError as error:
            _LOG.warning("%s was not to be kept, and could not be removed: %s (%s)", run_id, error.message, error.hint)

    async def _turn(
        self, turn: TurnRequest, hear: Callable[[TurnItem], None], run_id: str | None, *, fails: bool
    ) -> None:
        async with aclosing(take_turn(self.session, turn, run_id=run_id)) as items:
            async for item in items:
                if isinstance(item, Turned):
                    self._count(item)
                    if fails and item.outcome is not None and _is_nothing(item.outcome):
                        raise failure(item.outcome)
                hear(item)

    def _count(self, turned: Turned) -> None:
        self.metrics.used(turned.usage)
        if turned.outcome is not None:
            self.metrics.ran(turned.outcome.status)

    @asynccontextmanager
    async def _limited(self, order: Order, place: Place) -> AsyncIterator[None]:
        """Hold a place of the queue, and take no longer than may be: in the background, as long as it takes."""
        try:
            async with within(None if order.is_background else self.timeout_s):
                yield
        finally:
            place.release()


def _hear(hear: Hear, index: int, teller: Teller, item: TurnItem) -> None:
    if isinstance(item, DocumentsRead | RunStarted):
        teller.note_run(item.run_id)
    hear(item, index)


def _is_nothing(outcome: Outcome) -> bool:
    """Whether there is no answer: nobody answered, or whoever should have written it could not."""
    return outcome.status == "error" or (not outcome.answer and outcome.failure_reason is not None)


def _tell(teller: Teller, events: Iterable[BaseModel]) -> None:
    for event in events:
        teller.tell(_json(event))


def _json(value: BaseModel) -> Json:
    found: Json = value.model_dump(mode="json", by_alias=True)
    return found
