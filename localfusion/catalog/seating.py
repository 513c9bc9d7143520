"""Who really sits on a panel: models whose files are missing or damaged have given way, users of one file share it.

Looks at headers; what fits the memory, and what fails while it runs, is found out elsewhere.
"""

from collections.abc import Container
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from localfusion.catalog.fallbacks import SteppedIn, step_in
from localfusion.catalog.sharing import shared
from localfusion.errors import ConfigError, ModelLoadError
from localfusion.gguf_header import FileIdentity, identity, part_paths, read_header
from localfusion.messages import (
    AnyModel,
    CloudLeave,
    FallbackReason,
    PanelSpec,
    RemoteModel,
    local_models,
    seats_of,
    with_model,
)


def seated(panel: PanelSpec, cloud: CloudLeave, *, done: Container[str] = ()) -> PanelSpec:
    """The panel as it can be asked now; panelists in `done`, by id, have answered and need nothing more.

    Raises ConfigError for a file that is missing or cannot be a model, for a provider's model where the run allows
    none, and where users of one file disagree on how it is loaded.
    """
    panel = with_what_is_there(panel, cloud, done=done)
    _check_leave(panel, cloud, done)
    for model in local_models(panel, done=done):
        problem = _problem(model)
        if problem is not None:
            raise ConfigError(problem.message, hint=problem.hint)
    return shared(panel)


def with_what_is_there(panel: PanelSpec, cloud: CloudLeave, *, done: Container[str] = ()) -> PanelSpec:
    """The panel without files that are missing or damaged, as far as there are fallbacks."""
    for id, seat in seats_of(panel, done=done).items():
        problem = _problem(seat.model)
        if problem is None:
            continue
        reason: FallbackReason = "died" if is_there(seat.model) else "not_installed"
        error = problem.message if reason == "died" else f"{seat.model.name} is not installed"
        found = step_in(id, seat.model, seat.fallback, reason=reason, error=error, cloud=cloud, is_there=can_be_tried)
        panel = panel if found is None else substituted(panel, id, found)
    return panel


def substituted(panel: PanelSpec, id: str, found: SteppedIn) -> PanelSpec:
    """The panel where another model has stepped in for that of a seat, or of the "judge"."""
    panel = with_model(panel, id, found.model, fallback=found.left)
    return replace(panel, substitutions=(*panel.substitutions, found.substitution))


def is_there(model: AnyModel) -> bool:
    """Whether a model's file exists, or it has none."""
    return isinstance(model, RemoteModel) or model.path.exists()


def can_be_tried(model: AnyModel) -> bool:
    """Whether nothing speaks against a model before it is loaded, or asked."""
    return _problem(model) is None


def _check_leave(panel: PanelSpec, cloud: CloudLeave, done: Container[str]) -> None:
    for id, seat in seats_of(panel, done=done).items():
        model = seat.model
        if isinstance(model, RemoteModel) and not cloud.is_allowed:
            raise ConfigError(
                f"{id} is {model.name} at {model.provider.name}, and this run may send nothing to a provider",
                hint="allow it with --allow-cloud, where the run is not offline, or name models that are here",
            )


def _problem(model: AnyModel) -> ModelLoadError | None:
    """What is wrong with a model's file; None for a provider's."""
    if isinstance(model, RemoteModel):
        return None
    return _refusal(model.name, model.path, identity(part_paths(model.path)))


@lru_cache(maxsize=256)
def _refusal(name: str, path: Path, _: FileIdentity) -> ModelLoadError | None:
    """What is wrong with a file, which is looked at once as long as it stays what it is."""
    try:
        read_header(path, model=name)
    except ModelLoadError as error:
        return error
    return None
