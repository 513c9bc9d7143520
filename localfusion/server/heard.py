"""What a reply has heard of a turn so far: the deliberation, folded from its events, and what its tools did. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from localfusion import run_state
from localfusion.citations import renumber
from localfusion.events import AnswerCompleted, AnswerStarted, Event, ToolCalled, ToolReturned
from localfusion.messages import Usage
from localfusion.outcome import Outcome
from localfusion.run_state import RunState
from localfusion.tools import WEB_SEARCH


@dataclass(frozen=True, slots=True)
class Heard:
    """`state` is the deliberation; `written` is what its final answer took, of all that the state says, by `writer`."""

    state: RunState = field(default_factory=RunState)
    written: Usage = field(default_factory=Usage)
    writer: str = ""
    n_requested: int = 0
    n_executed: int = 0
    n_searches: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it was heard from its beginning; a run that goes on after a restart is not."""
        return bool(self.state.panelists)

    @property
    def outcome(self) -> Outcome:
        """What it has come to by now."""
        return run_state.to_outcome(self.state, renumber(self.state.in_panel_order()))


def hear(heard: Heard, event: Event) -> Heard:
    """What was heard after one more event."""
    heard = replace(heard, state=run_state.apply(heard.state, event))
    match event:
        case ToolCalled():
            return replace(heard, n_requested=heard.n_requested + 1)
        case ToolReturned(result=result):
            n_searches = heard.n_searches + (result.ok and result.call.name == WEB_SEARCH.name)
            return replace(heard, n_executed=heard.n_executed + result.ok, n_searches=n_searches)
        case AnswerStarted(model=model):
            return replace(heard, writer=model)
        case AnswerCompleted(usage=usage):
            return replace(heard, written=heard.written + usage)
        case _:
            return heard


def names(heard: Heard, outcome: Outcome) -> Mapping[str, str]:
    """The model of each panelist, by id: the one that answered, or the last one that failed."""
    failed = {model.id: model.model for model in outcome.failed_models}
    return {**heard.state.panelists, **failed, **{response.id: response.model for response in outcome.responses}}
