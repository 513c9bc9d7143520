"""What of this machine's models goes into a bundle of a preset: verified files, and the slice of models.yaml.

Hashes a file only where nobody did before. Providers' models stay where they are.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import ValidationError

from localfusion.catalog.bundle.manifest import (
    BUNDLED_FOLDER,
    MODELS_PREFIX,
    Member,
    ModelFacts,
    is_named_for,
    models_of,
)
from localfusion.catalog.copying import OnBytes, tell_nobody
from localfusion.catalog.gguf_files import check_gguf, expanded
from localfusion.catalog.hashing import sha256_of
from localfusion.catalog.installed import Installed, InstalledFile
from localfusion.catalog.names import entry_of, unknown
from localfusion.config import Contents, HubEntry, JudgeEntry, ModelEntry, ModelsFile, PresetEntry, SeatEntry
from localfusion.errors import ConfigError
from localfusion.gguf_header import part_paths

S = TypeVar("S", SeatEntry, JudgeEntry)

_ODD = re.compile(r"[^A-Za-z0-9._+-]|(?<![^/])[.]")


@dataclass(frozen=True, slots=True)
class MemberFile:
    """A member and the file that its content is."""

    member: Member
    path: Path


@dataclass(frozen=True, slots=True)
class Selection:
    """A preset as it can be carried; `remarks` say what of it cannot."""

    preset: str
    contents: Contents
    files: tuple[MemberFile, ...]
    remarks: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    models: dict[str, ModelEntry] = field(default_factory=dict)
    files: dict[str, MemberFile] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def select(models: ModelsFile, preset: str, installed: Installed, *, on_bytes: OnBytes = tell_nobody) -> Selection:
    """The preset with its files. Raises ConfigError where a seat's model is missing, changed, or only a provider's."""
    name = models.aliases.get(preset, preset)
    if name not in models.presets:
        names = [*models.presets, *(alias for alias, target in models.aliases.items() if target in models.presets)]
        raise unknown("preset", preset, names, models)
    found = _Found()
    entry = _local(models, models.presets[name], installed, found.remarks)
    named = list(dict.fromkeys(models_of(entry)))
    for model in dict.fromkeys(models.aliases.get(model, model) for model in named):
        found.models[model] = _take(model, models.models[model], installed, found, on_bytes)
    aliases = {model: models.aliases[model] for model in named if model in models.aliases}
    contents = Contents(models=found.models, presets={name: entry}, aliases=aliases)
    return Selection(name, contents, tuple(found.files.values()), tuple(found.remarks))


def _local(models: ModelsFile, preset: PresetEntry, installed: Installed, remarks: list[str]) -> PresetEntry:
    panel = tuple(_local_seat(models, seat, installed, remarks) for seat in preset.panel)
    judge = _local_seat(models, preset.judge, installed, remarks)
    return preset.model_copy(update={"panel": panel, "judge": judge})


def _local_seat(models: ModelsFile, seat: S, installed: Installed, remarks: list[str]) -> S:
    """A seat without providers' models, and without fallbacks that are not installed."""
    fallback = []
    for other in seat.fallback:
        entry = entry_of(models, other.model)
        if entry.provider is not None:
            remarks.append(f"{other.model} is a provider's model and stays out of the bundle")
        elif entry.hub is not None and installed.find(entry.hub.repo, entry.hub.file) is None:
            remarks.append(f"{other.model}, a fallback of {seat.model}, is not installed and stays out of the bundle")
        else:
            fallback.append(other)
    if entry_of(models, seat.model).provider is None:
        return seat.model_copy(update={"fallback": tuple(fallback)})
    if not fallback:
        raise ConfigError(
            f"{seat.model} is a provider's model, and nothing installed here steps in for it",
            hint="name a preset whose models are files, or give the seat a fallback that is one",
        )
    remarks.append(f"{seat.model} is a provider's model; in the bundle {fallback[0].model} has its seat")
    return seat.model_copy(update={"model": fallback[0].model, "fallback": tuple(fallback[1:])})


def _take(name: str, entry: ModelEntry, installed: Installed, found: _Found, on_bytes: OnBytes) -> ModelEntry:
    """Add a model's files; returns its entry as it holds on any machine that has the bundle."""
    if entry.shipped is not None:
        found.remarks.append(f"{name} comes with localfusion itself")
        return entry
    if entry.hub is not None:
        return _take_of_hub(name, entry, entry.hub, installed, found)
    path = expanded(entry.path or "")
    check_gguf(path, model=name)
    parts = [(part, _verified(part, installed, on_bytes)) for part in part_paths(path)]
    folder = f"{BUNDLED_FOLDER}{parts[0][1].sha256[:16]}"
    for part, known in parts:
        facts = ModelFacts(licence=entry.licence)
        _add(found, f"{MODELS_PREFIX}{folder}/{_plain(part.name)}", part, known, facts)
    return entry.model_copy(update={"path": f"{folder}/{_plain(path.name)}"})


def _take_of_hub(name: str, entry: ModelEntry, hub: HubEntry, installed: Installed, found: _Found) -> ModelEntry:
    first = installed.find(hub.repo, hub.file)
    if first is None:
        raise ConfigError(f"{name} is not here yet", hint=f"localfusion models pull {name}")
    path = installed.path_of(hub)
    check_gguf(path, model=name)
    if hub.sha256 is not None and not first.sha256.startswith(hub.sha256):
        raise ConfigError(f"{path} is not the file that models.yaml names", hint=f"localfusion models pull {name}")
    for part in part_paths(path):
        known = installed.known(part)
        if known is None or not known.is_unchanged():
            raise ConfigError(f"{part} was not verified", hint=f"localfusion models verify {name}")
        file = hub.file if part == path else str(PurePosixPath(hub.file).with_name(part.name))
        facts = ModelFacts(repo=hub.repo, file=file, revision=known.revision, licence=entry.licence)
        _add(found, f"{MODELS_PREFIX}{hub.repo}/{file}", part, known, facts)
    pinned = hub.model_copy(update={"sha256": first.sha256, "size_bytes": first.n_bytes})
    return entry.model_copy(update={"hub": pinned})


def _add(found: _Found, name: str, path: Path, known: InstalledFile, facts: ModelFacts) -> None:
    try:
        member = Member(name=name, role="model", n_bytes=known.n_bytes, sha256=known.sha256, model=facts)
    except ValidationError as error:
        raise _no_name(name) from error
    if not is_named_for(name, facts):
        raise _no_name(name)
    found.files[name] = MemberFile(member, path)


def _no_name(name: str) -> ConfigError:
    """The error for a file of the hub whose name no bundle can have."""
    hint = "add the file by itself (localfusion models add), and name that in the preset"
    return ConfigError(f"{name.removeprefix(MODELS_PREFIX)} cannot be carried under its name", hint=hint)


def _verified(path: Path, installed: Installed, on_bytes: OnBytes) -> InstalledFile:
    """What is known of a file of no hub; it is hashed where nothing is, and that is kept."""
    known = installed.known(path)
    if known is None or not known.is_unchanged():
        installed.record(path, sha256=sha256_of(path, on_bytes=on_bytes))
        known = installed.known(path)
    if known is None:
        raise ConfigError(f"{path} cannot be verified", hint="try again")
    return known


def _plain(name: str) -> str:
    """A file's name as every system takes it."""
    return _ODD.sub("_", name)
