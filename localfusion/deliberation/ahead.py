"""The judge while the panel still writes: loaded, and reading what is ready, where nobody wants memory or cores."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile

from localfusion import judge
from localfusion.analysis import Response
from localfusion.deliberation.desk import in_order, judge_tools
from localfusion.deliberation.run import Run
from localfusion.engine.interface import Model
from localfusion.errors import ModelError
from localfusion.messages import GenerateRequest, RemoteModel


async def prepare_judge(run: Run) -> None:
    """While the panel writes: load the judge, and let it read the answers that stand first in its prompt.

    Only with memory and cores that nobody else wants. What is wrong with the judge is said when it is its turn.
    """
    scheduler, spec = run.world.scheduler, run.question.panel.judge.model
    if isinstance(spec, RemoteModel):
        return
    with suppress(ModelError):
        while True:
            await run.moved.wait()
            run.moved.clear()
            if not await scheduler.preload(spec):
                continue
            ready = _ready(run)
            if ready:
                request = partial(_read_ahead_request, run, ready)
                await scheduler.read_ahead(spec, request, run=run.state.run_id)


def _read_ahead_request(run: Run, ready: Sequence[Response], model: Model) -> GenerateRequest:
    tools = judge_tools(run, model)
    question = run.question
    messages = judge.conversation(question.text, ready, context=question.context, info=model.info, tools=tools)
    native = judge.native_tools(model.info, tools)
    return judge.read_ahead_request(run.question.panel.judge, messages, tools=native)


def _ready(run: Run) -> tuple[Response, ...]:
    """The answers at the beginning of the judge's order that are there already, under numbers that will not change.

    Numbers are given in panel order, so an answer's are known once every seat before it has answered or failed.
    """
    seats = [seat.id for seat in run.question.panel.panelists]
    is_done = {*run.state.responses, *(failed.id for failed in run.state.failed_in_panel_order())}
    settled = {id for n, id in enumerate(seats) if is_done.issuperset(seats[: n + 1])}
    ready = takewhile(lambda id: id in settled, judge.seeded_order(seats, run.question.seed))
    return in_order(run, tuple(ready))
