"""Derives how a model writes a tool call from its chat template, by rendering a call with a marked argument.

Works for any template whose rendering of a call extends its rendering of the question; None otherwise. So are calls
of functions derived, whose arguments are any JSON object.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from localfusion.engine.chat import MARK, USER, ChatTemplate
from localfusion.messages import (
    FunctionCall,
    FunctionSpec,
    FunctionSyntax,
    Json,
    Message,
    ToolCall,
    ToolSpec,
    ToolSyntax,
)

PLAIN_MARK = "QzArgumentQz"
QUOTED_MARK = 'Qz"ArgumentQz'
ESCAPED_MARK = QUOTED_MARK.replace('"', '\\"')
FUNCTIONS = (FunctionSpec("QzFirstQz"), FunctionSpec("QzSecondQz"))
KEY = "QzKeyQz"
ARGUMENTS: Json = {KEY: {"list": [1, True, None, 'a "quotation"'], "empty": {}}}
"""Arguments that nobody writes alike who does not write JSON."""


def adapt_to_tools(template: ChatTemplate, tools: Mapping[str, str], *, ends: Iterable[str]) -> ToolSyntax | None:
    """The template's own syntax for calls of `tools` (name to argument), `ends` being texts of end tokens.

    Sets the template's abilities to what was found: how it takes calls and whether it lists the tools, or no
    tools at all (None), where calls have to be told as text and results as turns of the user.
    """
    ends = tuple(ends)
    for no_content, as_text in product((False, True), repeat=2):
        template.abilities = replace(template.abilities, arguments_as_text=as_text, no_content=no_content)
        syntax = derive_tool_syntax(template, tools, ends=ends)
        if syntax is not None and _shows_results(template, tools):
            template.abilities = replace(template.abilities, lists_tools=_lists_tools(template))
            return syntax
    template.abilities = replace(template.abilities, tool_turns=False, arguments_as_text=False, no_content=False)
    return None


def _shows_results(template: ChatTemplate, tools: Mapping[str, str]) -> bool:
    name, argument = next(iter(tools.items()))
    result: Json = {"number": 1, "title": "title", "url": "doc://x", "text": MARK}
    told = Message("tool", MARK, fields={"name": name, "results": [result]})
    call = Message("assistant", tool_calls=(ToolCall(name, {argument: PLAIN_MARK}),))
    text = template.try_render([USER, call, told, call, told], MARK)
    return text.count(PLAIN_MARK) >= 2 and text.count(MARK) >= 2


def _lists_tools(template: ChatTemplate) -> bool:
    return bool(template.try_render([USER], MARK, tools=[ToolSpec("tool", MARK, "argument", "what")]))


def derive_tool_syntax(template: ChatTemplate, tools: Mapping[str, str], *, ends: Iterable[str]) -> ToolSyntax | None:
    """The syntax of calls of `tools` (name to argument); `ends` are texts of tokens that end a generation."""
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    escapes: set[bool] = set()
    for name, argument in tools.items():
        frame = _find_frame(template, ToolSpec(name, "", argument, ""), tuple(ends))
        if frame is None or frame[0] in before.values():
            continue
        before[name], after[name], escaped = frame
        escapes.add(escaped)
    if len(escapes) != 1:
        return None
    return ToolSyntax(before=before, after=after, escaped=escapes.pop(), answer=template.answer_start)


def _find_frame(template: ChatTemplate, tool: ToolSpec, ends: Sequence[str]) -> tuple[str, str, bool] | None:
    plain = _written_call(template, tool, PLAIN_MARK)
    quoted = _written_call(template, tool, QUOTED_MARK)
    if plain is None or quoted is None or plain.count(PLAIN_MARK) != 1:
        return None
    before, _, after = plain.partition(PLAIN_MARK)
    if not before.strip() or before.endswith(
        f"{{'{tool.parameter}': '"
    ):  # a mapping as Python writes it, which nobody means
        return None
    for mark, escaped in ((ESCAPED_MARK, True), (QUOTED_MARK, False)):
        if quoted == f"{before}{mark}{after}":
            return before, _cut_at_end(after, ends), escaped
    return None


def _written_call(template: ChatTemplate, tool: ToolSpec, mark: str) -> str | None:
    call = Message("assistant", tool_calls=(ToolCall(tool.name, {tool.parameter: mark}),))
    return template.try_written(call, tools=[tool])


def derive_function_syntax(template: ChatTemplate, *, ends: Iterable[str]) -> FunctionSyntax | None:
    """The template's own syntax for calls whose arguments are JSON; None where it has none, or shows no results.

    The template's abilities are those that `adapt_to_tools` found.
    """
    ends = tuple(ends)
    one = _written_calls(template, FUNCTIONS[:1]) if template.abilities.tool_turns else None
    if one is None or not one[0].strip() or not _shows_function_results(template):
        return None
    before, between, after = one
    two = _written_calls(template, FUNCTIONS)
    joint = None
    if (
        two is not None
        and two[:2] == one[:2]
        and two[3] == between
        and _cut_at_end(two[2], ends) == two[2].rstrip("\n")
    ):
        joint = two[2]
    return FunctionSyntax(before, between, _cut_at_end(after, ends), joint, template.answer_start)


def _written_calls(template: ChatTemplate, functions: Sequence[FunctionSpec]) -> list[str] | None:
    """What the template writes before, between and behind names and arguments of a turn that calls all `functions`."""
    written = template.try_written(_calling(functions), functions=functions)
    if written is None:
        return None
    pieces: list[str] = []
    for function in functions:
        before, found, rest = written.partition(function.name)
        start = rest.rfind("{", 0, max(rest.find(KEY), 0))
        if not found or start < 0:
            return None
        try:
            arguments, end = json.JSONDecoder().raw_decode(rest, start)
        except ValueError:
            return None
        if arguments != ARGUMENTS:
            return None
        pieces += [before, rest[:start]]
        written = rest[end:]
    is_repeated = any(mark in written for mark in (KEY, *(function.name for function in functions)))
    return None if is_repeated else [*pieces, written]


def _calling(functions: Sequence[FunctionSpec]) -> Message:
    arguments = json.dumps(ARGUMENTS)
    return Message("assistant", function_calls=tuple(FunctionCall(f.name, f.name, arguments) for f in functions))


def _shows_function_results(template: ChatTemplate) -> bool:
    turns = [USER, _calling(FUNCTIONS[:1]), Message("tool", MARK, call_id=FUNCTIONS[0].name)]
    return bool(template.try_render(turns, MARK))


def _cut_at_end(after: str, ends: Sequence[str]) -> str:
    """`after` up to where the model would stop."""
    cuts = [at for end in ends if end and (at := after.find(end)) >= 0]
    return after[: min(cuts)] if cuts else after.rstrip("\n")
