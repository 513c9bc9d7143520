"""Renders conversations with the chat template of a GGUF, and learns what the template can do by rendering some.

What a template cannot take is folded into what it can: nothing that was said is lost. Without a template
ChatML is used. Not here: running the template (template_sandbox), tokens, how calls are written (tool_syntax).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from localfusion.engine.template_sandbox import (
    RENDER_LIMIT_S,
    TemplateBoundsError,
    TemplateError,
    compile_template,
    local_time,
    run_template,
)
from localfusion.engine.thinking import ThinkingTags, find_tags
from localfusion.messages import FunctionSpec, Json, Message, ToolSpec

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARK = "QzMarkQz"
"""Text that no template has of its own."""
QUESTION = "QzQuestionQz"
USER = Message("user", QUESTION, fields={"question": QUESTION})
REPLY = Message("assistant", MARK)
THOUGHTS: dict[str, Json] = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "thought")
TOOLS_TOLD = "You can call these tools:\n{tools}"
LONGEST_FRAME = 200
"""Characters of a template's own between a prompt and what is said; more is no frame but a text."""

Turn = dict[str, Json]
"""One message as chat templates see it."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template was seen to do.

    `system`: keeps a system turn where it stands. `neighbours`: takes two turns of one role in a row.
    `tool_turns`: shows calls and results, calls with `arguments_as_text` or not, with `no_content` (None) or "".
    `lists_tools`: tells the model which tools there are.
    """

    system: bool = True
    neighbours: bool = True
    tool_turns: bool = True
    lists_tools: bool = True
    arguments_as_text: bool = False
    no_content: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt; `inside` says that it ends within thinking, which `tags` end."""

    text: str
    inside: bool
    tags: ThinkingTags | None


class ChatTemplate:
    """The chat template of one model: conversations in, prompt text out.

    `answer_start` is what the model writes of its own before an answer ("" for most), `turn_end` what the template
    writes behind one: it begins with the text of the token that ends a turn. `now` is the clock of templates that write
    a date.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos: str = "",
        eos: str = "",
        special_tokens: Iterable[str] = (),
        limit_s: float = RENDER_LIMIT_S,
        now: Callable[[], datetime] = local_time,
    ) -> None:
        self._limit_s = limit_s
        self._now = now
        self._source = CHATML if source is None else source
        self._template = compile_template(self._source, now, limit_s=limit_s)
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._specials = sorted((token for token in special_tokens if len(token) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, self._specials))) if self._specials else None
        self.tags: ThinkingTags | None = None
        self.abilities = Abilities()
        self.answer_start = self.turn_end = ""
        self._learn()

    def _learn(self) -> None:
        self.abilities = Abilities(neighbours=bool(self.try_render([USER, Message("user", MARK)], MARK)))
        long = [Message("system", MARK), USER, Message("assistant", "answer"), Message("user", "more")]
        text = self.try_render(long, MARK)
        self.abilities = replace(self.abilities, system=MARK in text.partition(QUESTION)[0])
        thoughtful = replace(REPLY, fields=THOUGHTS)
        samples = [self.try_render([USER], QUESTION), self.try_render([USER, thoughtful], MARK, thinking=True)]
        self.tags = find_tags([self._source, *samples], self._specials)
        written = (self.try_written(REPLY) or "").partition(MARK)
        self.answer_start = written[0] if written[0].strip() and len(written[0]) < LONGEST_FRAME else ""
        closed = self.try_render([USER, REPLY, Message("user", "more")], MARK)
        self.turn_end = closed.partition(MARK)[2][:LONGEST_FRAME]

    def try_render(
        self, messages: Sequence[Message], mark: str, *, tools: Sequence[ToolSpec] = (), thinking: bool = False
    ) -> str:
        """The prompt text, or "" where the template refuses the conversation or leaves `mark` out of it.

        A template that runs beyond its bounds is not asked again: that is raised.
        """
        try:
            text = self.render(messages, tools=tools, thinking=thinking)
        except TemplateBoundsError:
            raise
        except TemplateError:
            return ""
        return text if mark in text else ""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        functions: Sequence[FunctionSpec] = (),
        thinking: bool = False,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt text; raises TemplateError. Text of control tokens in what users and tools say is broken up."""
        shown: list[Json] = (
            [*map(to_function, tools), *map(as_function, functions)] if self.abilities.tool_turns else []
        )
        if shown and not self.abilities.lists_tools:
            messages = tell_tools(messages, shown)
        variables: dict[str, object] = {
            "messages": to_turns(messages, self.abilities, break_up=self._break_up),
            "add_generation_prompt": add_generation_prompt,
            "functions": json.dumps(shown, ensure_ascii=False) if shown else "",
            "datetime": self._now().strftime("%Y-%m-%d"),
            **_thinking_switches(thinking),
            **self._tokens,
        }
        if shown:
            variables["tools"] = shown
        return run_template(self._template, variables, limit_s=self._limit_s)

    def render_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec],
        functions: Sequence[FunctionSpec] = (),
        thinking: bool,
    ) -> Prompt:
        """The text to generate from, thinking opened or closed as asked; raises TemplateError.

        Without tools and functions an answer is all that can follow, so its start is there already.
        """
        text = self.render(messages, tools=tools, functions=functions, thinking=thinking)
        start = "" if tools or functions else self.answer_start
        if self.tags is None:
            return Prompt(f"{text}{start}", inside=False, tags=None)
        tags = replace(self.tags, gap=f"{self.tags.gap}{start}")
        opened = text.rstrip().endswith(tags.open.rstrip())
        if not thinking:
            closed = f"{text.rstrip()}\n\n{tags.close}{tags.gap}" if opened else f"{text}{start}"
            return Prompt(closed, inside=False, tags=tags)
        return Prompt(text if opened else f"{self.without_thought(text)}{tags.open}", inside=True, tags=tags)

    def try_written(
        self, message: Message, *, tools: Sequence[ToolSpec] = (), functions: Sequence[FunctionSpec] = ()
    ) -> str | None:
        """What the assistant wrote after the prompt to make this turn, without thinking, and what follows it.

        None where the template refuses it or its rendering of the turn does not extend the prompt. White space
        in front is left out, but for one space that belongs to the first word.
        """
        try:
            prompt = self.render([USER], tools=tools, functions=functions)
            whole = self.render([USER, message], tools=tools, functions=functions, add_generation_prompt=False)
        except TemplateBoundsError:
            raise
        except TemplateError:
            return None
        if not whole.startswith(prompt):
            prompt = self.without_thought(prompt)
            if not whole.startswith(prompt):
                return None
        written = whole[len(prompt) :]
        if self.tags is not None and written.lstrip().startswith((self.tags.open, self.tags.close)):
            written = written.partition(self.tags.close)[2]
        return written if re.match(r" ?\S", written) else written.lstrip()

    def without_thought(self, prompt: str) -> str:
        """The prompt without the (empty or opened) thinking at its end."""
        if self.tags is None:
            return prompt
        head, opened, tail = prompt.rpartition(self.tags.open)
        thought = tail.replace(f"{self.tags.close}{self.tags.gap}", "").replace(self.tags.close, "")
        return head if opened and not thought.strip() else prompt

    def _break_up(self, text: str) -> str:
        if self._special is None:
            return text
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _thinking_switches(thinking: bool) -> dict[str, object]:
    """How templates are told whether to think, each family by a name of its own."""
    switches: dict[str, object] = {
        "enable_thinking": thinking,
        "thinking": thinking,
        "thinking_mode": "enabled" if thinking else "disabled",
    }
    return switches if thinking else {**switches, "reasoning_effort": "low"}


def to_function(tool: ToolSpec) -> Turn:
    """A tool in OpenAI's function form."""
    parameter: Turn = {"type": "string", "description": tool.parameter_description}
    parameters: Turn = {"type": "object", "properties": {tool.parameter: parameter}, "required": [tool.parameter]}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def as_function(function: FunctionSpec) -> Turn:
    """A function of the caller's own in OpenAI's form."""
    told: Turn = {"name": function.name, "description": function.description, "parameters": dict(function.schema)}
    return {"type": "function", "function": told}


def tell_tools(messages: Sequence[Message], functions: Sequence[Json]) -> list[Message]:
    """The messages with the tools in the system turn, for a template that knows calls but shows no tools."""
    told = TOOLS_TOLD.format(tools="\n".join(json.dumps(function, ensure_ascii=False) for function in functions))
    if messages and messages[0].role == "system":
        return [replace(messages[0], content=f"{messages[0].content}\n\n{told}"), *messages[1:]]
    return [Message("system", told), *messages]


def to_turns(messages: Sequence[Message], abilities: Abilities, *, break_up: Callable[[str], str]) -> list[Turn]:
    """Messages as the template wants them: calls numbered, what it cannot take folded into what it can."""
    turns: list[Turn] = []
    n_calls = 0
    called: dict[str, Turn] = {}
    for message in messages:
        turn = _to_turn(message, break_up)
        calls: list[Json] = []
        for name, arguments, id in _calls_of(message):
            n_calls += 1
            shown = _in_texts(arguments, break_up)
            if abilities.arguments_as_text:
                shown = json.dumps(shown, ensure_ascii=False)
            number = f"call{n_calls:05d}"
            called[id] = {"tool_call_id": number, "name": name}
            calls.append({"id": number, "type": "function", "function": {"name": name, "arguments": shown}})
        if calls:
            turn["tool_calls"] = calls
            if abilities.no_content and not message.content:
                turn["content"] = None
        if message.role == "tool" and abilities.tool_turns:
            turn |= called.get(message.call_id) or {"tool_call_id": f"call{n_calls:05d}"}
        turns.append(turn)
    return _fold(turns, abilities)


def _calls_of(message: Message) -> Iterator[tuple[str, Json, str]]:
    """Name, arguments and id of each call of a turn, of our tools (the id is their number's alone) or of functions."""
    for tool_call in message.tool_calls:
        yield tool_call.name, dict(tool_call.arguments), ""
    for call in message.function_calls:
        yield call.name, _as_json(call.arguments), call.id


def _as_json(arguments: str) -> Json:
    """The arguments of an earlier call, which its caller gave: no object where they are none."""
    try:
        value: Json = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _to_turn(message: Message, break_up: Callable[[str], str]) -> Turn:
    """A copy that the template may do with what it likes."""
    change = str if message.role == "system" else break_up
    fields = {key: _in_texts(value, change) for key, value in message.fields.items()}
    return {**fields, "role": message.role, "content": change(message.content)}


def _in_texts(value: Json, change: Callable[[str], str]) -> Json:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_in_texts(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _in_texts(item, change) for key, item in value.items()}
    return value


def _fold(turns: list[Turn], abilities: Abilities) -> list[Turn]:
    if not abilities.tool_turns:
        turns = [{**turn, "role": "user"} if turn["role"] == "tool" else turn for turn in turns]
    if not abilities.system and turns and turns[0]["role"] == "system":
        turns = [*_merge([{**turns[0], "role": "user"}, *turns[1:2]]), *turns[2:]]
    return turns if abilities.tool_turns and abilities.neighbours else _merge(turns)


def _merge(turns: list[Turn]) -> list[Turn]:
    """Neighbours of one role as one turn: many templates demand that roles alternate. A call stays on its own."""
    merged: list[Turn] = []
    for turn in turns:
        before = merged[-1] if merged else {}
        if turn["role"] in ("user", "assistant") and before.get("role") == turn["role"] and "tool_calls" not in before:
            content = "\n\n".join(text for text in (before["content"], turn["content"]) if isinstance(text, str))
            merged[-1] = {**before, **turn, "content": content}
        else:
            merged.append(turn)
    return merged
