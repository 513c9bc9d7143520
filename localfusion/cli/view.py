"""What the screen shows of a run: a pure fold of its events into rows. Draws nothing."""

from dataclasses import dataclass, replace
from typing import Literal

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
    PromptRead,
    ResultsLeftOut,
    RunResumed,
    RunStarted,
    TextWritten,
    ToolCalled,
    ToolReturned,
    WarningRaised,
)
from localfusion.messages import JUDGE

State = Literal[
    "waiting", "loading", "ready", "reading", "thinking", "searching", "writing", "comparing", "done", "failed"
]

KEPT_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Row:
    """One panelist, or the judge; `text` is the end of what it wrote, times are the clock's seconds."""

    id: str
    model: str
    state: State = "waiting"
    detail: str = ""
    text: str = ""
    started_s: float | None = None
    ended_s: float | None = None

    def seconds(self, now_s: float) -> float:
        """How long the row has been at work."""
        if self.started_s is None:
            return 0.0
        return (now_s if self.ended_s is None else self.ended_s) - self.started_s


@dataclass(frozen=True, slots=True)
class RunView:
    """The whole run so far; `answer` is the final answer as it is being written."""

    run_id: str = ""
    question: str = ""
    rows: tuple[Row, ...] = ()
    reading: str = ""
    sources: tuple[str, ...] = ()
    answer: str = ""
    warnings: tuple[str, ...] = ()


def advance(view: RunView, event: Event, *, now_s: float) -> RunView:
    """The view after one more event."""
    match event:
        case RunStarted():
            rows = [Row(id, model) for id, model in event.panelists.items()]
            view = replace(view, run_id=event.run_id, question=event.question, reading="", sources=event.sources)
            return replace(view, rows=(*rows, Row(JUDGE, event.judge)))
        case DocumentsRead():
            said = f"{event.done} of {event.of} documents read: {event.name}" if event.of else ""
            return replace(view, reading=said)
        case RunResumed():
            kept = [row if row.id in event.finished else Row(row.id, row.model) for row in view.rows]
            return replace(view, run_id=event.run_id, reading="", sources=event.sources, rows=tuple(kept))
        case WarningRaised():
            return replace(view, warnings=(*view.warnings, event.message))
        case FallbackTaken(substitution=found):
            rows = [Row(row.id, found.to) if row.id == found.id else row for row in view.rows]
            return replace(view, rows=tuple(rows))
        case TextWritten(kind="answer"):
            view = replace(view, answer=(view.answer + event.text)[-KEPT_CHARACTERS:])
    subject = subject_of(event)
    return replace(view, rows=tuple(_step(r, event, now_s) if r.id == subject else r for r in view.rows))


def subject_of(event: Event) -> str | None:
    """The id of the panelist that an event is about, "judge", or None."""
    match event:
        case (
            ModelLoading()
            | MemoryAwaited()
            | ModelReady()
            | PromptRead()
            | TextWritten()
            | ToolCalled()
            | ToolReturned()
            | ResultsLeftOut()
            | CloudCalled()
        ):
            return event.id
        case PanelistCompleted():
            return event.response.id
        case PanelistFailed():
            return event.failed.id
        case AnswerStarted() | AnswerCompleted():
            return event.id
        case AnalysisStarted() | AnalysisCompleted() | AnalysisFailed():
            return JUDGE
    return None


def _step(row: Row, event: Event, now_s: float) -> Row:
    """A row after an event about it; its clock starts with the first one."""
    if row.started_s is None:
        row = replace(row, started_s=now_s)
    match event:
        case ModelLoading() | MemoryAwaited() | ModelReady() | CloudCalled():
            return _held(row, event)
        case PromptRead():
            state: State = "reading" if event.read_tokens < event.total_tokens else "writing"
            return replace(row, state=state, detail=f"{event.read_tokens} of {event.total_tokens} tokens read")
        case ToolCalled() | ToolReturned():
            return replace(row, state="searching", detail=tool_line(event), text="")
        case TextWritten():
            state = "thinking" if event.kind == "thinking" else "writing"
            return replace(row, state=state, detail="", text=(row.text + event.text)[-KEPT_CHARACTERS:])
        case PanelistCompleted() | PanelistFailed():
            return _ended(row, event, now_s)
        case _:
            return _judged(row, event, now_s)


def _held(row: Row, event: ModelLoading | MemoryAwaited | ModelReady | CloudCalled) -> Row:
    match event:
        case ModelLoading():
            return replace(row, state="loading", detail="")
        case MemoryAwaited():
            return replace(row, state="waiting", detail=f"for {event.need_bytes / 2**20:.0f} MiB that others hold")
        case ModelReady():
            return replace(row, state="ready", detail=f"loaded in {event.seconds:.1f} s")
        case CloudCalled():
            return replace(row, state="waiting", detail=f"for {event.provider}")


def _ended(row: Row, event: PanelistCompleted | PanelistFailed, now_s: float) -> Row:
    if isinstance(event, PanelistFailed):
        return replace(row, state="failed", detail=event.failed.error, text="", ended_s=now_s)
    return replace(row, state="done", detail="", text=event.response.content, ended_s=now_s)


def _judged(row: Row, event: Event, now_s: float) -> Row:
    match event:
        case AnalysisStarted():
            return replace(row, state="comparing", detail="", text="")
        case AnalysisCompleted():
            return replace(row, state="done", detail="compared", text="", ended_s=now_s)
        case AnalysisFailed():
            return replace(row, state="failed", detail=event.error, text="", ended_s=now_s)
        case AnswerStarted():
            return replace(row, state="writing", detail="", text="", ended_s=None)
        case AnswerCompleted():
            return replace(row, state="done", detail="answered", text="", ended_s=now_s)
    return row


def tool_line(event: ToolCalled | ToolReturned) -> str:
    """A tool call, and what came of it, in one line."""
    if isinstance(event, ToolCalled):
        return f"{event.call.name}: {', '.join(event.call.arguments.values())}"
    result = event.result
    if result.error is not None:
        return f"{result.call.name} failed: {result.error}"
    count = len(result.passages)
    return f"{result.call.name}: {count} {'result' if count == 1 else 'results'}"
