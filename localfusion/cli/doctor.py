"""`localfusion doctor`: what this machine offers, how llama.cpp was built, and which presets fit."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from localfusion.cli.known_models import known_models
from localfusion.cli.options import memory_option, models_option, vram_option
from localfusion.cli.sizes import size_text
from localfusion.cli.terminal import json_text, printable
from localfusion.config import Surroundings
from localfusion.doctor import REBUILD, Report, examine, measure
from localfusion.engine.speed import POLICIES, Rate, Speed, Way
from localfusion.fits import PresetFit
from localfusion.messages import Device

WAITING_TEXTS: Mapping[str | None, str] = {
    "short": "they wait 0.1 ms on the core, then off it",
    "active": "they wait on the core",
    "passive": "they wait off the core",
    None: "",
}
OWN = "as localfusion runs it"


@click.command()
@models_option
@memory_option
@vram_option
@click.option(
    "--measure",
    "is_timed",
    is_flag=True,
    help="Also time threads and ways of waiting (ten seconds to a minute).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def doctor(*, models: Path | None, memory: int | None, vram: int | None, is_timed: bool, as_json: bool) -> None:
    """Say what this machine offers and which presets fit.

    Cores, memory, GPUs, llama.cpp's build, and for each preset what it would take and how it would be run: all models
    side by side, in waves, or not at all. None of them is loaded.

    With --measure a model of random weights (84 MiB, in a temporary folder) is decoded on different numbers of threads,
    which wait for each other in different ways, and as localfusion would run it. What is fastest depends on what else
    the machine is doing.

    \b
    Examples:
      localfusion doctor
      localfusion doctor --measure
      localfusion doctor --memory 6GiB
      localfusion doctor --models team.yaml --json
    """
    surroundings = Surroundings.of_this_process()
    file = known_models(surroundings, models)
    report = asyncio.run(examine(file, surroundings, memory_bytes=memory, vram_bytes=vram))
    speed = asyncio.run(measure(surroundings, on_step=_say_step)) if is_timed else None
    if as_json:
        document = as_document(report) | ({} if speed is None else {"speed": speed_document(speed)})
        click.echo(json_text(document))
    else:
        found = lines(report) + ([] if speed is None else speed_lines(speed))
        click.echo("\n".join(map(printable, found)))


def lines(report: Report) -> list[str]:
    """The report as text."""
    features = " ".join(sorted(report.engine.features)) or "nothing is known of its build"
    gpu = "with a GPU" if report.engine.has_gpu else "no GPU"
    free = f"{size_text(report.available_bytes)} free of {size_text(report.memory_bytes)}"
    found = [
        f"cores      {report.cores}",
        f"memory     {free}; models may take {size_text(report.budget_bytes)}",
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


def speed_lines(speed: Speed) -> list[str]:
    """What was measured as text, and whether localfusion chooses well."""
    named = {OWN: speed.own} | {way_text(way): rate for way, rate in speed.ways.items()}
    width = max(map(len, named))
    found = [f"tokens a second of a random model of {size_text(speed.model_bytes)}"]
    found += [f"{name:{width}s}  {rate_text(rate)}" for name, rate in named.items()]
    found.append(f"fastest: {way_text(speed.fastest)}")
    if speed.is_own_fastest:
        return [*found, f"{OWN}: as fast, within what tries differ among themselves"]
    share = speed.own.tokens_per_s / speed.ways[speed.fastest].tokens_per_s
    return [*found, f"{OWN}: {share:.0%} of that; {advice(speed.fastest)}"]


def advice(way: Way) -> str:
    """How to have what was fastest."""
    settings = [f"n_threads: {way.n_threads} in models.yaml"]
    settings += [f"{name}={value}" for name, value in ({} if way.policy is None else POLICIES[way.policy]).items()]
    return f"measure once more, then try {', '.join(settings)}"


def way_text(way: Way) -> str:
    """A way to decode in words."""
    threads = "1 thread" if way.n_threads == 1 else f"{way.n_threads} threads"
    waiting = WAITING_TEXTS[way.policy]
    return f"{threads}, {waiting}" if waiting else threads


def rate_text(rate: Rate) -> str:
    """A rate in the middle of its tries, and between which these were."""
    return f"{rate.tokens_per_s:7.1f}  ({min(rate.tries):.1f} to {max(rate.tries):.1f})"


def speed_document(speed: Speed) -> dict[str, object]:
    """What was measured as JSON."""
    return {
        "model_bytes": speed.model_bytes,
        "own": _rate_document(speed.own),
        "ways": [_way_document(way) | _rate_document(rate) for way, rate in speed.ways.items()],
        "fastest": _way_document(speed.fastest),
        "is_own_fastest": speed.is_own_fastest,
    }


def _way_document(way: Way) -> dict[str, object]:
    environment = {} if way.policy is None else dict(POLICIES[way.policy])
    return {"n_threads": way.n_threads, "waiting": way.policy, "environment": environment}


def _rate_document(rate: Rate) -> dict[str, object]:
    return {"tokens_per_second": round(rate.tokens_per_s, 2), "tries": [round(one, 2) for one in rate.tries]}


def _say_step(n_done: int, n_steps: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rmeasuring: {n_done} of {n_steps}" + ("\n" if n_done == n_steps else ""), nl=False, err=True)
    elif n_done == 0:
        click.echo("measuring: some ten seconds, more where other programs are busy", err=True)


def _device_text(device: Device, vram_bytes: Mapping[str, int]) -> str:
    free = f"{size_text(device.free_bytes)} free of {size_text(device.total_bytes)}"
    return f"{device.name}, {device.description}: {free}; models may take {size_text(vram_bytes.get(device.name, 0))}"


def _fit_text(preset: PresetFit) -> str:
    if preset.how == "unknown":
        return f"unknown: {preset.problem}"
    sizes = [size_text(preset.total_bytes)] if preset.total_bytes else []
    sizes += [f"{size_text(preset.vram_bytes)} of VRAM"] if preset.vram_bytes else []
    return f"{' + '.join(sizes):9s}  {preset.how}" + (f": {preset.problem}" if preset.problem else "")
