"""Taking a model off this machine: what would go and what stays, decided first, carried out then."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localfusion.catalog.bundle.manifest import BUNDLED_FOLDER
from localfusion.catalog.deduping import delete
from localfusion.catalog.gguf_files import expanded, real
from localfusion.catalog.header_reads import stubs_of
from localfusion.catalog.installed import MODELS_FOLDER, Installed, is_there, pulled_path
from localfusion.catalog.pulling import remove_unfinished, unfinished, unfinished_bytes
from localfusion.config import HubEntry, ModelEntry, ModelsFile
from localfusion.config.models_file import models_used
from localfusion.errors import ConfigError
from localfusion.gguf_header import part_paths


@dataclass(frozen=True, slots=True)
class Removal:
    """Files of ours to delete, files that are only forgotten, and whether `models add` made the entry.

    `unfinished` are folders that pulls have left, `stubs` what was kept of headers: both go, too.
    """

    model: str
    ours: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()
    is_noted: bool = False
    unfinished: tuple[Path, ...] = ()
    stubs: tuple[Path, ...] = ()

    @property
    def n_bytes(self) -> int:
        n_bytes = sum(path.stat().st_size for path in self.ours if path.exists())
        return n_bytes + sum(unfinished_bytes(folder) for folder in self.unfinished)


def removal_of(
    models: ModelsFile, name: str, *, installed: Installed, home: Path, is_noted: bool, is_unread: bool = False
) -> Removal:
    """What removing a model comes to; `is_noted` says that `models add` made its entry,

    `is_unread` that its note cannot be read: it is forgotten unread. Raises ConfigError.

    Files are deleted only from our own folder, and only where no other entry uses them.
    """
    if is_unread:
        return Removal(name, is_noted=True)
    entry = models.models.get(name)
    if entry is None:
        raise ConfigError(f"there is no model {name}", hint="`localfusion models list` shows them, by their own names")
    if entry.hub is not None:
        return _of_hub(models, name, entry.hub, installed, home)
    if (found := _of_bundle(models, name, entry, home)) is not None:
        return found
    if not is_noted:
        raise ConfigError(f"{name} is not for localfusion to remove: {_whose(entry)}", hint="nothing was changed")
    _check_unused(models, name)
    parts = part_paths(real(expanded(entry.path or "")))
    return Removal(
        name, others=tuple(path for path in parts if (known := installed.known(path)) and not known.repo), is_noted=True
    )


def carry_out(removal: Removal, *, installed: Installed, forget_note: Callable[[str], object]) -> int:
    """Do it; returns the bytes that it freed."""
    if removal.is_noted:
        forget_note(removal.model)
    for path in removal.others:
        installed.forget(path)
    n_bytes = sum(remove_unfinished(folder) for folder in removal.unfinished)
    for stub in removal.stubs:
        with suppress(OSError):  # it takes next to nothing, and folders that hold something else stay
            stub.unlink()
            stub.parent.rmdir()
    return n_bytes + sum(delete(installed, path) for path in removal.ours)


def _of_hub(models: ModelsFile, name: str, hub: HubEntry, installed: Installed, home: Path) -> Removal:
    pulled = pulled_path(home, hub)
    firsts = [file.path for file in installed.files() if (file.repo, file.file) == (hub.repo, hub.file)]
    paths = [part for first in dict.fromkeys((pulled, *firsts)) for part in part_paths(first) if is_there(part)]
    left, stubs = unfinished(home, hub), stubs_of(home, hub)
    if not (paths or left or stubs):
        raise ConfigError(f"{name} is not here", hint=f"localfusion models pull {name} fetches it")
    files = {real(path) for path in paths}
    for other, entry in models.models.items():
        if other != name and (_is_same(entry.hub, hub) or (entry.path and real(expanded(entry.path)) in files)):
            raise ConfigError(f"{other} uses the file of {name}, too", hint=f"take {other} out of the catalogue first")
    ours = tuple(path for path in paths if installed.is_ours(path))
    others = tuple(path for path in paths if path not in ours)
    return Removal(name, ours, others, unfinished=left, stubs=stubs)


def _of_bundle(models: ModelsFile, name: str, entry: ModelEntry, home: Path) -> Removal | None:
    """The files of a model of no hub that a bundle brought; its name stays, for the bundle to be loaded again."""
    folder, path = home / MODELS_FOLDER / BUNDLED_FOLDER, expanded(entry.path or "")
    if not path.is_relative_to(folder):
        return None
    paths = tuple(part for part in part_paths(path) if part.exists())
    if not paths:
        raise ConfigError(f"{name} is not here", hint="load the bundle again that it came with")
    for other, used in models.models.items():
        if other != name and used.path and expanded(used.path) in paths:
            raise ConfigError(f"{other} uses the file of {name}, too", hint=f"take {other} out of the catalogue first")
    return Removal(name, paths)


def _is_same(one: HubEntry | None, other: HubEntry) -> bool:
    return one is not None and (one.repo, one.file) == (other.repo, other.file)


def _check_unused(models: ModelsFile, name: str) -> None:
    """Raise ConfigError where a preset or an alias would lead nowhere without a model."""
    for alias, target in models.aliases.items():
        if target == name:
            raise ConfigError(f"the alias {alias} stands for {name}", hint="let it stand for another model first")
    for preset, entry in models.presets.items():
        if any(used == name for _, used in models_used(entry)):
            raise ConfigError(f"the preset {preset} uses {name}", hint="name another model there first")


def _whose(entry: ModelEntry) -> str:
    if entry.shipped is not None:
        return "it is a part of localfusion"
    return "it is a provider's" if entry.provider is not None else "a models.yaml of yours names its file"
