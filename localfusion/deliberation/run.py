"""A deliberation under way: what was asked, what it stands on, and all that was said so far."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from localfusion import citations
from localfusion.analysis import Response
from localfusion.engine.interface import Model
from localfusion.errors import ProviderError
from localfusion.events import Event, ModelReady, PanelistCompleted, PanelistFailed, WarningRaised
from localfusion.messages import (
    AnySeat,
    CloudLeave,
    JudgeSpec,
    Message,
    PanelistSpec,
    PanelSpec,
    RemoteModel,
    seats_of,
)
from localfusion.run_state import RunState, apply
from localfusion.scheduler import Scheduler
from localfusion.tools import CountTokens, Toolbox

OpenRemote = Callable[[RemoteModel, str, Callable[[Event], None]], AbstractAsyncContextManager[Model]]


def no_providers(model: RemoteModel, _id: str, _say: Callable[[Event], None]) -> AbstractAsyncContextManager[Model]:
    """A world in which no provider can be asked."""
    raise ProviderError(model.name, f"{model.provider.name} cannot be asked here")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of whom; `sources` says in words what is searched, `cloud` whether providers may be asked.

    `context` is the conversation before it.
    """

    text: str
    panel: PanelSpec
    seed: int
    sources: tuple[str, ...] = ()
    cloud: CloudLeave = field(default_factory=CloudLeave)
    context: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """What a deliberation stands on: models, tools by panelist, the stored pages, and who listens.

    `remote` opens a provider's model for a seat (or the judge) by its id, and says what is sent there. `closest`
    compares by meaning, where there is an embedding model.
    """

    scheduler: Scheduler
    toolbox: Callable[[PanelistSpec | JudgeSpec, CountTokens], Toolbox]
    stored_text: Callable[[str], str | None]
    emit: Callable[[Event], None]
    remote: OpenRemote = no_providers
    closest: citations.Closest | None = None


@dataclass(slots=True)
class Run:
    """One deliberation under way; `state` is all that was said, `moved` is set when a seat got on.

    The panel of `question` is as it is now: where a model failed, the one that stepped in for it sits there.
    """

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

    def panelist(self, id: str) -> PanelistSpec:
        """A seat of the panel."""
        return next(seat for seat in self.question.panel.panelists if seat.id == id)

    def seat(self, id: str) -> AnySeat:
        """A seat of the panel, or that of the judge or the writer."""
        return seats_of(self.question.panel)[id]

    @property
    def responses(self) -> tuple[Response, ...]:
        """The finished answers in panel order, under the run's numbers."""
        return citations.renumber(self.state.in_panel_order())
