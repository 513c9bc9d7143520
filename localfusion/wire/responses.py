"""The body of POST /responses, as OpenAI and OpenRouter define it. What its fields mean is decided elsewhere."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag

from localfusion.wire.asked import Asked, only, text_or_other
from localfusion.wire.content import Arguments, Content, Words
from localfusion.wire.fusion import FusionChoice, FusionTool
from localfusion.wire.request import AllowedTool, FunctionName, ObjectFormat, Request, TextFormat, Tokens

CallId = Annotated[str, Field(min_length=1, max_length=200)]


class Replayed(Asked):
    """An item of an earlier reply that comes back: what else it says, beside what is named here, is not read again."""

    model_config = ConfigDict(extra="ignore")


class MessageItem(Asked):
    """A turn of the conversation, or an earlier reply."""

    type: Literal["message"]
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: JsonValue = None
    status: JsonValue = None
    phase: JsonValue = None


class FunctionCallItem(Replayed):
    """A call that an earlier reply made."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Arguments = "{}"


class FunctionOutputItem(Replayed):
    """What a function returned to the call of this id."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Content


class ReasoningItem(Replayed):
    """What an earlier reply thought; it is not read again."""

    type: Literal["reasoning"]


class FoundStance(Replayed):
    """What one panelist held."""

    model: str
    stance: Words


class FoundContradiction(Replayed):
    """A topic on which panelists differed."""

    topic: Words
    stances: list[FoundStance] = Field([])


class FoundPoint(Replayed):
    """A point that only some panelists made."""

    models: list[str] = Field([])
    point: Words


class FoundInsight(Replayed):
    """A point that one panelist made."""

    model: str
    insight: Words


class FoundAnalysis(Replayed):
    """The analysis of an earlier deliberation."""

    consensus: list[Words] = Field([])
    contradictions: list[FoundContradiction] = Field([])
    partial_coverage: list[FoundPoint] = Field([])
    unique_insights: list[FoundInsight] = Field([])
    blind_spots: list[Words] = Field([])


class FoundResponse(Replayed):
    """What one panelist answered."""

    model: str
    content: Words = ""


class FoundSource(Replayed):
    """A page that was cited."""

    url: str
    title: Words = ""


class FusionItem(Replayed):
    """An earlier deliberation."""

    type: Literal["openrouter:fusion"]
    analysis: FoundAnalysis | None = None
    responses: list[FoundResponse] = Field([])
    sources: list[FoundSource] = Field([])


def _typed(value: object) -> object:
    """A message may leave out that it is one."""
    return {"type": "message", **value} if isinstance(value, dict) and "role" in value else value


Item = Annotated[
    Annotated[
        MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningItem | FusionItem,
        Field(discriminator="type"),
    ],
    BeforeValidator(_typed),
]
Items = Annotated[list[Item], Field(max_length=10_000)]
Input = Annotated[Annotated[Words, Tag("text")] | Annotated[Items, Tag("other")], Discriminator(text_or_other)]


class FunctionTool(Asked):
    """A function of the caller's; what is called is always valid, so that `strict` changes nothing."""

    type: Literal["function"]
    name: FunctionName
    description: Words = ""
    parameters: dict[str, JsonValue] = Field({})
    strict: JsonValue = None


class NamedChoice(Asked):
    """This function must be called."""

    type: Literal["function"]
    name: FunctionName


class AllowedChoice(Asked):
    """Only some of the tools count for this turn."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("text")]
    | Annotated[
        Annotated[NamedChoice | FusionChoice | AllowedChoice, Field(discriminator="type")],
        Tag("other"),
    ],
    Discriminator(text_or_other),
]


class SchemaFormat(Asked):
    """JSON of a schema; what is written follows it whether it is `strict` or not."""

    type: Literal["json_schema"]
    name: str = ""
    description: Words = ""
    schema_: dict[str, JsonValue] = Field(alias="schema")
    strict: JsonValue = None


class TextSettings(Asked):
    """How the text is written."""

    format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Annotated[str, only("medium")] = "medium"


Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""What a reply may say in addition. All but the first is of items that no reply here has, and adds nothing."""

LOGPROBS: Included = "message.output_text.logprobs"


class ResponsesRequest(Request):
    """The whole body."""

    input: Input
    instructions: Words = ""
    previous_response_id: str | None = None
    tools: Annotated[list[Annotated[FunctionTool | FusionTool, Field(discriminator="type")]], Field(max_length=128)] = (
        Field([])
    )
    tool_choice: ToolChoice = "auto"
    max_output_tokens: Tokens | None = None
    max_tool_calls: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Deliberations, at most; one is the most that a turn has."
    )
    text: TextSettings = TextSettings()
    include: list[Included] = Field([])
    background: bool = False

    truncation: Annotated[str, only("disabled")] = "disabled"
