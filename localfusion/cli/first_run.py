"""The first question of a home: which preset fits this machine, what it has to fetch, and whether to. Asks people only.

Wherever nobody can be asked, the panel that ships answers, and it is said what that is worth.
"""

import sys
from pathlib import Path

import click

from localfusion.catalog.wanted import models_of_preset, wanted
from localfusion.cli.known_models import known_models
from localfusion.cli.models_fit import examine, lines
from localfusion.cli.models_pull import fetch
from localfusion.cli.sizes import duration_text, size_text
from localfusion.cli.terminal import printable
from localfusion.config import DEFAULT, ModelsFile, Surroundings, choose_preset, chosen_preset
from localfusion.fits import Known, PresetFit, pull_seconds, recommended

SHIPPED = "micro"
ONLY_ITS_WORLD = f"the {SHIPPED} panel knows its own small world and nothing else"


def has_chosen(surroundings: Surroundings, models: ModelsFile) -> bool:
    """Whether somebody said which preset is the default: here once, or in a models file."""
    return bool(chosen_preset(surroundings)) or models.aliases.get(DEFAULT) != SHIPPED


def with_default(
    surroundings: Surroundings,
    models: ModelsFile,
    explicit: Path | None,
    *,
    may_ask: bool,
    memory_bytes: int | None = None,
    vram_bytes: int | None = None,
) -> ModelsFile:
    """The models as they are known once it is settled which preset is the default.

    A person at a terminal is asked once, where `may_ask`; what is chosen is fetched and noted. Raises what a pull does.
    """
    if has_chosen(surroundings, models):
        return models
    if not (may_ask and sys.stdin.isatty() and sys.stderr.isatty()):
        click.echo(f"note: {ONLY_ITS_WORLD}; `localfusion models fit` says which others fit this machine", err=True)
        return models
    click.echo("No preset was chosen yet; this is asked once.", err=True)
    budget_bytes, presets, known = examine(
        surroundings, models, tuple(models.presets), memory_bytes=memory_bytes, vram_bytes=vram_bytes
    )
    if known.why_not:
        click.echo(f"note: {ONLY_ITS_WORLD}, and no others can be had now: {printable(known.why_not)}", err=True)
        return models
    for line in lines(presets, known, budget_bytes):
        click.echo(printable(line), err=True)
    preset = _choice(presets, known)
    fetch(surroundings, wanted(models, models_of_preset(models, models.presets[preset])), (preset,))
    noted = choose_preset(surroundings, preset)
    click.echo(f"{printable(preset)} answers from now on; {noted} says so, `--preset` names another", err=True)
    return known_models(surroundings, explicit)


def _choice(presets: tuple[PresetFit, ...], known: Known) -> str:
    """The preset that a person wants; Enter takes the one that fits best."""
    best = recommended(preset for preset in presets if preset.name != SHIPPED) or recommended(presets)
    possible = [preset.name for preset in presets if preset.how in ("side by side", "in waves")]
    if best is not None:
        click.echo(f"Enter takes {_offer(best, known)}; {ONLY_ITS_WORLD}.", err=True)
    chosen: str = click.prompt(
        "Which preset is to answer",
        default=None if best is None else best.name,
        type=click.Choice(possible or [SHIPPED]),
        show_choices=True,
        err=True,
    )
    return chosen


def _offer(preset: PresetFit, known: Known) -> str:
    seconds = pull_seconds(preset, known)
    if not preset.missing or preset.pull_bytes is None:
        return f"{preset.name}, which is here"
    about = "" if seconds is None else f" in about {duration_text(seconds)}"
    return f"{preset.name} and fetches {size_text(preset.pull_bytes)}{about}"
