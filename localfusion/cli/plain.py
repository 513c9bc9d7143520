"""Events as plain lines, for a log or a pipe: one line each, nothing for what is only live."""

from localfusion.analysis import Analysis
from localfusion.cli.answer import substitution_text
from localfusion.cli.terminal import head, printable
from localfusion.cli.view import subject_of, tool_line
from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnalysisStarted,
    AnswerCompleted,
    AnswerStarted,
    CloudCalled,
    DocumentsRead,
    Event,
    FallbackTaken,
    MemoryAwaited,
    ModelLoading,
    ModelReady,
    PanelistCompleted,
    PanelistFailed,
    ResultsLeftOut,
    RunEnded,
    RunResumed,
    RunStarted,
    ToolCalled,
    ToolReturned,
    WarningRaised,
)
from localfusion.messages import JUDGE, Usage

ANSWER_WIDTH = 160
TOLD_FILES = 500
"""After how many files the reading of documents gets a line."""


def line(event: Event) -> str | None:
    """The line of an event, or None for one that is only shown live."""
    text = _of_run(event) if subject_of(event) is None else _of_model(event)
    return None if text is None else printable(text)


def _of_run(event: Event) -> str | None:
    match event:
        case RunStarted():
            panel = ", ".join(f"{id} = {model}" for id, model in event.panelists.items())
            run = f"{event.run_id}: {panel}; judge = {event.judge}; seed {event.seed}"
            return run + _searching(event.sources)
        case DocumentsRead(done=done, of=of):
            is_told = of >= TOLD_FILES and (done % TOLD_FILES == 0 or done == of)
            return f"documents: {done} of {of} read" if is_told else None
        case RunResumed():
            return f"{event.run_id}: goes on; kept: {', '.join(event.finished) or 'nothing'}{_searching(event.sources)}"
        case WarningRaised():
            return f"warning: {event.message}"
        case FallbackTaken():
            return substitution_text(event.substitution)
        case RunEnded():
            reason = f" ({event.failure_reason})" if event.failure_reason else ""
            return f"ended: {event.status}{reason}"
    return None


def _searching(sources: tuple[str, ...]) -> str:
    return f"; searching {', '.join(sources)}" if sources else ""


def _of_model(event: Event) -> str | None:
    match event:
        case ToolCalled() | ToolReturned():
            return f"{event.id}: {event.step}. {tool_line(event)}"
        case ResultsLeftOut():
            steps = ", ".join(map(str, event.steps))
            return f"{event.id}: no room in its context: what came of step {steps} is left out from here on"
        case PanelistCompleted():
            response = event.response
            return f"{response.id}: {head(response.content, ANSWER_WIDTH)} ({_cost(response.usage)})"
        case PanelistFailed():
            return f"{event.failed.id}: failed: {event.failed.error}"
    return _of_holding(event) or _of_judge(event)


def _of_holding(event: Event) -> str | None:
    match event:
        case ModelLoading():
            return f"{event.id}: loading {event.model}"
        case MemoryAwaited():
            return f"{event.id}: {event.model} waits for {event.need_bytes / 2**20:.0f} MiB that others hold"
        case ModelReady():
            return f"{event.id}: {event.model} ready in {event.seconds:.1f} s"
        case CloudCalled():
            sent = f"{event.prompt_characters} characters sent to {event.provider} ({event.base_url})"
            return f"{event.id}: {sent} for {event.model}"
    return None


def _of_judge(event: Event) -> str | None:
    match event:
        case AnalysisStarted():
            return f"{JUDGE}: {event.model} compares the answers"
        case AnalysisCompleted():
            return f"{JUDGE}: {_parts(event.analysis)} ({_cost(event.usage)})"
        case AnalysisFailed():
            return f"{JUDGE}: failed: {event.error} ({event.failure_reason})"
        case AnswerStarted():
            return f"{event.id}: {event.model} writes the answer"
        case AnswerCompleted():
            return f"{event.id}: answered ({_cost(event.usage)})"
    return None


def _parts(analysis: Analysis) -> str:
    counts = {
        "consensus": len(analysis.consensus),
        "contradictions": len(analysis.contradictions),
        "partial coverage": len(analysis.partial_coverage),
        "unique insights": len(analysis.unique_insights),
        "blind spots": len(analysis.blind_spots),
    }
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _cost(usage: Usage) -> str:
    read = usage.prompt_tokens - usage.cached_tokens
    return f"{read} tokens read, {usage.cached_tokens} kept, {usage.completion_tokens} written, {usage.seconds:.1f} s"
