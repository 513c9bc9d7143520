"""Renders conversations with the chat template of a GGUF, in a sandbox, and learns what the template can do.

A template is data from a file of unknown origin: it runs in Jinja's immutable sandbox, only in the worker
process, with bounded time (an asynchronous exception raised in the rendering thread by a timer, which stops
any loop of the template), bounded memory (on Linux), bounded repetition and bounded output. Without a
template ChatML is used. Not here: tokens, and how tool calls are written (tool_syntax).
"""

import ctypes
import datetime as dt
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from localfusion.engine.thinking import ThinkingTags, find_tags
from localfusion.machine import limited_memory
from localfusion.messages import Json, Message, ToolSpec

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RENDER_LIMIT_S = 5.0
RENDER_LIMIT_BYTES = 1 << 29
"""Address space that a rendering may take beyond what the process has."""
OUTPUT_LIMIT_CHARACTERS = 8_000_000
REPEAT_LIMIT = 1_000_000
MARK = "QzMarkQz"
"""Text that no template has of its own."""

Turn = dict[str, Json]
"""One message as chat templates see it."""


class TemplateError(Exception):
    """The template refused the conversation, failed, or ran beyond its bounds; the message says which."""


class TemplateTimeoutError(TemplateError):
    """The template ran beyond its time."""


class _OutOfTime(BaseException):
    """Raised inside a template that runs too long; no template can catch it."""


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks text for training; for rendering it is its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with repetition bounded too."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: object, right: object) -> object:
        numbers = [side for side in (left, right) if isinstance(side, int)]
        sequences = [side for side in (left, right) if isinstance(side, str | list | tuple)]
        if operator == "**" or any(abs(n) * max(len(s), 1) > REPEAT_LIMIT for n in numbers for s in sequences):
            raise jinja2.TemplateRuntimeError("the template multiplies beyond its bounds")
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the calling thread when the block runs longer; needs bytecode to run, not a signal."""
    thread = ctypes.c_ulong(threading.get_ident())
    lock, over = threading.Lock(), threading.Event()

    def interrupt() -> None:
        with lock:
            if not over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_OutOfTime))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over.set()
        timer.cancel()


def compile_template(source: str) -> jinja2.Template:
    """The template with what transformers offers it; raises TemplateError."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_now)
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise TemplateError(f"the chat template does not parse: {error}") from error


def run_template(template: jinja2.Template, variables: Mapping[str, object], *, limit_s: float) -> str:
    """The rendered text; raises TemplateError for whatever goes wrong inside the template."""
    parts: list[str] = []
    size = 0
    try:
        with limited_memory(RENDER_LIMIT_BYTES), limited_time(limit_s):
            for part in template.generate(**variables):
                size += len(part)
                if size > OUTPUT_LIMIT_CHARACTERS:
                    raise TemplateError("the chat template writes without end")
                parts.append(part)
    except _OutOfTime as error:
        raise TemplateTimeoutError(f"the chat template ran for more than {limit_s} s") from error
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise TemplateError(f"the chat template failed: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise TemplateError("the chat template ran beyond its bounds") from error
    except RuntimeError as error:
        raise TemplateError(f"the chat template failed: {error}") from error
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template was seen to do: take a system turn, take calls with arguments as text, take tool turns."""

    system: bool
    tool_turns: bool
    arguments_as_text: bool


class ChatTemplate:
    """The chat template of one model: conversations in, prompt text out."""

    def __init__(
        self,
        source: str | None,
        *,
        bos: str = "",
        eos: str = "",
        special_tokens: Iterable[str] = (),
        limit_s: float = RENDER_LIMIT_S,
    ) -> None:
        self._limit_s = limit_s
        self._template = compile_template(CHATML if source is None else source)
        self._tokens = {"bos_token": bos, "eos_token": eos}
        specials = sorted((token for token in special_tokens if len(token) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials))) if specials else None
        self.tags: ThinkingTags | None = find_tags(CHATML if source is None else source, specials)
        self.abilities = Abilities(system=True, tool_turns=True, arguments_as_text=False)
        system = self.shows([Message("system", MARK), Message("user", "question")], MARK)
        self.abilities = replace(self.abilities, system=system)

    def shows(self, messages: Sequence[Message], mark: str) -> bool:
        """Whether the template renders the conversation, and `mark` is in what it makes of it."""
        try:
            return mark in self.render(messages)
        except TemplateTimeoutError:
            raise
        except TemplateError:
            return False

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        thinking: bool = False,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt text; raises TemplateError. Text of control tokens in what users and tools say is broken up."""
        turns = to_turns(messages, self.abilities, break_up=self._break_up)
        variables: dict[str, object] = {
            "messages": turns,
            "add_generation_prompt": add_generation_prompt,
            "enable_thinking": thinking,
            **self._tokens,
        }
        if tools and self.abilities.tool_turns:
            variables["tools"] = [to_function(tool) for tool in tools]
        return run_template(self._template, variables, limit_s=self._limit_s)

    def render_prompt(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], thinking: bool) -> "Prompt":
        """The text to generate from, thinking opened or closed as asked; raises TemplateError."""
        text = self.render(messages, tools=tools, thinking=thinking)
        if self.tags is None:
            return Prompt(text, inside=False)
        opened = text.rstrip().endswith(self.tags.open)
        if opened and not thinking:
            return Prompt(f"{text.rstrip()}\n\n{self.tags.close}{self.tags.gap}", inside=False)
        if thinking and not opened:
            return Prompt(f"{text}{self.tags.open}", inside=True)
        return Prompt(text, inside=opened)

    def _break_up(self, text: str) -> str:
        if self._special is None:
            return text
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt; `inside` says that it ends within thinking."""

    text: str
    inside: bool


def to_function(tool: ToolSpec) -> Turn:
    """A tool in OpenAI's function form."""
    parameter: Turn = {"type": "string", "description": tool.parameter_description}
    parameters: Turn = {"type": "object", "properties": {tool.parameter: parameter}, "required": [tool.parameter]}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def to_turns(messages: Sequence[Message], abilities: Abilities, *, break_up: Callable[[str], str]) -> list[Turn]:
    """Messages as the template wants them: calls numbered, what it cannot take folded into what it can."""
    turns: list[Turn] = []
    n_calls = 0
    for message in messages:
        turn = _to_turn(message, break_up)
        if message.tool_calls:
            calls: list[Json] = []
            for call in message.tool_calls:
                n_calls += 1
                arguments: Json = dict(call.arguments)
                if abilities.arguments_as_text:
                    arguments = json.dumps(arguments, ensure_ascii=False)
                function: Json = {"name": call.name, "arguments": arguments}
                calls.append({"id": f"call{n_calls:05d}", "type": "function", "function": function})
            turn["tool_calls"] = calls
        if message.role == "tool" and abilities.tool_turns:
            turn["tool_call_id"] = f"call{n_calls:05d}"
        turns.append(turn)
    return _fold(turns, abilities)


def _to_turn(message: Message, break_up: Callable[[str], str]) -> Turn:
    turn: Turn = {**message.fields, "role": message.role, "content": message.content}
    if message.role in ("user", "tool"):
        turn = {key: value if key == "role" else _in_texts(value, break_up) for key, value in turn.items()}
    return turn


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
        turns = _merge([{**turn, "role": "user"} if turn["role"] == "tool" else turn for turn in turns])
    if abilities.system or not turns or turns[0]["role"] != "system":
        return turns
    system, rest = turns[0], turns[1:]
    if not rest or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def _merge(turns: list[Turn]) -> list[Turn]:
    """Neighbours of one role as one turn: many templates demand that roles alternate."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1]["role"] == turn["role"]:
            content = f"{merged[-1]['content']}\n\n{turn['content']}"
            merged[-1] = {**merged[-1], **turn, "content": content}
        else:
            merged.append(turn)
    return merged
