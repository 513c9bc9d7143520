"""A request to a model as the body of an OpenAI chat completion, for endpoints of both kinds. Sends nothing.

With `json_schema` a step is JSON under a strict schema, the protocol is said in the system turn, and earlier steps are
plain turns. With `tools` calls are the endpoint's own; an analysis is then the argument of one more tool.
"""

import json
from collections.abc import Mapping, Sequence

from localfusion.messages import (
    GenerateRequest,
    Json,
    Message,
    OutputFormat,
    RemoteModel,
    Sampling,
    ToolSpec,
    ToolSyntax,
)

CALL_START, CALL_END = "\x02", "\x03"
"""What a call is framed in for the layers above: control characters, which are taken out of all that models write."""
RESULT_TOOL = "write_result"
"""The tool whose argument is the JSON that a request's schema describes."""

_MAX_LISTED, _MAX_LISTED_CHARACTERS = 200, 10_000
"""Longer lists of arguments are not part of a schema, which providers bound; they are checked in any case."""

STEPS = """

Each of your turns is one JSON object that holds one step, and nothing else.
To use a tool, write {call}
{finish}
The tools are:
{tools}"""
TO_ANSWER = 'To answer, write {"step": {"answer": "..."}} with your whole answer as plain text.'
TO_FINISH = 'To finish, write {"step": {"result": {...}}} with the JSON object that you are asked for.'


def tool_syntax(names: Sequence[str]) -> ToolSyntax:
    """How calls of these tools are framed."""
    before = {name: f"{CALL_START}{name}{CALL_START}" for name in names}
    return ToolSyntax(before, dict.fromkeys(names, CALL_END), escaped=False)


def framed_call(name: str, argument: str) -> str:
    """A call as the layers above read it."""
    return f"{CALL_START}{name}{CALL_START}{argument}{CALL_END}"


def body_of(request: GenerateRequest, model: RemoteModel, *, without: Sequence[str] = ()) -> dict[str, Json]:
    """The body, less `max_tokens`; `without` are parameters that the endpoint does not take."""
    body: dict[str, Json] = {"model": model.model, "stream": True, "stream_options": {"include_usage": True}}
    body |= _sampling(request.sampling)
    if request.stop:
        body["stop"] = list(request.stop)
    if model.provider.structured == "tools":
        body["messages"] = list(_native_turns(request.messages))
        body |= _tools(request)
    else:
        body["messages"] = list(_plain_turns(request))
        body |= _response_format(request)
    return {key: value for key, value in body.items() if key not in without}


def _sampling(sampling: Sampling) -> dict[str, Json]:
    """What of the sampling every endpoint knows by the same name; the rest is llama.cpp's."""
    chosen: dict[str, Json] = {"temperature": sampling.temperature, "seed": sampling.seed}
    if sampling.top_p != Sampling().top_p and sampling.temperature > 0:
        chosen["top_p"] = sampling.top_p
    return chosen


# JSON by schema


def in_steps(request: GenerateRequest, model: RemoteModel) -> bool:
    """Whether the model writes steps as JSON objects."""
    return model.provider.structured == "json_schema" and bool(request.tools)


def _plain_turns(request: GenerateRequest) -> list[Json]:
    turns: list[tuple[str, str]] = []
    for message in request.messages:
        role = "user" if message.role == "tool" else message.role
        text = message.content
        if message.tool_calls:
            call = message.tool_calls[0]
            text = json.dumps({"step": {"call": call.name, **call.arguments}}, ensure_ascii=False)
        if message.role == "system" and request.tools:
            text += _protocol(request)
        if turns and turns[-1][0] == role:
            text = f"{turns.pop()[1]}\n\n{text}"
        turns.append((role, text))
    return [{"role": role, "content": text} for role, text in turns]


def _protocol(request: GenerateRequest) -> str:
    first = request.tools[0]
    return STEPS.format(
        call=json.dumps({"step": {"call": first.name, first.parameter: "..."}}),
        finish=TO_ANSWER if request.output.schema is None else TO_FINISH,
        tools="\n".join(f"- {tool.name}({tool.parameter}): {tool.description}" for tool in request.tools),
    )


def _response_format(request: GenerateRequest) -> dict[str, Json]:
    schema = step_schema(request.output, request.tools) if request.tools else request.output.schema
    if schema is None:
        return {}
    named: Json = {"name": "step" if request.tools else "result", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def step_schema(output: OutputFormat, tools: Sequence[ToolSpec]) -> Json:
    """The schema of one step: a call that may be made now, or the end."""
    steps: list[Json] = [
        _object({"call": {"type": "string", "enum": [tool.name]}, tool.parameter: _argument(output, tool)})
        for tool in tools
        if tool.name in output.calls
    ]
    last: Json = {"answer": {"type": "string"}} if output.schema is None else {"result": output.schema}
    assert isinstance(last, dict)
    return _object({"step": {"anyOf": [*steps, _object(last)]}})


# The endpoint's own tools


def _native_turns(messages: Sequence[Message]) -> list[Json]:
    turns: list[dict[str, Json]] = []
    n_calls = 0
    for message in messages:
        if message.tool_calls:
            call = message.tool_calls[0]
            n_calls += 1
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            made: Json = {
                "id": _id(n_calls),
                "type": "function",
                "function": {"name": call.name, "arguments": arguments},
            }
            turns.append({"role": "assistant", "content": "", "tool_calls": [made]})
        elif message.role == "tool":
            turns.append({"role": "tool", "tool_call_id": _id(n_calls), "content": message.content})
        elif turns and turns[-1]["role"] == message.role == "user":
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{message.content}"
        else:
            turns.append({"role": message.role, "content": message.content})
    return list(turns)


def _id(number: int) -> str:
    """Nine letters and digits, which is what the narrowest endpoint admits."""
    return f"call{number:05d}"


def _tools(request: GenerateRequest) -> dict[str, Json]:
    output = request.output
    callable_now = [tool for tool in request.tools if tool.name in output.calls]
    shown = callable_now or request.tools
    tools: list[Json] = [
        _function(tool.name, tool.description, _object({tool.parameter: _argument(output, tool)})) for tool in shown
    ]
    choice: Json = "auto" if callable_now else "none"
    if output.schema is not None:
        tools.append(_function(RESULT_TOOL, "Write the JSON object that you are asked for.", output.schema))
        choice = "required" if callable_now else {"type": "function", "function": {"name": RESULT_TOOL}}
    return {"tools": tools, "tool_choice": choice} if tools else {}


def _function(name: str, description: str, parameters: Json) -> Json:
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters, "strict": True},
    }


def _argument(output: OutputFormat, tool: ToolSpec) -> Json:
    """The schema of a tool's argument: one of those it may have now, or any text."""
    allowed = output.calls.get(tool.name, ())
    if allowed and len(allowed) <= _MAX_LISTED and sum(map(len, allowed)) <= _MAX_LISTED_CHARACTERS:
        return {"type": "string", "enum": list(allowed)}
    return {"type": "string", "description": tool.parameter_description}


def _object(properties: Mapping[str, Json]) -> Json:
    """An object that has just these, as strict schemas want it."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
