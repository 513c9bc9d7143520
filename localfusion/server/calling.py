"""What a turn may call: the caller's functions and the deliberation, by `tools` and `tool_choice`. Calls nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from localfusion.errors import InvalidRequest
from localfusion.function_calls import Choice
from localfusion.messages import FunctionSpec
from localfusion.outer import KEEP_ANSWER
from localfusion.wire import chat, responses
from localfusion.wire.fusion import FUSION_TOOL, FusionChoice
from localfusion.wire.request import AllowedTool

AnyChoice = chat.ToolChoice | responses.ToolChoice
Definition = chat.FunctionDefinition | responses.FunctionTool


@dataclass(frozen=True, slots=True)
class Calling:
    """The functions that may be called, whether one must, and the same of the deliberation, where there is one."""

    functions: tuple[FunctionSpec, ...]
    choice: Choice = "auto"
    may_deliberate: bool = True
    must_deliberate: bool = False


def functions_of(tools: Sequence[tuple[str, Definition]]) -> tuple[FunctionSpec, ...]:
    """The caller's functions, of what the request says of each and where.

    Raises InvalidRequest for two of one name, and for arguments that are no object.
    """
    found: dict[str, FunctionSpec] = {}
    for at, tool in tools:
        if tool.name in found:
            message = f"two functions are called {tool.name}"
            raise InvalidRequest(message, param=f"{at}.name", hint="rename one of them")
        if tool.name == KEEP_ANSWER.name:
            raise InvalidRequest(
                f"{tool.name} is a name of localfusion's own", param=f"{at}.name", hint="rename the function"
            )
        schema = {"type": "object", **tool.parameters}
        if schema["type"] != "object":
            message = f"the parameters of {tool.name} are no object"
            raise InvalidRequest(message, param=f"{at}.parameters", hint="give them a JSON Schema of the type object")
        found[tool.name] = FunctionSpec(tool.name, tool.description, schema, f"{at}.parameters")
    return tuple(found.values())


def calling(functions: tuple[FunctionSpec, ...], choice: AnyChoice, *, has_fusion: bool) -> Calling:
    """What `tool_choice` leaves. Raises InvalidRequest for a tool that is none of those given."""
    whole = Calling(functions, may_deliberate=has_fusion)
    match choice:
        case "auto":
            return whole
        case "none":
            return replace(whole, choice="none", may_deliberate=False)
        case "required":
            return _required(whole)
        case FusionChoice():
            return _required(_narrowed(whole, [AllowedTool(type=FUSION_TOOL)]))
        case chat.ChatNamedChoice():
            return _required(_narrowed(whole, [AllowedTool(type="function", name=choice.function.name)]))
        case responses.NamedChoice():
            return _required(_narrowed(whole, [AllowedTool(type="function", name=choice.name)]))
        case chat.ChatAllowedChoice():
            allowed = choice.allowed_tools
            return _allowed(whole, [tool.flat for tool in allowed.tools], is_required=allowed.mode == "required")
        case responses.AllowedChoice():
            return _allowed(whole, choice.tools, is_required=choice.mode == "required")


def _allowed(whole: Calling, tools: Sequence[AllowedTool], *, is_required: bool) -> Calling:
    narrowed = _narrowed(whole, tools)
    return _required(narrowed) if is_required else narrowed


def _narrowed(whole: Calling, tools: Sequence[AllowedTool]) -> Calling:
    """Only the tools that are named."""
    may_deliberate = any(tool.type == FUSION_TOOL for tool in tools)
    names = [tool.name for tool in tools if tool.type == "function"]
    unknown = [name for name in names if name not in {function.name for function in whole.functions}]
    if unknown or (may_deliberate and not whole.may_deliberate):
        missing = unknown[0] if unknown else FUSION_TOOL
        raise InvalidRequest(f"tool_choice names {missing}, which is no tool of this request", param="tool_choice")
    functions = tuple(function for function in whole.functions if function.name in names)
    return replace(whole, functions=functions, may_deliberate=may_deliberate)


def _required(found: Calling) -> Calling:
    """A deliberation is called for once; only where there is none must a function be called."""
    if found.may_deliberate:
        return replace(found, must_deliberate=True)
    if not found.functions:
        raise InvalidRequest("tool_choice demands a call and there are no tools", param="tool_choice")
    return replace(found, choice="required")
