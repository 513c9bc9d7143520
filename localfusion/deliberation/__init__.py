"""The product, in reading order: the panel answers, the judge compares, the final answer is written and checked.

Every step is said as an event; the state of a run is the fold of what was said, so that a run that was
killed goes on with what is missing. How models are loaded and where events go is passed in.
"""

import asyncio

from localfusion import citations
from localfusion.deliberation.answering import answer_panel
from localfusion.deliberation.judging import judge_and_write
from localfusion.deliberation.run import OpenRemote, Question, Run, World
from localfusion.errors import DeliberationFailed
from localfusion.events import FallbackTaken, RunEnded, RunResumed, RunStarted
from localfusion.outcome import Outcome
from localfusion.run_state import RunState, to_outcome

__all__ = ["OpenRemote", "Question", "World", "deliberate", "finished", "resume"]


async def deliberate(question: Question, world: World, *, run_id: str) -> Outcome:
    """Ask the panel, compare, and write the final answer; a failed run is an outcome too."""
    run = Run(question, world)
    models = {panelist.id: panelist.model.name for panelist in question.panel.panelists}
    judge_model = question.panel.judge.model.name
    run.say(RunStarted(run_id, question.text, models, judge_model, question.seed, question.sources))
    return await _carry_on(run)


async def resume(question: Question, world: World, *, state: RunState) -> Outcome:
    """Go on with a stored run that has no answer yet: what is finished is kept, what failed or is missing is done."""
    run = Run(question, world, state)
    run.say(RunResumed(state.run_id, tuple(state.responses), question.sources))
    return await _carry_on(run)


def finished(state: RunState) -> Outcome:
    """The outcome of a state, its answers under the run's numbers."""
    return to_outcome(state, citations.renumber(state.in_panel_order()))


async def _carry_on(run: Run) -> Outcome:
    for substitution in run.question.panel.substitutions:
        if substitution not in run.state.substitutions:
            run.say(FallbackTaken(substitution))
    try:
        await answer_panel(run)
        await judge_and_write(run)
        run.say(RunEnded("ok"))
    except DeliberationFailed as error:
        run.say(RunEnded("error", error.failure_reason, error.message))
    except asyncio.CancelledError:
        run.say(RunEnded("interrupted", "cancelled"))
        raise
    return finished(run.state)
