"""The body of POST /chat/completions, as OpenAI and OpenRouter define it. What its fields mean is decided elsewhere."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from localfusion.wire.asked import Asked, only, text_or_other
from localfusion.wire.content import Arguments, Content, Words
from localfusion.wire.fusion import Effort, FusionChoice, FusionTool
from localfusion.wire.request import AllowedTool, FunctionName, ObjectFormat, Request, TextFormat, Tokens


class SystemMessage(Asked):
    """The caller's instructions; a developer's are the same to models here."""

    role: Literal["system", "developer"]
    content: Content
    name: Words = ""
    cache_control: JsonValue = None


class UserMessage(Asked):
    """What the user says; several users are told apart by `name`."""

    role: Literal["user"]
    content: Content
    name: Words = ""
    cache_control: JsonValue = None


class CalledFunction(Asked):
    """Which function was called, and with what; `parsed_arguments` is what a client made of it."""

    name: FunctionName
    arguments: Arguments = "{}"
    parsed_arguments: JsonValue = None


class FunctionToolCall(Asked):
    """A call that an earlier reply made."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: JsonValue = None


class AssistantMessage(Asked):
    """An earlier reply. What it thought, cited and what a client made of it is not read again."""

    role: Literal["assistant"]
    content: Content | None = None
    name: Words = ""
    refusal: Words = ""
    tool_calls: list[FunctionToolCall] = Field([])
    annotations: JsonValue = None
    reasoning: JsonValue = None
    reasoning_content: JsonValue = None
    reasoning_details: JsonValue = None
    parsed: JsonValue = None
    phase: JsonValue = None
    cache_control: JsonValue = None


class ToolMessage(Asked):
    """What a function returned to the call of this id; `name` only repeats which it was."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Annotated[str, Field(min_length=1, max_length=200)]
    name: JsonValue = None
    cache_control: JsonValue = None


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]


class FunctionDefinition(Asked):
    """A function of the caller's; what is called is always valid, so that `strict` changes nothing."""

    name: FunctionName
    description: Words = ""
    parameters: dict[str, JsonValue] = Field({})
    strict: JsonValue = None


class ChatFunctionTool(Asked):
    """A function of the caller's as a tool."""

    type: Literal["function"]
    function: FunctionDefinition
    cache_control: JsonValue = None


class NamedFunction(Asked):
    """A function by its name."""

    name: FunctionName


class ChatNamedChoice(Asked):
    """This function must be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedFunction(Asked):
    """One of the tools that may be called."""

    type: Literal["function", "openrouter:fusion"]
    function: NamedFunction | None = None

    @property
    def flat(self) -> AllowedTool:
        """The same as /responses writes it."""
        return AllowedTool(type=self.type, name=self.function.name if self.function else None)


class AllowedFunctions(Asked):
    """These tools may be called, or one of them must."""

    mode: Literal["auto", "required"]
    tools: list[AllowedFunction]


class ChatAllowedChoice(Asked):
    """Only some of the tools count for this turn."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("text")]
    | Annotated[
        Annotated[ChatNamedChoice | FusionChoice | ChatAllowedChoice, Field(discriminator="type")],
        Tag("other"),
    ],
    Discriminator(text_or_other),
]


class JsonSchema(Asked):
    """A schema with a name; what is written follows it whether it is `strict` or not."""

    name: str = ""
    description: Words = ""
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: JsonValue = None


class ChatSchemaFormat(Asked):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | ChatSchemaFormat, Field(discriminator="type")]


class ChatRequest(Request):
    """The whole body."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    tools: Annotated[
        list[Annotated[ChatFunctionTool | FusionTool, Field(discriminator="type")]], Field(max_length=128)
    ] = Field([])
    tool_choice: ToolChoice = "auto"
    n: int = Field(1, ge=1, le=8, description="How many replies are written to the same messages.")
    logprobs: bool = False
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    include_reasoning: bool | None = None

    verbosity: Annotated[str, only("medium")] = "medium"
    prediction: JsonValue = Field(None, description="Only a means to be faster.")
