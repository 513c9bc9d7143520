"""What is known of models on this machine: which are here and where, which fit alone, and what presets lack.

What a model takes is the engine's word, of files that are here and of headers that `models fit` kept. Of others the
catalogue's size is all there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from localfusion.catalog.header_reads import kept_stub
from localfusion.catalog.installed import MODELS_FOLDER, PathOf, is_there, locate
from localfusion.catalog.names import file_of, file_spec
from localfusion.catalog.pulling import unfinished, unfinished_bytes
from localfusion.catalog.stores import Store, StoreName, find_stores, store_of
from localfusion.config import ModelEntry, ModelsFile, PresetEntry, Surroundings, home_directory, note_path
from localfusion.config.models_file import models_used
from localfusion.errors import ConfigError, ModelLoadError, OutOfMemory
from localfusion.gguf_header import part_paths
from localfusion.messages import ModelSpec
from localfusion.scheduler import Scheduler
from localfusion.session import open_scheduler

Place = Literal["shipped", "pulled", "added", "file", "elsewhere", "provider", ""] | StoreName
"""Where the file of a model is: "" is nowhere here, "file" where a models file names a path."""
Fits = Literal["yes", "no", "unknown", "remote"]


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of the catalogue. `n_bytes` is its file's length, None where nobody knows it.

    `takes_bytes` is what it takes alone, of memory and VRAM, 0 where nobody found out; `problem` is what is amiss.
    `kept_bytes` are what a pull that was cut off has left.
    """

    name: str
    entry: ModelEntry
    place: Place
    n_bytes: int | None
    fits: Fits
    path: Path | None = None
    takes_bytes: int = 0
    problem: str = ""
    kept_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ListedPreset:
    """A preset, which of its models are missing, and how much there is to pull: at least, where not `is_exact`."""

    name: str
    entry: PresetEntry
    missing: tuple[str, ...]
    pull_bytes: int
    is_exact: bool
    remote: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """All of them; `budget_bytes` is what models may take of memory and of all GPUs' together."""

    models: tuple[ListedModel, ...]
    presets: tuple[ListedPreset, ...]
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class _Here:
    """What is looked up for each model."""

    surroundings: Surroundings
    path_of: PathOf
    stores: tuple[Store, ...]


async def look(
    models: ModelsFile, surroundings: Surroundings, *, memory_bytes: int | None = None, vram_bytes: int | None = None
) -> Listing:
    """Look at every model alone; raises ModelLoadError where llama.cpp does not start at all."""
    folder = home_directory(surroundings)
    here = _Here(surroundings, locate(folder), find_stores(surroundings))
    home = folder if folder.is_dir() else None
    async with open_scheduler(surroundings, home, memory_bytes=memory_bytes, vram_bytes=vram_bytes) as scheduler:
        budget = scheduler.memory_bytes + sum((await scheduler.vram_bytes()).values())
        found = {name: await _model(name, entry, here, scheduler, budget) for name, entry in models.models.items()}
    presets = tuple(_preset(name, preset, models, found) for name, preset in models.presets.items())
    return Listing(tuple(found.values()), presets, budget)


async def _model(name: str, entry: ModelEntry, here: _Here, scheduler: Scheduler, budget_bytes: int) -> ListedModel:
    if entry.provider is not None:
        return ListedModel(name, entry, "provider", None, "remote")
    try:
        path = file_of(name, entry, path_of=here.path_of)
    except ConfigError as error:
        n_bytes = entry.hub.size_bytes if entry.hub else None
        return ListedModel(name, entry, "", n_bytes, "unknown", problem=error.message)
    if not is_there(path):
        if entry.hub is None:
            return ListedModel(name, entry, "", None, "unknown", problem=f"{path} is not there")
        n_bytes = entry.hub.size_bytes
        is_too_large = n_bytes is not None and n_bytes > budget_bytes
        kept_bytes = sum(map(unfinished_bytes, unfinished(home_directory(here.surroundings), entry.hub)))
        listed = ListedModel(name, entry, "", n_bytes, "no" if is_too_large else "unknown", kept_bytes=kept_bytes)
        stub = kept_stub(home_directory(here.surroundings), entry.hub)
        if stub is None or is_too_large:
            return listed
        fits, takes_bytes, problem = await _fit(file_spec(name, stub.path, entry), scheduler)
        return replace(listed, n_bytes=stub.n_bytes, fits=fits, takes_bytes=takes_bytes, problem=problem)
    n_bytes = sum(part.stat().st_size for part in part_paths(path))
    fits, takes_bytes, problem = await _fit(file_spec(name, path, entry), scheduler)
    return ListedModel(name, entry, _place(name, entry, path, here), n_bytes, fits, path, takes_bytes, problem)


async def _fit(spec: ModelSpec, scheduler: Scheduler) -> tuple[Fits, int, str]:
    """Whether a model fits alone, and what it takes then."""
    try:
        found = await scheduler.fit([spec])
        for chosen in found.chosen.values():  # what cannot be read is said here
            await scheduler.footprint(chosen)
    except OutOfMemory as error:
        return "no", error.need_bytes, error.message
    except ModelLoadError as error:
        return "unknown", 0, error.message
    return "yes", found.total_bytes + found.vram_bytes, ""


def _place(name: str, entry: ModelEntry, path: Path, here: _Here) -> Place:
    if entry.shipped is not None:
        return "shipped"
    if entry.hub is None:
        return "added" if note_path(here.surroundings, name).exists() else "file"
    if path.parent.resolve().is_relative_to((home_directory(here.surroundings) / MODELS_FOLDER).resolve()):
        return "pulled"
    return store_of(path, here.stores) or "elsewhere"


def _preset(name: str, preset: PresetEntry, models: ModelsFile, found: Mapping[str, ListedModel]) -> ListedPreset:
    """Fallbacks are not missing: they are for when something else is."""
    names = [models.aliases.get(used, used) for place, used in models_used(preset) if "fallback" not in place]
    own = [found[one] for one in dict.fromkeys(names)]
    missing = [model for model in own if not model.place]
    return ListedPreset(
        name,
        preset,
        tuple(model.name for model in missing),
        sum(model.n_bytes or 0 for model in missing),
        all(model.n_bytes is not None for model in missing),
        tuple(model.name for model in own if model.fits == "remote"),
    )
