"""One turn of one model in a caller's own conversation: text, JSON of a schema, or calls of the caller's functions.

What is constrained is always valid. Nothing is carried out, searched or cited here, and no panel is asked.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from localfusion.engine import grammar, schema_limits
from localfusion.engine.interface import Model
from localfusion.errors import GrammarRefused, InvalidRequest
from localfusion.function_calls import (
    GENERIC,
    Calling,
    Choice,
    TurnReader,
    arguments_rules,
    as_told,
    check_functions,
    turn_rules,
    with_instruction,
)
from localfusion.messages import (
    Completion,
    Delta,
    FinishReason,
    FunctionCall,
    FunctionSpec,
    GenerateRequest,
    Json,
    Message,
    ModelInfo,
    OutputFormat,
    Progress,
    Sampling,
    TokenLogprobs,
    Usage,
)

SCHEMA_TOLD = "Answer with JSON of this JSON Schema and nothing else:\n{schema}"
OBJECT_TOLD = "Answer with one JSON object and nothing else."


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """The text is one JSON value: of `schema` (JSON Schema), or any object where that is None.

    `is_told`: the model is told so in the system turn; else the messages say it themselves. `param` is what the schema
    is called in the request that it came with.
    """

    schema: Json = None
    is_told: bool = True
    param: str = field(default="response_format", compare=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a model is asked to write next in a conversation.

    `choice` says whether it may, must not or must call one of `functions`; a function that must be called is the only
    one then. `is_parallel`: it may make several calls in one turn. `output` None is plain text. `sequence` names the
    conversation, for what is kept of it.
    """

    messages: tuple[Message, ...]
    functions: tuple[FunctionSpec, ...] = ()
    choice: Choice = "auto"
    is_parallel: bool = True
    output: JsonFormat | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    thinking: bool = False
    max_thinking_tokens: int | None = None
    n_logprobs: int | None = None
    sequence: str = "chat"


@dataclass(frozen=True, slots=True)
class Written:
    """The turn that was written; where `calls` are made, `content` is what stood before them, mostly nothing."""

    content: str
    thinking: str
    calls: tuple[FunctionCall, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """A schema that a caller wrote: what it is, and what it is called in the request."""

    what: str
    param: str
    schema: Mapping[str, Json]


async def write(model: Model, ask: Ask, *, name: str) -> AsyncGenerator[Progress | Delta | FunctionCall | Written]:
    """Write the turn; deltas are of text only, a call is told when it is whole, the Written is the last.

    A call that `max_tokens` cuts is not told: the turn has the finish reason "length". `name` is what errors call the
    model. Raises ModelError: ContextOverflow, WorkerDied, MalformedOutput for a call that breaks off; InvalidRequest
    for a schema that cannot be followed.
    """
    calling = _calling(model, ask)
    request = _request(model.info, ask, calling)
    reader = TurnReader(calling, is_json=ask.output is not None, model=name)
    turn = _Turn(reader)
    try:
        async with aclosing(model.generate(request)) as items:
            async for item in items:
                if isinstance(item, Completion):
                    for told in turn.finish(is_cut=item.finish_reason != "stop"):
                        yield told
                    yield turn.written(item)
                elif isinstance(item, Delta) and item.kind == "content":
                    for told in turn.feed(item):
                        yield told
                else:
                    yield item
    except GrammarRefused as error:
        raise _as_invalid(error, ask) from error


class _Turn:
    """What was told of a turn so far. Tokens with their logprobs are told with the text that they end."""

    def __init__(self, reader: TurnReader) -> None:
        self._reader = reader
        self._texts: list[str] = []
        self._calls: list[FunctionCall] = []
        self._waiting: list[TokenLogprobs] = []
        self._told: list[TokenLogprobs] = []
        self._n_bytes = self._n_shown = 0

    def feed(self, delta: Delta) -> list[Delta | FunctionCall]:
        """What is told of the next piece of the content."""
        self._waiting += delta.logprobs
        return self._tell(self._reader.feed(delta.text))

    def finish(self, *, is_cut: bool) -> list[Delta | FunctionCall]:
        """What is left at the end of the content, without a call that was cut; raises MalformedOutput."""
        return self._tell(self._reader.finish(is_cut=is_cut), is_last=True)

    def written(self, done: Completion) -> Written:
        return Written(
            "".join(self._texts), done.thinking, tuple(self._calls), done.finish_reason, done.usage, tuple(self._told)
        )

    def _tell(self, items: Sequence[str | FunctionCall], *, is_last: bool = False) -> list[Delta | FunctionCall]:
        told: list[Delta | FunctionCall] = []
        for item in items:
            if isinstance(item, FunctionCall):
                self._calls.append(item)
                told.append(item)
            else:
                self._texts.append(item)
                self._n_shown += len(item.encode())
                told.append(Delta("content", item, self._take_tokens()))
        if is_last and not self._calls and not self._reader.is_call_cut and self._waiting:
            self._n_shown = self._n_bytes + sum(len(token.chosen.token) for token in self._waiting)
            told.append(Delta("content", "", self._take_tokens()))
        return told

    def _take_tokens(self) -> tuple[TokenLogprobs, ...]:
        """The tokens that end in what is shown by now, without those of the template's own before an answer."""
        hidden, tokens = self._reader.n_hidden, []
        while self._waiting and self._n_bytes + len(self._waiting[0].chosen.token) <= hidden + self._n_shown:
            token = self._waiting.pop(0)
            self._n_bytes += len(token.chosen.token)
            if self._n_bytes > hidden:
                tokens.append(token)
        self._told += tokens
        return tuple(tokens)


def _calling(model: Model, ask: Ask) -> Calling | None:
    """How functions are called in this turn, None where it has none; raises InvalidRequest."""
    is_local = model.info.n_vocab > 0
    if not is_local and ask.n_logprobs is not None:
        raise InvalidRequest("a provider's model is not asked for logprobs", param="logprobs")
    if not ask.functions:
        if ask.choice == "required":
            raise InvalidRequest("a function must be called and there is none", param="tool_choice")
        return None
    if not is_local:
        raise InvalidRequest("a provider's model is not asked to call functions", param="tools")
    check_functions(ask.functions)
    return Calling(ask.functions, ask.choice, ask.is_parallel, model.info.function_syntax or GENERIC)


def _request(info: ModelInfo, ask: Ask, calling: Calling | None) -> GenerateRequest:
    _check_schemas(ask)
    messages = as_told(ask.messages, info, calling)
    schema = _schema(ask.output)
    if ask.output is not None and ask.output.is_told:
        told = json.dumps(schema, ensure_ascii=False)
        messages = with_instruction(messages, SCHEMA_TOLD.format(schema=told) if ask.output.schema else OBJECT_TOLD)
    return GenerateRequest(
        ask.sequence,
        messages,
        sampling=ask.sampling,
        max_tokens=ask.max_tokens,
        stop=ask.stop if ask.choice != "required" else (),
        grammar=_grammar(info, ask, calling),
        thinking=ask.thinking,
        output=OutputFormat(schema=schema),
        functions=ask.functions if info.function_syntax is not None else (),
        max_thinking_tokens=ask.max_thinking_tokens,
        n_logprobs=ask.n_logprobs,
        calls=calling.syntax if calling is not None and calling.choice != "none" else None,
        has_callers_schema=True,
    )


def _schema(output: JsonFormat | None) -> Json:
    """The schema of the text, None for text that is no JSON; raises InvalidRequest."""
    if output is None:
        return None
    schema: Json = {"type": "object"} if output.schema in (None, True) else output.schema
    if not isinstance(schema, dict):
        raise InvalidRequest("the schema is no JSON Schema", param=output.param, hint="a JSON Schema is an object")
    return schema


def _grammar(info: ModelInfo, ask: Ask, calling: Calling | None) -> str | None:
    """The grammar of the turn, None where it is any text. Schemas have the first lines, as `_places` has them."""
    schema = _schema(ask.output)
    output = [grammar.json_value("output", schema)] if isinstance(schema, dict) else []
    if calling is not None:
        rules = turn_rules(calling, info, output="output" if output else None)
        return "".join([*output, *arguments_rules(calling), *rules])
    return "".join([*output, "start: output\n"]) if output else None


def _places(ask: Ask) -> list[_Place]:
    """Where the schemas of a turn come from, in the order of the lines that they have in its grammar."""
    schema = _schema(ask.output)
    output = []
    if ask.output is not None and isinstance(schema, dict):
        output.append(_Place("the schema of the answer", ask.output.param, schema))
    return output + [_Place(f"the schema of {f.name}", f.param, f.schema) for f in ask.functions]


def _check_schemas(ask: Ask) -> None:
    """Raise InvalidRequest for schemas that would take too long to be put as a constraint."""
    places = _places(ask)
    found = schema_limits.excess([place.schema for place in places])
    if found is not None:
        raise _invalid(places[found[0]], f"it has {found[1]}")


def _as_invalid(error: GrammarRefused, ask: Ask) -> InvalidRequest:
    """Whose schema it is that the engine refused, by the line of the grammar that it stands in."""
    places = _places(ask)
    at = len(places) if error.line is None else error.line - 1
    if len(places) == 1:
        at = 0
    unknown = _Place("a function's schema", "tools", {})
    return _invalid(places[at] if 0 <= at < len(places) else unknown, error.reason)


def _invalid(place: _Place, reason: str) -> InvalidRequest:
    message = f"{place.what} cannot be followed: {reason}"
    hint = "leave out of it what is not supported"
    return InvalidRequest(message, param=place.param, code="invalid_schema", hint=hint)
