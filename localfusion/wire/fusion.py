"""How a client asks for a deliberation: the plugin, the server tool, the panel's own tools (FUSION.md section 2)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from localfusion.domains import parse_domains
from localfusion.errors import ConfigError
from localfusion.wire.asked import Asked

FUSION_TOOL: Literal["openrouter:fusion"] = "openrouter:fusion"
Effort = Literal["max", "xhigh", "high", "medium", "low", "minimal", "none"]


def _domain(value: str) -> str:
    try:
        parse_domains(allowed=(value,))
    except ConfigError as error:
        raise ValueError(f"must have a domain in it ({error.hint})") from error
    return value


Domains = Annotated[list[Annotated[str, Field(max_length=1000), AfterValidator(_domain)]], Field(max_length=100)]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
Uses = Annotated[int, Field(ge=1, le=1000)]


class SearchParameters(Asked):
    """Limits of `web_search`. There is one engine, which knows nothing of places: other ones are refused."""

    max_results: Annotated[int, Field(ge=1, le=25)] | None = Field(None, description="Results of one search, at most.")
    max_uses: Uses | None = Field(None, description="Searches of each panelist, at most.")
    max_total_results: Uses | None = Field(None, description="Results of all its searches together, at most.")
    search_context_size: Literal["low", "medium", "high"] | None = Field(
        None, description="5 000, 15 000 or 30 000 characters of each result, at most."
    )
    max_characters: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="The same as a number, which wins."
    )
    allowed_domains: Domains = Field([])
    excluded_domains: Domains = Field([])
    engine: Literal["auto"] | None = None


class FetchParameters(Asked):
    """Limits of `web_fetch`; pages are fetched from here, which is what `openrouter` means."""

    max_uses: Uses | None = Field(None, description="Fetches of each panelist, at most.")
    max_content_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = Field(
        None, description="Tokens of a page, at most."
    )
    allowed_domains: Domains = Field([])
    blocked_domains: Domains = Field([])
    engine: Literal["auto", "openrouter"] | None = None


class SearchTool(Asked):
    """Panelists and judge may search."""

    type: Literal["openrouter:web_search", "web_search"]
    parameters: SearchParameters = SearchParameters()


class FetchTool(Asked):
    """Panelists and judge may fetch pages."""

    type: Literal["openrouter:web_fetch", "web_fetch"]
    parameters: FetchParameters = FetchParameters()


PanelTool = Annotated[SearchTool | FetchTool, Field(discriminator="type")]


class PanelReasoning(Asked):
    """How long panelists and judge think before they write."""

    effort: Effort | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None


class FusionSettings(Asked):
    """What plugin and server tool have in common."""

    analysis_models: Annotated[list[ModelName], Field(min_length=1, max_length=8)] | None = Field(
        None, description="The panel: 1 to 8 models, the same may come twice."
    )
    model: ModelName | None = Field(None, description="The judge.")
    max_tool_calls: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="Tool calls of each panelist, and of the judge."
    )
    tools: Annotated[list[PanelTool], Field(max_length=8)] | None = Field(
        None, description="What panelists and judge may use; `[]` means nothing."
    )


class FusionPlugin(FusionSettings):
    """The plugin; `enabled: false` answers without a deliberation."""

    id: Literal["fusion"]
    enabled: bool = True
    preset: ModelName | None = Field(None, description="A preset of models.yaml; fields that are named win over it.")


class FusionParameters(FusionSettings):
    """The server tool's parameters; `model` is the outer model where none is named."""

    max_completion_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = Field(
        None, description="Tokens that each inner call may write, thinking included; never more than fits."
    )
    reasoning: PanelReasoning | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="Of the panel alone.")
    cache_control: JsonValue = None


class FusionTool(Asked):
    """The server tool."""

    type: Literal["openrouter:fusion"]
    parameters: FusionParameters = FusionParameters()


class FusionChoice(Asked):
    """A `tool_choice` that has a panel deliberate, once."""

    type: Literal["openrouter:fusion"]
