"""`localfusion models list`: the models of the catalogue, which of them are here, and what presets lack."""

import asyncio
import textwrap
from collections.abc import Sequence
from pathlib import Path

import click

from localfusion.cli.known_models import known_models
from localfusion.cli.options import memory_option, models_option, vram_option
from localfusion.cli.sizes import size_text
from localfusion.cli.terminal import json_text, printable
from localfusion.config import Surroundings
from localfusion.listing import ListedModel, ListedPreset, Listing, look
from localfusion.messages import Json

MODEL_HEAD = ("model", "size", "where", "fits alone", "licence")
TERMINAL_COLUMNS = 80
PRESET_HEAD = ("preset", "to pull", "missing")


@click.command("list")
@models_option
@memory_option
@vram_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def list_command(*, models: Path | None, memory: int | None, vram: int | None, as_json: bool) -> None:
    """List models and presets: what is here and where, and what there is to pull.

    Whether a model fits alone is the engine's own prediction, of files that are here and of headers that `models fit`
    has read; of others nothing but their size is known. Licences marked with * ask for more than a notice.

    \b
    Examples:
      localfusion models list
      localfusion models list --memory 12GiB --json
    """
    surroundings = Surroundings.of_this_process()
    known = known_models(surroundings, models)
    listing = asyncio.run(look(known, surroundings, memory_bytes=memory, vram_bytes=vram))
    if as_json:
        click.echo(json_text(as_document(listing)))
    else:
        click.echo("\n".join(lines(listing)))


def lines(listing: Listing) -> list[str]:
    """Two tables as text that a terminal may show."""
    models = [tuple(map(printable, _model_row(model))) for model in listing.models]
    presets = [tuple(map(printable, _preset_row(preset))) for preset in listing.presets]
    amiss = [
        printable(f"{model.name}: {model.problem}")
        for model in listing.models
        if model.problem and model.fits == "unknown"
    ]
    return [*_table([MODEL_HEAD, *models]), *amiss, "", *_table([PRESET_HEAD, *presets])]


def as_document(listing: Listing) -> Json:
    """The same as JSON; sizes in bytes, null where nobody knows them."""
    return {
        "budget_bytes": listing.budget_bytes,
        "models": [_model_document(model) for model in listing.models],
        "presets": [_preset_document(preset) for preset in listing.presets],
    }


def _model_row(model: ListedModel) -> tuple[str, ...]:
    where = f"provider {model.entry.provider}" if model.place == "provider" else model.place or "-"
    where += f", {size_text(model.kept_bytes)} of a pull" if model.kept_bytes else ""
    licence = model.entry.licence or "-"
    size = "-" if model.n_bytes is None else size_text(model.n_bytes)
    return model.name, size, where, _fits(model), f"{licence} *" if model.entry.licence_note else licence


def _fits(model: ListedModel) -> str:
    if model.problem and model.fits == "unknown":
        return "unknown"
    if model.takes_bytes:
        return f"{model.fits}, takes {size_text(model.takes_bytes)}"
    return {"remote": "-", "unknown": "?", "no": "no, its file alone is larger"}.get(model.fits, model.fits)


def _preset_row(preset: ListedPreset) -> tuple[str, ...]:
    missing = ", ".join(preset.missing) or "nothing"
    return preset.name, _pull(preset), missing + (f"; asks {', '.join(preset.remote)}" if preset.remote else "")


def _pull(preset: ListedPreset) -> str:
    if not preset.missing:
        return "-"
    size = size_text(preset.pull_bytes) if preset.pull_bytes else "?"
    return size if preset.is_exact or not preset.pull_bytes else f"more than {size}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of one width each; the last goes on below itself where it does not fit a terminal."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return [line for row in rows for line in _lines_of(row, widths)]


def _lines_of(row: tuple[str, ...], widths: Sequence[int]) -> list[str]:
    first = "".join(f"{cell:{width}s}  " for cell, width in zip(row[:-1], widths, strict=True))
    width = max(TERMINAL_COLUMNS, len(first) + 20)
    return textwrap.wrap(
        first + row[-1],
        width,
        subsequent_indent=" " * len(first),
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _model_document(model: ListedModel) -> Json:
    entry = model.entry
    return {
        "name": model.name,
        "description": entry.description,
        "family": entry.family or None,
        "licence": entry.licence or None,
        "licence_note": entry.licence_note or None,
        "embeddings": entry.embeddings,
        "provider": entry.provider,
        "where": model.place or None,
        "path": str(model.path) if model.path else None,
        "bytes": model.n_bytes,
        "kept_bytes": model.kept_bytes,
        "fits": model.fits,
        "takes_bytes": model.takes_bytes or None,
        "problem": model.problem or None,
    }


def _preset_document(preset: ListedPreset) -> Json:
    return {
        "name": preset.name,
        "description": preset.entry.description,
        "missing": list(preset.missing),
        "pull_bytes": preset.pull_bytes,
        "pull_bytes_is_exact": preset.is_exact,
        "providers_models": list(preset.remote),
    }
