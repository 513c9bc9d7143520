"""The judge's part of a deliberation: it looks up what is in doubt, compares, and writes the final answer."""

from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from localfusion import citations, judge, synthesis
from localfusion.analysis import ToolStep
from localfusion.citations import MarkDropper
from localfusion.deliberation.checking import checked_citations, run_sources
from localfusion.deliberation.desk import Desk, at_desk, at_writing_desk, looked_up
from localfusion.deliberation.holding import leased, with_fallbacks
from localfusion.deliberation.run import Run
from localfusion.engine.interface import Model
from localfusion.errors import DeliberationFailed, FailureReason, MalformedOutput, ModelError
from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnalysisStarted,
    AnswerCompleted,
    AnswerStarted,
    Generated,
    PromptRead,
    TextWritten,
    ToolCalled,
    ToolReturned,
)
from localfusion.messages import (
    JUDGE,
    WRITER,
    AnyModel,
    Completion,
    GenerateRequest,
    JudgeSpec,
    Progress,
    ToolCall,
    Usage,
    WriterSpec,
    provider_of,
)
from localfusion.tool_calls import parse_call, read_passages
from localfusion.tools import Toolbox

_FULL = 5 / 8
"""The share of the judge's window up to which it may look things up; the answers take half at most."""
_MORE_ROOM = "a larger n_ctx or max_tokens of the judge gives it more room"


async def judge_and_write(run: Run) -> None:
    """Compare the answers and write the final one; what was done before the run was resumed is kept."""
    if run.state.answer is not None:
        return
    try:
        await with_fallbacks(run, JUDGE, partial(_work, run))
    except ModelError as error:
        run.say(AnalysisFailed("judge_upstream_error", error.brief, Usage()))
    if run.question.panel.writer is not None and run.state.answer is None:
        try:
            await with_fallbacks(run, WRITER, partial(_write_apart, run))
        except ModelError as error:
            raise DeliberationFailed(
                f"the answer could not be written: {error.brief}", failure_reason="unexpected_error", hint=error.hint
            ) from error


async def _work(run: Run) -> None:
    async with leased(run, JUDGE, run.question.panel.judge.model) as model:
        desk = await at_desk(run, model)
        await _analyse(run, desk)
        panel = run.question.panel
        if panel.writer is None:
            await _write(run, desk, panel.judge, JUDGE)
        elif panel.writer.model == panel.judge.model:
            await _write(run, desk, panel.writer, JUDGE)


async def _write_apart(run: Run) -> None:
    """The final answer of a writer who is not the judge, and reads what the judge has read."""
    writer = run.seat(WRITER)
    assert isinstance(writer, WriterSpec)
    async with leased(run, WRITER, writer.model) as model:
        await _write(run, await at_writing_desk(run, model), writer, WRITER)


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
    spec, info, steps = run.question.panel.judge, desk.model.info, looked_up(run)
    n_prompt = await desk.count(steps)
    may_call = len(steps) < spec.max_tool_calls and n_prompt <= info.n_ctx * _FULL
    ids = [response.id for response in run.responses]
    tools = desk.tools if may_call else None
    lark = judge.step_grammar(ids, _quotable(run), info=info, tools=tools)
    output = judge.step_output(ids, info=info, tools=tools)
    free = info.n_ctx - n_prompt
    room = max(free - info.n_ctx // 4, free // 2, 1)  # the rest is left for the final answer
    request = judge.step_request(spec, desk.messages(steps), lark, tools=desk.native_tools, output=output)
    request = replace(request, max_tokens=min(spec.max_tokens, room))
    return await _listen(run, desk.model, request, Listener(JUDGE, spec.model, "analysis"))


async def _look_up(run: Run, desk: Desk, tools: Toolbox, call: ToolCall) -> None:
    """Carry out a call of the judge; a result that leaves no room for the analysis is not shown to it."""
    steps = looked_up(run)
    run.say(ToolCalled(JUDGE, len(steps) + 1, call))
    step = await tools.run(call)
    if await desk.count((*steps, step)) > desk.model.info.n_ctx * _FULL:
        step = ToolStep(call, error="there is no room left for this result; compare the answers now")
    run.say(ToolReturned(JUDGE, len(steps) + 1, step))
    for warning in step.warnings:
        run.warn(warning)


def _quotable(run: Run) -> dict[int, tuple[str, ...]]:
    """What the judge may quote: the checked quotes of the answers, and what it looked up itself."""
    checked = citations.quotable(run.responses)
    found = citations.passages_by_number(read_passages(looked_up(run)))
    return {number: (*checked.get(number, ()), *found.get(number, ())) for number in {**checked, **found}}


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


async def _write(run: Run, desk: Desk, spec: JudgeSpec | WriterSpec, id: str) -> None:
    run.say(AnswerStarted(spec.model.name, id))
    request = synthesis.answer_request(
        spec,
        desk.messages(looked_up(run)) if id == JUDGE else desk.prompt,
        sequence=id,
        analysis=run.state.raw_analysis,
        quotable=_quotable(run),
        tools=desk.native_tools,
        is_instructed=any(message.role == "system" for message in run.question.context),
    )
    sources = run_sources(run)
    completion = await _listen(run, desk.model, request, Listener(id, spec.model, "answer", MarkDropper(sources)))
    if completion.finish_reason == "length":
        run.warn(f"the answer was cut short: {spec.model.name} had no room left")
    written = completion.content.strip()
    checked = await checked_citations(run, written, sources)
    content = citations.drop_unknown_marks(written, sources)
    for citation in checked:
        if citation.support == "not_found":
            run.warn(f"[{citation.number}] is not supported by its source: {citation.quote}")
    run.say(AnswerCompleted(content, checked, completion.usage, id, completion.finish_reason))


@dataclass(frozen=True, slots=True)
class Listener:
    """Whose text is listened to, what it is, and what may be shown of it (None: all)."""

    id: str
    model: AnyModel
    kind: Literal["analysis", "answer"]
    dropper: MarkDropper | None = None

    def shown(self, text: str) -> str:
        """What may be shown now that this was written."""
        return text if self.dropper is None else self.dropper.feed(text)

    def rest(self) -> str:
        """What may be shown at the end."""
        return "" if self.dropper is None else self.dropper.finish()


async def _listen(run: Run, model: Model, request: GenerateRequest, listener: Listener) -> Completion:
    """Generate to the end, saying what is written as it is written."""
    id = listener.id
    async with aclosing(model.generate(request)) as stream:
        async for item in stream:
            if isinstance(item, Completion):
                _say_text(run, listener, listener.rest())
                run.say(Generated(id, listener.model.name, item.usage, provider_of(listener.model)))
                return item
            if isinstance(item, Progress):
                run.say(PromptRead(id, item.read_tokens, item.total_tokens))
            elif item.kind == "thinking":
                run.say(TextWritten(id, "thinking", item.text))
            else:
                _say_text(run, listener, listener.shown(item.text))
    raise MalformedOutput(listener.model.name, f"the {id} ended without a completion", text="")


def _say_text(run: Run, listener: Listener, text: str) -> None:
    if text:
        run.say(TextWritten(listener.id, listener.kind, text))
