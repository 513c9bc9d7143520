"""What this machine offers and what the presets would take of it: found out, not decided.

How a preset fits is what the scheduler itself would do with it. None of its models is loaded; what `measure` times is
a model of its own.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from localfusion import fits, machine
from localfusion.catalog.installed import Installed
from localfusion.config import ModelsFile, Surroundings, home_directory
from localfusion.engine import client, speed
from localfusion.engine.speed import Speed
from localfusion.fits import PresetFit
from localfusion.messages import EngineFacts
from localfusion.session import open_scheduler

BUILD_NAMES: Mapping[str, str] = {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512"}
"""Processor features that make llama.cpp fast, by Linux's name and by llama.cpp's."""
REBUILD = (
    'CMAKE_ARGS="-DGGML_NATIVE=on" pip install --force-reinstall --no-cache-dir'
    " --no-binary llama-cpp-python llama-cpp-python"
)


@dataclass(frozen=True, slots=True)
class Report:
    """This machine, the engine's build, and the presets; `budget_bytes` is what all models together may take.

    `vram_bytes` is what they may take of each GPU, by its name.
    """

    cores: int
    memory_bytes: int
    available_bytes: int
    budget_bytes: int
    engine: EngineFacts
    unused_features: tuple[str, ...]
    presets: tuple[PresetFit, ...]
    vram_bytes: Mapping[str, int] = field(default_factory=dict)


async def measure(surroundings: Surroundings, *, on_step: Callable[[int, int], None]) -> Speed:
    """Which threads and which way of waiting decode fastest here; raises ModelError. Takes ten seconds or more."""
    return await speed.measure(machine.usable_cores(), environ=surroundings.variables, on_step=on_step)


async def examine(
    models: ModelsFile, surroundings: Surroundings, *, memory_bytes: int | None = None, vram_bytes: int | None = None
) -> Report:
    """Look at everything; raises ModelLoadError where llama.cpp does not start at all."""
    engine = await client.describe(environ=surroundings.variables)
    folder = home_directory(surroundings)
    home = folder if folder.is_dir() else None
    known = await asyncio.to_thread(_what_is_here, models, folder, home)
    async with open_scheduler(surroundings, home, memory_bytes=memory_bytes, vram_bytes=vram_bytes) as scheduler:
        return Report(
            cores=machine.usable_cores(),
            memory_bytes=machine.total_bytes(),
            available_bytes=machine.available_bytes(),
            budget_bytes=scheduler.memory_bytes,
            engine=engine,
            unused_features=unused_features(machine.processor_features(), engine.features),
            presets=await fits.fits(models, tuple(models.presets), scheduler, known),
            vram_bytes=await scheduler.vram_bytes(),
        )


def unused_features(processor: frozenset[str], build: frozenset[str]) -> tuple[str, ...]:
    """What the processor can do and the build does not use, by llama.cpp's names."""
    return tuple(name for flag, name in BUILD_NAMES.items() if flag in processor and name not in build)


def _what_is_here(models: ModelsFile, folder: Path, home: Path | None) -> fits.Known:
    """Files and headers that are here; nobody is asked for more."""
    with closing(Installed(home)) as installed:
        why_not = "`localfusion models fit` reads it"
        return fits.look(models, models.presets, home=folder, installed=installed, hub=None, why_not=why_not)
