"""What was used: tokens, seconds, costs, tool calls and panels, counted from stored events. Pure: nothing is read.

Sums are kept by day, model, role, provider and panel at once, so that they can be grouped by any of these. Runs that
were stored before generations were told one by one (`Generated`) count by what their seats came to.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from math import ceil, inf
from typing import Literal

from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnswerCompleted,
    CloudCalled,
    CloudCharged,
    Event,
    FallbackTaken,
    Generated,
    PanelistCompleted,
    RunStarted,
    ToolReturned,
)
from localfusion.messages import JUDGE, WRITER, FallbackReason, Usage
from localfusion.run_state import came_to
from localfusion.store import History, RunStatus

By = Literal["day", "model", "role", "provider", "panel"]
Role = Literal["panelist", "judge", "writer"]

GROUPINGS: tuple[By, ...] = ("day", "model", "role", "provider", "panel")
KINDS: tuple[type[Event], ...] = (
    RunStarted,
    Generated,
    ToolReturned,
    FallbackTaken,
    CloudCalled,
    CloudCharged,
    PanelistCompleted,
    AnalysisCompleted,
    AnalysisFailed,
    AnswerCompleted,
)
"""The events that say something of use."""
HERE = "this machine"
"""The provider of what runs here."""
UNKNOWN = "unknown"
"""The model of a seat that no event names."""
PERCENT = (50, 90, 99)
_ROLES: dict[str, Role] = {JUDGE: "judge", WRITER: "writer"}


def local_day(at: float) -> date:
    """The day of a time in seconds since 1970, where this machine is."""
    return datetime.fromtimestamp(at, UTC).astimezone().date()


@dataclass(frozen=True, slots=True)
class Period:
    """From when (included) until when (not included), in seconds since 1970, and of which day a time is."""

    since: float = 0.0
    until: float = inf
    day_of: Callable[[float], date] = local_day

    def __contains__(self, at: float) -> bool:
        return self.since <= at < self.until


@dataclass(frozen=True, slots=True, order=True)
class Panel:
    """Who sat together: the panelists' models, sorted, a model with two seats twice; and the judge's."""

    models: tuple[str, ...] = ()
    judge: str = ""

    def __str__(self) -> str:
        return f"{' + '.join(self.models)}; judge {self.judge}" if self.models else UNKNOWN


@dataclass(frozen=True, slots=True)
class Key:
    """What a sum is of."""

    day: date
    model: str
    role: Role
    provider: str
    panel: Panel

    def label(self, by: By) -> str:
        return str(getattr(self, by))


@dataclass(slots=True)
class Tally:
    """The sums so far; `tally` makes them grow.

    `runs` and `panels` are of runs that began in the period, everything else is of what happened in it. `runs_with`
    counts those in which a group had a part. `prompts` and `completions` are lengths in tokens, of single generations.
    """

    runs: Counter[RunStatus] = field(default_factory=Counter)
    panels: Counter[Panel] = field(default_factory=Counter)
    usage: defaultdict[Key, Usage] = field(default_factory=lambda: defaultdict(Usage))
    tools: Counter[tuple[Key, str, bool]] = field(default_factory=Counter)
    runs_with: Counter[tuple[By, str]] = field(default_factory=Counter)
    prompts: Counter[int] = field(default_factory=Counter)
    completions: Counter[int] = field(default_factory=Counter)
    fallbacks: Counter[tuple[str, str, FallbackReason]] = field(default_factory=Counter)
    cloud_calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    cloud_characters: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def is_empty(self) -> bool:
        return not (self.runs or self.usage or self.tools or self.fallbacks or self.cloud_calls)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a group, or everything, came to; `runs` are those in which it had a part."""

    usage: Usage = field(default_factory=Usage)
    runs: int = 0
    tool_calls: int = 0
    failed_tool_calls: int = 0

    @property
    def cached_share(self) -> float:
        """Of the tokens of prompts, those that were not read again."""
        return _ratio(self.usage.cached_tokens, self.usage.prompt_tokens)

    @property
    def reasoning_share(self) -> float:
        """Of the tokens written, those of thinking."""
        return _ratio(self.usage.reasoning_tokens, self.usage.completion_tokens)

    @property
    def tokens_per_second(self) -> float:
        """Tokens written for each second of generations, reading their prompts included."""
        return _ratio(self.usage.completion_tokens, self.usage.seconds)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How lengths are spread: percentiles are lengths that occurred, by nearest rank.

    `histogram` counts by powers of two: those up to each number and above the number before it; 0 has its own.
    """

    count: int = 0
    p50: int = 0
    p90: int = 0
    p99: int = 0
    longest: int = 0
    histogram: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Seat:
    """Who works for an id at a moment."""

    model: str = UNKNOWN
    provider: str = HERE


@dataclass(frozen=True, slots=True)
class _Wrote:
    """What a generation took, a request, or all that a seat came to; `one` is the generation whose lengths count."""

    at: float
    id: str
    seat: _Seat
    usage: Usage
    one: Usage | None = None


@dataclass(frozen=True, slots=True)
class _Called:
    """A tool came back."""

    at: float
    id: str
    seat: _Seat
    tool: str
    ok: bool


def tally(histories: Iterable[History], period: Period = Period()) -> Tally:
    """The sums of these runs within a period; in which order the runs come makes no difference."""
    found = Tally()
    for history in histories:
        _add(found, history, period)
    return found


def groups(found: Tally, by: By) -> dict[str, Figures]:
    """The figures of each group: days in order, everything else from the most tokens to the least."""
    usage: defaultdict[str, Usage] = defaultdict(Usage)
    for key, took in found.usage.items():
        usage[key.label(by)] += took
    calls: Counter[tuple[str, bool]] = Counter()
    for (key, _, ok), n_calls in found.tools.items():
        calls[key.label(by), ok] += n_calls
    labels = sorted({*usage, *(label for label, _ in calls)})
    if by != "day":
        labels.sort(key=lambda label: -_total_tokens(usage[label]))
    return {
        label: Figures(
            usage[label],
            found.runs_with[by, label],
            tool_calls=calls[label, True] + calls[label, False],
            failed_tool_calls=calls[label, False],
        )
        for label in labels
    }


def totals(found: Tally) -> Figures:
    """The figures of everything."""
    usage = sum(found.usage.values(), start=Usage())
    failed = sum(n_calls for (_, _, ok), n_calls in found.tools.items() if not ok)
    return Figures(usage, found.runs.total(), found.tools.total(), failed)


def tools_used(found: Tally) -> dict[str, tuple[int, int]]:
    """Of each tool, how often it was called and how often that failed."""
    used: dict[str, tuple[int, int]] = {}
    for (_, tool, ok), n_calls in sorted(found.tools.items(), key=lambda item: item[0][1]):
        called, failed = used.get(tool, (0, 0))
        used[tool] = (called + n_calls, failed + (0 if ok else n_calls))
    return used


def tokens_by_day(found: Tally) -> dict[str, Counter[date]]:
    """Tokens read anew and written, by model and day; the model with the most first."""
    tokens: defaultdict[str, Counter[date]] = defaultdict(Counter)
    for key, took in found.usage.items():
        tokens[key.model][key.day] += _total_tokens(took) - took.cached_tokens
    return {model: tokens[model] for model in sorted(tokens, key=lambda model: (-tokens[model].total(), model))}


def distribution(lengths: Counter[int]) -> Distribution:
    """How these lengths are spread."""
    if not lengths:
        return Distribution()
    p50, p90, p99 = (_percentile(lengths, percent) for percent in PERCENT)
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[0 if length == 0 else 1 << (length - 1).bit_length()] += count
    return Distribution(lengths.total(), p50, p90, p99, max(lengths), tuple(sorted(bins.items())))


def _add(found: Tally, history: History, period: Period) -> None:
    events = [stored.event for stored in history.events]
    panel = next((_panel(event) for event in events if isinstance(event, RunStarted)), Panel())
    if history.created in period:
        found.runs[history.status] += 1
        found.panels[panel] += 1
    parts: set[Key] = set()
    for part in _parts(history):
        if part.at not in period:
            continue
        role = _ROLES.get(part.id, "panelist")
        key = Key(period.day_of(part.at), part.seat.model, role, part.seat.provider, panel)
        parts.add(key)
        if isinstance(part, _Called):
            found.tools[key, part.tool, part.ok] += 1
        else:
            _add_writing(found, key, part)
    found.runs_with.update({(by, key.label(by)) for by in GROUPINGS for key in parts})
    _add_elsewhere(found, history, period)


def _add_writing(found: Tally, key: Key, wrote: _Wrote) -> None:
    found.usage[key] += wrote.usage
    if wrote.one is not None:
        found.prompts[wrote.one.prompt_tokens] += 1
        found.completions[wrote.one.completion_tokens] += 1


def _add_elsewhere(found: Tally, history: History, period: Period) -> None:
    """What was left to other models, and to other machines."""
    for stored in history.events:
        if stored.at not in period:
            continue
        match stored.event:
            case FallbackTaken(substitution=taken):
                found.fallbacks[taken.model, taken.to, taken.reason] += 1
            case CloudCalled(provider=provider, model=model, prompt_characters=n_characters):
                found.cloud_calls[provider, model] += 1
                found.cloud_characters[provider, model] += n_characters


def _parts(history: History) -> Iterator[_Wrote | _Called]:
    """Who wrote what and called what, in order.

    What a seat came to holds what it wrote before its first `Generated` or `CloudCharged`; from there on that is told
    one by one. What a provider's generation took is in its `CloudCharged`, as it is where none came of a request.
    """
    first: dict[str, int] = {}
    for index, stored in enumerate(history.events):
        if isinstance(stored.event, Generated | CloudCharged):
            first.setdefault(stored.event.id, index)
    seats: dict[str, _Seat] = {}
    for index, stored in enumerate(history.events):
        match stored.event:
            case RunStarted(panelists=panelists, judge=judge):
                seats = {id: _Seat(model) for id, model in {**panelists, JUDGE: judge}.items()}
            case FallbackTaken(substitution=taken):
                seats[taken.id] = _Seat(taken.to)
            case Generated() | CloudCharged() as told:
                seats[told.id] = _Seat(told.model, told.provider or HERE)
                yield _told(stored.at, seats[told.id], told)
            case ToolReturned(id=id, result=result):
                yield _Called(stored.at, id, seats.get(id, _Seat()), result.call.name, result.ok)
            case event:
                id, usage = came_to(event)
                if index < first.get(id, inf) and usage != Usage():
                    yield _Wrote(stored.at, id, seats.get(id, _Seat()), usage)


def _told(at: float, seat: _Seat, event: Generated | CloudCharged) -> _Wrote:
    if isinstance(event, CloudCharged):
        return _Wrote(at, event.id, seat, event.usage)
    return _Wrote(at, event.id, seat, Usage() if event.provider else event.usage, one=event.usage)


def _panel(started: RunStarted) -> Panel:
    return Panel(tuple(sorted(started.panelists.values())), started.judge)


def _percentile(lengths: Counter[int], percent: int) -> int:
    """The least length that at least so many of a hundred do not exceed."""
    rank = ceil(lengths.total() * percent / 100)
    for length in sorted(lengths):
        rank -= lengths[length]
        if rank <= 0:
            return length
    return max(lengths)


def _total_tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
