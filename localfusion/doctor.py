"""What this machine offers and what the presets would take of it: found out, not decided; nothing is loaded.

Footprints are the engine's own prediction; of weights they are an upper bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from localfusion import machine
from localfusion.catalog import Choice, resolve
from localfusion.config import ModelsFile, Surroundings
from localfusion.engine import client
from localfusion.errors import ConfigError, ModelLoadError
from localfusion.messages import EngineFacts, PanelSpec

BUILD_NAMES: Mapping[str, str] = {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512"}
"""Processor features that make llama.cpp fast, by Linux's name and by llama.cpp's."""
REBUILD = (
    'CMAKE_ARGS="-DGGML_NATIVE=on" pip install --force-reinstall --no-cache-dir'
    " --no-binary llama-cpp-python llama-cpp-python"
)


@dataclass(frozen=True, slots=True)
class PresetFit:
    """What all models of a preset take when they are loaded side by side; `problem` says why it is not known."""

    name: str
    total_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """This machine, the engine's build, and the presets."""

    cores: int
    memory_bytes: int
    available_bytes: int
    engine: EngineFacts
    unused_features: tuple[str, ...]
    presets: tuple[PresetFit, ...]


async def examine(models: ModelsFile, surroundings: Surroundings) -> Report:
    """Look at everything; raises ModelLoadError where llama.cpp does not start at all."""
    engine = await client.describe(environ=surroundings.variables)
    return Report(
        cores=machine.usable_cores(),
        memory_bytes=machine.total_bytes(),
        available_bytes=machine.available_bytes(),
        engine=engine,
        unused_features=unused_features(machine.processor_features(), engine.features),
        presets=tuple([await _fit(name, models, surroundings) for name in models.presets]),
    )


def unused_features(processor: frozenset[str], build: frozenset[str]) -> tuple[str, ...]:
    """What the processor can do and the build does not use, by llama.cpp's names."""
    return tuple(name for flag, name in BUILD_NAMES.items() if flag in processor and name not in build)


async def _fit(name: str, models: ModelsFile, surroundings: Surroundings) -> PresetFit:
    try:
        panel = resolve(models, Choice(preset=name))
        return PresetFit(name, await _footprint(panel, surroundings))
    except (ConfigError, ModelLoadError) as error:
        return PresetFit(name, problem=error.message)


async def _footprint(panel: PanelSpec, surroundings: Surroundings) -> int:
    specs = {spec.path: spec for spec in (*(seat.model for seat in panel.panelists), panel.judge.model)}
    found = [await client.footprint(spec, environ=surroundings.variables) for spec in specs.values()]
    return sum(footprint.total_bytes for footprint in found)
