"""Bodies as the official clients of OpenAI and OpenRouter build them, from their own classes, are understood."""

import json
from dataclasses import replace

import pytest
from openai import pydantic_function_tool
from openai.lib._parsing import type_to_response_format_param
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from openrouter import components
from openrouter.utils.serializers import marshal_json
from pydantic import BaseModel

from localfusion.catalog import nothing_pulled
from localfusion.config import load_models_file
from localfusion.config.surroundings import packaged_models_file
from localfusion.messages import CloudLeave, FunctionCall, Json, Message, SourcesSpec
from localfusion.server.orders import Order, OrderBook
from localfusion.wire.asked import read
from localfusion.wire.chat import ChatRequest
from localfusion.wire.responses import ResponsesRequest

PACKAGED = load_models_file(packaged_models_file())
MODELS = replace(PACKAGED, presets={**PACKAGED.presets, "general-fast": PACKAGED.presets["micro"]})
BOOK = OrderBook(MODELS, nothing_pulled, SourcesSpec(), CloudLeave())


class Place(BaseModel):
    """A class of a client's, as a schema and as a function."""

    name: str
    height: int | None


def chat(body: object) -> Order:
    return BOOK.chat(read(ChatRequest, json.loads(json.dumps(body))))


def responses(body: object, history: list[Json] | None = None) -> Order:
    return BOOK.responses(read(ResponsesRequest, json.loads(json.dumps(body))), history=history or [])


def sent(body: components.ChatRequest | components.ResponsesRequest) -> object:
    """What OpenRouter's client puts on the wire."""
    parsed: object = json.loads(marshal_json(body, type(body)))  # type: ignore[no-untyped-call]
    return parsed


def parameters() -> components.FusionServerToolConfig:
    return components.FusionServerToolConfig(
        analysis_models=["micro-a", "micro-a"],
        model="micro-judge",
        max_tool_calls=3,
        max_completion_tokens=500,
        temperature=0.3,
        reasoning=components.FusionServerToolConfigReasoning(effort="low", max_tokens=50),
        cache_control=components.AnthropicCacheControlDirective(type="ephemeral"),
        tools=[components.FusionServerToolConfigTool(type="openrouter:web_search", parameters={"max_results": 2})],
    )


def test_openais_chat_with_a_class_as_schema_and_as_function() -> None:
    body: CompletionCreateParamsNonStreaming = {
        "model": "micro-a",
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "response_format": type_to_response_format_param(Place),  # type: ignore[typeddict-item]
        "tools": [pydantic_function_tool(Place)],
        "tool_choice": {"type": "function", "function": {"name": "Place"}},
        "parallel_tool_calls": False,
        "stream": False,
        "store": False,
        "metadata": {"a": "b"},
        "user": "u",
        "logit_bias": None,
    }
    ask = chat(body).turn.ask
    assert ask.output is not None
    assert isinstance(ask.output.schema, dict)
    assert ask.output.schema["required"] == ["name", "height"]
    assert ([function.name for function in ask.functions], ask.choice) == (["Place"], "required")


def test_a_reply_of_openais_class_comes_back_in_the_next_turn() -> None:
    reply = ChatCompletionMessage.model_validate(
        {
            "role": "assistant",
            "content": None,
            "annotations": [],
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "Place", "arguments": '{"name": "a"}'}}
            ],
        }
    )
    tool = {"role": "tool", "tool_call_id": "c", "content": "seen"}
    messages = [{"role": "user", "content": "Hi"}, reply.model_dump(), tool]
    turns = chat({"model": "micro-a", "messages": messages}).turn.ask.messages
    assert turns[1] == Message("assistant", function_calls=(FunctionCall("c", "Place", '{"name": "a"}'),))


def test_openais_response_and_its_items_come_back() -> None:
    body: ResponseCreateParamsNonStreaming = {
        "model": "micro-a",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}],
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "truncation": "disabled",
        "background": True,
    }
    order = responses(body)
    assert (order.is_background, order.turn.ask.thinking) == (True, True)
    content = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    reply = Response.model_validate(
        {
            "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "parallel_tool_calls": True,
            "tool_choice": "auto", "tools": [],
            "output": [
                {"type": "reasoning", "id": "r", "summary": []},
                {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [content]},
                {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            ],
        }
    )  # fmt: skip
    items = [item.model_dump() for item in reply.output]
    after = [{"type": "function_call_output", "call_id": "c", "output": "seen"}]
    wanted = (
        Message("assistant", "Hello", function_calls=(FunctionCall("c", "look", "{}"),)),
        Message("tool", "seen", call_id="c"),
    )
    for order in (
        responses({"model": "micro-a", "input": [*items, *after]}),
        responses({"model": "micro-a", "input": after}, history=json.loads(json.dumps(items))),
    ):
        assert order.turn.ask.messages == wanted


@pytest.mark.parametrize("entry", ["plugin", "tool"])
def test_openrouters_chat(entry: str) -> None:
    body = components.ChatRequest(
        model="openrouter/fusion",
        messages=[
            components.ChatSystemMessage(role="system", content="Be brief."),
            components.ChatUserMessage(role="user", content="Hi"),
        ],
        plugins=[components.FusionPlugin(id="fusion", preset="general-fast", max_tool_calls=3)]
        if entry == "plugin"
        else None,
        tools=[components.FusionServerToolOpenRouter(type="openrouter:fusion", parameters=parameters())]
        if entry == "tool"
        else None,
        tool_choice=components.ChatServerToolChoice(type="openrouter:fusion"),
        stream=True,
        stream_options=components.ChatStreamOptions(include_usage=True),
    )
    order = chat(sent(body))
    assert order.turn.fusion is not None
    panel = order.turn.fusion.request.panel
    assert (order.turn.fusion.is_forced, order.is_streamed, order.includes_usage) == (True, True, True)
    assert {seat.max_tool_calls for seat in panel.panelists} == {3}
    assert len(panel.panelists) == (3 if entry == "plugin" else 2)


def test_openrouters_response_with_the_fusion_item_of_an_earlier_turn() -> None:
    item = components.OutputFusionServerToolItem(
        type="openrouter:fusion",
        id="f",
        status="completed",
        responses=[components.OutputFusionServerToolItemResponse(model="m", content="78 m")],
        analysis=components.FusionAnalysisResult(
            blind_spots=[], consensus=["It is high"], contradictions=[], partial_coverage=[], unique_insights=[]
        ),
        sources=[components.FusionSource(url="http://a.org", title="A")],
    )
    body = components.ResponsesRequest(
        model="micro-a",
        input=[
            components.EasyInputMessage(role="user", content="How high?"),
            item,
            components.EasyInputMessage(role="user", content="And how wide?"),
        ],
        tools=[components.FusionServerToolOpenRouter(type="openrouter:fusion", parameters=parameters())],
    )
    order = responses(sent(body))
    assert order.turn.fusion is not None
    request = order.turn.fusion.request
    assert (request.question, [turn.role for turn in request.context]) == ("And how wide?", ["user", "user"])
    assert "78 m" in request.context[1].content
    assert not order.is_stored
