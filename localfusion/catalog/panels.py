"""From a preset, or a list of names, to the panel that will answer. Decides purely; loads no model."""

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar

from localfusion.catalog.gguf_files import check_gguf, expanded, file_of, real
from localfusion.config.models_file import (
    CONTEXT_SIZES,
    SEAT_IDS,
    JudgeEntry,
    ModelEntry,
    ModelsFile,
    PresetEntry,
    SeatEntry,
    ToolsEntry,
)
from localfusion.errors import ConfigError
from localfusion.messages import (
    N_CTX_AUTO,
    RESULT_CHARACTERS,
    FetchLimits,
    JudgeSpec,
    ModelSpec,
    PanelistSpec,
    PanelSpec,
    Sampling,
    SearchLimits,
    ToolOptions,
    with_models,
)

T = TypeVar("T")

DEFAULT = "default"
"""The preset or alias that is meant where nothing is named."""

MAX_SEATS = len(SEAT_IDS)


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


@dataclass(frozen=True, slots=True)
class User:
    """Who uses a model: a seat by its id, or the judge."""

    id: str
    model: ModelSpec

    def __str__(self) -> str:
        return f"{self.id} ({self.model.name})"


def resolve(models: ModelsFile, choice: Choice) -> PanelSpec:
    """The panel of a choice; raises ConfigError for a name nobody knows and for a file that cannot be a model."""
    preset = _preset(models, choice)
    seats = tuple(SeatEntry(model=name) for name in choice.panel) or preset.panel
    judge = JudgeEntry(model=choice.judge) if choice.judge is not None else preset.judge
    panel = PanelSpec(
        panelists=tuple(_panelist(models, preset, choice, i, seat) for i, seat in enumerate(seats)),
        judge=JudgeSpec(
            _model(models, judge.model, judge.n_ctx),
            judge.thinking,
            judge.max_tokens,
            tools=_tools(judge.tools),
            max_tool_calls=judge.max_tool_calls,
        ),
    )
    check_files(panel)
    return _deterministic(_shared(panel)) if choice.deterministic else _shared(panel)


def check_files(panel: PanelSpec, *, done: Container[str] = ()) -> None:
    """Look at each file of a panel once; raises ConfigError for one that cannot be a model.

    Panelists in `done`, by id, have answered already and their files are not needed.
    """
    needed = [seat.model for seat in panel.panelists if seat.id not in done]
    for model in {spec.path: spec for spec in [*needed, panel.judge.model]}.values():
        check_gguf(model.path, model=model.name)


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
    raise _unknown("preset", name, names, models)


def _check_seats(choice: Choice) -> None:
    if len(choice.panel) > MAX_SEATS:
        raise ConfigError(
            f"the panel has {len(choice.panel)} seats and at most {MAX_SEATS} are possible", hint="name fewer models"
        )
    if "" in choice.panel or choice.judge == "":
        raise ConfigError("a model's name is empty", hint="write --panel A,B,C --judge J, without blanks")


def _panelist(models: ModelsFile, preset: PresetEntry, choice: Choice, index: int, seat: SeatEntry) -> PanelistSpec:
    return PanelistSpec(
        id=seat.id or SEAT_IDS[index],
        model=_model(models, seat.model, seat.n_ctx),
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


def _model(models: ModelsFile, name: str, n_ctx: int | Literal["auto"] | None) -> ModelSpec:
    """A model by its name in the catalogue, or by its file; `n_ctx` wins over the entry's."""
    if name.endswith(".gguf"):
        entry = ModelEntry(path=name)
        return _spec(Path(name).stem, expanded(name).absolute(), entry, n_ctx)
    found = models.models.get(models.aliases.get(name, name))
    if found is None:
        names = [*models.models, *(alias for alias, target in models.aliases.items() if target in models.models)]
        raise _unknown("model", name, names, models)
    return _spec(name, file_of(found, folder=models.folder), found, n_ctx)


def _spec(name: str, path: Path, entry: ModelEntry, n_ctx: int | Literal["auto"] | None) -> ModelSpec:
    return ModelSpec(
        name=name,
        path=path,
        n_ctx=entry.n_ctx if n_ctx is None else n_ctx,
        n_batch=entry.n_batch,
        n_ubatch=entry.n_ubatch,
        flash_attn=entry.flash_attn,
        kv_type=entry.kv_type,
        use_mmap=entry.use_mmap,
        n_threads=entry.n_threads,
        n_gpu_layers=entry.n_gpu_layers,
    )


def _shared(panel: PanelSpec) -> PanelSpec:
    """Give all users of one file, the judge included, one worker: all that it is loaded with is the same for each."""
    users: dict[Path, list[User]] = {}
    for user in _users(panel):
        users.setdefault(user.model.path.resolve(), []).append(user)
    shared = {file: _together(those) for file, those in users.items()}
    return with_models(panel, lambda spec: dataclasses.replace(shared[spec.path.resolve()], name=spec.name))


def _deterministic(panel: PanelSpec) -> PanelSpec:
    """The same panel with nothing left that the machine's load could decide."""

    def fixed(spec: ModelSpec) -> ModelSpec:
        kv_type = "f16" if spec.kv_type == "auto" else spec.kv_type
        n_threads = 1 if spec.n_threads == "auto" else spec.n_threads
        n_gpu_layers = 0 if spec.n_gpu_layers == "auto" else spec.n_gpu_layers
        return dataclasses.replace(
            spec, deterministic=True, kv_type=kv_type, n_threads=n_threads, n_gpu_layers=n_gpu_layers
        )

    return with_models(panel, fixed)


def _users(panel: PanelSpec) -> list[User]:
    return [*(User(seat.id, seat.model) for seat in panel.panelists), User("judge", panel.judge.model)]


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


def _unknown(kind: Literal["model", "preset"], name: str, names: list[str], models: ModelsFile) -> ConfigError:
    other: Mapping[str, object] = models.presets if kind == "model" else models.models
    if name in other:
        hint = f"{name} is a {'preset' if kind == 'model' else 'model'}; the {kind}s are {', '.join(names)}"
    elif near := get_close_matches(name, names, n=3, cutoff=0.5):
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"the {kind}s in {models.name} are {', '.join(names) or 'none'}"
    return ConfigError(f"unknown {kind} {name!r}", hint=hint)
