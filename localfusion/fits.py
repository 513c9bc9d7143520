"""Which presets fit this machine, what is still to pull for them, and about how long that takes. Loads no model.

What a model takes is the engine's own prediction: from the file where it is here, else from its header alone, which is
read from the hub by range or was kept earlier. Without a hub it says what it knows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from localfusion.catalog import Choice, resolve
from localfusion.catalog.header_reads import Stub, kept_stub, read_stub
from localfusion.catalog.hub import Hub, HubUnreachable
from localfusion.catalog.installed import Installed, PathOf, nothing_pulled
from localfusion.catalog.pulling import AT_ONCE, check_promise, present
from localfusion.catalog.side_by_side import side_by_side
from localfusion.catalog.wanted import Wanted, files_of, models_of_preset, wanted
from localfusion.config import HubEntry, ModelsFile
from localfusion.errors import ConfigError, LocalFusionError, ModelLoadError, OutOfMemory
from localfusion.messages import CloudLeave, local_models
from localfusion.scheduler import Scheduler

READS_AT_ONCE = 4

HowItFits = Literal["side by side", "in waves", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Licence:
    """The licence of a model, and what it asks for beyond a notice."""

    model: str
    licence: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class PresetFit:
    """How a preset fits the budget and what its models take in all; `problem` says what is wrong where it does not.

    `missing` are its models that are not here, and `pull_bytes` what they have together, None where that is not known.
    """

    name: str
    how: HowItFits
    total_bytes: int = 0
    vram_bytes: int = 0
    problem: str = ""
    missing: tuple[str, ...] = ()
    pull_bytes: int | None = 0
    licences: tuple[Licence, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What there is of the hub's models by name: their files, or stubs, or why there is neither.

    `bytes_per_s` is about what a pull will have, measured while headers were read; None where none was read.
    `why_not` says why the hub was not asked, or did not answer, where anything was to ask.
    """

    installed: dict[str, Path] = field(default_factory=dict)
    stubs: Mapping[str, Stub] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    bytes_per_s: float | None = None
    why_not: str = ""


def look(
    models: ModelsFile, presets: Iterable[str], *, home: Path, installed: Installed, hub: Hub | None, why_not: str = ""
) -> Known:
    """Find the files of presets, or their headers: side by side from the hub, or, where it is None, what was kept.

    `why_not` says why there is no hub.
    """
    names = dict.fromkeys(name for preset in presets for name in models_of_preset(models, models.presets[preset]))
    all_of_hub = wanted(models, names)
    here = {model.name: path for model in all_of_hub if (path := present(installed, model.hub)) is not None}
    missing = [model for model in all_of_hub if model.name not in here]
    lost = [] if hub else [why_not]
    jobs = [partial(_stub, home, model, hub, lost) for model in missing]
    found = side_by_side(jobs, n_at_once=READS_AT_ONCE)
    pairs = list(zip(missing, found, strict=True))
    stubs = {model.name: stub for model, stub in pairs if isinstance(stub, Stub)}
    problems = {model.name: error.message for model, error in pairs if isinstance(error, LocalFusionError)}
    return Known(here, stubs, problems, _rate(stubs.values()), lost[0] if lost and missing else "")


async def fits(models: ModelsFile, presets: Sequence[str], scheduler: Scheduler, known: Known) -> tuple[PresetFit, ...]:
    """How each preset fits: what the scheduler itself would do with it."""
    return tuple([await _fit(name, models, scheduler, known) for name in presets])


def pull_seconds(fit: PresetFit, known: Known) -> float | None:
    """About how long the pull of a preset takes; None where nobody knows."""
    if fit.pull_bytes is None or known.bytes_per_s is None:
        return None
    return fit.pull_bytes / known.bytes_per_s


def recommended(presets: Iterable[PresetFit]) -> PresetFit | None:
    """The preset to take where nobody says: the largest that fits side by side, else the smallest that fits in waves.

    None where none fits.
    """
    found = list(presets)
    side_by_side = [preset for preset in found if preset.how == "side by side"]
    in_waves = [preset for preset in found if preset.how == "in waves"]
    if side_by_side:
        return max(side_by_side, key=lambda preset: preset.total_bytes)
    return min(in_waves, key=lambda preset: preset.total_bytes, default=None)


async def _fit(name: str, models: ModelsFile, scheduler: Scheduler, known: Known) -> PresetFit:
    of_preset = wanted(models, models_of_preset(models, models.presets[name]))
    missing = tuple(model.name for model in of_preset if model.name not in known.installed)
    sizes = [_pull_bytes(model, known) for model in of_preset if model.name in missing]
    pull_bytes = None if None in sizes else sum(size or 0 for size in sizes)
    licences = tuple(Licence(m.name, m.licence, m.licence_note) for m in of_preset if m.licence or m.licence_note)

    def fit(how: HowItFits, total_bytes: int = 0, vram_bytes: int = 0, problem: str = "") -> PresetFit:
        return PresetFit(name, how, total_bytes, vram_bytes, problem, missing, pull_bytes, licences)

    unread = [model for model in missing if model not in known.stubs]
    if unread and known.why_not:  # which is said once, of all of them
        return fit("unknown")
    if unread:
        return fit("unknown", problem=known.problems.get(unread[0], f"{unread[0]} is not here yet"))
    try:
        panel = resolve(
            models, Choice(preset=name, cloud=CloudLeave(is_allowed=True)), path_of=_path_of(of_preset, known)
        )
        found = await scheduler.fit(local_models(panel))
        for chosen in found.chosen.values():  # what cannot be read is said here
            await scheduler.footprint(chosen)
    except OutOfMemory as error:
        need = (0, error.need_bytes) if error.is_vram else (error.need_bytes, 0)
        return fit("no", *need, problem=f"{error.message}; {error.hint}")
    except (ConfigError, ModelLoadError) as error:
        return fit("unknown", problem=error.message)
    return fit("side by side" if found.is_side_by_side else "in waves", found.total_bytes, found.vram_bytes)


def _pull_bytes(model: Wanted, known: Known) -> int | None:
    """What a model that is missing has: by its header, else as far as the catalogue knows; None where nobody does."""
    if model.name in known.stubs:
        return known.stubs[model.name].n_bytes
    return model.hub.size_bytes if known.why_not and len(files_of(model.hub)) == 1 else None


def _path_of(of_preset: Iterable[Wanted], known: Known) -> PathOf:
    """Where the files of a preset are, or the stubs that stand in for them."""
    paths = known.installed | {name: stub.path for name, stub in known.stubs.items()}
    by_entry = {_key(model.hub): paths[model.name] for model in of_preset}

    def path_of(place: HubEntry | Path) -> Path:
        return nothing_pulled(place) if isinstance(place, Path) else by_entry.get(_key(place), nothing_pulled(place))

    return path_of


def _key(hub: HubEntry) -> tuple[str, str, str]:
    return hub.repo, hub.file, hub.revision


def _stub(home: Path, model: Wanted, hub: Hub | None, lost: list[str]) -> Stub:
    """The header of a model from the hub; what was kept of it once the hub is `lost`, which says why."""
    if hub is not None and not lost:
        try:
            stub, files = read_stub(home, model, hub)
        except HubUnreachable as error:
            lost.append(error.message)
        else:
            check_promise(model.hub, files[0])
            return stub
    kept = kept_stub(home, model.hub)
    if kept is None:
        raise LocalFusionError(f"{model.name} is not here, and its header was never read: {lost[0]}")
    return kept


def _rate(stubs: Iterable[Stub]) -> float | None:
    """What a pull of several files has: what one of the streams had, times as many as a pull opens."""
    read = [stub for stub in stubs if stub.n_read and stub.seconds]
    if not read:
        return None
    of_one = sum(stub.n_read for stub in read) / sum(stub.seconds for stub in read)
    return of_one * min(AT_ONCE, READS_AT_ONCE, len(read))
