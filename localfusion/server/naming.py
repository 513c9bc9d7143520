"""The names that clients give to models: what they mean on this machine. Loads nothing.

A client names no file of this disk, and hears of none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from localfusion.catalog import Choice, PathOf, can_be_tried, named
from localfusion.catalog.names import model_of
from localfusion.catalog.seating import is_there, with_what_is_there
from localfusion.config import DEFAULT, JudgeEntry, ModelsFile, SeatEntry
from localfusion.errors import ConfigError, InvalidRequest
from localfusion.messages import AnyModel, CloudLeave, ModelSpec, PanelSpec, RemoteModel

INVALID_MODEL = "invalid_model"
OURS = "localfusion/"
"""Before the name of a preset: a model that has the preset's panel deliberate."""
FUSION_NAMES = (f"{OURS}fusion", "openrouter/fusion")
"""The same for the default preset, or what the request says."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one models.yaml; which providers may be asked is part of what a name means."""

    models: ModelsFile
    path_of: PathOf
    cloud: CloudLeave

    def preset_of(self, model: str) -> str | None:
        """The preset that a model's name stands for: "" is whichever is the default, None is a model like any other."""
        target = self._target(model)
        if target in self.models.presets and model in self.models.aliases:
            return target
        if target in self.models.models:
            return None
        if model in FUSION_NAMES:
            return ""
        preset = self._target(model.removeprefix(OURS))
        return preset if model.startswith(OURS) and preset in self.models.presets else None

    def preset(self, name: str, *, param: str) -> str:
        """A preset by its name or an alias. Raises InvalidRequest."""
        if self._target(name) in self.models.presets:
            return self._target(name)
        raise _unknown("preset", name, self.models.presets, param=param)

    def model(self, name: str, *, param: str) -> AnyModel:
        """A model that can be asked now. Raises InvalidRequest for any other, with the nearest names."""
        if name.endswith(".gguf"):
            raise _invalid(f"{name!a} is a file, and models are asked for by name", param=param, hint=_LISTED)
        target = self._target(name)
        entry = self.models.models.get(target)
        if entry is None:
            raise self._no_model(name, param=param)
        if entry.embeddings:
            raise _invalid(f"{name} makes vectors and writes no text", param=param, hint=_LISTED)
        try:
            found = model_of(self.models, target, path_of=self.path_of)
        except ConfigError as error:
            raise _unusable(name, param=param) from error
        if isinstance(found, RemoteModel) and not self.cloud.is_allowed:
            message = f"{name} is a model of {found.provider.name}, and this server sends nothing to a provider"
            raise _invalid(message, param=param, hint="name a model that is here, or start it with --allow-cloud")
        if not is_there(found):
            hint = f"localfusion models pull {target}" if entry.hub else "check its path in models.yaml"
            raise _invalid(f"{name} is not here yet", param=param, hint=hint)
        if not can_be_tried(found):
            raise _unusable(name, param=param)
        return found

    def _no_model(self, name: str, *, param: str) -> InvalidRequest:
        target = self._target(name)
        if target in self.models.presets:
            return _invalid(f"{name} is a preset", param=param, hint=f"{OURS}{target} has its panel deliberate")
        if self.preset_of(name) is not None:
            return _invalid(f"{name} is no model but has a panel deliberate", param=param, hint=_LISTED)
        return _unknown("model", name, [*self.models.names_of_models(), *self._deliberating()], param=param)

    def local_model(self, name: str, *, param: str) -> ModelSpec:
        """The same of a file: the outer model is always one. Raises InvalidRequest."""
        found = self.model(name, param=param)
        if isinstance(found, RemoteModel):
            hint = "name it for the panel or the judge, and a model that is here as `model`"
            raise _invalid(f"{name} is a provider's model, which is asked in a panel only", param=param, hint=hint)
        return found

    def panel(self, choice: Choice, *, param: str) -> PanelSpec:
        """The panel of a choice, all of whose own names are known. Raises InvalidRequest where it cannot be asked."""
        try:
            return named(self.models, choice, path_of=self.path_of)
        except ConfigError as error:
            self._check_preset(choice, param=param)
            raise _unusable("the panel", param=param) from error

    def judge_of(self, panel: PanelSpec) -> AnyModel:
        """The model that would judge now: the judge's own, or what steps in for a file that is not here."""
        return with_what_is_there(panel, self.cloud).judge.model

    def listed(self) -> tuple[str, ...]:
        """What may be named as `model`: models that are here, their aliases, and what has a panel deliberate."""
        files = [name for name in self.models.names_of_models() if self._is_here(name)]
        return (*files, *self._deliberating())

    def _check_preset(self, choice: Choice, *, param: str) -> None:
        """Raise InvalidRequest for what is missing of a choice's preset, as far as it counts."""
        if choice.preset is None:
            return
        preset = self.models.presets[self.preset(choice.preset, param=param)]
        seats: tuple[SeatEntry | JudgeEntry, ...] = () if choice.panel else preset.panel
        for entry in seats if choice.judge is not None else (*seats, preset.judge):
            if not entry.fallback:
                self.model(entry.model, param=param)

    def _deliberating(self) -> list[str]:
        """The names that have a panel deliberate, of presets that can be seated now."""
        presets = [name for name in self.models.presets if self._can_be_seated(name)]
        aliases = [name for name, target in self.models.aliases.items() if target in presets and name != DEFAULT]
        return [*FUSION_NAMES, *(OURS + name for name in presets), *aliases]

    def _can_be_seated(self, preset: str) -> bool:
        try:
            named(self.models, Choice(preset, cloud=self.cloud), path_of=self.path_of)
        except ConfigError:
            return False
        return True

    def _is_here(self, name: str) -> bool:
        try:
            self.local_model(name, param="model")
        except InvalidRequest:
            return False
        return True

    def _target(self, name: str) -> str:
        return self.models.aliases.get(name, name)


_LISTED = "GET /v1/models lists what may be named"


def _invalid(message: str, *, param: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=INVALID_MODEL, hint=hint)


def _unusable(what: str, *, param: str) -> InvalidRequest:
    """Of what is wrong with files, a client is told nothing."""
    hint = "`localfusion doctor` and `localfusion models list` say why, on the machine of the server"
    return _invalid(f"{what} cannot be asked now", param=param, hint=hint)


def _unknown(kind: str, name: str, names: Iterable[str], *, param: str) -> InvalidRequest:
    near = get_close_matches(name, list(names), n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}?" if near else _LISTED
    return _invalid(f"there is no {kind} {name!a}", param=param, hint=f"{guess}; `aliases` of models.yaml maps names")
