"""The panel's part of a deliberation: every seat that has no answer yet answers, and each answer is checked."""

import asyncio
from functools import partial

from localfusion import panel
from localfusion.analysis import FailedModel, Response
from localfusion.deliberation.ahead import prepare_judge
from localfusion.deliberation.checking import checked_response
from localfusion.deliberation.desk import count_tokens_of
from localfusion.deliberation.holding import leased, with_fallbacks
from localfusion.deliberation.run import Run
from localfusion.errors import DeliberationFailed, ModelError, ProviderError
from localfusion.events import PanelistCompleted, PanelistFailed


async def answer_panel(run: Run) -> None:
    missing = [seat.id for seat in run.question.panel.panelists if seat.id not in run.state.responses]
    ahead = asyncio.create_task(prepare_judge(run))
    try:
        async with asyncio.TaskGroup() as group:
            for id in missing:
                group.create_task(_answer_seat(run, id))
    finally:
        ahead.cancel()
        await asyncio.wait([ahead])
    if not run.state.responses:
        failed = tuple((model.id, model.error) for model in run.state.failed_in_panel_order())
        reasons = "; ".join(f"{id}: {error}" for id, error in failed)
        raise DeliberationFailed(
            f"no panelist answered ({reasons})", failure_reason="all_panels_failed", failed_models=failed
        )


async def _answer_seat(run: Run, id: str) -> None:
    try:
        response = await with_fallbacks(run, id, partial(_answer, run, id))
    except ModelError as error:
        status = error.status if isinstance(error, ProviderError) else None
        run.say(PanelistFailed(FailedModel(id, run.panelist(id).model.name, error.brief, error.hint, status)))
    else:
        checked = await checked_response(run, response)
        run.say(PanelistCompleted(checked))
        for citation in checked.citations:
            if citation.support == "not_found":
                source = citation.title or citation.url or f"[{citation.number}], which there is not,"
                run.warn(f"{id} cites {source} for what it does not say: {citation.quote}")


async def _answer(run: Run, id: str) -> Response:
    seat = run.panelist(id)
    async with leased(run, id, seat.model) as model:
        return await panel.answer(
            seat,
            model=model,
            tools=run.world.toolbox(seat, partial(count_tokens_of, model)),
            question=run.question.text,
            context=run.question.context,
            emit=run.hear,
            done=run.state.steps.get(id, ()),
        )
