"""What a deliberation is doing, for a chat reply: stages, not texts. How it is sent is `sse`'s."""

from collections.abc import Mapping
from typing import Literal

from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnalysisStarted,
    AnswerStarted,
    DocumentsRead,
    Event,
    FallbackTaken,
    MemoryAwaited,
    ModelLoading,
    PanelistCompleted,
    PanelistFailed,
    RunEnded,
    RunResumed,
    RunStarted,
    ToolCalled,
    ToolReturned,
)
from localfusion.messages import JUDGE
from localfusion.wire.chat_reply import ChatProgress


def progress(event: Event, *, index: int, models: Mapping[str, str]) -> ChatProgress | None:
    """What is told of an event, if anything; `models` are the panelists' by id."""
    return _of_seat(event, index, models) or _of_run(event, index)


def _of_seat(event: Event, index: int, models: Mapping[str, str]) -> ChatProgress | None:
    match event:
        case ModelLoading(id=id, model=model):
            return ChatProgress(index=index, stage="loading", panelist=id, model=model)
        case MemoryAwaited(id=id, model=model):
            return ChatProgress(index=index, stage="waiting_for_memory", panelist=id, model=model)
        case ToolCalled(id=id, call=call):
            return ChatProgress(index=index, stage="tool_called", panelist=id, model=models.get(id), detail=call.name)
        case ToolReturned(id=id, result=result):
            return ChatProgress(
                index=index, stage="tool_returned", panelist=id, model=models.get(id), detail=result.error
            )
        case PanelistCompleted(response=response):
            return ChatProgress(index=index, stage="panelist_completed", panelist=response.id, model=response.model)
        case PanelistFailed(failed=failed):
            return ChatProgress(
                index=index, stage="panelist_failed", panelist=failed.id, model=failed.model, detail=failed.error
            )
        case FallbackTaken(substitution=taken):
            return ChatProgress(index=index, stage="fallback", panelist=taken.id, model=taken.to, detail=taken.error)
        case _:
            return None


def _of_run(event: Event, index: int) -> ChatProgress | None:
    match event:
        case RunStarted(run_id=run_id) | RunResumed(run_id=run_id):
            stage: Literal["started", "resumed"] = "started" if isinstance(event, RunStarted) else "resumed"
            return ChatProgress(index=index, stage=stage, detail=run_id)
        case DocumentsRead(done=0, of=of):
            return ChatProgress(index=index, stage="reading_documents", detail=f"{of} files")
        case AnalysisStarted(model=model):
            return ChatProgress(index=index, stage="analysis_started", panelist=JUDGE, model=model)
        case AnalysisCompleted():
            return ChatProgress(index=index, stage="analysis_completed", panelist=JUDGE)
        case AnalysisFailed(error=error):
            return ChatProgress(index=index, stage="analysis_failed", panelist=JUDGE, detail=error)
        case AnswerStarted(model=model):
            return ChatProgress(index=index, stage="answer_started", model=model)
        case RunEnded(status=status):
            return ChatProgress(index=index, stage="ended", detail=status)
        case _:
            return None
