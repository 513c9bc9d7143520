"""`localfusion usage`: what stored runs took, as tables, as JSON or as a picture. Counts nothing itself."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path

import click

from localfusion.cli.lazy import module_of_extra
from localfusion.cli.running import Output, check_writable
from localfusion.cli.terminal import head, json_text, printable
from localfusion.cli.usage_document import STATUSES, document, panel_sizes
from localfusion.config import Surroundings, make_home
from localfusion.errors import ConfigError
from localfusion.store import Store
from localfusion.usage import (
    GROUPINGS,
    KINDS,
    By,
    Distribution,
    Figures,
    Period,
    Tally,
    distribution,
    groups,
    tally,
    tools_used,
    totals,
)

LABEL_WIDTH = 24
BAR_WIDTH = 40
MOST_DAYS = 36_500
PICTURES = (".png", ".svg")
COLUMNS = f"{'runs':>6}{'in':>7}{'cached':>7}{'out':>7}{'think':>6}{'time':>8}{'tok/s':>7}{'cost':>8}"


def parse_day(
    _context: click.Context, parameter: click.Parameter, value: str | None, *, with_span: bool
) -> date | None:
    """A day as YYYY-MM-DD; or, `with_span`, the first of the last N days as Nd."""
    if value is None:
        return None
    span = re.fullmatch(r"(\d{1,5})d", value, flags=re.ASCII) if with_span else None
    if span is not None and 0 < int(span[1]) <= MOST_DAYS:
        return datetime.now().astimezone().date() - timedelta(days=int(span[1]) - 1)
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", value, flags=re.ASCII):
            return date.fromisoformat(value)
    except ValueError:
        pass
    how = "2026-11-01 or 7d" if with_span else "2026-11-30"
    raise click.BadParameter(f"{value!r} is no day; write it like {how}", param=parameter)


@click.command()
@click.option(
    "--since",
    callback=partial(parse_day, with_span=True),
    metavar="DATE|Nd",
    help="From this day on; 7d is the last seven days, today included.  [default: all that is stored]",
)
@click.option(
    "--until", callback=partial(parse_day, with_span=False), metavar="DATE", help="Up to the end of this day."
)
@click.option(
    "--by", type=click.Choice(GROUPINGS), default="model", show_default=True, help="What the first table groups by."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead (docs/usage-json.md).")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also draw a picture into FILE (.png or .svg); needs matplotlib.",
)
def usage(*, since: date | None, until: date | None, by: By, as_json: bool, plot: Path | None) -> None:
    """Sum up what stored runs took: tokens, time, cost, tools and panels.

    Everything is counted from the runs stored on this machine; days are days of its time zone. Of a run that was
    resumed each part counts on the day on which it was done.

    \b
    Examples:
      localfusion usage
      localfusion usage --since 7d --by day
      localfusion usage --since 2026-11-01 --until 2026-11-30 --json
      localfusion usage --by panel --plot usage.svg
    """
    if since is not None and until is not None and until < since:
        raise ConfigError(f"--until {until} is before --since {since}", hint="let the period begin before it ends")
    draw = None if plot is None else _drawing(plot)
    with closing(Store(make_home(Surroundings.of_this_process()))) as store:
        period = _period(since, until)
        found = tally(store.histories(KINDS, since=period.since, until=period.until), period)
    if found.is_empty:
        when = "" if since is None and until is None else " of this period"
        click.echo(f"no runs{when} are stored; localfusion ask stores one", err=True)
    if as_json:
        click.echo(json_text(document(found, by, since=since, until=until)))
    elif not found.is_empty:
        click.echo("\n".join(lines(found, by, since=since, until=until)))
    if plot is not None and draw is not None and not found.is_empty:
        draw(found, plot)
        click.echo(f"drawn: {plot}", err=True)


def lines(found: Tally, by: By, *, since: date | None = None, until: date | None = None) -> list[str]:
    """The sums as text that reads well on 80 columns."""
    blocks = [
        [_heading(found, since, until)],
        _table(groups(found, by), totals(found), by),
        _tool_lines(found),
        _length_lines("prompt", distribution(found.prompts)),
        _length_lines("completion", distribution(found.completions)),
        list(_panel_lines(found)),
        list(_elsewhere_lines(found)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block).split("\n")


def _period(since: date | None, until: date | None) -> Period:
    """From the first midnight to the last, where this machine is."""
    start = 0.0 if since is None else _midnight(since)
    return Period(start, float("inf") if until is None else _midnight(until + timedelta(days=1)))


def _midnight(day: date) -> float:
    return datetime.combine(day, datetime.min.time()).timestamp()


def _drawing(file: Path) -> Callable[[Tally, Path], None]:
    """What draws into this file. Raises ConfigError where it cannot be."""
    if file.suffix.lower() not in PICTURES:
        raise ConfigError(f"{file} is no picture that can be drawn", hint="let its name end in .png or .svg")
    check_writable(Output(as_json=False, file=file))
    draw: Callable[[Tally, Path], None] = module_of_extra(
        "localfusion.cli.usage_plot", package="matplotlib", extra="bench"
    ).draw
    return draw


def _heading(found: Tally, since: date | None, until: date | None) -> str:
    start = "" if since is None else f" since {since}"
    end = "" if until is None else f" until {until}"
    ends = ", ".join(f"{found.runs[status]} {status}" for status in STATUSES if found.runs[status])
    return f"usage{start}{end}: {_times(found.runs.total(), 'run')}{f' ({ends})' if ends else ''}"


def _table(rows: dict[str, Figures], everything: Figures, by: By) -> list[str]:
    found = [f"{by:{LABEL_WIDTH}}{COLUMNS}"]
    for label, figures in rows.items():
        found += _row(label, figures)
    return found + _row("all", everything)


def _row(label: str, figures: Figures) -> list[str]:
    """One line; two where the label takes a line of its own."""
    label = printable(label)
    took = figures.usage
    cells = (
        f"{figures.runs:>6}{_count(took.prompt_tokens):>7}{figures.cached_share:>7.0%}"
        f"{_count(took.completion_tokens):>7}{figures.reasoning_share:>6.0%}{_time(took.seconds):>8}"
        f"{figures.tokens_per_second:>7.1f}{_money(took.cost):>8}"
    )
    if len(label) > LABEL_WIDTH:
        return [label, " " * LABEL_WIDTH + cells]
    return [f"{label:{LABEL_WIDTH}}{cells}"]


def _tool_lines(found: Tally) -> list[str]:
    used = tools_used(found)
    rows = [f"{head(name, LABEL_WIDTH):{LABEL_WIDTH}}{calls:>6}{failed:>8}" for name, (calls, failed) in used.items()]
    return [f"{'tool':{LABEL_WIDTH}}{'calls':>6}{'failed':>8}", *rows] if rows else []


def _length_lines(what: str, found: Distribution) -> list[str]:
    if not found.count:
        return []
    longest = max(count for _, count in found.histogram)
    percentiles = f"p50 {found.p50}, p90 {found.p90}, p99 {found.p99}, max {found.longest}"
    return [
        f"{what} tokens of {_times(found.count, 'generation')}: {percentiles}",
        *(
            f"{f'up to {up_to}':>{LABEL_WIDTH}}{count:>7}  {'#' * max(1, count * BAR_WIDTH // longest)}"
            for up_to, count in found.histogram
        ),
    ]


def _panel_lines(found: Tally) -> Iterator[str]:
    if not found.panels:
        return
    yield f"{'runs':>6}  panel"
    for panel, runs in found.panels.most_common():
        yield f"{runs:>6}  {printable(str(panel))}"
    sizes = (f"{_times(seats, 'seat')} in {_times(runs, 'run')}" for seats, runs in sorted(panel_sizes(found).items()))
    yield f"size of panels: {', '.join(sizes)}"


def _elsewhere_lines(found: Tally) -> Iterator[str]:
    for (model, to, reason), times in found.fallbacks.most_common():
        yield f"{printable(to)} stepped in for {printable(model)} ({reason}): {_times(times, 'time')}"
    for call, calls in found.cloud_calls.most_common():
        provider, model = map(printable, call)
        characters = _count(found.cloud_characters[call])
        yield f"sent to {provider} for {model}: {_times(calls, 'request')}, {characters} characters of prompts"


def _times(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _count(number: float) -> str:
    """A number in at most six characters."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.0f}" if not unit else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.0f}T"


def _time(seconds: float) -> str:
    """A time in at most seven characters."""
    if seconds < 100:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02}m"


def _money(dollars: float) -> str:
    if not dollars:
        return "-"
    return f"${dollars:.4f}" if dollars < 1 else f"${dollars:.2f}"
