"""Draws the sums of `localfusion usage`: tokens by day and model, lengths of prompts, seconds by role.

The only user of matplotlib. Without a display and without its global state: no window, no backend to choose.
"""

import warnings
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from localfusion.cli.terminal import head
from localfusion.errors import ConfigError
from localfusion.usage import Tally, distribution, groups, tokens_by_day

MOST_MODELS = 8
REST = "others"
NAME_WIDTH = 28
MOST_TICKS = 12


def draw(found: Tally, file: Path) -> None:
    """Draw into a file, by its name a PNG or an SVG. Raises ConfigError where it cannot be written.

    Names are text and no formulas; the same sums give the same SVG.
    """
    with (
        rc_context({"text.parse_math": False, "svg.hashsalt": "localfusion", "font.size": 8.0}),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # a letter that no font of this machine has is drawn as a box
        figure = Figure(figsize=(8.0, 7.0), layout="constrained")
        axes = figure.subplot_mosaic([["days", "days"], ["prompts", "roles"]])
        _draw_days(axes["days"], found)
        _draw_prompts(axes["prompts"], found)
        _draw_roles(axes["roles"], found)
        try:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}", hint="name another file") from error


def _draw_days(axes: Axes, found: Tally) -> None:
    """Tokens read anew and written, a bar a day, a colour a model."""
    by_model = _few(tokens_by_day(found))
    busy = sorted({day for by_day in by_model.values() for day in by_day})
    days = [busy[0] + timedelta(days=n) for n in range((busy[-1] - busy[0]).days + 1)] if busy else []
    bottoms = [0] * len(days)
    for model, by_day in by_model.items():
        heights = [by_day[day] for day in days]
        axes.bar(range(len(days)), heights, bottom=bottoms, label=_name(model))
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    shown = range(0, len(days), max(1, -(-len(days) // MOST_TICKS)))
    axes.set_xticks(list(shown), [days[n].isoformat() for n in shown], rotation=30, ha="right")
    axes.set_title("tokens read anew and written, by day")
    if by_model:
        axes.legend()


def _few(by_model: dict[str, Counter[date]]) -> dict[str, Counter[date]]:
    """As many models as can be told apart, those with the most tokens; the others together."""
    models = list(by_model)
    kept = {model: by_model[model] for model in models[:MOST_MODELS]}
    rest: Counter[date] = sum((by_model[model] for model in models[MOST_MODELS:]), start=Counter())
    return {**kept, REST: rest} if rest else kept


def _draw_prompts(axes: Axes, found: Tally) -> None:
    bins = distribution(found.prompts).histogram
    axes.bar(range(len(bins)), [count for _, count in bins])
    axes.set_xticks(range(len(bins)), [f"≤ {up_to}" for up_to, _ in bins], rotation=30, ha="right")
    axes.set_title("prompts by length in tokens")


def _draw_roles(axes: Axes, found: Tally) -> None:
    roles = groups(found, "role")
    axes.barh(range(len(roles)), [figures.usage.seconds for figures in roles.values()])
    axes.set_yticks(range(len(roles)), list(roles))
    axes.set_title("seconds of generations by role")


def _name(model: str) -> str:
    """A model's name for the legend, which leaves out names that begin with an underscore."""
    name = head(model, NAME_WIDTH)
    return f" {name}" if name.startswith("_") else name
