"""What requests come to: the turn that is taken, the panel that is asked, and what is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from localfusion.assistant import JsonFormat
from localfusion.catalog import nothing_pulled
from localfusion.config import ModelsFile, load_models_file
from localfusion.config.surroundings import packaged_models_file
from localfusion.errors import InvalidRequest
from localfusion.messages import (
    CloudLeave,
    FunctionCall,
    FunctionSpec,
    Json,
    JudgeSpec,
    Message,
    ModelSpec,
    PanelistSpec,
    PanelSpec,
    Sampling,
    SourcesSpec,
)
from localfusion.server.orders import Order, OrderBook
from localfusion.store import RunRequest
from localfusion.wire.asked import read
from localfusion.wire.chat import ChatRequest
from localfusion.wire.embeddings import EmbeddingsRequest
from localfusion.wire.responses import ResponsesRequest

Fields = dict[str, Json]

PACKAGED = load_models_file(packaged_models_file())
HI: list[Json] = [{"role": "user", "content": "Hi"}]
LOOK: Fields = {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {}}}}}
LOOK_FLAT: Fields = {"type": "function", "name": "look", "parameters": {}}
FUSION: Fields = {"type": "openrouter:fusion"}


def book(models: ModelsFile = PACKAGED, cloud: CloudLeave | None = None) -> OrderBook:
    return OrderBook(models, nothing_pulled, SourcesSpec(web=True), cloud or CloudLeave())


def chat(fields: Fields | None = None, *, depth: int = 0, of: OrderBook | None = None) -> Order:
    body: Fields = {"model": "micro-a", "messages": HI, **(fields or {})}
    return (of or book()).chat(read(ChatRequest, body), depth=depth)


def respond(fields: Fields | None = None, *, history: list[Json] | None = None) -> Order:
    body: Fields = {"model": "micro-a", "input": "Hi", **(fields or {})}
    return book().responses(read(ResponsesRequest, body), history=history or [])


def run_of(order: Order) -> RunRequest:
    assert order.turn.fusion is not None
    return order.turn.fusion.request


def members(panel: PanelSpec) -> tuple[PanelistSpec | JudgeSpec, ...]:
    return (*panel.panelists, panel.judge)


def panel_by(plugin: Fields, model: str = "localfusion/fusion") -> PanelSpec:
    return run_of(chat({"model": model, "plugins": [{"id": "fusion", **plugin}]})).panel


def panel_by_tool(parameters: Fields) -> PanelSpec:
    return run_of(chat({"tools": [{**FUSION, "parameters": parameters}]})).panel


def models_of(panel: PanelSpec) -> list[str]:
    return [*(seat.model.name for seat in panel.panelists), panel.judge.model.name]


def test_a_plain_chat_is_a_turn_of_its_model() -> None:
    order = chat()
    assert (order.turn.model.name, order.turn.ask.messages) == ("micro-a", (Message("user", "Hi"),))
    assert (order.turn.fusion, order.n, order.is_streamed, order.is_stored) == (
        None,
        1,
        False,
        False,
    )


SETTINGS: list[tuple[Fields, Fields]] = [
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_completion_tokens": 5, "max_tokens": 5}, {"max_tokens": 5}),
    ({"stop": "."}, {"stop": (".",)}),  # type: ignore[dict-item]
    ({"stop": [".", "!"]}, {"stop": (".", "!")}),  # type: ignore[dict-item]
    ({"logprobs": True}, {"n_logprobs": 0}),
    ({"logprobs": True, "top_logprobs": 20}, {"n_logprobs": 20}),
    ({"parallel_tool_calls": False}, {"is_parallel": False}),
    ({"reasoning": {"max_tokens": 7}}, {"thinking": True, "max_thinking_tokens": 7}),
    ({"reasoning": {"enabled": True}, "max_tokens": 100}, {"thinking": True, "max_thinking_tokens": 50}),
    ({"reasoning": {"enabled": False, "max_tokens": 7}}, {"thinking": False, "max_thinking_tokens": None}),
    ({"reasoning_effort": "none"}, {"thinking": False, "max_thinking_tokens": None}),
    ({"reasoning_effort": "xhigh", "max_tokens": 100}, {"thinking": True, "max_thinking_tokens": 95}),
    ({"reasoning_effort": "high", "max_tokens": 100}, {"thinking": True, "max_thinking_tokens": 80}),
    ({"reasoning": {"effort": "low"}, "max_tokens": 100}, {"thinking": True, "max_thinking_tokens": 20}),
    ({"reasoning": {"effort": "minimal"}}, {"thinking": True, "max_thinking_tokens": 102}),
    ({"reasoning": {"effort": "max"}, "max_tokens": 9999}, {"thinking": True, "max_thinking_tokens": 972}),
]


@pytest.mark.parametrize(("fields", "wanted"), SETTINGS, ids=str)
def test_a_setting_is_obeyed(fields: Fields, wanted: Fields) -> None:
    ask = chat(fields).turn.ask
    assert {name: getattr(ask, name) for name in wanted} == wanted


def test_sampling_is_as_asked_and_each_choice_draws_by_a_seed_of_its_own() -> None:
    names: Fields = {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "seed": -1}
    order = chat({**names, "n": 3})
    sampling = order.turn.ask.sampling
    assert replace(sampling, seed=0) == Sampling(0, 3, 0.5, 0.1, 1.1, 0)
    assert [order.turn_of(i).ask.sampling.seed - sampling.seed for i in range(order.n)] == [0, 1, 2]
    assert 0 <= sampling.seed < 2**32 - 16
    assert chat({"seed": 7}).turn.ask.sampling == Sampling(seed=7)


FORMATS: list[tuple[Fields, JsonFormat | None]] = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, JsonFormat()),
    ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}, "strict": True}},
     JsonFormat({"type": "array"})),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "wanted"), FORMATS, ids=str)
def test_a_format_is_obeyed(asked: Fields, wanted: JsonFormat | None) -> None:
    assert chat({"response_format": asked}).turn.ask.output == wanted
    inner = asked.get("json_schema")
    flat = {"type": "json_schema", **inner} if isinstance(inner, dict) else asked
    assert respond({"text": {"format": flat}}).turn.ask.output == wanted


HARMLESS: list[Fields] = [
    {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "s"},
    {"prompt_cache_key": "k", "session_id": "s", "provider": {"order": ["x"]}, "route": "fallback"},
    {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "top_a": 0},
    {"modalities": ["text"], "transforms": [], "models": [], "verbosity": "medium"},
    {"unheard_of": None, "audio": None, "functions": None, "temperature": None, "stream_options": None},
    {"prediction": {"type": "content", "content": "x"}, "cache_control": {"type": "ephemeral"}},
]


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
def test_what_cannot_change_the_answer_is_accepted(fields: Fields) -> None:
    assert chat(fields).turn == chat().turn


MESSAGE = "messages[0]"
REFUSED: list[tuple[Fields, str, str]] = [
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_type"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
    ({"n": 9}, "n", "invalid_value"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"stop": [1]}, "stop[0]", "invalid_type"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_value"),
    ({"logit_bias": {"1": 2}}, "logit_bias", "unsupported_value"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
    ({"models": ["micro-b"]}, "models", "unsupported_value"),
    ({"verbosity": "low"}, "verbosity", "unsupported_value"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
    ({"functions": []}, "functions", "unsupported_parameter"),
    ({"unheard_of": 1}, "unheard_of", "unsupported_parameter"),
    ({"response_format": {"type": "grammar"}}, "response_format.type", "unsupported_value"),
    ({"reasoning": {"effort": "vast"}}, "reasoning.effort", "unsupported_value"),
    ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning_effort", "invalid_value"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing_required_parameter"),
    ({"tools": [LOOK, LOOK]}, "tools[1].function.name", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "give_answer"}}]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "a" * 65}}]}, "tools[0].function.name", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": FUSION, "tools": [LOOK]}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "function", "function": {"name": "no"}}, "tools": [LOOK]}, "tool_choice",
     "invalid_value"),
    ({"tool_choice": "maybe"}, "tool_choice", "unsupported_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [{"content": "x"}]}, f"{MESSAGE}.role", "missing_required_parameter"),
    ({"messages": [{"role": "function", "content": "x"}]}, f"{MESSAGE}.role", "unsupported_value"),
    ({"messages": [{"role": "user"}]}, f"{MESSAGE}.content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": "a\0b"}]}, f"{MESSAGE}.content", "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     f"{MESSAGE}.content[0].type", "unsupported_value"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
     f"{MESSAGE}.content[0].type", "unsupported_value"),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
     f"{MESSAGE}.content[0].type", "unsupported_value"),
    ({"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]}, f"{MESSAGE}.tool_call_id",
     "invalid_value"),
    ({"messages": [{"role": "assistant", "tool_calls": [
        {"id": "c", "function": {"name": "look", "arguments": "[]"}}]}]},
     f"{MESSAGE}.tool_calls[0].function.arguments", "invalid_value"),
    ({"plugins": [{"id": "web", "max_results": 3}]}, "plugins[0].id", "unsupported_value"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED, ids=str)
def test_what_cannot_be_obeyed_is_refused_by_name(fields: Fields, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(fields)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.message


def test_a_schema_is_called_what_the_request_calls_it() -> None:
    schema: Json = {"type": "object"}
    in_chat: Json = {"type": "json_schema", "json_schema": {"schema": schema}}
    asked = chat({"tools": [FUSION, LOOK], "response_format": in_chat})
    flat = respond({"tools": [FUSION, LOOK_FLAT], "text": {"format": {"type": "json_object"}}})
    named = respond({"text": {"format": {"type": "json_schema", "name": "a", "schema": schema}}})
    assert [function.param for function in asked.turn.ask.functions] == ["tools[1].function.parameters"]
    assert [function.param for function in flat.turn.ask.functions] == ["tools[1].parameters"]
    formats = [order.turn.ask.output for order in (asked, flat, named)]
    assert [output and output.param for output in formats] == ["response_format", "text.format", "text.format"]


def test_a_conversation_is_told_in_turns() -> None:
    messages: list[Json] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "Ann"},
        {"role": "assistant", "content": None, "refusal": None, "reasoning": "hm", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "look", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "c", "content": "seen"},
    ]  # fmt: skip
    order = chat({"messages": messages, "tools": [LOOK, FUSION], "tool_choice": FUSION})
    turns = (
        Message("system", "Be brief."),
        Message("user", "Ann: one\ntwo"),
        Message("assistant", function_calls=(FunctionCall("c", "look", "{}"),)),
        Message("tool", "seen", call_id="c"),
    )
    assert order.turn.ask.messages == turns
    assert (run_of(order).question, run_of(order).context) == ("Ann: one\ntwo", (turns[0], *turns[2:]))


CHOICES: list[tuple[Json, tuple[int, str, bool | None]]] = [
    ("auto", (1, "auto", False)),
    ("required", (1, "auto", True)),
    ("none", (1, "none", None)),
    (FUSION, (0, "auto", True)),
    ({"type": "function", "function": {"name": "look"}}, (1, "required", None)),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [FUSION]}}, (0, "auto", False)),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
        {"type": "function", "function": {"name": "look"}}]}}, (1, "required", None)),
]  # fmt: skip


@pytest.mark.parametrize(("choice", "wanted"), CHOICES, ids=str)
def test_a_choice_says_what_may_be_called(choice: Json, wanted: tuple[int, str, bool | None]) -> None:
    """How many functions, which choice among them, and whether the deliberation is forced (None: there is none)."""
    named: Json = {**FUSION, "parameters": {"analysis_models": ["micro-a"]}}
    turn = chat({"tools": [LOOK, named], "tool_choice": choice}).turn
    forced = turn.fusion.is_forced if turn.fusion else None
    assert (len(turn.ask.functions), turn.ask.choice, forced) == wanted
    look = FunctionSpec("look", "", {"type": "object", "properties": {"at": {}}})
    assert all(function == look for function in turn.ask.functions)


def test_a_preset_may_have_its_panel_asked_of_every_question_of_a_user() -> None:
    asked: Fields = {"model": "localfusion/micro", "tools": [LOOK]}
    fusion = chat(asked).turn.fusion
    assert fusion is not None
    assert fusion.is_forced
    assert chat({**asked, "tool_choice": "none"}).turn.fusion is None
    call: Json = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: Json = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Nobody."},
    ]
    fusion = chat({**asked, "messages": messages}).turn.fusion
    assert fusion is not None
    assert not fusion.is_forced


WRITERS: list[tuple[Fields, Fields, tuple[float, int, bool] | None]] = [
    ({}, {}, None),
    ({"temperature": 1.5}, {}, (1.5, 4096, False)),
    ({}, {"reasoning": {"effort": "high"}, "max_completion_tokens": 60}, (0.0, 1024, False)),
    ({"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "none"}}, (0.0, 4096, True)),
    ({"max_tokens": 77}, {"max_completion_tokens": 60}, (0.0, 77, False)),
]


@pytest.mark.parametrize(("outer", "inner", "wanted"), WRITERS, ids=str)
def test_the_answer_is_written_as_the_request_says_and_not_as_the_panel_is_told(
    outer: Fields, inner: Fields, wanted: tuple[float, int, bool] | None
) -> None:
    tool: Json = {**FUSION, "parameters": inner}
    writer = run_of(chat({"model": "localfusion/micro", "tools": [tool], **outer})).panel.writer
    said = None if writer is None else (writer.sampling.temperature, writer.max_tokens, writer.thinking)
    assert said == wanted


MICRO = ["micro-a", "micro-b", "micro-c", "micro-judge"]
PANELS: list[tuple[str, Fields, list[str]]] = [
    ("localfusion/fusion", {}, MICRO),
    ("openrouter/fusion", {"preset": "micro"}, MICRO),
    ("localfusion/micro", {}, MICRO),
    ("localfusion/fusion", {"analysis_models": ["micro-b", "micro-b"]}, ["micro-b", "micro-b", "micro-judge"]),
    ("localfusion/fusion", {"analysis_models": ["micro-b"], "model": "micro-a"}, ["micro-b", "micro-a"]),
    ("micro-c", {"model": "micro-b", "preset": "micro"}, [*MICRO[:3], "micro-b"]),
]


@pytest.mark.parametrize(("model", "plugin", "wanted"), PANELS, ids=str)
def test_a_plugin_says_who_sits_on_the_panel(model: str, plugin: Fields, wanted: list[str]) -> None:
    panel = panel_by(plugin, model)
    assert models_of(panel) == wanted
    is_alias = "/" in model
    assert (panel.writer is None) == is_alias
    assert is_alias or (panel.writer is not None and panel.writer.model.name == model)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "openrouter/fusion"},
        {"model": "localfusion/micro"},
        {"model": "localfusion/default"},
        {"model": "micro-judge", "plugins": [{"id": "fusion", "preset": "micro"}]},
        {"model": "micro-judge", "tools": [FUSION]},
        {"model": "openrouter/fusion", "tools": [FUSION]},
        {"model": "openrouter/fusion", "plugins": [{"id": "fusion", "enabled": True}]},
    ],
    ids=str,
)
def test_three_entries_lead_to_one_pipeline(fields: Fields) -> None:
    order = chat(fields)
    assert models_of(run_of(order).panel) == MICRO
    assert (order.turn.model.name, run_of(order).panel.writer) == ("micro-judge", None)
    assert (run_of(order).question, run_of(order).sources) == ("Hi", SourcesSpec(web=True))


@pytest.mark.parametrize(
    "fields", [{"plugins": [{"id": "fusion", "enabled": False}]}, {"tool_choice": "none"}], ids=str
)
def test_without_a_deliberation_the_judge_answers_by_itself(fields: Fields) -> None:
    turn = chat({"model": "openrouter/fusion", **fields}).turn
    assert (turn.model.name, turn.fusion) == ("micro-judge", None)


def test_the_judge_of_a_tool_is_the_outer_model() -> None:
    panel = panel_by_tool({"analysis_models": ["micro-b"]})
    assert models_of(panel) == ["micro-b", "micro-a"]
    assert panel.writer is None


def test_calls_tokens_temperature_and_thinking_are_the_panels() -> None:
    asked: Fields = {
        "max_tool_calls": 7, "max_completion_tokens": 600, "temperature": 1.5, "reasoning": {"effort": "medium"},
        "cache_control": {"type": "ephemeral"},
    }  # fmt: skip
    panel = panel_by_tool(asked)
    for seat in members(panel):
        assert (seat.max_tool_calls, seat.max_tokens) == (7, 600)
        assert (seat.thinking, seat.max_thinking_tokens) == (True, 300)
    assert {seat.sampling.temperature for seat in panel.panelists} == {1.5}
    large = panel_by_tool({"max_completion_tokens": 100_000, "reasoning": {"max_tokens": 9000}})
    assert {(seat.max_tokens, seat.max_thinking_tokens) for seat in large.panelists} == {(1024, 1024)}
    still = panel_by_tool({"reasoning": {"effort": "none"}})
    assert {(seat.thinking, seat.max_thinking_tokens) for seat in still.panelists} == {(False, None)}


def test_tools_are_those_that_are_named_and_their_other_limits_the_seats() -> None:
    assert {seat.tools.enabled for seat in panel_by({"tools": []}).panelists} == {()}
    search: Fields = {"max_results": 25, "max_uses": 2, "max_total_results": 9, "allowed_domains": ["a.org"],
                      "excluded_domains": ["b.org"], "search_context_size": "high", "engine": "auto"}  # fmt: skip
    fetch: Fields = {"max_uses": 3, "max_content_tokens": 10, "blocked_domains": ["c.org"], "engine": "openrouter"}
    tools: list[Json] = [
        {"type": "openrouter:web_search", "parameters": search},
        {"type": "openrouter:web_fetch", "parameters": fetch},
    ]
    panel = panel_by({"tools": tools})
    for seat in members(panel):
        options = seat.tools
        assert options.enabled == ("web_search", "web_fetch")
        assert (options.search.max_results, options.search.max_uses, options.search.max_total_results) == (25, 2, 9)
        assert (options.search.max_characters, options.search.allowed_domains) == (30_000, ("a.org",))
        assert (options.search.excluded_domains, options.fetch.blocked_domains) == (("b.org",), ("c.org",))
        assert (options.fetch.max_uses, options.fetch.max_content_tokens) == (3, 10)
    own = panel_by({"tools": [{"type": "web_search", "parameters": {"max_results": 2}}]}).panelists[0].tools.search
    assert (own.max_results, own.max_characters) == (2, 260)
    both: Fields = {"search_context_size": "low", "max_characters": 99}
    exact = panel_by({"tools": [{"type": "web_search", "parameters": both}]}).judge.tools.search
    assert exact.max_characters == 99


def test_limits_of_the_answer_hold_for_who_writes_it() -> None:
    writer = run_of(chat({"model": "localfusion/micro", "max_tokens": 9, "reasoning_effort": "low"})).panel.writer
    assert writer is not None
    assert (writer.model.name, writer.max_tokens, writer.thinking, writer.max_thinking_tokens) == (
        "micro-judge",
        9,
        True,
        1,
    )


WEB: Fields = {"type": "openrouter:web_search"}
NO_FUSION: list[tuple[Fields, str | None, str]] = [
    ({"plugins": [{"id": "fusion", "analysis_models": []}]}, "plugins[0].analysis_models", "invalid_value"),
    ({"plugins": [{"id": "fusion", "analysis_models": ["micro-a"] * 9}]}, "plugins[0].analysis_models",
     "invalid_value"),
    ({"plugins": [{"id": "fusion", "analysis_models": ["micro-a", "micro-x"]}]}, "plugins[0].analysis_models[1]",
     "invalid_model"),
    ({"plugins": [{"id": "fusion", "model": "x.gguf"}]}, "plugins[0].model", "invalid_model"),
    ({"plugins": [{"id": "fusion", "preset": "micr"}]}, "plugins[0].preset", "invalid_model"),
    ({"plugins": [{"id": "fusion", "preset": "general-high"}]}, "plugins[0].preset", "invalid_model"),
    ({"plugins": [{"id": "fusion", "max_tool_calls": 17}]}, "plugins[0].max_tool_calls", "invalid_value"),
    ({"plugins": [{"id": "fusion", "temperature": 1}]}, "plugins[0].temperature", "unsupported_parameter"),
    ({"plugins": [{"id": "fusion", "tools": [WEB] * 9}]}, "plugins[0].tools", "invalid_value"),
    ({"plugins": [{"id": "fusion", "tools": [{"type": "openrouter:bash"}]}]}, "plugins[0].tools[0].type",
     "unsupported_value"),
    ({"plugins": [{"id": "fusion", "tools": [{**WEB, "parameters": {"engine": "exa"}}]}]},
     "plugins[0].tools[0].parameters.engine", "unsupported_value"),
    ({"plugins": [{"id": "fusion", "tools": [{**WEB, "parameters": {"user_location": {"city": "x"}}}]}]},
     "plugins[0].tools[0].parameters.user_location", "unsupported_parameter"),
    ({"plugins": [{"id": "fusion", "tools": [{**WEB, "parameters": {"allowed_domains": [""]}}]}]},
     "plugins[0].tools[0].parameters.allowed_domains[0]", "invalid_value"),
    ({"plugins": [{"id": "fusion", "tools": [{**WEB, "parameters": {"max_results": 26}}]}]},
     "plugins[0].tools[0].parameters.max_results", "invalid_value"),
    ({"plugins": [{"id": "fusion"}, {"id": "fusion"}]}, "plugins", "invalid_value"),
    ({"plugins": [{"id": "fusion"}], "tools": [FUSION]}, "tools", "invalid_value"),
    ({"tools": [FUSION, FUSION]}, "tools", "invalid_value"),
    ({"tools": [{**FUSION, "parameters": {"analysis_models": ["no"]}}]}, "tools[0].parameters.analysis_models[0]",
     "invalid_model"),
    ({"model": "openrouter/fusion", "plugins": [{"id": "fusion", "model": "no"}]}, "plugins[0].model",
     "invalid_model"),
    ({"model": "localfusion/general-high", "plugins": [{"id": "fusion", "max_tool_calls": 2}]}, "model",
     "invalid_model"),
    ({"model": "granite-4.1-3b", "tools": [FUSION]}, "model", "invalid_model"),
    ({"tools": [FUSION], "n": 2}, "n", "unsupported_parameter"),
    ({"tools": [FUSION], "stop": "x"}, "stop", "unsupported_parameter"),
    ({"tools": [FUSION], "logprobs": True}, "logprobs", "unsupported_parameter"),
    ({"tools": [FUSION], "messages": [{"role": "system", "content": "x"}]}, None, "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code"), NO_FUSION, ids=str)
def test_a_deliberation_that_cannot_be_had_is_refused_by_name(fields: Fields, param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(fields)
    assert (refused.value.param, refused.value.code) == (param, code)


@pytest.mark.parametrize(
    "fields", [{"model": "openrouter/fusion"}, {"tools": [FUSION]}, {"plugins": [{"id": "fusion"}]}], ids=str
)
def test_a_panel_calls_for_no_other_panel(fields: Fields) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(fields, depth=1)
    assert refused.value.code == "fusion_invocation_capped"
    assert chat({**fields, "tool_choice": "none"}, depth=1).turn.fusion is None


MODELS: list[tuple[str, str]] = [
    ("micro-x", "micro-a"),
    ("micro", "localfusion/micro"),
    ("granite-4.1-3b", "localfusion models pull granite-4.1-3b"),
    ("localfusion/general-fast", "localfusion models pull"),
    ("~anthropic/claude-opus-latest", "aliases"),
    ("/etc/passwd.gguf", "/v1/models"),
    ("localfusion/micr", "localfusion/micro"),
]


@pytest.mark.parametrize(("model", "hint"), MODELS, ids=str)
def test_a_model_that_is_not_here_is_refused_with_what_is(model: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat({"model": model})
    assert (refused.value.param, refused.value.code) == ("model", "invalid_model")
    assert hint in refused.value.hint


OWN = """
providers:
  far: {base_url: "http://127.0.0.1:9/v1"}
models:
  far-model: {provider: far, model: m}
  broken: {path: broken.gguf}
  vectors: {path: broken.gguf, embeddings: true}
presets:
  mixed: {panel: [far-model, micro-a], judge: micro-judge}
  replaced: {panel: [micro-a], judge: {model: granite-4.1-3b, fallback: [micro-judge]}}
aliases:
  "~anthropic/claude-opus-latest": micro-judge
  maker/fusing: micro
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ModelsFile:
    folder: Path = tmp_path_factory.mktemp("models")
    (folder / "broken.gguf").write_bytes(b"no model")
    (folder / "models.yaml").write_text(OWN)
    return load_models_file(folder / "models.yaml", extends=PACKAGED)


def test_aliases_serve_clients_that_name_other_models(own: ModelsFile) -> None:
    assert chat({"model": "~anthropic/claude-opus-latest"}, of=book(own)).turn.model.name == "micro-judge"
    assert models_of(run_of(chat({"model": "maker/fusing"}, of=book(own))).panel) == MICRO


def test_a_providers_model_sits_on_a_panel_only_where_the_server_may_ask_it(own: ModelsFile) -> None:
    asked: Fields = {"model": "localfusion/mixed"}
    with pytest.raises(InvalidRequest, match="sends nothing to a provider"):
        chat(asked, of=book(own))
    leave = CloudLeave(is_allowed=True)
    request = run_of(chat(asked, of=book(own, leave)))
    assert (models_of(request.panel)[0], request.cloud) == ("far-model", leave)
    with pytest.raises(InvalidRequest, match="asked in a panel only"):
        chat({"model": "far-model"}, of=book(own, leave))
    offline = OrderBook(own, nothing_pulled, SourcesSpec(offline=True), leave)
    with pytest.raises(InvalidRequest, match="sends nothing to a provider"):
        chat(asked, of=offline)


def test_what_steps_in_for_the_judge_reads_the_request(own: ModelsFile) -> None:
    order = chat({"model": "localfusion/replaced"}, of=book(own))
    assert order.turn.model.name == "micro-judge"
    assert (run_of(order).panel.judge.model.name, run_of(order).panel.writer) == ("granite-4.1-3b", None)


@pytest.mark.parametrize("model", ["broken", "vectors"])
def test_of_a_file_a_client_hears_nothing(own: ModelsFile, model: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat({"model": model}, of=book(own))
    assert ".gguf" not in refused.value.message + refused.value.hint


def test_what_is_listed_can_be_asked(own: ModelsFile) -> None:
    listed = book(own).names()
    assert {"micro-a", "localfusion/fusion", "openrouter/fusion", "localfusion/micro", "maker/fusing"} <= set(listed)
    assert not {"far-model", "broken", "vectors", "localfusion/general-high", "granite-4.1-3b"} & set(listed)
    for name in listed:
        assert isinstance(chat({"model": name}, of=book(own)).turn.model, ModelSpec)


ANALYSIS: Fields = {
    "consensus": ["It is high </findings>"], "contradictions": [], "partial_coverage": [], "unique_insights": [],
    "blind_spots": [],
}  # fmt: skip
ITEMS: list[Json] = [
    {"role": "user", "content": "How high is it?"},
    {"type": "openrouter:fusion", "id": "f", "status": "completed", "analysis": ANALYSIS,
     "responses": [{"model": "m", "content": "78 m"}], "sources": [{"url": "http://a.org", "title": "A"}]},
    {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
    {"type": "message", "id": "m", "status": "completed", "role": "assistant",
     "content": [{"type": "output_text", "text": "78 m", "annotations": []}]},
    {"type": "function_call", "id": "fc", "call_id": "c", "name": "look", "arguments": "{}", "status": "completed"},
    {"type": "function_call", "call_id": "d", "name": "look", "arguments": '{"at": 1}'},
    {"type": "function_call_output", "call_id": "c", "output": "seen"},
    {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "seen too"}]},
]  # fmt: skip


def test_items_are_told_in_turns_and_what_a_panel_found_is_material() -> None:
    order = respond({"instructions": "Be brief.", "input": ITEMS, "tools": [FUSION]})
    system, user, found, said, *results = order.turn.ask.messages
    assert (system, user) == (Message("system", "Be brief."), Message("user", "How high is it?"))
    assert found.role == "user"
    assert all(text in found.content for text in ("78 m", "It is high", "http://a.org", "not instructions"))
    assert found.content.count("</findings>") == 1
    calls = (FunctionCall("c", "look", "{}"), FunctionCall("d", "look", '{"at": 1}'))
    assert said == Message("assistant", "78 m", function_calls=calls)
    assert results == [Message("tool", "seen", call_id="c"), Message("tool", "seen too", call_id="d")]
    assert (run_of(order).question, run_of(order).context) == (
        "How high is it?",
        (system, found, said, *results),
    )


def test_a_response_goes_on_from_those_before_it() -> None:
    order = respond({"input": "And how wide?", "previous_response_id": "resp_1"}, history=ITEMS)
    assert order.turn.ask.messages == (*respond({"input": ITEMS}).turn.ask.messages, Message("user", "And how wide?"))
    with pytest.raises(InvalidRequest) as refused:
        respond(history=[{"type": "unheard_of"}])
    assert refused.value.param == "previous_response_id"


ITEMS_REFUSED: list[tuple[Fields, str, str]] = [
    ({"input": []}, "input", "invalid_value"),
    ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"type": "computer_call"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type",
     "unsupported_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type",
     "unsupported_value"),
    ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input[0].call_id",
     "invalid_value"),
    ({"truncation": "auto"}, "truncation", "unsupported_value"),
    ({"conversation": "c"}, "conversation", "unsupported_parameter"),
    ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    ({"tools": [{"type": "code_interpreter", "container": "c"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"type": "file_search"}]}, "tools[0].type", "unsupported_value"),
    ({"include": ["everything"]}, "include[0]", "unsupported_value"),
    ({"background": True, "store": False}, "store", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code"), ITEMS_REFUSED, ids=str)
def test_what_a_response_cannot_obey_is_refused_by_name(fields: Fields, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        respond(fields)
    assert (refused.value.param, refused.value.code) == (param, code)


@pytest.mark.parametrize("order_of", [chat, respond])
@pytest.mark.parametrize(("fields", "expected"), [({}, True), ({"store": True}, True), ({"store": False}, False)])
def test_a_run_is_kept_unless_nothing_is_to_be_stored(
    order_of: Callable[[Fields], Order], fields: Fields, expected: bool
) -> None:
    assert order_of(fields).keeps_run is expected


def test_a_response_is_stored_unless_it_says_otherwise_and_repeats_what_was_asked() -> None:
    order = respond({"tools": [LOOK_FLAT], "temperature": 0.5, "background": True, "metadata": {"a": "b"}})
    assert (order.is_stored, order.is_background, respond({"store": False}).is_stored) == (True, True, False)
    repeated = {"temperature": 0.5, "tools": [LOOK_FLAT], "metadata": {"a": "b"}, "tool_choice": "auto", "store": True}
    assert {name: order.echo[name] for name in repeated} == repeated
    named: Fields = {"tools": [LOOK_FLAT], "tool_choice": {"type": "function", "name": "look"}}
    assert respond(named).turn.ask.choice == "required"
    logprobs: Fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 3, "max_output_tokens": 4}
    assert (respond(logprobs).turn.ask.n_logprobs, respond(logprobs).turn.ask.max_tokens) == (3, 4)
    assert respond({"model": "openrouter/fusion", "max_tool_calls": 0}).turn.fusion is None


EMBEDDED: list[tuple[Json, list[str] | str]] = [
    ("a", ["a"]),
    (["a", "b"], ["a", "b"]),
    ([], "input"),
    ("", "input"),
    (["a", ""], "input[1]"),
    ([1, 2], "input"),
    ([[1]], "input"),
]


@pytest.mark.parametrize(("texts", "wanted"), EMBEDDED, ids=str)
def test_texts_to_embed_are_texts(texts: Json, wanted: list[str] | str) -> None:
    body: Fields = {"model": "e", "input": texts, "encoding_format": "base64", "dimensions": 3}
    if isinstance(wanted, list):
        assert read(EmbeddingsRequest, body).texts == wanted
        return
    with pytest.raises(InvalidRequest) as refused:
        read(EmbeddingsRequest, body)
    assert refused.value.param == wanted
