"""What a run came to: the value that the CLI shows, the wire writes and the store gives back. Pure data."""

from dataclasses import dataclass, field
from typing import Literal

from localfusion.analysis import Analysis, Citation, FailedModel, Response, ToolStep
from localfusion.errors import FailureReason
from localfusion.messages import Substitution, Usage

Status = Literal["ok", "error", "interrupted"]


@dataclass(frozen=True, slots=True)
class CloudUse:
    """What was sent to one provider's model for one seat (or "judge"): in how many requests, and what it took.

    `model` is the catalogue's name, `remote_model` the provider's own; failed requests count.
    """

    id: str
    provider: str
    model: str
    base_url: str
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    remote_model: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished, failed or interrupted run. `analysis` is None where the judge failed or was not reached.

    The [n] of `answer`, of `citations` and of every response are the run's; `error` is one sentence or None. `usage` is
    of all that the run took, what came to nothing included; `judge_usage` is the judge's part of it. `writer_model` is
    the model that wrote the answer where that was not the judge, else "".
    """

    run_id: str
    status: Status
    question: str
    seed: int
    judge_model: str
    answer: str = ""
    citations: tuple[Citation, ...] = ()
    analysis: Analysis | None = None
    responses: tuple[Response, ...] = ()
    failed_models: tuple[FailedModel, ...] = ()
    failure_reason: FailureReason | None = None
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    judge_usage: Usage = field(default_factory=Usage)
    writer_model: str = ""
    writer_usage: Usage = field(default_factory=Usage)
    judge_steps: tuple[ToolStep, ...] = ()
    searched: tuple[str, ...] = ()
    substitutions: tuple[Substitution, ...] = ()
    cloud: tuple[CloudUse, ...] = ()
    warnings: tuple[str, ...] = ()
