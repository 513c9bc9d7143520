"""From a request body to an order: which turn is to be taken, and how it is to be told. Pure; nothing is asked or kept.

Fields that a deliberation cannot obey, since its answer is written by rules of its own, are refused beside one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from localfusion.assistant import Ask, JsonFormat
from localfusion.catalog import PathOf
from localfusion.config import ModelsFile
from localfusion.errors import InvalidRequest
from localfusion.messages import (
    GREEDY,
    AnyModel,
    CloudLeave,
    Json,
    JudgeSpec,
    ModelSpec,
    PanelSpec,
    Sampling,
    SourcesSpec,
    WriterSpec,
)
from localfusion.outer import Fusion, TurnRequest
from localfusion.server.calling import AnyChoice, Calling, Definition, calling, functions_of
from localfusion.server.conversations import Conversation, of_items, of_messages
from localfusion.server.naming import Names
from localfusion.server.panels import Wanted, is_always_asked, is_enabled, panel_of, wanted
from localfusion.server.thinking import Thinking, fitting, thinking
from localfusion.store import RunRequest
from localfusion.wire import chat, responses
from localfusion.wire.fusion import FusionTool
from localfusion.wire.request import ObjectFormat, Reasoning, Request, TextFormat

N_SEEDS = 2**32 - 64
"""Seeds of requests are any whole number; what is derived from one, for seats and choices, still fits 32 bits."""

_DRAWN_BY = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Fields that say how tokens are drawn; an answer that follows a deliberation is greedy without them."""
_ECHOED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done for one request.

    `n` is the number of choices. `is_stored`: it can be asked for later; `keeps_run`: its
    deliberation is kept as any other, which only a request refuses that is said not to be stored. `echo` are the
    fields of the request that a reply of /responses repeats. `hides_thinking`: no reasoning is told.
    """

    turn: TurnRequest
    n: int = 1
    is_streamed: bool = False
    includes_usage: bool = False
    is_background: bool = False
    is_stored: bool = True
    echo: Mapping[str, Json] = field(default_factory=dict)
    hides_thinking: bool = False
    keeps_run: bool = True

    def turn_of(self, index: int) -> TurnRequest:
        """The turn of one choice: each draws by a seed of its own, the first by the request's."""
        sampling = replace(self.turn.ask.sampling, seed=self.turn.ask.sampling.seed + index)
        return replace(self.turn, ask=replace(self.turn.ask, sampling=sampling))


@dataclass(frozen=True, slots=True)
class _Part:
    """What a body says of the answer, in one form for both kinds of body."""

    request: Request
    tools: Sequence[chat.ChatFunctionTool | responses.FunctionTool | FusionTool]
    choice: AnyChoice
    conversation: Conversation
    ask: Ask
    reasoning: Reasoning
    may_deliberate: bool = True


class OrderBook:
    """Makes orders out of bodies, by one catalogue and what the server may search and ask."""

    def __init__(self, models: ModelsFile, path_of: PathOf, sources: SourcesSpec, cloud: CloudLeave) -> None:
        self._cloud = CloudLeave() if sources.offline else cloud
        self._names = Names(models, path_of, self._cloud)
        self._sources = sources

    def chat(self, body: chat.ChatRequest, *, depth: int = 0) -> Order:
        """The order of a chat; `depth` counts the deliberations that it is part of. Raises InvalidRequest."""
        conversation = of_messages(body.messages)
        ask = Ask(
            conversation.messages,
            is_parallel=body.parallel_tool_calls,
            output=_chat_format(body.response_format),
            sampling=_sampling(body),
            max_tokens=_max_tokens(body),
            stop=_stop(body),
            n_logprobs=_chat_logprobs(body),
        )
        reasoning = _chat_reasoning(body)
        turn = self._turn(_Part(body, body.tools, body.tool_choice, conversation, ask, reasoning), depth=depth)
        if turn.fusion and body.n > 1:
            raise _beside_fusion("n")
        return Order(
            turn,
            n=body.n,
            is_streamed=body.stream,
            includes_usage=body.stream_options.include_usage,
            is_background=False,
            is_stored=bool(body.store),
            hides_thinking=reasoning.exclude,
            keeps_run=body.store is not False,
        )

    def responses(self, body: responses.ResponsesRequest, *, depth: int = 0, history: Sequence[Json] = ()) -> Order:
        """The order of a response; `history` are the items of those before it, oldest first. Raises InvalidRequest."""
        if body.background and body.store is False:
            raise InvalidRequest(
                "what goes on in the background is stored", param="store", hint="leave out one of them"
            )
        conversation = of_items(body, history)
        ask = Ask(
            conversation.messages,
            is_parallel=body.parallel_tool_calls,
            output=_responses_format(body.text),
            sampling=_sampling(body),
            max_tokens=body.max_output_tokens,
            stop=_stop(body),
            n_logprobs=_responses_logprobs(body),
        )
        may_deliberate = body.max_tool_calls != 0
        part = _Part(body, body.tools, body.tool_choice, conversation, ask, body.reasoning, may_deliberate)
        turn = self._turn(part, depth=depth)
        return Order(
            turn,
            n=1,
            is_streamed=body.stream,
            includes_usage=True,
            is_background=body.background,
            is_stored=body.store is not False,
            echo=_echo(body),
            hides_thinking=body.reasoning.exclude,
            keeps_run=body.store is not False,
        )

    def names(self) -> tuple[str, ...]:
        """What may be named as `model`."""
        return self._names.listed()

    def _turn(self, part: _Part, *, depth: int) -> TurnRequest:
        request = part.request
        places = [(at, tool) for at, tool in enumerate(part.tools) if isinstance(tool, FusionTool)]
        asked = wanted(self._names, request.model, request.plugins, places)
        has_fusion = asked is not None and is_enabled(asked) and part.may_deliberate
        functions = functions_of(
            [_definition(at, tool) for at, tool in enumerate(part.tools) if not isinstance(tool, FusionTool)]
        )
        found = calling(functions, part.choice, has_fusion=has_fusion)
        if found.may_deliberate and depth > 0:
            raise InvalidRequest(
                "a panel may not call for another deliberation",
                param="model" if asked and asked.is_alias else None,
                code="fusion_invocation_capped",
                hint="ask a model by its own name",
            )
        if asked is None or not (asked.is_alias or found.may_deliberate):
            outer = self._names.local_model(request.model, param="model")
            return TurnRequest(outer, _asked(part, found, outer))
        panel = panel_of(self._names, asked, request.model, seed=part.ask.sampling.seed)
        outer = self._outer(request.model, asked, self._names.judge_of(panel))
        ask = _asked(part, found, outer)
        if not found.may_deliberate:
            return TurnRequest(outer, ask)
        _check_writable(request, ask)
        is_asked = part.conversation.messages[-1].role == "user"
        is_forced = found.must_deliberate or (is_asked and is_always_asked(self._names, asked))
        return TurnRequest(outer, ask, self._fusion(part, asked, ask, panel, outer, is_forced=is_forced))

    def _outer(self, model: str, asked: Wanted, judge: AnyModel) -> ModelSpec:
        """The model that reads the request: the judge where the name only asks for a deliberation."""
        if asked.is_alias:
            return judge if isinstance(judge, ModelSpec) else self._names.local_model(judge.name, param="model")
        outer = self._names.local_model(model, param="model")
        return judge if isinstance(judge, ModelSpec) and judge.path == outer.path else outer

    def _fusion(
        self, part: _Part, asked: Wanted, ask: Ask, panel: PanelSpec, outer: ModelSpec, *, is_forced: bool
    ) -> Fusion:
        is_judge = self._names.judge_of(panel) == outer
        request = RunRequest(
            question=part.conversation.question,
            panel=replace(panel, writer=_writer(part, asked, ask, panel.judge, outer, is_judge=is_judge)),
            sources=self._sources,
            seed=ask.sampling.seed,
            cloud=self._cloud,
            context=part.conversation.context,
        )
        return Fusion(request, is_forced=is_forced)


def _asked(part: _Part, found: Calling, outer: ModelSpec) -> Ask:
    """What the outer model is asked, with what depends on who that is."""
    thought = _thinking(part.reasoning, max_tokens=part.ask.max_tokens, outer=outer)
    return replace(
        part.ask,
        functions=found.functions,
        choice=found.choice,
        thinking=thought.is_on,
        max_thinking_tokens=thought.max_tokens,
    )


def _writer(
    part: _Part, asked: Wanted, ask: Ask, judge: JudgeSpec, outer: ModelSpec, *, is_judge: bool
) -> WriterSpec | None:
    """Who writes the answer: the judge as it judges (None), or the outer model as the request wants its own text.

    What the settings of the deliberation say is said of panel and judge; a preset's judge writes as it judges.
    """
    inner = asked.settings.model_dump(include={"max_completion_tokens", "reasoning"}, exclude_none=True)
    draws = any(getattr(part.request, name) is not None for name in _DRAWN_BY)
    thinks = part.reasoning.model_fields_set or "reasoning" in inner
    spec = WriterSpec(
        outer,
        ask.sampling if draws else GREEDY,
        thinking=ask.thinking if thinks else judge.thinking,
        max_tokens=judge.max_tokens if ask.max_tokens is None else ask.max_tokens,
        max_thinking_tokens=ask.max_thinking_tokens if thinks else judge.max_thinking_tokens,
    )
    if ask.max_tokens is None and "max_completion_tokens" in inner:
        spec = replace(spec, max_tokens=fitting(None, outer))
    as_judge = WriterSpec(
        outer,
        thinking=judge.thinking,
        max_tokens=judge.max_tokens,
        max_thinking_tokens=judge.max_thinking_tokens,
    )
    return None if is_judge and spec == as_judge else spec


def _check_writable(request: Request, ask: Ask) -> None:
    """Refuse what the answer of a deliberation would not obey."""
    if ask.stop:
        raise _beside_fusion("stop")
    if ask.n_logprobs is not None:
        raise _beside_fusion("logprobs" if isinstance(request, chat.ChatRequest) else "include")


def _beside_fusion(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param} is not supported where a panel may deliberate",
        param=param,
        code="unsupported_parameter",
        hint='leave it out, or have no deliberation with `tool_choice: "none"`',
    )


def _sampling(body: Request) -> Sampling:
    """Settings that are not named are localfusion's own."""
    own = Sampling()
    return Sampling(
        temperature=own.temperature if body.temperature is None else body.temperature,
        top_k=own.top_k if body.top_k is None else body.top_k,
        top_p=own.top_p if body.top_p is None else body.top_p,
        min_p=own.min_p if body.min_p is None else body.min_p,
        repeat_penalty=own.repeat_penalty if body.repetition_penalty is None else body.repetition_penalty,
        seed=(body.seed or 0) % N_SEEDS,
    )


def _stop(body: Request) -> tuple[str, ...]:
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())


def _max_tokens(body: chat.ChatRequest) -> int | None:
    named = {n for n in (body.max_tokens, body.max_completion_tokens) if n is not None}
    if len(named) > 1:
        message = "max_tokens and max_completion_tokens differ"
        raise InvalidRequest(message, param="max_tokens", hint="leave out max_tokens, the older name")
    return named.pop() if named else None


def _chat_logprobs(body: chat.ChatRequest) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("top_logprobs needs logprobs", param="top_logprobs", hint="add `logprobs: true`")
    return None


def _responses_logprobs(body: responses.ResponsesRequest) -> int | None:
    if responses.LOGPROBS in body.include:
        return body.top_logprobs or 0
    return body.top_logprobs or None


def _chat_format(asked: chat.ResponseFormat | None) -> JsonFormat | None:
    match asked:
        case None | TextFormat():
            return None
        case ObjectFormat():
            return JsonFormat()
        case chat.ChatSchemaFormat():
            return JsonFormat(asked.json_schema.schema_)


def _responses_format(text: responses.TextSettings) -> JsonFormat | None:
    match text.format:
        case None | TextFormat():
            return None
        case ObjectFormat():
            return JsonFormat(param="text.format")
        case responses.SchemaFormat():
            return JsonFormat(text.format.schema_, param="text.format")


def _chat_reasoning(body: chat.ChatRequest) -> Reasoning:
    """What the two spellings of an effort, and of not showing it, come to."""
    own, short = body.reasoning, body.reasoning_effort
    if own.effort is not None and short is not None and own.effort != short:
        message = "reasoning_effort and reasoning.effort differ"
        raise InvalidRequest(message, param="reasoning_effort", hint="leave out one of them")
    exclude = own.exclude or body.include_reasoning is False
    return own.model_copy(update={"effort": own.effort or short, "exclude": exclude})


def _thinking(reasoning: Reasoning, *, max_tokens: int | None, outer: ModelSpec) -> Thinking:
    says_nothing = reasoning.effort is None and reasoning.max_tokens is None
    if reasoning.enabled is False or (says_nothing and not reasoning.enabled):
        return Thinking(is_on=False)
    return thinking(reasoning.effort, reasoning.max_tokens, max_tokens=max_tokens, model=outer)


def _definition(at: int, tool: chat.ChatFunctionTool | responses.FunctionTool) -> tuple[str, Definition]:
    """What a tool says of its function, and where that stands in the request."""
    if isinstance(tool, chat.ChatFunctionTool):
        return f"tools[{at}].function", tool.function
    return f"tools[{at}]", tool


def _echo(body: responses.ResponsesRequest) -> Mapping[str, Json]:
    """The fields as they were sent, those that were not with what they are by default."""
    sent = body.model_dump(mode="json", by_alias=True, exclude_unset=True, include=set(_ECHOED))
    default = {
        "metadata": {},
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
    }
    whole = {name: sent.get(name, default.get(name)) for name in _ECHOED}
    return {**whole, "background": body.background, "store": body.store is not False}
