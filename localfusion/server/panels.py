"""The panel that a request asks for: a preset or names, and the settings that win over the preset's. Asks nobody."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from localfusion.catalog import Choice
from localfusion.config import DEFAULT
from localfusion.config.models_file import CONTEXT_SIZES
from localfusion.errors import InvalidRequest
from localfusion.messages import (
    AnyModel,
    FetchLimits,
    JudgeSpec,
    PanelistSpec,
    PanelSpec,
    SearchLimits,
    ToolName,
    ToolOptions,
)
from localfusion.server.naming import Names
from localfusion.server.thinking import Thinking, fitting, thinking
from localfusion.wire.fusion import (
    FetchParameters,
    FetchTool,
    FusionParameters,
    FusionPlugin,
    FusionTool,
    PanelTool,
    SearchParameters,
    SearchTool,
)

MAX_COMPLETION_TOKENS = 16_000
"""What an inner call may write where neither the request nor a preset says (FUSION.md section 2)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A deliberation as it is asked for: with which settings, which stand `where` in the body, and by which preset.

    `is_alias`: the model's own name asks for it, so that the judge is the outer model, too.
    """

    settings: FusionPlugin | FusionParameters
    where: str
    preset: str = ""
    is_alias: bool = False

    def param(self, field: str) -> str:
        """A field as errors name it: of the settings where it stands there, else the model, whose name says it."""
        is_set = field.partition("[")[0] in self.settings.model_fields_set
        return f"{self.where}.{field}" if is_set else "model"


def wanted(
    names: Names, model: str, plugins: Sequence[FusionPlugin], tools: Sequence[tuple[int, FusionTool]]
) -> Wanted | None:
    """What of a request asks for a deliberation; `tools` come with their places. Raises InvalidRequest for two."""
    preset = names.preset_of(model)
    if len(plugins) + len(tools) > 1:
        raise InvalidRequest(
            "the request asks for two deliberations",
            param="tools" if tools else "plugins",
            hint="keep one plugin, or one tool; a turn has one deliberation",
        )
    if tools:
        at, tool = tools[0]
        return Wanted(tool.parameters, f"tools[{at}].parameters", preset or "", preset is not None)
    if plugins:
        plugin = plugins[0]
        named = names.preset(plugin.preset, param="plugins[0].preset") if plugin.preset else preset
        return Wanted(plugin, "plugins[0]", named or "", preset is not None)
    return None if preset is None else Wanted(FusionParameters(), "", preset, is_alias=True)


def is_enabled(asked: Wanted) -> bool:
    """Whether it may be had at all; a plugin can say that it may not."""
    return asked.settings.enabled if isinstance(asked.settings, FusionPlugin) else True


def panel_of(names: Names, asked: Wanted, outer: str, *, seed: int) -> PanelSpec:
    """The panel, with every setting that the request names. Raises InvalidRequest."""
    settings = asked.settings
    seats = settings.analysis_models or []
    for at, name in enumerate(seats):
        names.model(name, param=asked.param(f"analysis_models[{at}]"))
    judge = _judge_name(asked, outer)
    if judge is not None:
        names.model(judge, param=asked.param("model"))
    is_named = bool(seats) and judge is not None and not asked.preset
    choice = Choice(
        preset=None if is_named else asked.preset or DEFAULT,
        panel=tuple(names.models.aliases.get(name, name) for name in seats),
        judge=None if judge is None else names.models.aliases.get(judge, judge),
        seed=seed,
        max_tool_calls=settings.max_tool_calls,
        cloud=names.cloud,
    )
    panel = names.panel(choice, param=asked.param("preset"))
    default = MAX_COMPLETION_TOKENS if seats else None
    return replace(
        panel,
        panelists=tuple(map(partial(_seated, settings=settings, default=default), panel.panelists)),
        judge=_judging(panel.judge, settings, default=None if judge is None else MAX_COMPLETION_TOKENS),
    )


def is_always_asked(names: Names, asked: Wanted) -> bool:
    """Whether the preset in force has its panel asked of every question."""
    name = asked.preset or DEFAULT
    preset = names.models.presets.get(names.models.aliases.get(name, name))
    is_named = bool(asked.settings.analysis_models) and not (asked.preset or asked.is_alias)
    return preset is not None and preset.deliberate == "always" and not is_named


def _judge_name(asked: Wanted, outer: str) -> str | None:
    """The judge's name; None is the preset's. A tool's is the outer model where it names none."""
    if asked.settings.model is None and isinstance(asked.settings, FusionParameters) and not asked.is_alias:
        return outer
    return asked.settings.model


def _seated(
    seat: PanelistSpec, *, settings: FusionPlugin | FusionParameters, default: int | None = None
) -> PanelistSpec:
    budget = _budget(settings, seat.model, own=seat.max_tokens, default=default)
    thought = _thinking(settings, seat.model) or Thinking(seat.thinking, seat.max_thinking_tokens)
    temperature = settings.temperature if isinstance(settings, FusionParameters) else None
    sampling = seat.sampling if temperature is None else replace(seat.sampling, temperature=temperature)
    return replace(
        seat,
        sampling=sampling,
        tools=_tools(seat.tools, settings.tools),
        max_tokens=budget,
        thinking=thought.is_on,
        max_thinking_tokens=thought.max_tokens,
    )


def _judging(judge: JudgeSpec, settings: FusionPlugin | FusionParameters, *, default: int | None) -> JudgeSpec:
    thought = _thinking(settings, judge.model) or Thinking(judge.thinking, judge.max_thinking_tokens)
    return replace(
        judge,
        tools=_tools(judge.tools, settings.tools),
        max_tool_calls=judge.max_tool_calls if settings.max_tool_calls is None else settings.max_tool_calls,
        max_tokens=_budget(settings, judge.model, own=judge.max_tokens, default=default),
        thinking=thought.is_on,
        max_thinking_tokens=thought.max_tokens,
    )


def _budget(settings: FusionPlugin | FusionParameters, model: AnyModel, *, own: int, default: int | None) -> int:
    """What one inner call may write: as is said, else as is usual for models by name, else the preset's own number."""
    said = settings.max_completion_tokens if isinstance(settings, FusionParameters) else None
    most = default if said is None else said
    return own if most is None else fitting(most, model)


def _thinking(settings: FusionPlugin | FusionParameters, model: AnyModel) -> Thinking | None:
    """How long to think as the request says, None where it says nothing."""
    if not isinstance(settings, FusionParameters) or settings.reasoning is None:
        return None
    reasoning = settings.reasoning
    if reasoning.effort is None and reasoning.max_tokens is None:
        return None
    most = settings.max_completion_tokens or MAX_COMPLETION_TOKENS
    return thinking(reasoning.effort, reasoning.max_tokens, max_tokens=most, model=model)


def _tools(own: ToolOptions, asked: Sequence[PanelTool] | None) -> ToolOptions:
    """The tools that are named, and no others; limits that are not named are the seat's own."""
    if asked is None:
        return own
    options = replace(own, enabled=())
    for tool in asked:
        match tool:
            case SearchTool():
                options = replace(options, search=_search(options.search, tool.parameters))
                enabled: ToolName = "web_search"
            case FetchTool():
                options = replace(options, fetch=_fetch(options.fetch, tool.parameters))
                enabled = "web_fetch"
        options = replace(options, enabled=tuple(dict.fromkeys((*options.enabled, enabled))))
    return options


def _search(own: SearchLimits, asked: SearchParameters) -> SearchLimits:
    by_size = CONTEXT_SIZES[asked.search_context_size] if asked.search_context_size else own.max_characters
    return SearchLimits(
        max_results=asked.max_results or own.max_results,
        max_characters=asked.max_characters or by_size,
        max_uses=asked.max_uses or own.max_uses,
        max_total_results=asked.max_total_results or own.max_total_results,
        allowed_domains=tuple(asked.allowed_domains) or own.allowed_domains,
        excluded_domains=(*own.excluded_domains, *asked.excluded_domains),
    )


def _fetch(own: FetchLimits, asked: FetchParameters) -> FetchLimits:
    return FetchLimits(
        max_uses=asked.max_uses or own.max_uses,
        max_content_tokens=asked.max_content_tokens or own.max_content_tokens,
        allowed_domains=tuple(asked.allowed_domains) or own.allowed_domains,
        blocked_domains=(*own.blocked_domains, *asked.blocked_domains),
    )
