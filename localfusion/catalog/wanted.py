"""Which files of the model hub the names of models and presets mean, and what their licences ask for. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from localfusion.catalog.names import unknown
from localfusion.config import DEFAULT, HubEntry, JudgeEntry, ModelsFile, PresetEntry, SeatEntry
from localfusion.errors import ConfigError
from localfusion.gguf_header import part_names


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model of the hub by its name in the catalogue; `licence_note` is what its licence asks for beyond a notice."""

    name: str
    hub: HubEntry
    licence: str = ""
    licence_note: str = ""


def wanted(models: ModelsFile, names: Iterable[str], *, with_fallbacks: bool = False) -> tuple[Wanted, ...]:
    """The hub's models among what is named, each once: models, presets (panel and judge), or aliases of either.

    Raises ConfigError for a name nobody knows. Models of other places are left out: there is nothing to fetch.
    """
    found: dict[str, Wanted] = {}
    for name in names:
        for model in _models_of(models, name, with_fallbacks=with_fallbacks):
            entry = models.models[model]
            if entry.hub is not None:
                found[model] = Wanted(model, entry.hub, entry.licence, entry.licence_note)
    return tuple(found.values())


def models_of_preset(models: ModelsFile, preset: PresetEntry, *, with_fallbacks: bool = False) -> tuple[str, ...]:
    """The names of the models of a preset, aliases resolved, each once."""
    names = dict.fromkeys(_seats(preset, with_fallbacks=with_fallbacks))
    return tuple(dict.fromkeys(models.aliases.get(name, name) for name in names))


def files_of(hub: HubEntry) -> tuple[str, ...]:
    """The names in the repository of all files that a model is in; the first part comes first."""
    file = PurePosixPath(hub.file)
    return tuple(str(file.with_name(name)) for name in part_names(file.name))


def one_for_each_place(models: Iterable[Wanted]) -> tuple[Wanted, ...]:
    """Models that mean one file as one, under all of their names; ConfigError for two files in one place."""
    found: dict[tuple[str, str], Wanted] = {}
    for model in models:
        place = model.hub.repo, model.hub.file
        other = found.get(place)
        if other is None:
            found[place] = model
            continue
        if not agree(other.hub, model.hub):
            raise ConfigError(
                f"{other.name} and {model.name} name two contents of {'/'.join(place)}, which has one place here",
                hint="give both the same `revision`, `sha256` and `size_bytes` in models.yaml",
            )
        note = other.licence_note or model.licence_note
        found[place] = Wanted(f"{other.name}, {model.name}", _stricter(other.hub, model.hub), other.licence, note)
    return tuple(found.values())


def agree(one: HubEntry, other: HubEntry) -> bool:
    """Whether two entries of one repository and file may mean the same content."""
    if None not in (one.size_bytes, other.size_bytes) and one.size_bytes != other.size_bytes:
        return False
    if one.sha256 and other.sha256:
        return one.sha256.startswith(other.sha256) or other.sha256.startswith(one.sha256)
    return one.revision == other.revision


def _stricter(one: HubEntry, other: HubEntry) -> HubEntry:
    """What both of two that agree say."""
    sha256 = max(one.sha256 or "", other.sha256 or "", key=len) or None
    return one.model_copy(update={"sha256": sha256, "size_bytes": one.size_bytes or other.size_bytes})


def named_models(models: ModelsFile, name: str) -> tuple[str, ...]:
    """The models that a name means: itself, or those of a preset. Raises ConfigError for a name nobody knows."""
    return _models_of(models, name, with_fallbacks=False)


def _models_of(models: ModelsFile, name: str, *, with_fallbacks: bool) -> tuple[str, ...]:
    target = models.aliases.get(name, name)
    if target in models.models:
        return (target,)
    if target in models.presets:
        return models_of_preset(models, models.presets[target], with_fallbacks=with_fallbacks)
    if name == DEFAULT:
        raise ConfigError(f"nothing is named, and {models.name} has no default", hint="name models or presets")
    raise unknown("model", name, [*models.models, *models.presets, *models.aliases], models)


def _seats(preset: PresetEntry, *, with_fallbacks: bool) -> Iterator[str]:
    seats: tuple[SeatEntry | JudgeEntry, ...] = (*preset.panel, preset.judge)
    for seat in seats:
        yield seat.model
        if with_fallbacks:
            yield from (fallback.model for fallback in seat.fallback)
