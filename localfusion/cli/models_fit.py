"""`localfusion models fit`: which presets fit this machine, said before anything is pulled."""

import asyncio
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console

from localfusion.catalog.hub import Hub, open_hub
from localfusion.catalog.installed import Installed
from localfusion.catalog.names import unknown
from localfusion.cli.known_models import known_models
from localfusion.cli.options import memory_option, models_option, vram_option
from localfusion.cli.sizes import duration_text, size_text
from localfusion.cli.terminal import json_text, printable
from localfusion.config import ModelsFile, Surroundings, load_settings, make_home
from localfusion.errors import ConfigError
from localfusion.fits import Known, PresetFit, fits, look, pull_seconds
from localfusion.session import open_scheduler


@click.command()
@click.argument("presets", metavar="[PRESET...]", nargs=-1)
@models_option
@memory_option
@vram_option
@click.option("--offline", is_flag=True, help="Ask no hub: say what is known from files and headers that are here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def fit(
    *, presets: tuple[str, ...], models: Path | None, memory: int | None, vram: int | None, offline: bool, as_json: bool
) -> None:
    """Say which presets fit this machine, and what is to pull for them.

    What a model takes is the engine's own prediction. For a model that is not here, its header alone is read from the
    hub (a few megabytes) and kept; the time is what a pull would take at the rate of that. Without a network it says
    what it knows.

    \b
    Examples:
      localfusion models fit
      localfusion models fit general-fast general-budget
      localfusion models fit --memory 12GiB --json
    """
    surroundings = Surroundings.of_this_process()
    file = known_models(surroundings, models)
    names = _names(file, presets)
    budget_bytes, presets_found, known = examine(
        surroundings, file, names, is_offline=offline, memory_bytes=memory, vram_bytes=vram
    )
    if known.why_not:
        click.echo(f"note: only what is here already is known: {printable(known.why_not)}", err=True)
    if as_json:
        click.echo(json_text(as_document(presets_found, known, budget_bytes)))
    else:
        click.echo("\n".join(map(printable, lines(presets_found, known, budget_bytes))))


def examine(
    surroundings: Surroundings,
    file: ModelsFile,
    names: tuple[str, ...],
    *,
    is_offline: bool = False,
    memory_bytes: int | None = None,
    vram_bytes: int | None = None,
) -> tuple[int, tuple[PresetFit, ...], Known]:
    """What models may take, how these presets fit, and what is known of their files; shows that it is at work."""
    home = make_home(surroundings)
    hub, why_not = _hub(offline=is_offline or load_settings(surroundings).settings.offline)

    async def found(known: Known) -> tuple[int, tuple[PresetFit, ...]]:
        async with open_scheduler(surroundings, home, memory_bytes=memory_bytes, vram_bytes=vram_bytes) as scheduler:
            return scheduler.memory_bytes, await fits(file, names, scheduler, known)

    console = Console(stderr=True)
    with closing(Installed(home)) as installed, console.status("looking at what there is of the models"):
        known = look(file, names, home=home, installed=installed, hub=hub, why_not=why_not)
    with console.status("asking the engine what they would take"):
        budget_bytes, presets = asyncio.run(found(known))
    return budget_bytes, presets, known


def lines(presets: tuple[PresetFit, ...], known: Known, budget_bytes: int) -> list[str]:
    """The presets as a table, then what licences ask for."""
    rows = [("preset", "takes", "to pull", "about", "fits")]
    rows += [_row(preset, known) for preset in presets]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = ["  ".join([*(f"{row[i]:{widths[i]}s}" for i in range(4)), row[4]]).rstrip() for row in rows]
    notes = {licence.model: licence for preset in presets for licence in preset.licences if licence.note}
    said = [f"licence of {name}: {one.licence or 'not named'}: {one.note}" for name, one in notes.items()]
    return [f"models may take {size_text(budget_bytes)}", *table, *said]


def as_document(presets: tuple[PresetFit, ...], known: Known, budget_bytes: int) -> dict[str, object]:
    """The same as a JSON document; sizes in bytes, times in seconds."""
    return {
        "budget_bytes": budget_bytes,
        "bytes_per_second": None if known.bytes_per_s is None else round(known.bytes_per_s),
        "hub_problem": known.why_not or None,
        "presets": [
            {
                "name": preset.name,
                "fits": preset.how,
                "bytes": preset.total_bytes or None,
                "vram_bytes": preset.vram_bytes,
                "problem": preset.problem or None,
                "missing": list(preset.missing),
                "pull_bytes": preset.pull_bytes,
                "pull_seconds": None if (s := pull_seconds(preset, known)) is None else round(s, 1),
                "licences": [{"model": o.model, "licence": o.licence, "note": o.note} for o in preset.licences],
            }
            for preset in presets
        ],
    }


def _row(preset: PresetFit, known: Known) -> tuple[str, str, str, str, str]:
    sizes = [size_text(preset.total_bytes)] if preset.total_bytes else []
    sizes += [f"{size_text(preset.vram_bytes)} of VRAM"] if preset.vram_bytes else []
    pull, about = "nothing", ""
    if preset.missing:
        seconds = pull_seconds(preset, known)
        pull = "unknown" if preset.pull_bytes is None else size_text(preset.pull_bytes)
        about = "" if seconds is None else duration_text(seconds)
    how = f"{preset.how}: {preset.problem}" if preset.problem else preset.how
    return preset.name, " + ".join(sizes) or "unknown", pull, about, how


def _names(file: ModelsFile, names: tuple[str, ...]) -> tuple[str, ...]:
    """The presets that are meant, each once, aliases resolved; all where none is named. Raises ConfigError."""
    for name in names:
        if file.aliases.get(name, name) not in file.presets:
            raise unknown("preset", name, list(file.presets), file)
    return tuple(dict.fromkeys(file.aliases.get(name, name) for name in names)) or tuple(file.presets)


def _hub(*, offline: bool) -> tuple[Hub | None, str]:
    """The hub, or why there is none."""
    try:
        return open_hub(offline=offline), ""
    except ConfigError as error:
        return None, error.message
