"""Derives how a model writes a tool call from its chat template, by rendering a call with a marked argument.

Works for any template whose rendering of a call extends its rendering of the question; None otherwise.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from localfusion.engine.chat import MARK, ChatTemplate, TemplateError, TemplateTimeoutError
from localfusion.messages import Json, Message, ToolCall, ToolSpec, ToolSyntax

PLAIN_MARK = "QzArgumentQz"
QUOTED_MARK = 'Qz"ArgumentQz'
ESCAPED_MARK = QUOTED_MARK.replace('"', '\\"')
USER = Message("user", "QzQuestionQz", fields={"question": "QzQuestionQz"})


def adapt_to_tools(template: ChatTemplate, tools: Mapping[str, str], *, ends: Iterable[str]) -> ToolSyntax | None:
    """The template's own syntax for calls of `tools` (name to argument), `ends` being texts of end tokens.

    Sets the template's abilities to what was found: arguments as a mapping or as text, or no tools at all
    (None), where calls have to be told as text and results as turns of the user.
    """
    ends = tuple(ends)
    for as_text in (False, True):
        template.abilities = replace(template.abilities, tool_turns=True, arguments_as_text=as_text)
        syntax = derive_tool_syntax(template, tools, ends=ends)
        if syntax is not None and _shows_results(template, tools):
            return syntax
    template.abilities = replace(template.abilities, tool_turns=False, arguments_as_text=False)
    return None


def _shows_results(template: ChatTemplate, tools: Mapping[str, str]) -> bool:
    name, argument = next(iter(tools.items()))
    call = Message("assistant", tool_calls=(ToolCall(name, {argument: "text"}),))
    result: Json = {"number": 1, "title": "title", "url": "doc://x", "text": MARK}
    return template.shows([USER, call, Message("tool", MARK, fields={"name": name, "results": [result]})], MARK)


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
    return ToolSyntax(before=before, after=after, escaped=escapes.pop())


def _find_frame(template: ChatTemplate, tool: ToolSpec, ends: Sequence[str]) -> tuple[str, str, bool] | None:
    try:
        plain = _written_call(template, tool, PLAIN_MARK)
        quoted = _written_call(template, tool, QUOTED_MARK)
    except TemplateTimeoutError:
        raise
    except TemplateError:
        return None
    if plain is None or quoted is None or plain.count(PLAIN_MARK) != 1:
        return None
    before, _, after = plain.partition(PLAIN_MARK)
    if not before.strip():
        return None
    for mark, escaped in ((ESCAPED_MARK, True), (QUOTED_MARK, False)):
        if quoted == f"{before}{mark}{after}":
            return before, _cut_at_end(after, ends), escaped
    return None


def _written_call(template: ChatTemplate, tool: ToolSpec, mark: str) -> str | None:
    """What the assistant wrote after the generation prompt to make the call, and what the template adds."""
    call = Message("assistant", tool_calls=(ToolCall(tool.name, {tool.parameter: mark}),))
    prompt = template.render([USER], tools=[tool])
    whole = template.render([USER, call], tools=[tool], add_generation_prompt=False)
    if not whole.startswith(prompt):
        prompt = _without_thinking(template, prompt)
        if not whole.startswith(prompt):
            return None
    written = whole[len(prompt) :]
    tags = template.tags
    if tags is not None and written.lstrip().startswith(tags.open):
        written = written.partition(tags.close)[2]
    return written.lstrip()


def _without_thinking(template: ChatTemplate, prompt: str) -> str:
    """The prompt without the (empty or opened) thinking at its end."""
    if template.tags is None:
        return prompt
    head, opened, tail = prompt.rpartition(template.tags.open)
    thought = tail.replace(template.tags.close, "")
    return head if opened and not thought.strip() else prompt


def _cut_at_end(after: str, ends: Sequence[str]) -> str:
    """`after` up to where the model would stop."""
    cuts = [at for end in ends if end and (at := after.find(end)) >= 0]
    return after[: min(cuts)] if cuts else after.rstrip("\n")
