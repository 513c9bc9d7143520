"""From a preset, or a list of names, to the panel that will answer. Decides purely; loads no model."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from localfusion.catalog.installed import PathOf, nothing_pulled
from localfusion.catalog.names import entry_of, model_of, unknown
from localfusion.catalog.seating import is_there, seated, with_what_is_there
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
    with_models,
)

T = TypeVar("T")

MAX_SEATS = len(SEAT_IDS)

ModelOf = Callable[..., AnyModel]
"""`model_of` of one catalogue: a name, and `n_ctx`."""


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


def named(models: ModelsFile, choice: Choice, *, path_of: PathOf = nothing_pulled) -> PanelSpec:
    """The panel of a choice as it is named, fallbacks included; `path_of` says where a file of the model hub is.

    Raises ConfigError for a name nobody knows, and where the panel could not be seated now: see `seated`.
    """
    panel = _named_panel(models, choice, path_of)
    _check_pulled(models, with_what_is_there(panel, choice.cloud))
    checked = seated(panel, choice.cloud)
    return _deterministic(checked) if choice.deterministic else panel


def resolve(models: ModelsFile, choice: Choice, *, path_of: PathOf = nothing_pulled) -> PanelSpec:
    """The panel of a choice as it can be asked now. Raises ConfigError as `named`."""
    return seated(named(models, choice, path_of=path_of), choice.cloud)


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
