"""The judge's desk: its model, its tools, and the prompt that the answers make, cut fairly where it is too long."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from localfusion import judge
from localfusion.analysis import Response, ToolStep
from localfusion.deliberation.run import Run
from localfusion.engine.interface import Model
from localfusion.messages import JUDGE, Message, ToolSpec
from localfusion.tool_calls import callable_tools, step_messages
from localfusion.tools import Toolbox

_MAX_CUTS = 5


@dataclass(frozen=True, slots=True)
class Desk:
    """What the judge works with: its model, its tools (None: none at all), and its prompt without what it looked up."""

    model: Model
    tools: Toolbox | None
    prompt: tuple[Message, ...]

    @property
    def native_tools(self) -> tuple[ToolSpec, ...]:
        return judge.native_tools(self.model.info, self.tools)

    def messages(self, steps: Sequence[ToolStep]) -> tuple[Message, ...]:
        """The prompt with what was looked up."""
        looked_up = [] if self.tools is None else step_messages(self.model.info, self.tools, steps)
        return (*self.prompt, *looked_up)

    async def count(self, steps: Sequence[ToolStep]) -> int:
        """Tokens of these messages."""
        return await self.model.count_prompt(self.messages(steps), self.native_tools)


async def at_desk(run: Run, model: Model) -> Desk:
    """The judge's own desk."""
    tools = judge_tools(run, model)
    if tools is not None:
        tools.know({c.url: c.number for response in run.responses for c in response.citations if c.number})
        tools.restore(looked_up(run))
    return Desk(model, tools, await _prompt(run, model, tools))


async def at_writing_desk(run: Run, model: Model) -> Desk:
    """The desk of a writer who is not the judge: the same prompt, cut for its own window, and no tools."""
    return Desk(model, None, await _prompt(run, model, None))


def judge_tools(run: Run, model: Model) -> Toolbox | None:
    spec = run.question.panel.judge
    tools = run.world.toolbox(spec, partial(count_tokens_of, model)) if spec.max_tool_calls else None
    return tools if tools is not None and callable_tools(model.info.tool_syntax, tools.specs) else None


def looked_up(run: Run) -> tuple[ToolStep, ...]:
    """The judge's own finished tool calls."""
    return run.state.steps.get(JUDGE, ())


async def _prompt(run: Run, model: Model, tools: Toolbox | None) -> tuple[Message, ...]:
    """The judge's messages; the answers are cut fairly to half of its context.

    What counts is the prompt as the judge's template writes it, which may show an answer more than once.
    """
    native = judge.native_tools(model.info, tools)
    conversation = partial(
        judge.conversation, run.question.text, context=run.question.context, info=model.info, tools=tools
    )
    seats = [seat.id for seat in run.question.panel.panelists]
    ordered = in_order(run, judge.seeded_order(seats, run.question.seed))
    messages = conversation(ordered)
    half = model.info.n_ctx // 2
    whole = await model.count_prompt(messages, native)
    if whole <= half:
        return messages
    lengths = await model.count_tokens([response.content for response in ordered])
    tokens = {response.id: length for response, length in zip(ordered, lengths, strict=True)}
    budget = sum(lengths)
    cut: tuple[str, ...] = ()
    for _ in range(_MAX_CUTS):
        budget = budget * half // whole
        kept, cut = judge.cut_fairly(ordered, tokens=tokens, budget_tokens=budget)
        messages = conversation(kept)
        whole = await model.count_prompt(messages, native)
        if whole <= half:
            break
    if cut:
        run.warn(f"the answers of {', '.join(cut)} were shortened to fit the judge's context")
    return messages


def in_order(run: Run, order: Iterable[str]) -> tuple[Response, ...]:
    """The finished answers of these seats, in this order."""
    by_id = {response.id: response for response in run.responses}
    return tuple(by_id[id] for id in order if id in by_id)


async def count_tokens_of(model: Model, text: str) -> int:
    return (await model.count_tokens([text]))[0]
