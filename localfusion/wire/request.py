"""What bodies of /chat/completions and /responses have in common: settings of the answer, and what changes nothing."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from localfusion.wire.asked import Asked, only, text_or_other
from localfusion.wire.fusion import Effort, FusionPlugin, ModelName

Tokens = Annotated[int, Field(ge=1, le=1_048_576)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Stop = Annotated[
    Annotated[StopText, Tag("text")] | Annotated[list[StopText], Field(max_length=16), Tag("other")],
    Discriminator(text_or_other),
]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Reasoning(Asked):
    """How long the model thinks before it writes; no summaries are made of it, whatever `summary` says."""

    effort: Effort | None = None
    max_tokens: Tokens | None = None
    enabled: bool | None = None
    exclude: bool = Field(False, description="Think, but show nothing of it.")
    summary: JsonValue = None
    generate_summary: JsonValue = None


class StreamOptions(Asked):
    """`include_usage` adds a last chunk with the usage; nothing here is obfuscated."""

    include_usage: bool = False
    include_obfuscation: bool = False


class AllowedTool(Asked):
    """One of the tools that may be called: a function by its name, or the server tool."""

    type: Literal["function", "openrouter:fusion"]
    name: FunctionName | None = None


class TextFormat(Asked):
    """Plain text."""

    type: Literal["text"]


class ObjectFormat(Asked):
    """Any JSON object."""

    type: Literal["json_object"]


class Request(Asked):
    """The settings of an answer under OpenAI's and OpenRouter's names, then those that change none."""

    model: ModelName
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="0 is greedy.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = Field(None, description="0 keeps all.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        None, description="The same seed, the same choices; 0 where none is named."
    )
    stop: Stop | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    parallel_tool_calls: bool = True
    plugins: Annotated[list[FusionPlugin], Field(max_length=16)] = Field([])
    reasoning: Reasoning = Reasoning()

    frequency_penalty: Annotated[float, only(0)] = 0
    presence_penalty: Annotated[float, only(0)] = 0
    top_a: Annotated[float, only(0)] = 0
    logit_bias: Annotated[dict[str, JsonValue], only({})] = Field({})
    modalities: Annotated[list[JsonValue], only([], ["text"])] = Field([])
    models: Annotated[list[JsonValue], only([])] = Field([], description="Nothing else answers than `model`.")
    transforms: Annotated[list[JsonValue], only([])] = Field([], description="Nothing is taken out of a prompt.")
    stop_server_tools_when: Annotated[list[JsonValue], only([])] = Field([])

    user: str | None = None
    metadata: dict[str, str] = Field({})
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: JsonValue = None
    prompt_cache_options: JsonValue = None
    cache_control: JsonValue = None
    provider: JsonValue = Field(None, description="There is nobody to choose from: the model is a file here.")
    route: JsonValue = None
    usage: JsonValue = None
    trace: JsonValue = None
    debug: JsonValue = None
