"""What a bundle would change of what names mean here, and which files no name would lead to then. Changes nothing."""

from collections.abc import Iterator
from pathlib import Path

from localfusion.catalog.bundle.manifest import Manifest, member_of
from localfusion.catalog.gguf_files import expanded, real
from localfusion.catalog.installed import MODELS_FOLDER, Installed
from localfusion.config import Contents, JudgeEntry, ModelEntry, ModelsFile, PresetEntry, SeatEntry
from localfusion.errors import ConfigError
from localfusion.gguf_header import part_paths


def note_name(preset: str) -> str:
    """Under which name a bundle is noted: one that no model or preset can have, for the blank in it."""
    return f"bundle {preset}"


def changed_names(known: ModelsFile, manifest: Manifest, contents: Contents, installed: Installed) -> tuple[str, ...]:
    """The names that mean something here and something else in a bundle, each with what it means here.

    A model is its file, whatever is said of how it is loaded; a panel its seats; `contents` has the home's paths.
    """
    sha256s = {member.name: member.sha256 for member in manifest.of_role("model")}
    return tuple(_changed(known, manifest, contents, sha256s, installed))


def check_unchanged(changed: tuple[str, ...], *, may_replace: bool) -> None:
    """Raise ConfigError where a bundle would change a name and may not."""
    if changed and not may_replace:
        raise ConfigError(
            f"the bundle means something else by names that are known here: {'; '.join(changed)}",
            hint="nothing was loaded; --replace lets the bundle's meaning take the place of these",
        )


def stranded(before: ModelsFile, after: ModelsFile, installed: Installed, home: Path) -> tuple[Path, ...]:
    """Files of ours that models led to before and none leads to after."""
    gone = _files(before, installed, home) - _files(after, installed, home)
    return tuple(sorted(path for path in gone if path.exists()))


def _changed(
    known: ModelsFile, manifest: Manifest, contents: Contents, sha256s: dict[str, str], installed: Installed
) -> Iterator[str]:
    for name, model in contents.models.items():
        mine = known.models.get(name)
        sha256 = sha256s.get(member_of(manifest.models.models[name]), "")
        if mine is not None and not _is_same_file(mine, model, sha256, installed):
            yield f"{name} is {_whereabouts(mine)}"
        yield from _of_another_kind(known, name, "model")
    for name, preset in contents.presets.items():
        if name in known.presets and not _is_same_panel(known.presets[name], preset):
            yield f"{name} is another panel"
        yield from _of_another_kind(known, name, "preset")
    for name, target in contents.aliases.items():
        if known.aliases.get(name, target) != target:
            yield f"{name} stands for {known.aliases[name]}"
        yield from _of_another_kind(known, name, "alias")


def _of_another_kind(known: ModelsFile, name: str, kind: str) -> Iterator[str]:
    kinds = {"model": known.models, "preset": known.presets, "alias": known.aliases}
    yield from (
        f"{name} is the name of {_ARTICLE[other]}" for other, names in kinds.items() if other != kind and name in names
    )


_ARTICLE = {"model": "a model", "preset": "a preset", "alias": "something else"}


def _is_same_file(mine: ModelEntry, theirs: ModelEntry, sha256: str, installed: Installed) -> bool:
    """Whether two entries lead to the same file, as far as anybody knows its hash."""
    if theirs.shipped is not None or mine.shipped is not None:
        return mine.shipped == theirs.shipped
    if mine.hub is not None:
        same = theirs.hub is not None and (mine.hub.repo, mine.hub.file) == (theirs.hub.repo, theirs.hub.file)
        return sha256.startswith(mine.hub.sha256 or "") if same else mine.hub.sha256 == sha256
    if mine.path is None:
        return False
    found = installed.known(real(expanded(mine.path)))
    return mine.path == theirs.path or (found is not None and found.is_unchanged() and found.sha256 == sha256)


def _is_same_panel(mine: PresetEntry, theirs: PresetEntry) -> bool:
    """Whether the seats are the same; of those who step in a bundle may leave out some."""
    return (
        len(mine.panel) == len(theirs.panel)
        and mine.max_tool_calls == theirs.max_tool_calls
        and all(_is_same_seat(one, other) for one, other in zip(mine.panel, theirs.panel, strict=True))
        and _is_same_seat(mine.judge, theirs.judge)
    )


def _is_same_seat(mine: SeatEntry | JudgeEntry, theirs: SeatEntry | JudgeEntry) -> bool:
    kept = all(fallback in mine.fallback for fallback in theirs.fallback)
    return kept and mine.model_copy(update={"fallback": theirs.fallback}) == theirs


def _whereabouts(mine: ModelEntry) -> str:
    """What an entry leads to, for people."""
    if mine.hub is not None:
        return f"{mine.hub.repo}/{mine.hub.file}"
    if mine.provider is not None:
        return f"a model of {mine.provider}"
    return mine.path or "a model of localfusion itself"


def _files(models: ModelsFile, installed: Installed, home: Path) -> set[Path]:
    """The files of ours that the models of a catalogue lead to, every part of a split one."""
    folder, found = home / MODELS_FOLDER, set[Path]()
    places = {(file.repo, file.file): file.path for file in installed.files() if file.repo}
    for entry in models.models.values():
        path = places.get((entry.hub.repo, entry.hub.file)) if entry.hub else Path(entry.path) if entry.path else None
        if path is not None and path.is_relative_to(folder):
            found.update(part_paths(path))
    return found
