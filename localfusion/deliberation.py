"""The product, in reading order: the panel answers, the judge compares, the final answer is written and checked.

Every step is said as an event; the state of a run is the fold of what was said, so that a run that was
killed goes on with what is missing. How models are loaded and where events go is passed in.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import TypeVar

from localfusion import citations, judge, panel, synthesis
from localfusion.analysis import Citation, FailedModel, Response, ToolStep
from localfusion.citations import StoredText
from localfusion.engine.interface import Model
from localfusion.errors import DeliberationFailed, FailureReason, MalformedOutput, ModelError, ProviderError, WorkerDied
from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnalysisStarted,
    AnswerCompleted,
    AnswerStarted,
    Event,
    MemoryAwaited,
    ModelLoading,
    ModelReady,
    PanelistCompleted,
    PanelistFailed,
    PromptRead,
    RunEnded,
    RunResumed,
    RunStarted,
    TextWritten,
    ToolCalled,
    ToolReturned,
    WarningRaised,
)
from localfusion.messages import (
    AnyModel,
    Completion,
    GenerateRequest,
    JudgeSpec,
    Message,
    PanelistSpec,
    PanelSpec,
    Progress,
    RemoteModel,
    ToolCall,
    ToolSpec,
    Usage,
)
from localfusion.outcome import Outcome
from localfusion.run_state import RunState, apply, to_outcome
from localfusion.scheduler import Scheduler
from localfusion.tool_calls import callable_tools, parse_call, read_passages, step_messages
from localfusion.tools import CountTokens, Toolbox

T = TypeVar("T")

_MAX_CUTS = 5
_FULL = 5 / 8
"""The share of the judge's window up to which it may look things up; the answers take half at most."""
_MORE_ROOM = "a larger n_ctx or max_tokens of the judge gives it more room"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of whom; `sources` says in words what is searched."""

    text: str
    panel: PanelSpec
    seed: int
    sources: tuple[str, ...] = ()


OpenRemote = Callable[[RemoteModel, str, Callable[[Event], None]], AbstractAsyncContextManager[Model]]


def no_providers(model: RemoteModel, _id: str, _say: Callable[[Event], None]) -> AbstractAsyncContextManager[Model]:
    """A world in which no provider can be asked."""
    raise ProviderError(model.name, f"{model.provider.name} cannot be asked here")


@dataclass(frozen=True, slots=True)
class World:
    """What a deliberation stands on: models, tools by panelist, the stored pages, and who listens.

    `remote` opens a provider's model for a seat (or "judge") by its id, and says what is sent there. `closest` compares
    by meaning, where there is an embedding model.
    """

    scheduler: Scheduler
    toolbox: Callable[[PanelistSpec | JudgeSpec, CountTokens], Toolbox]
    stored_text: Callable[[str], str | None]
    emit: Callable[[Event], None]
    remote: OpenRemote = no_providers
    closest: citations.Closest | None = None


@dataclass(slots=True)
class Run:
    """One deliberation under way; `state` is all that was said, `moved` is set when a seat got on."""

    question: Question
    world: World
    state: RunState = field(default_factory=RunState)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, event: Event) -> None:
        self.state = apply(self.state, event)
        self.world.emit(event)
        if isinstance(event, ModelReady | PanelistCompleted | PanelistFailed):
            self.moved.set()

    def hear(self, event: Event) -> None:
        """Say what a panelist said; what several of them warn of is said once."""
        if isinstance(event, WarningRaised):
            self.warn(event.message)
        else:
            self.say(event)

    def warn(self, message: str) -> None:
        """Say a warning, unless it was said before the run was resumed."""
        if message not in self.state.warnings:
            self.say(WarningRaised(message))

    @property
    def responses(self) -> tuple[Response, ...]:
        """The finished answers in panel order, under the run's numbers."""
        return citations.renumber(self.state.in_panel_order())


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
    try:
        await _answer_panel(run)
        await _judge_and_write(run)
        run.say(RunEnded("ok"))
    except DeliberationFailed as error:
        run.say(RunEnded("error", error.failure_reason, error.message))
    except asyncio.CancelledError:
        run.say(RunEnded("interrupted", "cancelled"))
        raise
    return finished(run.state)


# The panel


async def _answer_panel(run: Run) -> None:
    missing = [seat for seat in run.question.panel.panelists if seat.id not in run.state.responses]
    ahead = asyncio.create_task(_prepare_judge(run))
    try:
        async with asyncio.TaskGroup() as group:
            for seat in missing:
                group.create_task(_answer_seat(run, seat))
    finally:
        ahead.cancel()
        await asyncio.wait([ahead])
    if not run.state.responses:
        failed = tuple((model.id, model.error) for model in run.state.failed_in_panel_order())
        reasons = "; ".join(f"{id}: {error}" for id, error in failed)
        raise DeliberationFailed(
            f"no panelist answered ({reasons})", failure_reason="all_panels_failed", failed_models=failed
        )


async def _twice(run: Run, id: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do what needs a worker, and once more where the worker died; what was finished is kept by the run's state."""
    try:
        return await work()
    except WorkerDied as error:
        run.warn(f"{id}: {error.message}; it is tried once more")
        return await work()


@asynccontextmanager
async def _leased(run: Run, id: str, spec: AnyModel) -> AsyncIterator[Model]:
    """Hold a model, saying what it waits for. Raises ModelError."""
    if isinstance(spec, RemoteModel):
        async with run.world.remote(spec, id, run.say) as remote:
            yield remote
        return
    run.say(ModelLoading(id, spec.name))

    def wait(need_bytes: int) -> None:
        run.say(MemoryAwaited(id, spec.name, need_bytes))

    async with run.world.scheduler.lease(spec, run=run.state.run_id, on_wait=wait) as lease:
        run.say(ModelReady(id, spec.name, lease.load_seconds))
        yield lease.model


async def _answer_seat(run: Run, seat: PanelistSpec) -> None:
    async def answer() -> Response:
        async with _leased(run, seat.id, seat.model) as model:
            return await panel.answer(
                seat,
                model=model,
                tools=run.world.toolbox(seat, partial(_count_tokens, model)),
                question=run.question.text,
                emit=run.hear,
                done=run.state.steps.get(seat.id, ()),
            )

    try:
        response = await _twice(run, seat.id, answer)
    except ModelError as error:
        run.say(PanelistFailed(FailedModel(seat.id, seat.model.name, error.message, error.hint)))
    else:
        checked = await _checked(run, response)
        run.say(PanelistCompleted(checked))
        for citation in checked.citations:
            if citation.support == "not_found":
                source = citation.title or citation.url or f"[{citation.number}], which there is not,"
                run.warn(f"{seat.id} cites {source} for what it does not say: {citation.quote}")


async def _count_tokens(model: Model, text: str) -> int:
    return (await model.count_tokens([text]))[0]


async def _checked(run: Run, response: Response) -> Response:
    sources: dict[int, StoredText] = {}
    for passage in read_passages(response.steps):
        known = sources.get(passage.number) or StoredText(passage.url, passage.title, _page(run, passage.url))
        sources[passage.number] = _with(known, passage.text, is_seen=not passage.is_snippet)
    return replace(response, citations=await _citations(run, response.content, sources))


async def _citations(run: Run, answer: str, sources: Mapping[int, StoredText]) -> tuple[Citation, ...]:
    """The checked citations of an answer; by words, then by meaning where that can be."""
    checked = citations.check(answer, sources)
    if run.world.closest is None or all(citation.support != "not_found" for citation in checked):
        return checked
    try:
        return await citations.check_meaning(answer, checked, sources, run.world.closest)
    except ModelError as error:
        run.warn(f"citations were checked by words alone: {error.message}")
        return checked


def _page(run: Run, url: str) -> str:
    return run.world.stored_text(url) or ""


def _with(source: StoredText, read: str, *, is_seen: bool) -> StoredText:
    """`source` with the lines of `read` that it lacks: a page that changed during the run is kept as it was first.

    What was not seen in the page itself is a snippet.
    """
    known = source.text if is_seen else f"{source.text}\n{source.snippets}"
    new = [line for line in read.splitlines() if line not in known]
    if not new:
        return source
    if is_seen:
        return replace(source, text="\n".join([source.text, *new]))
    return replace(source, snippets="\n".join([source.snippets, *new]))


# The judge and the final answer


async def _prepare_judge(run: Run) -> None:
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
    tools = _judge_tools(run, model)
    messages = judge.conversation(run.question.text, ready, info=model.info, tools=tools)
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
    return _in_order(run, tuple(ready))


def _in_order(run: Run, order: Iterable[str]) -> tuple[Response, ...]:
    """The finished answers of these seats, in this order."""
    by_id = {response.id: response for response in run.responses}
    return tuple(by_id[id] for id in order if id in by_id)


async def _judge_and_write(run: Run) -> None:
    if run.state.answer is not None:
        return
    spec = run.question.panel.judge

    async def judge_and_write() -> None:
        async with _leased(run, "judge", spec.model) as model:
            desk = await _at_desk(run, model)
            await _analyse(run, desk)
            await _write(run, desk)

    try:
        await _twice(run, "judge", judge_and_write)
    except ModelError as error:
        run.say(AnalysisFailed("judge_upstream_error", error.message, Usage()))


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


async def _at_desk(run: Run, model: Model) -> Desk:
    tools = _judge_tools(run, model)
    if tools is not None:
        tools.know({c.url: c.number for response in run.responses for c in response.citations if c.number})
        tools.restore(_looked_up(run))
    return Desk(model, tools, await _prompt(run, model, tools))


def _judge_tools(run: Run, model: Model) -> Toolbox | None:
    spec = run.question.panel.judge
    tools = run.world.toolbox(spec, partial(_count_tokens, model)) if spec.max_tool_calls else None
    return tools if tools is not None and callable_tools(model.info.tool_syntax, tools.specs) else None


def _looked_up(run: Run) -> tuple[ToolStep, ...]:
    """The judge's own finished tool calls."""
    return run.state.steps.get(judge.SEQUENCE, ())


async def _prompt(run: Run, model: Model, tools: Toolbox | None) -> tuple[Message, ...]:
    """The judge's messages; the answers are cut fairly to half of its context.

    What counts is the prompt as the judge's template writes it, which may show an answer more than once.
    """
    native = judge.native_tools(model.info, tools)
    conversation = partial(judge.conversation, run.question.text, info=model.info, tools=tools)
    seats = [seat.id for seat in run.question.panel.panelists]
    ordered = _in_order(run, judge.seeded_order(seats, run.question.seed))
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


async def _analyse(run: Run, desk: Desk) -> None:
    """Let the judge look up what it wants to, then compare."""
    if run.state.raw_analysis is not None:
        return
    spec = run.question.panel.judge
    run.say(AnalysisStarted(spec.model.name))
    usage = Usage()
    while True:
        completion = await _judge_step(run, desk)
        usage += completion.usage
        specs = () if desk.tools is None else desk.tools.specs
        call = parse_call(completion.content, desk.model.info.tool_syntax, specs, model=spec.model.name)
        if call is None or desk.tools is None:
            break
        await _look_up(run, desk, desk.tools, call)
    _conclude(run, replace(completion, usage=usage))


async def _judge_step(run: Run, desk: Desk) -> Completion:
    """One tool call of the judge or, where it may make none or wants none, its analysis."""
    spec, info, steps = run.question.panel.judge, desk.model.info, _looked_up(run)
    n_prompt = await desk.count(steps)
    may_call = len(steps) < spec.max_tool_calls and n_prompt <= info.n_ctx * _FULL
    ids = [response.id for response in run.responses]
    tools = desk.tools if may_call else None
    lark = judge.step_grammar(ids, _quotable(run), info=info, tools=tools)
    output = judge.step_output(ids, info=info, tools=tools)
    free = info.n_ctx - n_prompt
    room = max(free - info.n_ctx // 4, free // 2, 1)  # the rest is left for the final answer
    request = judge.step_request(spec, desk.messages(steps), lark, tools=desk.native_tools, output=output)
    return await _listen(run, desk.model, replace(request, max_tokens=min(spec.max_tokens, room)), kind="analysis")


async def _look_up(run: Run, desk: Desk, tools: Toolbox, call: ToolCall) -> None:
    """Carry out a call of the judge; a result that leaves no room for the analysis is not shown to it."""
    steps = _looked_up(run)
    run.say(ToolCalled(judge.SEQUENCE, len(steps) + 1, call))
    step = await tools.run(call)
    if await desk.count((*steps, step)) > desk.model.info.n_ctx * _FULL:
        step = ToolStep(call, error="there is no room left for this result; compare the answers now")
    run.say(ToolReturned(judge.SEQUENCE, len(steps) + 1, step))
    for warning in step.warnings:
        run.warn(warning)


def _quotable(run: Run) -> dict[int, tuple[str, ...]]:
    """What the judge may quote: the checked quotes of the answers, and what it looked up itself."""
    checked = citations.quotable(run.responses)
    looked_up = citations.passages_by_number(read_passages(_looked_up(run)))
    return {number: (*checked.get(number, ()), *looked_up.get(number, ())) for number in {**checked, **looked_up}}


def _conclude(run: Run, completion: Completion) -> None:
    """Say the analysis, or what is wrong with it."""
    spec = run.question.panel.judge
    ids = [response.id for response in run.responses]
    try:
        analysis = judge.parse_analysis(completion.content, ids, model=spec.model.name)
    except MalformedOutput as error:
        if completion.finish_reason == "length":
            run.warn(f"the analysis was cut short after {completion.usage.completion_tokens} tokens; {_MORE_ROOM}")
        run.say(AnalysisFailed(_reason(completion, error), error.message, completion.usage))
    else:
        run.say(AnalysisCompleted(analysis, completion.content, completion.usage))


def _reason(completion: Completion, error: MalformedOutput) -> FailureReason:
    if not completion.content.strip():
        return "judge_empty_completion"
    return "judge_schema_mismatch" if isinstance(error, judge.SchemaMismatch) else "judge_not_valid_json"


async def _write(run: Run, desk: Desk) -> None:
    spec = run.question.panel.judge
    run.say(AnswerStarted(spec.model.name))
    request = synthesis.answer_request(
        spec,
        desk.messages(_looked_up(run)),
        sequence=judge.SEQUENCE,
        analysis=run.state.raw_analysis,
        quotable=_quotable(run),
        tools=desk.native_tools,
    )
    completion = await _listen(run, desk.model, request, kind="answer")
    if completion.finish_reason == "length":
        run.warn(f"the answer was cut short: {spec.model.name} had no room left")
    sources = _run_sources(run)
    written = completion.content.strip()
    checked = await _citations(run, written, sources)
    content = citations.drop_unknown_marks(written, sources)
    for citation in checked:
        if citation.support == "not_found":
            run.warn(f"[{citation.number}] is not supported by its source: {citation.quote}")
    run.say(AnswerCompleted(content, checked, completion.usage))


def _run_sources(run: Run) -> Mapping[int, StoredText]:
    found: dict[int, StoredText] = {}
    for response in run.responses:
        for citation in response.citations:
            if citation.support != "not_found":
                known = found.get(citation.number) or StoredText(citation.url, citation.title, _page(run, citation.url))
                found[citation.number] = _with(known, citation.quote, is_seen=citation.support == "verified")
    for passage in read_passages(_looked_up(run)):
        known = found.get(passage.number) or StoredText(passage.url, passage.title, _page(run, passage.url))
        found[passage.number] = _with(known, passage.text, is_seen=not passage.is_snippet)
    return found


async def _listen(run: Run, model: Model, request: GenerateRequest, *, kind: str) -> Completion:
    """Generate to the end, saying what is written as it is written."""
    async with aclosing(model.generate(request)) as stream:
        async for item in stream:
            if isinstance(item, Completion):
                return item
            if isinstance(item, Progress):
                run.say(PromptRead("judge", item.read_tokens, item.total_tokens))
            elif item.kind == "thinking":
                run.say(TextWritten("judge", "thinking", item.text))
            else:
                run.say(TextWritten("judge", "analysis" if kind == "analysis" else "answer", item.text))
    raise MalformedOutput(run.question.panel.judge.model.name, "the judge ended without a completion", text="")
