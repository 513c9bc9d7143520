"""The outer model of a conversation: it answers, calls the caller's functions, or has a panel deliberate.

FUSION.md section 1: the outer model decides, once in a turn; what the panel and the judge came to, it writes up. How a
request names models and how a turn is told to a client is not known here.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal

from localfusion.assistant import Ask, Written, write
from localfusion.events import Event
from localfusion.messages import Delta, FunctionCall, ModelSpec, Progress, TokenLogprobs, Usage
from localfusion.outcome import Outcome
from localfusion.session import Session
from localfusion.store import RunRequest

TurnEnd = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """The deliberation that the outer model may call for, or must where `is_forced`; its writer writes the answer."""

    request: RunRequest
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One turn: what the outer model is asked, and what it may have deliberated (None: nothing)."""

    model: ModelSpec
    ask: Ask
    fusion: Fusion | None = None


@dataclass(frozen=True, slots=True)
class Turned:
    """How a turn ended. `model` is the name of the model that wrote the text.

    `usage` is of all that the turn took, `outer_usage` what the outer model took outside of the deliberation (its
    decision, its own answer). `outcome` is what the deliberation came to, None where there was none; where it failed
    (`outcome.status` "error") nothing else was written.
    """

    model: str
    content: str = ""
    thinking: str = ""
    calls: tuple[FunctionCall, ...] = ()
    finish_reason: TurnEnd = "stop"
    usage: Usage = field(default_factory=Usage)
    outer_usage: Usage = field(default_factory=Usage)
    logprobs: tuple[TokenLogprobs, ...] = ()
    outcome: Outcome | None = None


TurnItem = Progress | Delta | FunctionCall | Event | Turned
"""What is told of a turn while it lasts, in order; the Turned is the last.

Deltas are the text (and thinking) of the turn's own message, also where it was written after a deliberation: its
`TextWritten` of the kind "answer" is told as a Delta and not as an event, and the deltas joined are the content.
Everything else that a deliberation says is told as it is said (`RunStarted` first).
"""


async def take_turn(session: Session, request: TurnRequest, *, run_id: str | None = None) -> AsyncGenerator[TurnItem]:
    """Take the turn; closing the generator cancels it, what was finished of a deliberation is stored.

    `run_id` is a stored deliberation of this very turn, which is then gone on with. Raises ConfigError, InvalidRequest,
    ModelError, QueueFull.
    """
    del run_id
    async with session.scheduler.lease(request.model) as lease:
        async for item in write(lease.model, request.ask):
            if isinstance(item, Written):
                yield Turned(request.model.name, item.content, item.thinking, item.calls, "stop", item.usage)
            else:
                yield item
