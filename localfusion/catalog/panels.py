"""From a preset, or a list of names, to the panel that will answer. Decides purely; loads no model."""

import dataclasses
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from localfusion.catalog.fallbacks import SteppedIn, step_in
from localfusion.catalog.gguf_files import check_gguf, is_there, real
from localfusion.catalog.installed import PathOf, nothing_pulled
from localfusion.catalog.names import entry_of, model_of, unknown
from localfusion.config import DEFAULT
from localfusion.config.models_file import (
    CONTEXT_SIZES,
    SEAT_IDS,
    FallbackEntry,
    JudgeEntry,
    ModelsFile,
    PresetEntry,
    SeatEntry,
    ToolsEntry,
)
from localfusion.errors import ConfigError
from localfusion.messages import (
    N_CTX_AUTO,
    RESULT_CHARACTERS,
    AnyModel,
    CloudLeave,
    Fallback,
    FetchLimits,
    JudgeSpec,
    ModelSpec,
    PanelistSpec,
    PanelSpec,
    RemoteModel,
    Sampling,
    SearchLimits,
    ToolOptions,
    local_models,
    with_model,
    with_models,
)

T = TypeVar("T")

MAX_SEATS = len(SEAT_IDS)

ModelOf = Callable[..., AnyModel]
"""`model_of` of one catalogue: a name, and `n_ctx`."""


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
class Choice:
    """What was asked for: explicit fields win over the preset's. An entry of `panel` is a name or a .gguf file."""

    preset: str | None = None
    panel: tuple[str, ...] = ()
    judge: str | None = None
    seed: int = 0
    max_tool_calls: int | None = None
    deterministic: bool = False
    cloud: CloudLeave = field(default_factory=CloudLeave)


@dataclass(frozen=True, slots=True)
class User:
    """Who uses a model: a seat by its id, or the judge."""

    id: str
    model: ModelSpec

    def __str__(self) -> str:
        return f"{self.id} ({self.model.name})"


def resolve(models: ModelsFile, choice: Choice, *, path_of: PathOf = nothing_pulled) -> PanelSpec:
    """The panel of a choice, where a model whose file is missing has given way to its fallback.

    `path_of` says where a file of the model hub is. Raises ConfigError for a name nobody knows, for a file that is
    missing or cannot be a model, and for a provider's model where the choice allows none.
    """
    seated = with_what_is_there(_named_panel(models, choice, path_of), choice.cloud)
    check_leave(seated, choice.cloud)
    _check_pulled(models, seated)
    panel = shared(seated)
    check_files(panel)
    return _deterministic(panel) if choice.deterministic else panel


def check_files(panel: PanelSpec, *, done: Container[str] = ()) -> None:
    """Look at each file of a panel once; raises ConfigError for one that cannot be a model.

    Panelists in `done`, by id, have answered already and their files are not needed.
    """
    for model in {spec.path: spec for spec in local_models(panel, done=done)}.values():
        check_gguf(model.path, model=model.name)


def check_leave(panel: PanelSpec, cloud: CloudLeave, *, done: Container[str] = ()) -> None:
    """Raise ConfigError where somebody of a panel who is not `done` is a provider's model and the run allows none."""
    seats = {seat.id: seat.model for seat in panel.panelists if seat.id not in done} | {"judge": panel.judge.model}
    for id, model in seats.items():
        if isinstance(model, RemoteModel) and not cloud.is_allowed:
            raise ConfigError(
                f"{id} is {model.name} at {model.provider.name}, and this run may send nothing to a provider",
                hint="allow it with --allow-cloud, without --offline, or name models that are here",
            )


def substituted(panel: PanelSpec, id: str, found: SteppedIn) -> PanelSpec:
    """The panel where another model has stepped in for that of a seat, or of the "judge"."""
    panel = with_model(panel, id, found.model, fallback=found.left)
    return dataclasses.replace(panel, substitutions=(*panel.substitutions, found.substitution))


def with_what_is_there(panel: PanelSpec, cloud: CloudLeave, *, done: Container[str] = ()) -> PanelSpec:
    """The panel without files that are missing, as far as there are fallbacks; panelists in `done` stay as they are."""
    seats: dict[str, PanelistSpec | JudgeSpec] = {seat.id: seat for seat in panel.panelists}
    for id, seat in (seats | {"judge": panel.judge}).items():
        if id in done or is_there(seat.model):
            continue
        error = f"{seat.model.name} is not installed"
        found = step_in(
            id, seat.model, seat.fallback, reason="not_installed", error=error, cloud=cloud, is_there=is_there
        )
        panel = panel if found is None else substituted(panel, id, found)
    return panel


def _check_pulled(models: ModelsFile, panel: PanelSpec) -> None:
    missing = [spec.name for spec in local_models(panel) if not is_there(spec)]
    pullable = [name for name in missing if name in models.names_of_models() and entry_of(models, name).hub]
    if pullable:
        names = " ".join(dict.fromkeys(pullable))
        raise ConfigError(f"{pullable[0]} is not here yet", hint=f"localfusion models pull {names}")


def _named_panel(models: ModelsFile, choice: Choice, path_of: PathOf) -> PanelSpec:
    preset = _preset(models, choice)
    seats = tuple(SeatEntry(model=name) for name in choice.panel) or preset.panel
    judge = JudgeEntry(model=choice.judge) if choice.judge is not None else preset.judge
    model = partial(model_of, models, path_of=path_of)
    return PanelSpec(
        panelists=tuple(_panelist(model, preset, choice, i, seat) for i, seat in enumerate(seats)),
        judge=JudgeSpec(
            model(judge.model, n_ctx=judge.n_ctx),
            judge.thinking,
            judge.max_tokens,
            tools=_tools(judge.tools),
            max_tool_calls=judge.max_tool_calls,
            fallback=_fallbacks(model, judge.fallback),
            timeout_s=judge.timeout_s,
        ),
    )


def _fallbacks(model: ModelOf, entries: Iterable[FallbackEntry]) -> tuple[Fallback, ...]:
    return tuple(Fallback(model(entry.model), entry.when) for entry in entries)


def _preset(models: ModelsFile, choice: Choice) -> PresetEntry:
    """The preset in force; where panel and judge are both explicit, none needs to be there."""
    _check_seats(choice)
    if choice.preset is None and choice.panel and choice.judge is not None:
        return PresetEntry(panel=(SeatEntry(model=choice.panel[0]),), judge=JudgeEntry(model=choice.judge))
    if choice.preset is None and choice.panel:
        raise ConfigError("a panel needs a judge", hint="add --judge NAME, or a preset whose judge is meant")
    name = choice.preset or DEFAULT
    found = models.presets.get(models.aliases.get(name, name))
    if found is not None:
        return found
    if choice.preset is None:
        hint = f"name one with --preset: {', '.join(models.presets)}" if models.presets else "name --panel and --judge"
        raise ConfigError(f"no preset is named, and {models.name} has no default", hint=hint)
    names = [*models.presets, *(alias for alias, target in models.aliases.items() if target in models.presets)]
    raise unknown("preset", name, names, models)


def _check_seats(choice: Choice) -> None:
    if len(choice.panel) > MAX_SEATS:
        raise ConfigError(
            f"the panel has {len(choice.panel)} seats and at most {MAX_SEATS} are possible", hint="name fewer models"
        )
    if "" in choice.panel or choice.judge == "":
        raise ConfigError("a model's name is empty", hint="write --panel A,B,C --judge J, without blanks")


def _panelist(model: ModelOf, preset: PresetEntry, choice: Choice, index: int, seat: SeatEntry) -> PanelistSpec:
    return PanelistSpec(
        id=seat.id or SEAT_IDS[index],
        model=model(seat.model, n_ctx=seat.n_ctx),
        sampling=Sampling(
            temperature=seat.temperature,
            top_k=seat.top_k,
            top_p=seat.top_p,
            min_p=seat.min_p,
            repeat_penalty=seat.repeat_penalty,
            seed=choice.seed + index if seat.seed is None else seat.seed,
        ),
        persona=seat.persona,
        thinking=seat.thinking,
        tools=_tools(seat.tools),
        max_tool_calls=choice.max_tool_calls or seat.max_tool_calls or preset.max_tool_calls,
        max_tokens=seat.max_tokens,
        fallback=_fallbacks(model, seat.fallback),
        timeout_s=seat.timeout_s,
    )


def _tools(entry: ToolsEntry) -> ToolOptions:
    search, fetch = entry.web_search, entry.web_fetch
    by_size = CONTEXT_SIZES[search.search_context_size] if search.search_context_size else RESULT_CHARACTERS
    return ToolOptions(
        entry.enabled,
        SearchLimits(
            max_results=search.max_results,
            max_characters=search.max_characters or by_size,
            max_uses=search.max_uses,
            max_total_results=search.max_total_results,
            allowed_domains=search.allowed_domains,
            excluded_domains=search.excluded_domains,
        ),
        FetchLimits(
            max_uses=fetch.max_uses,
            max_content_tokens=fetch.max_content_tokens,
            allowed_domains=fetch.allowed_domains,
            blocked_domains=fetch.blocked_domains,
        ),
    )


def shared(panel: PanelSpec) -> PanelSpec:
    """Give all users of one file, the judge included, one worker: all that it is loaded with is the same for each.

    Raises ConfigError where they disagree on how it is loaded.
    """
    users: dict[Path, list[User]] = {}
    for user in _users(panel):
        users.setdefault(user.model.path.resolve(), []).append(user)
    one = {file: _together(those) for file, those in users.items()}
    return with_models(panel, lambda spec: dataclasses.replace(one[spec.path.resolve()], name=spec.name))


def _deterministic(panel: PanelSpec) -> PanelSpec:
    """The same panel with nothing left that the machine's load could decide, fallbacks included.

    Raises ConfigError for a provider's model.
    """
    remote = [m.name for m in (*(s.model for s in panel.panelists), panel.judge.model) if isinstance(m, RemoteModel)]
    if remote:
        hint = "leave out --deterministic, or name models that are here"
        raise ConfigError(f"{remote[0]} is a provider's model, and nothing is sure of what it writes", hint=hint)

    seats = tuple(dataclasses.replace(seat, fallback=()) for seat in panel.panelists)
    panel = dataclasses.replace(panel, panelists=seats, judge=dataclasses.replace(panel.judge, fallback=()))

    def fixed(spec: ModelSpec) -> ModelSpec:
        kv_type = "f16" if spec.kv_type == "auto" else spec.kv_type
        n_threads = 1 if spec.n_threads == "auto" else spec.n_threads
        n_gpu_layers = 0 if spec.n_gpu_layers == "auto" else spec.n_gpu_layers
        return dataclasses.replace(
            spec, deterministic=True, kv_type=kv_type, n_threads=n_threads, n_gpu_layers=n_gpu_layers
        )

    return with_models(panel, fixed)


def _users(panel: PanelSpec) -> list[User]:
    models = [*((seat.id, seat.model) for seat in panel.panelists), ("judge", panel.judge.model)]
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
        n_seq_max=len(users),
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
