"""How a model writes a tool call and how it is read: what panelists and the judge have in common of a step.

A model whose chat template writes tool calls calls in that syntax; any other model writes a JSON object. Both are
constrained, so a call always parses. What a call does is the tools' business.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from localfusion.analysis import Passage, ToolStep
from localfusion.engine import grammar
from localfusion.errors import MalformedOutput
from localfusion.messages import Message, ModelInfo, ToolCall, ToolSpec, ToolSyntax

GENERIC_PROTOCOL = """\

To use a tool, write one JSON object and nothing else, like this: {example}
{tools}
"""

LEFT_OUT = "this result was left out to make room for newer ones"
ARGUMENT = "argument"
"""The name of the grammar's rule for what a model may write as an argument."""
_MAX_ARGUMENT_TOKENS = 128


class Tools(Protocol):
    """What a model's loop needs of its tools: which there are, what it may fetch, and what a call returns."""

    @property
    def specs(self) -> tuple[ToolSpec, ...]: ...

    @property
    def addresses(self) -> tuple[str, ...]: ...

    async def run(self, call: ToolCall) -> ToolStep: ...

    def result_message(self, step: ToolStep) -> Message: ...

    def restore(self, steps: Sequence[ToolStep]) -> None: ...


def step_messages(info: ModelInfo, tools: Tools, steps: Sequence[ToolStep]) -> list[Message]:
    """The turns of finished calls: each call as the model wrote it, then what it was told."""
    messages: list[Message] = []
    for step in steps:
        result = tools.result_message(step)
        if info.tool_syntax is not None:
            messages += [Message("assistant", tool_calls=(step.call,)), result]
        else:
            messages += [Message("assistant", generic_call(step.call)), replace(result, role="user")]
    return messages


def call_rules(info: ModelInfo, tools: Tools) -> list[str]:
    """The grammar of each call that can be made now; `argument_rule` is the rule they lean on."""
    rules: list[str] = []
    for spec in callable_tools(info.tool_syntax, tools.specs):
        before, after, _ = call_frame(info.tool_syntax, spec)
        argument = ARGUMENT
        if spec.name == "web_fetch":
            if not tools.addresses:
                continue
            argument = grammar.one_of(tools.addresses)
        head = grammar.with_special_tokens(before, info.special_tokens)
        tail = f" {grammar.with_special_tokens(after, info.special_tokens)}" if after else ""
        rules.append(f"{head} {argument}{tail}")
    return rules


def possible_calls(info: ModelInfo, tools: Tools) -> dict[str, tuple[str, ...]]:
    """The calls that can be made now and the arguments that each may have, () for any: what `call_rules` admits."""
    names = [spec.name for spec in callable_tools(info.tool_syntax, tools.specs)]
    calls = {name: tools.addresses if name == "web_fetch" else () for name in names}
    return {name: addresses for name, addresses in calls.items() if addresses or name != "web_fetch"}


def argument_rule(info: ModelInfo) -> str:
    """What may stand as an argument: one line, without what could end it early."""
    barred = ""
    if info.tool_syntax is not None and not info.tool_syntax.escaped:
        barred = "".join(after[0] for after in info.tool_syntax.after.values() if after)
    return grammar.line_of_text(ARGUMENT, barred=barred, max_tokens=_MAX_ARGUMENT_TOKENS)


def parse_call(text: str, syntax: ToolSyntax | None, specs: Sequence[ToolSpec], *, model: str) -> ToolCall | None:
    """The call that `text` is, None where it is none; raises MalformedOutput for one that breaks off."""
    text = text.lstrip()
    for spec in callable_tools(syntax, specs):
        before, after, escaped = call_frame(syntax, spec)
        before = before.lstrip()
        if text.startswith(before):
            argument = text[len(before) :]
            argument = argument.removesuffix(after) if after else argument
            return ToolCall(spec.name, {spec.parameter: _unescape(argument, escaped, model)})
        if text and before.startswith(text):
            raise MalformedOutput(model, f"{model} wrote a tool call that breaks off", text=text)
    return None


def callable_tools(syntax: ToolSyntax | None, specs: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
    """The tools that the model has a way to call: a template may know how to write one and not another."""
    return tuple(spec for spec in specs if syntax is None or spec.name in syntax.before)


def call_frame(syntax: ToolSyntax | None, spec: ToolSpec) -> tuple[str, str, bool]:
    """Text before and after the argument of a call, and whether the argument is JSON-escaped."""
    if syntax is None:
        return f'{{"name": "{spec.name}", "arguments": {{"{spec.parameter}": "', '"}}', True
    return syntax.before[spec.name], syntax.after[spec.name], syntax.escaped


def generic_protocol(specs: Sequence[ToolSpec]) -> str:
    """How a model without a syntax of its own is told to call."""
    example = generic_call(ToolCall(specs[0].name, {specs[0].parameter: "..."}))
    lines = [f"- {spec.name}({spec.parameter}): {spec.description}" for spec in specs]
    return GENERIC_PROTOCOL.format(example=example, tools="\n".join(lines))


def generic_call(call: ToolCall) -> str:
    """A call as a model without a syntax of its own writes it."""
    arguments: Mapping[str, str] = dict(call.arguments)
    return json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False)


def leave_out(steps: Sequence[ToolStep], n_oldest: int) -> list[ToolStep]:
    """The steps as if the oldest had brought back nothing, and said why: what is not shown cannot be quoted."""
    return [replace(step, passages=(), links=(), error=LEFT_OUT) for step in steps[:n_oldest]] + list(steps[n_oldest:])


def read_passages(steps: Sequence[ToolStep]) -> tuple[Passage, ...]:
    """Everything that `steps` brought back, in order."""
    return tuple(passage for step in steps for passage in step.passages)


def _unescape(argument: str, escaped: bool, model: str) -> str:
    if not escaped:
        return argument.strip()
    try:
        return str(json.loads(f'"{argument}"')).strip()
    except ValueError as error:
        raise MalformedOutput(model, f"{model} wrote a tool call that breaks off", text=argument) from error
