"""`localfusion doctor`: what this machine offers, how llama.cpp was built, and which presets fit."""

import asyncio
import json
from pathlib import Path

import click

from localfusion.cli.options import memory_option, models_option
from localfusion.cli.terminal import printable
from localfusion.config import Surroundings, find_models_file, load_models_file
from localfusion.doctor import REBUILD, PresetFit, Report, examine


@click.command()
@models_option
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def doctor(*, models: Path | None, memory: int | None, as_json: bool) -> None:
    """Say what this machine offers and which presets fit.

    Cores, memory, llama.cpp's build, and for each preset what it would take and how it would be run: all models side
    by side, in waves, or not at all. Nothing is loaded.

    \b
    Examples:
      localfusion doctor
      localfusion doctor --memory 6GiB
      localfusion doctor --models team.yaml --json
    """
    surroundings = Surroundings.of_this_process()
    file = load_models_file(find_models_file(surroundings, models))
    report = asyncio.run(examine(file, surroundings, memory_bytes=memory))
    if as_json:
        click.echo(json.dumps(as_document(report), ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(map(printable, lines(report))))


def lines(report: Report) -> list[str]:
    """The report as text."""
    features = " ".join(sorted(report.engine.features)) or "nothing is known of its build"
    gpu = "with a GPU backend" if report.engine.has_gpu else "no GPU backend"
    free = f"{gib(report.available_bytes)} free of {gib(report.memory_bytes)}"
    found = [
        f"cores      {report.cores}",
        f"memory     {free}; models may take {gib(report.budget_bytes)}",
        f"llama.cpp  {gpu}; {features}",
    ]
    if report.unused_features:
        found.append(f"           slow build: it does not use {', '.join(report.unused_features)} of this processor")
        found.append(f"           rebuild it: {REBUILD}")
    width = max([len("preset"), *(len(preset.name) for preset in report.presets)])
    found.append(f"{'preset':{width}s}  takes      fits")
    return found + [f"{preset.name:{width}s}  {_fit_text(preset)}" for preset in report.presets]


def as_document(report: Report) -> dict[str, object]:
    """The report as a JSON document; sizes in bytes."""
    return {
        "cores": report.cores,
        "memory_bytes": report.memory_bytes,
        "available_bytes": report.available_bytes,
        "budget_bytes": report.budget_bytes,
        "llama_cpp": {
            "features": sorted(report.engine.features),
            "has_gpu": report.engine.has_gpu,
            "unused_features": list(report.unused_features),
        },
        "presets": [
            {
                "name": preset.name,
                "bytes": preset.total_bytes or None,
                "fits": preset.how,
                "problem": preset.problem or None,
            }
            for preset in report.presets
        ],
    }


def gib(n_bytes: int) -> str:
    """A size for people."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def _fit_text(preset: PresetFit) -> str:
    if preset.how == "unknown":
        return f"unknown: {preset.problem}"
    return f"{gib(preset.total_bytes):9s}  {preset.how}" + (f": {preset.problem}" if preset.problem else "")
