"""`localfusion doctor`: what this machine offers, how llama.cpp was built, and which presets fit."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import click

from localfusion.cli.options import memory_option, models_option, vram_option
from localfusion.cli.terminal import printable
from localfusion.config import Surroundings, find_models_file, load_models_file
from localfusion.doctor import REBUILD, PresetFit, Report, examine
from localfusion.messages import Device


@click.command()
@models_option
@memory_option
@vram_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def doctor(*, models: Path | None, memory: int | None, vram: int | None, as_json: bool) -> None:
    """Say what this machine offers and which presets fit.

    Cores, memory, GPUs, llama.cpp's build, and for each preset what it would take and how it would be run: all models
    side by side, in waves, or not at all. Nothing is loaded.

    \b
    Examples:
      localfusion doctor
      localfusion doctor --memory 6GiB
      localfusion doctor --models team.yaml --json
    """
    surroundings = Surroundings.of_this_process()
    file = load_models_file(find_models_file(surroundings, models))
    report = asyncio.run(examine(file, surroundings, memory_bytes=memory, vram_bytes=vram))
    if as_json:
        click.echo(json.dumps(as_document(report), ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(map(printable, lines(report))))


def lines(report: Report) -> list[str]:
    """The report as text."""
    features = " ".join(sorted(report.engine.features)) or "nothing is known of its build"
    gpu = "with a GPU" if report.engine.has_gpu else "no GPU"
    free = f"{gib(report.available_bytes)} free of {gib(report.memory_bytes)}"
    found = [
        f"cores      {report.cores}",
        f"memory     {free}; models may take {gib(report.budget_bytes)}",
        *(f"gpu        {_device_text(device, report.vram_bytes)}" for device in report.engine.devices),
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
            "devices": [
                {
                    "name": device.name,
                    "description": device.description,
                    "memory_bytes": device.total_bytes,
                    "available_bytes": device.free_bytes,
                    "budget_bytes": report.vram_bytes.get(device.name, 0),
                }
                for device in report.engine.devices
            ],
            "unused_features": list(report.unused_features),
        },
        "presets": [
            {
                "name": preset.name,
                "bytes": preset.total_bytes or None,
                "vram_bytes": preset.vram_bytes,
                "fits": preset.how,
                "problem": preset.problem or None,
            }
            for preset in report.presets
        ],
    }


def gib(n_bytes: int) -> str:
    """A size for people."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def _device_text(device: Device, vram_bytes: Mapping[str, int]) -> str:
    free = f"{gib(device.free_bytes)} free of {gib(device.total_bytes)}"
    return f"{device.name}, {device.description}: {free}; models may take {gib(vram_bytes.get(device.name, 0))}"


def _fit_text(preset: PresetFit) -> str:
    if preset.how == "unknown":
        return f"unknown: {preset.problem}"
    sizes = [gib(preset.total_bytes)] if preset.total_bytes else []
    sizes += [f"{gib(preset.vram_bytes)} of VRAM"] if preset.vram_bytes else []
    return f"{' + '.join(sizes):9s}  {preset.how}" + (f": {preset.problem}" if preset.problem else "")
