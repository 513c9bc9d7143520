"""Whatever is sent: a body is an order or an InvalidRequest that says what is wrong, and never anything else."""

import json
from collections.abc import Callable
from typing import TypeVar, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from localfusion import codec
from localfusion.catalog import nothing_pulled
from localfusion.config import load_models_file
from localfusion.config.surroundings import packaged_models_file
from localfusion.errors import InvalidRequest
from localfusion.messages import CloudLeave, Json, SourcesSpec
from localfusion.server.orders import OrderBook
from localfusion.server.thinking import SHARES
from localfusion.wire.asked import read
from localfusion.wire.chat import ChatRequest
from localfusion.wire.embeddings import EmbeddingsRequest
from localfusion.wire.fusion import Effort
from localfusion.wire.responses import ResponsesRequest

T = TypeVar("T")

BOOK = OrderBook(load_models_file(packaged_models_file()), nothing_pulled, SourcesSpec(), CloudLeave())

PARAMETERS: Json = {
    "analysis_models": ["micro-a", "micro-a"], "model": "micro-b", "max_tool_calls": 2, "max_completion_tokens": 50,
    "tools": [{"type": "openrouter:web_search", "parameters": {"max_results": 3, "allowed_domains": ["a.org"]}},
              {"type": "web_fetch"}],
    "reasoning": {"effort": "low"}, "temperature": 1,
}  # fmt: skip
CHAT: dict[str, Json] = {
    "model": "micro-a", "temperature": 0.5, "seed": 3, "max_tokens": 9, "reasoning": {"effort": "high"},
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "seen"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},
              {"type": "openrouter:fusion", "parameters": PARAMETERS}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
        {"type": "function", "function": {"name": "look"}}]}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
}  # fmt: skip
RESPONSES: dict[str, Json] = {
    "model": "localfusion/fusion", "instructions": "Be brief.", "reasoning": {"max_tokens": 5}, "include": [],
    "input": [
        {"role": "user", "content": "Hi"},
        {"type": "openrouter:fusion", "id": "f", "status": "completed", "responses": [{"model": "m", "content": "x"}],
         "analysis": {"consensus": ["a"], "contradictions": [{"topic": "t", "stances": [
             {"model": "m", "stance": "s"}]}], "partial_coverage": [], "unique_insights": [], "blind_spots": []}},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "seen"},
    ],
    "plugins": [{"id": "fusion", "preset": "micro", "analysis_models": ["micro-c"], "tools": []}],
    "tools": [{"type": "function", "name": "look", "parameters": {}}], "tool_choice": "auto",
    "text": {"format": {"type": "text"}},
}  # fmt: skip

TEXT = st.text(max_size=6) | st.sampled_from(["auto", "text", "user", "micro-a", "function", "openrouter:fusion", "\0"])
ANY: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def mutated(value: Json, draw: st.DrawFn) -> Json:
    """The value with something else at one of its places, or with nothing there."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 4)) == 0:
        return draw(ANY)
    if isinstance(value, dict):
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: entry for name, entry in value.items() if name != key}
        return rest if draw(st.integers(0, 5)) == 0 else {**rest, key: mutated(value[key], draw)}
    at = draw(st.integers(0, len(value) - 1))
    return [*value[:at], mutated(value[at], draw), *value[at + 1 :]]


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Json, Json]:
    return mutated(CHAT, draw), mutated(RESPONSES, draw)


def come_to(make: Callable[[], T]) -> T | InvalidRequest:
    try:
        return make()
    except InvalidRequest as error:
        return error


def check(chat: Json, responses: Json) -> None:
    """Each is an order, all of which could be kept and told, or is refused in a sentence."""
    for order in (
        come_to(lambda: BOOK.chat(read(ChatRequest, chat))),
        come_to(lambda: BOOK.responses(read(ResponsesRequest, responses))),
    ):
        if isinstance(order, InvalidRequest):
            assert order.message.strip()
            assert order.code
        else:
            assert json.dumps(dict(order.echo), allow_nan=False)
            assert codec.to_text(order.turn.ask)


def test_what_is_mutated_is_an_order_as_it_stands() -> None:
    assert BOOK.chat(read(ChatRequest, CHAT)).turn.ask.choice == "required"
    assert BOOK.responses(read(ResponsesRequest, RESPONSES)).turn.fusion is not None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies())
def test_a_body_that_is_nearly_right(both: tuple[Json, Json]) -> None:
    check(*both)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["model", "messages", "input", "tools", "plugins"]) | TEXT, ANY, max_size=5))
def test_any_object(body: dict[str, Json]) -> None:
    check(body, body)
    texts = come_to(lambda: read(EmbeddingsRequest, body).texts)
    assert isinstance(texts, InvalidRequest) or all(texts)


def nested(depth: int) -> Json:
    value: Json = {}
    for _ in range(depth):
        value = {"items": value}
    return value


@pytest.mark.parametrize(
    "value", [nested(100), nested(400), nested(50_000), "\ud800", float("nan"), float("inf"), 10**400], ids=lambda _: ""
)
def test_what_json_cannot_say_or_nobody_can_read_is_refused(value: Json) -> None:
    tool: Json = {"type": "function", "function": {"name": "look", "parameters": {"properties": value}}}
    check({"model": "micro-a", "messages": [{"role": "user", "content": "x"}], "tools": [tool]}, value)


@pytest.mark.parametrize(("kind", "body"), [(ChatRequest, CHAT), (ResponsesRequest, RESPONSES)])
def test_the_schema_that_is_published_names_every_field(kind: type[BaseModel], body: dict[str, Json]) -> None:
    schema = kind.model_json_schema()
    assert set(body) <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_every_effort_has_its_share() -> None:
    assert set(SHARES) == set(get_args(Effort))
