"""One file for all of its users: whoever sits on the same GGUF shares a worker, and how it is loaded. Pure."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from localfusion.catalog.gguf_files import real
from localfusion.errors import ConfigError
from localfusion.messages import N_CTX_AUTO, ModelSpec, PanelSpec, seats_of, with_models

T = TypeVar("T")

AGREED = (
    "n_batch",
    "n_ubatch",
    "n_threads",
    "flash_attn",
    "kv_type",
    "n_gpu_layers",
    "device",
    "use_mmap",
    "use_extra_bufts",
    "deterministic",
    "embeddings",
)
"""The settings that all users of one file must have alike, since one worker loads it for all of them."""


@dataclass(frozen=True, slots=True)
class User:
    """Who uses a model: a seat by its id, or the judge."""

    id: str
    model: ModelSpec

    def __str__(self) -> str:
        return f"{self.id} ({self.model.name})"


def shared(panel: PanelSpec) -> PanelSpec:
    """Give all users of one file, the judge included, one worker: all that it is loaded with is the same for each.

    Raises ConfigError where they disagree on how it is loaded.
    """
    users: dict[Path, list[User]] = {}
    for user in _users(panel):
        users.setdefault(user.model.path.resolve(), []).append(user)
    one = {file: _together(those) for file, those in users.items()}
    return with_models(panel, lambda spec: dataclasses.replace(one[spec.path.resolve()], name=spec.name))


def _users(panel: PanelSpec) -> list[User]:
    models = ((id, seat.model) for id, seat in seats_of(panel).items())
    return [User(id, model) for id, model in models if isinstance(model, ModelSpec)]


def _together(users: Sequence[User]) -> ModelSpec:
    """One file for all of its users: a sequence for each, the widest window; raises ConfigError where they disagree.

    What one of them names wins over the "auto" of another.
    """
    for setting in AGREED:
        first, *others = sorted(users, key=lambda user: getattr(user.model, setting) == "auto")
        for user in others:
            if getattr(user.model, setting) not in (getattr(first.model, setting), "auto"):
                raise _disagreement(first, user, setting)
    models = [user.model for user in users]
    return dataclasses.replace(
        models[0],
        path=real(models[0].path),
        n_seq_max=max(len(users), *(model.n_seq_max for model in models)),
        n_ctx=_widest([model.n_ctx for model in models]),
        n_threads=_named(model.n_threads for model in models),
        kv_type=_named(model.kv_type for model in models),
        use_mmap=_named(model.use_mmap for model in models),
        n_gpu_layers=_named(model.n_gpu_layers for model in models),
    )


def _named(values: Iterable[T]) -> T:
    """The value that somebody named; all that did agree."""
    first, *others = values
    return next((value for value in (first, *others) if value != "auto"), first)


def _disagreement(one: User, other: User, setting: str) -> ConfigError:
    values = " and ".join(str(getattr(user.model, setting)).lower() for user in (one, other))
    return ConfigError(
        f"{one} and {other} use one file with different {setting}, {values}: {one.model.path}",
        hint=f"give both the same {setting} in models.yaml, or name the same model for both",
    )


def _widest(windows: Sequence[int | Literal["auto"]]) -> int | Literal["auto"]:
    """The widest of them, where "auto" stands for what it is at most."""
    named = max((window for window in windows if window != "auto"), default=0)
    return "auto" if "auto" in windows and named < N_CTX_AUTO else named
