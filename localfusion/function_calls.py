"""How a model is shown a caller's functions and how it calls them: in its template's syntax, or as JSON told in text.

Grammar, prompt and reader of one syntax are here, so that what is written always reads. Nothing is carried out.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from uuid import uuid4

from localfusion.engine import grammar
from localfusion.engine.thinking import overlap
from localfusion.errors import InvalidRequest, MalformedOutput
from localfusion.messages import FunctionCall, FunctionSpec, FunctionSyntax, Json, Message, ModelInfo

GENERIC = FunctionSyntax(before='{"name": "', between='", "arguments": ', after="}", joint='}\n{"name": "')
"""How a model calls that has no syntax of its own for arguments that are JSON."""
TOLD = """\
You can call these functions:
{functions}
To call one, write one JSON object and nothing else, like this: {{"name": "...", "arguments": {{...}}}}"""
TOLD_SEVERAL = "To call several, write one such object a line."
RESULT = "{name} returned: {content}"
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
MOST_CALLS = 16
"""Calls in one turn."""

Choice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class Calling:
    """The functions of a turn and how they may be called in it; `choice` and `is_parallel` are those of an Ask."""

    functions: tuple[FunctionSpec, ...]
    choice: Choice
    is_parallel: bool
    syntax: FunctionSyntax

    @property
    def joint(self) -> str | None:
        """What stands between calls, None where there may be only one."""
        return self.syntax.joint if self.is_parallel else None


def check_functions(functions: Sequence[FunctionSpec]) -> None:
    """Raise InvalidRequest for a name that no call could be told by, and for arguments that are no object."""
    names = [function.name for function in functions]
    for function in functions:
        if not NAME.fullmatch(function.name) or names.count(function.name) > 1:
            raise InvalidRequest(
                f"{function.name!r} cannot be the name of a function",
                param="tools",
                hint="give each a name of its own, of at most 64 letters, digits, dashes and underscores",
            )
        if function.schema.get("type", "object") != "object":
            raise InvalidRequest(
                f"the arguments of {function.name} are no object",
                param="tools",
                hint='let parameters have "type": "object"',
            )


def as_told(messages: Sequence[Message], info: ModelInfo, calling: Calling | None) -> tuple[Message, ...]:
    """The conversation as a model gets it: functions, calls and results are text where its template has none."""
    if info.function_syntax is not None:
        return tuple(messages)
    folded = tuple(_folded(messages))
    if calling is None:
        return folded
    lines = [json.dumps(_shown(function), ensure_ascii=False) for function in calling.functions]
    told = TOLD.format(functions="\n".join(lines))
    return with_instruction(folded, f"{told}\n{TOLD_SEVERAL}" if calling.is_parallel else told)


def with_instruction(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """The conversation with `text` at the end of its system turn."""
    if messages and messages[0].role == "system":
        return (replace(messages[0], content=f"{messages[0].content}\n\n{text}"), *messages[1:])
    return (Message("system", text), *messages)


def _shown(function: FunctionSpec) -> dict[str, Json]:
    return {"name": function.name, "description": function.description, "parameters": dict(function.schema)}


def _folded(messages: Sequence[Message]) -> Iterator[Message]:
    names = {call.id: call.name for message in messages for call in message.function_calls}
    for message in messages:
        if message.function_calls:
            calls = (
                f"{GENERIC.before}{c.name}{GENERIC.between}{c.arguments}{GENERIC.after}" for c in message.function_calls
            )
            content = "\n".join(filter(None, (message.content, *calls)))
            yield replace(message, content=content, function_calls=())
        elif message.role == "tool" and message.call_id:
            content = RESULT.format(name=names.get(message.call_id, "the function"), content=message.content)
            yield Message("user", content)
        else:
            yield message


def arguments_rules(calling: Calling) -> list[str]:
    """The grammar's rule for the arguments of each function, a line each, in their order."""
    return [
        grammar.json_value(f"arguments_{place}", {"type": "object", **function.schema})
        for place, function in enumerate(calling.functions)
    ]


def turn_rules(calling: Calling, info: ModelInfo, *, output: str | None) -> list[str]:
    """The rules of a turn, `start` first; where it is no call it is of the rule `output`, or (None) text.

    They lean on `arguments_rules`.
    """
    syntax, specials = calling.syntax, info.special_tokens
    marker = f"{grammar.with_special_tokens(syntax.answer, specials)} " if syntax.answer else ""
    text, rules = (output, []) if output else ("TEXT?", [_text_rule(calling, info)])
    if calling.choice == "none":
        return [f"start: {marker}{text}\n", *rules]
    rules += _call_rules(calling, info)
    if calling.choice == "required":
        return ["start: opening calls\n", *rules]
    if output or marker or not syntax.is_anywhere:
        return [f"start: opening calls | {marker}{text}\n", *rules]
    if _is_special(calling, info):
        return ["start: TEXT? (opening calls)?\n", *rules]
    rest = grammar.with_special_tokens(syntax.before.lstrip().removeprefix(syntax.mark), specials)
    return [f"start: TEXT? | lead {rest} calls\n", *rules, grammar.text_up_to("lead", syntax.mark)]


def _text_rule(calling: Calling, info: ModelInfo) -> str:
    if _is_special(calling, info) or calling.syntax.answer:
        return grammar.any_text("TEXT")
    return grammar.text_without("TEXT", calling.syntax.mark, is_anywhere=calling.syntax.is_anywhere)


def _is_special(calling: Calling, info: ModelInfo) -> bool:
    """Whether a call begins with a control token, which cannot stand in text."""
    return calling.syntax.mark.startswith(tuple(name for name in info.special_tokens if name))


def _call_rules(calling: Calling, info: ModelInfo) -> list[str]:
    syntax, specials = calling.syntax, info.special_tokens
    names = [f"call_{place}" for place in range(len(calling.functions))]
    after = f" {grammar.with_special_tokens(syntax.after, specials)}" if syntax.after else ""
    more = ""
    if calling.joint is not None:
        more = f" ({grammar.with_special_tokens(calling.joint, specials)} call){{0,{MOST_CALLS - 1}}}"
    heads = [
        grammar.with_special_tokens(f"{function.name}{syntax.between}", specials) for function in calling.functions
    ]
    return [
        f"opening: {grammar.with_special_tokens(syntax.before, specials)}\n",
        f"calls: call{more}{after}\n",
        f"call: {' | '.join(names)}\n",
        *(f"{name}: {head} arguments_{place}\n" for place, (name, head) in enumerate(zip(names, heads, strict=True))),
    ]


def _begins_like_json(calling: Calling) -> bool:
    """Whether a text that begins as a call does may yet turn out to be JSON."""
    return calling.choice != "required" and calling.syntax.mark.startswith(("{", "["))


class TurnReader:
    """Tells text and calls apart while a turn is written; what could be the beginning of a call is held back.

    `is_json`: what is no call is JSON, which may look like a call up to its end. `model` is the name of who writes.
    """

    def __init__(self, calling: Calling | None, *, is_json: bool, model: str) -> None:
        self._calling = calling
        self._model = model
        self._held = ""
        self._state: Literal["start", "text", "calls", "last"] = "start" if calling else "last"
        self._is_json = is_json
        self._may_be_json = is_json and calling is not None and _begins_like_json(calling)
        self._is_behind_call = False
        self.is_call_cut = False
        """The turn was cut where a call had begun, which is left out."""
        self.n_hidden = 0
        """Bytes at the start of the turn that are its syntax and neither text nor call."""

    def feed(self, text: str) -> list[str | FunctionCall]:
        """What can be said for sure now: text that is to be shown, calls that are whole."""
        self._held += text
        if self._state == "start":
            self._leave_start()
        if self._state == "calls":
            return [] if self._may_be_json or "}" not in text else list(self._take_calls())
        if self._state == "start":
            return []
        shown = self._take_text()
        return [shown] if shown else []

    def finish(self, *, is_cut: bool = False) -> list[str | FunctionCall]:
        """What is left, now that nothing follows; raises MalformedOutput for a call that breaks off.

        Where the turn was cut (`is_cut`), such a call is left out, and what could be the beginning of one: nobody could
        carry it out.
        """
        if self._state == "calls":
            return self._last_calls(is_cut=is_cut)
        if is_cut and self._holds_syntax():
            self.is_call_cut = True
            return []
        return [self._held] if self._held else []

    def _last_calls(self, *, is_cut: bool) -> list[str | FunctionCall]:
        assert self._calling is not None
        whole = self._held
        calls: list[str | FunctionCall] = list(self._take_calls())
        is_exact = self._held.strip() == self._calling.syntax.after.strip()
        if self._is_behind_call and (is_exact or not self._may_be_json):
            return calls
        if self._may_be_json:
            return [whole]
        if not is_cut:
            raise MalformedOutput(self._model, f"{self._model} wrote a call that breaks off", text=whole)
        self.is_call_cut = True
        return calls

    def _holds_syntax(self) -> bool:
        """Whether what is held could be the beginning of a call or of the template's own before an answer."""
        if self._calling is None:
            return False
        syntax, begun = self._calling.syntax, self._held.lstrip()
        if self._state == "text":
            return overlap(self._held, syntax.mark) > 0
        if self._state != "start" or not begun or self._may_be_json:
            return False
        may_call = self._calling.choice != "none"
        return syntax.answer.startswith(self._held) or (may_call and syntax.mark.startswith(begun))

    def _leave_start(self) -> None:
        assert self._calling is not None
        syntax, held = self._calling.syntax, self._held
        begun = held.lstrip()
        if self._calling.choice != "none" and begun.startswith(syntax.mark):
            self._state, self._held = "calls", begun
        elif syntax.answer and held.startswith(syntax.answer):
            self.n_hidden = len(syntax.answer.encode())
            self._state, self._held = "last", held[len(syntax.answer) :]
        elif not (syntax.mark.startswith(begun) or syntax.answer.startswith(held)):
            self._state = "text" if self._finds_calls else "last"

    @property
    def _finds_calls(self) -> bool:
        calling = self._calling
        return calling is not None and calling.choice == "auto" and calling.syntax.is_anywhere and not self._is_json

    def _take_text(self) -> str:
        """The text that is held, but for the beginning of a call and the blanks in front of it."""
        cut = len(self._held)
        if self._state == "text":
            assert self._calling is not None
            mark = self._calling.syntax.mark
            found = self._held.find(mark)
            cut = len(self._held[: found if found >= 0 else cut - overlap(self._held, mark)].rstrip())
            if found >= 0:
                shown, self._held = self._held[:cut], self._held[found:]
                self._state = "calls"
                return shown
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _take_calls(self) -> Iterator[FunctionCall]:
        """The whole calls at the start of what is held; what is behind the last of them stays."""
        assert self._calling is not None
        before, joint = self._calling.syntax.before.lstrip(), self._calling.joint
        while True:
            if self._is_behind_call:
                if joint is None or not self._held.startswith(joint):
                    return
                self._held, self._is_behind_call = before + self._held.removeprefix(joint), False
            found = self._first_call(before)
            if found is None:
                return
            call, self._held = found
            self._is_behind_call = True
            yield call

    def _first_call(self, before: str) -> tuple[FunctionCall, str] | None:
        """The call that is held first, and what follows its arguments; None where it is not whole."""
        assert self._calling is not None
        name, found, rest = self._held.removeprefix(before).partition(self._calling.syntax.between)
        if not found or not self._held.startswith(before) or all(name != f.name for f in self._calling.functions):
            return None
        try:
            _, end = json.JSONDecoder().raw_decode(rest)
        except ValueError:
            return None
        return FunctionCall(f"call_{uuid4().hex[:24]}", name, rest[:end]), rest[end:]
