"""What is doubtful in a models file that is right: a judge among its own, hashes that are missing, prices, licences.

Judges the file as it is written. Of models' files it looks at headers only; nobody is asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from localfusion.catalog.gguf_files import check_gguf
from localfusion.catalog.installed import is_commit, nothing_pulled
from localfusion.catalog.names import file_of
from localfusion.catalog.wanted import agree
from localfusion.config import Extension, HubEntry, JudgeEntry, ModelEntry, ModelsFile, PresetEntry, SeatEntry
from localfusion.config.models_file import models_used
from localfusion.errors import ConfigError

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Doubt:
    """What may be wrong at a line of the file; `place` are the keys that lead there."""

    line: int
    place: str
    message: str


def doubts(file: Extension) -> tuple[Doubt, ...]:
    """Everything doubtful in what a file says itself, by line."""
    located = file.located
    found = [Doubt(located.line(place), ".".join(map(str, place)), message) for place, message in _all(file)]
    return tuple(sorted(found, key=lambda doubt: doubt.line))


def _all(file: Extension) -> Iterator[tuple[Location, str]]:
    for name, provider in file.own.providers.items():
        yield from _of_address(("providers", name), provider.base_url, has_key=provider.key is not None)
    for name in file.own.models:
        yield from _of_model(("models", name), name, file.whole.models[name])
        yield from _of_place(("models", name), name, file.whole)
    for name, preset in file.own.presets.items():
        yield from _of_families(("presets", name), preset, file.whole)
        yield from _of_fallbacks(("presets", name), preset, file.whole)
    yield from _of_aliases(file)


def _of_address(place: Location, base_url: str, *, has_key: bool) -> Iterator[tuple[Location, str]]:
    parts = urlsplit(base_url)
    if _is_loopback(parts.hostname or ""):
        return
    if parts.scheme == "http":
        yield (*place, "base_url"), "questions and answers cross the network unencrypted: http, and not this machine"
    if not has_key:
        yield place, "no key is named, and it is not this machine"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _of_model(place: Location, name: str, model: ModelEntry) -> Iterator[tuple[Location, str]]:
    if model.hub is not None:
        yield from _of_hub((*place, "hub"), model.hub)
    elif model.provider is None:
        try:
            check_gguf(file_of(name, model, path_of=nothing_pulled), model=name)
        except ConfigError as error:
            yield place, error.message
    elif model.prices is None:
        yield place, "it has no prices: runs with --max-cost do not ask it"
    if model.licence_note:
        yield (*place, "licence_note"), f"its licence asks for more than a notice: {model.licence_note}"


def _of_place(place: Location, name: str, models: ModelsFile) -> Iterator[tuple[Location, str]]:
    """Two contents for one place of this machine."""
    hub = models.models[name].hub
    for other, entry in models.models.items():
        is_one_place = hub and entry.hub and (hub.repo, hub.file) == (entry.hub.repo, entry.hub.file)
        if other != name and hub and entry.hub and is_one_place and not agree(hub, entry.hub):
            yield (*place, "hub"), f"{other} names another content of the same file: only one can be here"


def _of_hub(place: Location, hub: HubEntry) -> Iterator[tuple[Location, str]]:
    if hub.sha256 is None:
        yield place, "it has no sha256: what is pulled is compared with what the hub says only"
    elif len(hub.sha256) < 64:
        yield (*place, "sha256"), f"of the sha256 {len(hub.sha256)} digits of 64 are known"
    if not is_commit(hub.revision):
        yield place, f"the revision {hub.revision} may move: pin it to a commit"


def _of_families(place: Location, preset: PresetEntry, models: ModelsFile) -> Iterator[tuple[Location, str]]:
    """Who judges among its own, and who sits there twice: but one model for all seats is meant so."""
    names = [models.aliases.get(seat.model, seat.model) for seat in preset.panel]
    judge = models.aliases.get(preset.judge.model, preset.judge.model)
    is_self_fusion = len(set(names)) == 1
    families = [models.models[name].family for name in names]
    family = models.models[judge].family
    if family and family in families and not (is_self_fusion and judge == names[0]):
        yield (*place, "judge"), f"the judge's family, {family}, sits on its panel"
    if not is_self_fusion:
        for twice in sorted({family for family in families if family and families.count(family) > 1}):
            yield (*place, "panel"), f"{families.count(twice)} seats are of one family, {twice}"


def _of_fallbacks(place: Location, preset: PresetEntry, models: ModelsFile) -> Iterator[tuple[Location, str]]:
    seats: list[tuple[Location, SeatEntry | JudgeEntry]] = [
        *((("panel", i), seat) for i, seat in enumerate(preset.panel)),
        (("judge",), preset.judge),
    ]
    for inner, seat in seats:
        before = [models.aliases.get(seat.model, seat.model)]
        for i, fallback in enumerate(seat.fallback):
            name = models.aliases.get(fallback.model, fallback.model)
            reasons = {reason for model in before for reason in _reasons(models.models[model], seat)}
            where = (*place, *inner, "fallback", i)
            if name in before:
                yield where, f"{fallback.model} would step in for itself"
            elif not reasons.intersection(fallback.when):
                yield where, f"{fallback.model} can never step in: nothing before it fails for {_listed(fallback.when)}"
            before.append(name)


def _reasons(model: ModelEntry, seat: SeatEntry | JudgeEntry) -> set[str]:
    """For which reasons a model can fail in a seat."""
    found = {"died"} | ({"timed_out"} if seat.timeout_s is not None else set())
    if model.provider is None:
        found |= {"does_not_fit"} | (set() if model.shipped else {"not_installed"})
    return found


def _listed(reasons: tuple[str, ...]) -> str:
    return " or ".join(reason.replace("_", " ") for reason in reasons)


def _of_aliases(file: Extension) -> Iterator[tuple[Location, str]]:
    used = {name for preset in file.whole.presets.values() for _, name in models_used(preset)}
    for name, target in file.own.aliases.items():
        if target in file.whole.models and name not in used:
            yield ("aliases", name), f"no preset names {name}; it is for the command line only"
