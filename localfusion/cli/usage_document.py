"""The document of `usage --json`: its schema, and how sums are written in it. Not how they are counted or shown."""

from collections import Counter
from datetime import date

from pydantic import BaseModel, ConfigDict, Field

from localfusion.messages import FallbackReason, Json
from localfusion.store import RunStatus
from localfusion.usage import (
    By,
    Distribution,
    Figures,
    Tally,
    distribution,
    groups,
    tools_used,
    totals,
)

STATUSES: tuple[RunStatus, ...] = ("ok", "error", "interrupted", "running")


class Part(BaseModel):
    """Every key is always there and no other is; the order of fields is the order in the document."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RunsPart(Part):
    """Runs that began in the period, by how they ended."""

    total: int = Field(description="all of them")
    ok: int = Field(description="those with a final answer")
    error: int = Field(description="those without one")
    interrupted: int = Field(description="those that were stopped, or whose process is gone")
    running: int = Field(description="those that go on")


class FiguresPart(Part):
    """What was used in all, or by one day, model, role, provider or panel."""

    name: str = Field(description="which one: a day as YYYY-MM-DD; `all` of the totals")
    runs: int = Field(description="runs in which the group had a part")
    prompt_tokens: int = Field(description="tokens of prompts")
    cached_tokens: int = Field(description="of these, the ones that were kept and not read again")
    cached_share: float = Field(description="the same as a share, 0 to 1")
    completion_tokens: int = Field(description="tokens written")
    reasoning_tokens: int = Field(description="of these, the ones of thinking")
    reasoning_share: float = Field(description="the same as a share, 0 to 1")
    seconds: float = Field(description="the time of generations, added up; several may run at once")
    tokens_per_second: float = Field(description="tokens written a second of these, reading included")
    cost: float = Field(description="US dollars")
    tool_calls: int = Field(description="calls of tools that came back")
    failed_tool_calls: int = Field(description="of these, the ones that failed")


class ToolPart(Part):
    """One tool."""

    name: str = Field(description="`web_search` or `web_fetch`")
    calls: int = Field(description="calls that came back")
    failed: int = Field(description="of these, the ones that failed")


class BinPart(Part):
    """A step of a histogram."""

    up_to: int = Field(description="the longest length that is counted here: 0 or a power of two")
    count: int = Field(description="generations of this length, above the step before")


class LengthsPart(Part):
    """Lengths in tokens, of single generations."""

    count: int = Field(description="generations; runs stored by early versions do not tell theirs")
    p50: int = Field(description="half of them are not longer")
    p90: int = Field(description="90 of 100 are not longer")
    p99: int = Field(description="99 of 100 are not longer")
    max: int = Field(description="the longest")
    histogram: list[BinPart] = Field(description="counts by powers of two, empty steps left out")


class PanelPart(Part):
    """Models that sat together."""

    panelists: list[str] = Field(description="a model for each seat, sorted")
    judge: str = Field(description="the judge's model")
    runs: int = Field(description="runs that began with this panel")


class SeatsPart(Part):
    """A size of panels."""

    seats: int = Field(description="panelists")
    runs: int = Field(description="runs that began with so many")


class FallbackPart(Part):
    """A model that stepped in for another."""

    model: str = Field(description="the one that could not answer")
    to: str = Field(description="the one that stepped in")
    reason: FallbackReason = Field(description="why")
    times: int = Field(description="how often")


class CloudPart(Part):
    """Requests that left this machine."""

    provider: str = Field(description="to whom")
    model: str = Field(description="for which model, by its name in models.yaml")
    calls: int = Field(description="requests, retries included")
    prompt_characters: int = Field(description="characters of their prompts")


class UsageDocument(Part):
    """What was used in a period."""

    since: str | None = Field(description="the first day (YYYY-MM-DD), null for the first that is stored")
    until: str | None = Field(description="the last day, null for today")
    by: By = Field(description="what `groups` are")
    runs: RunsPart = Field(description="runs that began")
    totals: FiguresPart = Field(description="everything together")
    groups: list[FiguresPart] = Field(description="days in order, else from the most tokens to the least")
    tools: list[ToolPart] = Field(description="by tool")
    prompt_tokens: LengthsPart = Field(description="how long prompts are")
    completion_tokens: LengthsPart = Field(description="how long is what was written")
    panels: list[PanelPart] = Field(description="the most frequent first")
    panel_sizes: list[SeatsPart] = Field(description="the smallest first")
    fallbacks: list[FallbackPart] = Field(description="the most frequent first")
    cloud_calls: list[CloudPart] = Field(description="the most frequent first")


def document(found: Tally, by: By, *, since: date | None, until: date | None) -> Json:
    """The sums as JSON values, keys in the order of the schema."""
    written = UsageDocument(
        since=None if since is None else since.isoformat(),
        until=None if until is None else until.isoformat(),
        by=by,
        runs=RunsPart(total=found.runs.total(), **{status: found.runs[status] for status in STATUSES}),
        totals=_figures("all", totals(found)),
        groups=[_figures(name, figures) for name, figures in groups(found, by).items()],
        tools=[ToolPart(name=name, calls=calls, failed=failed) for name, (calls, failed) in tools_used(found).items()],
        prompt_tokens=_lengths(distribution(found.prompts)),
        completion_tokens=_lengths(distribution(found.completions)),
        panels=[
            PanelPart(panelists=list(panel.models), judge=panel.judge, runs=runs)
            for panel, runs in found.panels.most_common()
        ],
        panel_sizes=[SeatsPart(seats=seats, runs=runs) for seats, runs in sorted(panel_sizes(found).items())],
        fallbacks=[
            FallbackPart(model=model, to=to, reason=reason, times=times)
            for (model, to, reason), times in found.fallbacks.most_common()
        ],
        cloud_calls=[
            CloudPart(provider=call[0], model=call[1], calls=calls, prompt_characters=found.cloud_characters[call])
            for call, calls in found.cloud_calls.most_common()
        ],
    )
    dumped: Json = written.model_dump(mode="json")
    return dumped


def panel_sizes(found: Tally) -> Counter[int]:
    """How many runs began with how many panelists."""
    sizes: Counter[int] = Counter()
    for panel, runs in found.panels.items():
        sizes[len(panel.models)] += runs
    return sizes


def _figures(name: str, figures: Figures) -> FiguresPart:
    usage = figures.usage
    return FiguresPart(
        name=name,
        runs=figures.runs,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        cached_share=round(figures.cached_share, 4),
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        reasoning_share=round(figures.reasoning_share, 4),
        seconds=round(usage.seconds, 3),
        tokens_per_second=round(figures.tokens_per_second, 2),
        cost=round(usage.cost, 6),
        tool_calls=figures.tool_calls,
        failed_tool_calls=figures.failed_tool_calls,
    )


def _lengths(found: Distribution) -> LengthsPart:
    bins = [BinPart(up_to=up_to, count=count) for up_to, count in found.histogram]
    return LengthsPart(
        count=found.count, p50=found.p50, p90=found.p90, p99=found.p99, max=found.longest, histogram=bins
    )
