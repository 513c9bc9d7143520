"""The official `openrouter` client, unmodified, against a server here: every way to have a panel deliberate."""

import json
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import pytest
from openrouter import OpenRouter, components, errors
from openrouter.utils.eventstreaming import EventStream
from pydantic import BaseModel

from tests.clients.command import lock, serving
from tests.clients.panels import DAMAGED, SEARCH, preset, write_models

pytestmark = pytest.mark.slow

OPUS = "~anthropic/claude-opus-latest"
JUDGE = "micro-judge"
QUESTION = "What is the height of Skerry?"
NEXT_QUESTION = "What is the colour of Skerry?"
PRESETS = {
    "general-fast": preset("micro-a"),
    "general-budget": preset("micro-a", "micro-a"),
    "general-high": preset("micro-b", DAMAGED),
}
FUSION_CHOICE = components.ChatServerToolChoice(type="openrouter:fusion")
FUSION = "response.fusion_call."
SECONDS_OF_SILENCE = 600

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is, and the key that it asks for."""

    url: str
    key: str

    def client(self, key: str = "") -> OpenRouter:
        """The client that does not try again: what it is answered is what is looked at."""
        return OpenRouter(api_key=key or self.key, server_url=f"{self.url}/api/v1", retry_config=None)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    home = tmp_path_factory.mktemp("home")
    models = write_models(home, PRESETS, {OPUS: JUDGE})
    (home / "config.yaml").write_text("server: {heartbeat_s: 0.05}\n")
    key = lock(home, laptop=None)["laptop"]
    with serving(home, "--models", str(models)) as url:
        yield Address(url, key)


@pytest.fixture(scope="module")
def client(address: Address) -> Iterator[OpenRouter]:
    with address.client() as client:
        yield client


def plugin(name: str) -> list[components.FusionPlugin]:
    return [components.FusionPlugin(id="fusion", preset=name)]


def tool(*panel: str, judge: str | None = None) -> components.FusionServerToolOpenRouter:
    """The server tool with a panel whose members search once."""
    parameters = components.FusionServerToolConfig(
        analysis_models=list(panel),
        model=judge,
        max_tool_calls=1,
        temperature=0,
        tools=[components.FusionServerToolConfigTool(type="openrouter:web_search", parameters={**SEARCH})],
    )
    return components.FusionServerToolOpenRouter(type="openrouter:fusion", parameters=parameters)


def user(text: str) -> components.EasyInputMessage:
    return components.EasyInputMessage(role="user", content=text)


def asked(text: str) -> list[components.ChatUserMessage]:
    return [components.ChatUserMessage(role="user", content=text)]


def next_turn(response: components.OpenResponsesResult, text: str) -> list[components.InputsUnion1]:
    """The input of a later turn: what was asked, the items of the response, and what is asked now.

    Of messages the client has two classes, one for what comes and one for what is sent back.
    """
    message = components.InputsMessage.model_validate(response.output[-1].model_dump())
    return [user(QUESTION), fusion_of(response), message, user(text)]


def of(kind: type[Kind], things: Iterable[object]) -> list[Kind]:
    return [thing for thing in things if isinstance(thing, kind)]


def fusion_of(response: components.OpenResponsesResult) -> components.OutputFusionServerToolItem:
    (item,) = of(components.OutputFusionServerToolItem, response.output)
    return item


def text_of(response: components.OpenResponsesResult) -> str:
    """What the message says that stands last."""
    message = response.output[-1]
    assert isinstance(message, components.OutputMessageItem)
    (part,) = of(components.ResponseOutputText, message.content)
    return part.text


# The alias


def test_the_alias_has_the_default_panel_answer(client: OpenRouter) -> None:
    reply = client.chat.send(model="openrouter/fusion", messages=asked(QUESTION))
    assert reply.model == JUDGE
    (choice,) = reply.choices
    assert choice.finish_reason == "stop"
    assert "Skerry" in str(choice.message.content)
    usage = reply.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.cost == 0
    assert isinstance(usage.cost_details, components.CostDetails)
    assert usage.cost_details.upstream_inference_prompt_cost == 0
    used = usage.server_tool_use_details
    assert isinstance(used, components.ServerToolUseDetails)
    assert (used.tool_calls_requested, used.tool_calls_executed, used.web_search_requests) == (3, 3, 3)


# Responses as a stream: a preset whose panel is one model twice


@pytest.fixture(scope="module")
def told(client: OpenRouter) -> list[components.StreamEvents]:
    with client.beta.responses.send(
        model="openrouter/fusion",
        input=QUESTION,
        plugins=plugin("general-budget"),
        tool_choice="required",
        stream=True,
    ) as events:
        return list(events)


@pytest.fixture(scope="module")
def response(told: list[components.StreamEvents]) -> components.OpenResponsesResult:
    last = told[-1]
    assert isinstance(last, components.StreamEventsResponseCompleted)
    return last.response


def test_every_event_has_a_class_of_its_own(told: list[components.StreamEvents]) -> None:
    assert of(components.UnknownStreamEvents, told) == []
    kinds = {type(event) for event in told if str(event.type).startswith(FUSION)}
    assert kinds == {
        components.FusionCallInProgressEvent,
        components.FusionCallPanelAddedEvent,
        components.FusionCallPanelDeltaEvent,
        components.FusionCallPanelCompletedEvent,
        components.FusionCallAnalysisInProgressEvent,
        components.FusionCallAnalysisCompletedEvent,
        components.FusionCallCompletedEvent,
    }


def fields_of(events: Iterable[BaseModel], *names: str) -> list[tuple[object, ...]]:
    """Fields that most of the client's classes have, and their union does not."""
    return [tuple(getattr(event, name) for name in names) for event in events]


def are_numbered(events: Iterable[BaseModel]) -> bool:
    return all(number == at for at, (number,) in enumerate(fields_of(events, "sequence_number")))


def test_events_are_numbered_without_gaps(told: list[components.StreamEvents]) -> None:
    assert are_numbered(told)


def test_events_come_in_the_order_of_the_protocol(told: list[components.StreamEvents]) -> None:
    types = [str(event.type) for event in told]
    shape = " ".join(kind for kind, after in pairwise([*types, ""]) if kind != after)
    panel = r"(?:response\.fusion_call\.panel\.(?:added|delta|completed) )+"
    assert re.fullmatch(
        r"response\.created response\.in_progress response\.output_item\.added response\.fusion_call\.in_progress "
        + panel
        + r"response\.fusion_call\.analysis\.in_progress response\.fusion_call\.analysis\.completed"
        r" response\.fusion_call\.completed response\.output_item\.done"
        r" response\.output_item\.added response\.content_part\.added response\.output_text\.delta"
        r"(?: response\.output_text\.annotation\.added)? response\.output_text\.done"
        r" response\.content_part\.done response\.output_item\.done response\.completed",
        shape,
    ), shape


def test_fusion_events_belong_to_the_item_that_was_added(told: list[components.StreamEvents]) -> None:
    added, _ = of(components.StreamEventsResponseOutputItemAdded, told)
    assert isinstance(added.item, components.OutputFusionServerToolItem)
    assert added.item.status == "in_progress"
    of_fusion = [event for event in told if str(event.type).startswith(FUSION)]
    assert set(fields_of(of_fusion, "item_id", "output_index")) == {(added.item.id, added.output_index)}


def test_the_fusion_item_says_what_its_events_said(
    told: list[components.StreamEvents], response: components.OpenResponsesResult
) -> None:
    item = fusion_of(response)
    assert item.status == "completed"
    assert (item.error, item.failure_reason, item.failed_models) == (None, None, None)
    completed = of(components.FusionCallPanelCompletedEvent, told)
    assert item.responses is not None
    assert sorted((one.model, one.content) for one in item.responses) == sorted((e.model, e.content) for e in completed)
    assert [one.model for one in item.responses] == ["micro-a", "micro-a"]
    (analysed,) = of(components.FusionCallAnalysisCompletedEvent, told)
    assert item.analysis == analysed.analysis
    assert item.analysis is not None
    assert item.analysis.consensus or item.analysis.contradictions
    (begun,) = of(components.FusionCallAnalysisInProgressEvent, told)
    assert (begun.analyst_model, begun.model_dump()["judge_model"]) == (JUDGE, JUDGE)
    assert item.sources
    assert len({source.url for source in item.sources}) == len(item.sources)


def test_the_message_is_what_was_told_of_it_with_its_citations(
    told: list[components.StreamEvents], response: components.OpenResponsesResult
) -> None:
    text = text_of(response)
    assert "Skerry" in text
    assert "".join(event.delta for event in of(components.TextDeltaEvent, told)) == text
    cited = [event.annotation for event in of(components.AnnotationAddedEvent, told)]
    assert cited
    for one in cited:
        assert isinstance(one, components.URLCitation)
        assert re.fullmatch(r"\[\d+\]", text[int(one.start_index) : int(one.end_index)])
    (_, done) = of(components.StreamEventsResponseOutputItemDone, told)
    assert [done.item] == response.output[1:]
    assert (response.model, response.status) == (JUDGE, "completed")


def test_a_response_says_what_it_took(response: components.OpenResponsesResult) -> None:
    usage = response.usage
    assert isinstance(usage, components.Usage)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens > 0
    assert usage.cost == 0


# A later turn, and panels that fail


def test_the_items_of_a_turn_come_back_and_a_panel_may_be_degraded(
    client: OpenRouter, response: components.OpenResponsesResult
) -> None:
    reply = client.beta.responses.send(
        model="localfusion/fusion",
        input=next_turn(response, NEXT_QUESTION),
        plugins=plugin("general-high"),
        tool_choice="required",
    )
    item = fusion_of(reply)
    assert (reply.status, item.status, item.failure_reason) == ("completed", "completed", None)
    assert item.responses is not None
    assert [one.model for one in item.responses] == ["micro-b"]
    assert item.failed_models is not None
    assert [one.model for one in item.failed_models] == [DAMAGED]
    assert item.failed_models[0].error
    assert item.analysis is not None
    assert text_of(reply)


def test_where_nobody_answers_the_item_says_why(client: OpenRouter) -> None:
    with client.beta.responses.send(
        model=JUDGE, input=QUESTION, tools=[tool(DAMAGED, DAMAGED)], tool_choice="required", stream=True
    ) as events:
        told = list(events)
    assert are_numbered(told)
    assert [event.model for event in of(components.FusionCallPanelFailedEvent, told)] == [DAMAGED, DAMAGED]
    last = told[-1]
    assert isinstance(last, components.StreamEventsResponseFailed)
    item = fusion_of(last.response)
    assert (item.status, item.failure_reason) == ("incomplete", "all_panels_failed")
    assert item.error
    assert item.failed_models is not None
    assert len(item.failed_models) == 2
    assert last.response.error is not None


def test_a_chat_where_nobody_answers_is_an_error_of_the_clients(client: OpenRouter) -> None:
    """By then the server has said that it lives, so that the status is out, and the client finds no completion."""
    with pytest.raises(errors.ResponseValidationError) as caught:
        client.chat.send(model=JUDGE, messages=asked(QUESTION), tools=[tool(DAMAGED)], tool_choice=FUSION_CHOICE)
    error = json.loads(caught.value.body)["error"]
    assert (error["code"], error["metadata"]["failure_reason"]) == (502, "all_panels_failed")
    assert DAMAGED in error["message"]


def test_a_stream_of_a_chat_where_nobody_answers_ends_with_a_chunk_that_says_so(client: OpenRouter) -> None:
    chunks = client.chat.send(
        model=JUDGE, messages=asked(QUESTION), tools=[tool(DAMAGED)], tool_choice=FUSION_CHOICE, stream=True
    )
    assert isinstance(chunks, EventStream)
    with chunks:
        (last,) = chunks
    assert last.error is not None
    assert last.error.metadata is not None
    assert (last.error.code, last.error.metadata.error_type) == (502, "server")
    assert DAMAGED in last.error.message


def test_a_chat_whose_judge_should_have_written_the_answer_and_cannot_is_an_error(client: OpenRouter) -> None:
    plugin: components.ChatRequestPluginTypedDict = {
        "id": "fusion",
        "analysis_models": ["micro-a"],
        "model": DAMAGED,
    }
    chunks = client.chat.send(
        model="localfusion/fusion",
        messages=asked(QUESTION),
        plugins=[plugin],
        tool_choice="required",
        stream=True,
    )
    assert isinstance(chunks, EventStream)
    with chunks:
        *_, last = chunks
    assert last.error is not None
    assert last.error.code == 502
    assert DAMAGED in last.error.message


def test_where_the_judge_fails_the_answer_is_written_from_the_panels(client: OpenRouter) -> None:
    with client.beta.responses.send(
        model=OPUS,
        input=QUESTION,
        tools=[tool("micro-a", judge=DAMAGED)],
        tool_choice="required",
        stream=True,
    ) as events:
        told = list(events)
    assert of(components.FusionCallAnalysisCompletedEvent, told) == []
    last = told[-1]
    assert isinstance(last, components.StreamEventsResponseCompleted)
    item = fusion_of(last.response)
    assert (item.status, item.analysis, item.failure_reason) == ("completed", None, "judge_upstream_error")
    assert item.error
    assert item.responses is not None
    assert [one.model for one in item.responses] == ["micro-a"]
    assert last.response.model == JUDGE
    assert text_of(last.response)


# Chat as a stream: the server tool, forced


def test_a_forced_tool_streams_chunks(client: OpenRouter) -> None:
    chunks = client.chat.send(
        model=JUDGE,
        messages=asked(QUESTION),
        tools=[tool("micro-a")],
        tool_choice=FUSION_CHOICE,
        stream=True,
        stream_options=components.ChatStreamOptions(include_usage=True),
    )
    assert isinstance(chunks, EventStream)
    with chunks:
        first, *rest, finish, counted = list(chunks)
    assert first.choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.role for chunk in rest if chunk.choices[0].delta.role] == []
    assert "Skerry" in "".join(str(chunk.choices[0].delta.content or "") for chunk in rest)
    assert {chunk.choices[0].finish_reason for chunk in (first, *rest)} == {None}
    assert finish.choices[0].finish_reason == "stop"
    assert (counted.choices, {chunk.model for chunk in rest}) == ([], {JUDGE})
    assert counted.usage is not None
    assert isinstance(counted.usage.server_tool_use_details, components.ServerToolUseDetails)
    assert counted.usage.server_tool_use_details.web_search_requests == 1


# Plain bytes


def streamed(address: Address, path: str, body: object) -> list[bytes]:
    """The frames of a stream, without the blank lines that end them."""
    sent = json.dumps(body).encode()
    head = f"POST /api/v1{path} HTTP/1.0\r\nhost: localhost\r\nauthorization: Bearer {address.key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n"
    place = ("127.0.0.1", int(address.url.rpartition(":")[2]))
    with socket.create_connection(place, timeout=SECONDS_OF_SILENCE) as connection:
        connection.sendall(head.encode() + sent)
        with connection.makefile("rb") as reading:
            got = reading.read()
    said, _, frames = got.partition(b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"\r\ncontent-type: text/event-stream" in said.lower()
    assert b"\r" not in frames
    assert frames.endswith(b"\n\ndata: [DONE]\n\n")
    return frames.removesuffix(b"\n\n").split(b"\n\n")


def test_the_bytes_of_a_response_and_two_copies_of_one_model_in_it(address: Address) -> None:
    plugins = [{"id": "fusion", "preset": "general-budget"}]
    body = {"model": "openrouter/fusion", "input": QUESTION, "plugins": plugins, "stream": True}
    *frames, done = streamed(address, "/responses", {**body, "tool_choice": "required"})
    assert done == b"data: [DONE]"
    assert b": waiting" in frames
    events = []
    for frame in frames:
        if frame != b": waiting":
            name, data = frame.split(b"\n")
            events.append(json.loads(data.removeprefix(b"data: ")))
            assert name == b"event: " + events[-1]["type"].encode()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    panel = [event for event in events if event["type"].startswith(f"{FUSION}panel.")]
    answers = set()
    for seat in "ab":
        added, *deltas, completed = [event for event in panel if event["panelist"] == seat]
        assert (added["type"], completed["type"]) == (f"{FUSION}panel.added", f"{FUSION}panel.completed")
        assert {event["type"] for event in deltas} == {f"{FUSION}panel.delta"}
        assert "".join(event["delta"] for event in deltas).strip() == completed["content"]
        answers.add((seat, completed["model"], completed["content"]))
    last = events[-1]["response"]
    assert {(one["panelist"], one["model"], one["content"]) for one in last["output"][0]["responses"]} == answers
    usage = last["usage"]
    seats = usage["localfusion"]["seats"]
    assert [(seat["role"], seat.get("panelist")) for seat in seats] == [
        ("panelist", "a"),
        ("panelist", "b"),
        ("judge", None),
        ("writer", None),
    ]
    assert sum(seat["prompt_tokens"] for seat in seats) == usage["input_tokens"]
    assert sum(seat["completion_tokens"] for seat in seats) == usage["output_tokens"]


def test_the_bytes_of_a_chat_tell_its_progress_where_clients_do_not_look(address: Address) -> None:
    body = {
        "model": "openrouter/fusion",
        "messages": [{"role": "user", "content": QUESTION}],
        "plugins": [{"id": "fusion", "preset": "general-fast"}],
        "tool_choice": "required",
        "stream": True,
    }
    frames = streamed(address, "/chat/completions", body)
    assert frames.count(b"data: [DONE]") == 1
    told = [json.loads(frame[13:]) for frame in frames if frame.startswith(b"localfusion: ")]
    stages = [one["stage"] for one in told if one["stage"] not in ("loading", "reading_documents")]
    assert stages == [
        "started",
        "tool_called",
        "tool_returned",
        "panelist_completed",
        "analysis_started",
        "analysis_completed",
        "answer_started",
        "ended",
    ]
    rest = [frame for frame in frames[:-1] if not frame.startswith((b"localfusion: ", b": waiting"))]
    chunks = [json.loads(frame.removeprefix(b"data: ")) for frame in rest]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert [chunk for chunk in chunks if chunk.get("usage")] == []


# What is refused


def test_models_can_be_listed(client: OpenRouter) -> None:
    listed = client.models.list()
    assert listed is not None
    names = {model.id for model in listed.result.data}
    assert {"openrouter/fusion", "localfusion/fusion", "localfusion/general-fast", "micro-a", JUDGE} <= names


@pytest.mark.parametrize(
    ("model", "panel", "param", "near"),
    [
        ("micro-x", ["micro-a"], "model", "micro-"),
        (JUDGE, ["micro-a", "openai/gpt-9"], "tools[0].parameters.analysis_models[1]", "GET /v1/models"),
        ("general-fast", ["micro-a"], "model", "localfusion/general-fast"),
    ],
)
def test_a_model_that_is_not_here_is_a_bad_request(
    client: OpenRouter, model: str, panel: list[str], param: str, near: str
) -> None:
    with pytest.raises(errors.BadRequestResponseError) as caught:
        client.beta.responses.send(model=model, input=QUESTION, tools=[tool(*panel)])
    error = caught.value.data.error
    assert isinstance(error.metadata, dict)
    assert (error.code, error.metadata["code"], error.metadata["param"]) == (400, "invalid_model", param)
    assert error.metadata["error_type"] == "invalid_request"
    assert near in error.message


def test_a_key_that_nobody_gave_is_unauthorized(address: Address) -> None:
    with address.client(key="lf-nobodys") as client, pytest.raises(errors.UnauthorizedResponseError) as caught:
        client.chat.send(model=JUDGE, messages=asked(QUESTION))
    assert caught.value.status_code == 401
    assert caught.value.data.error.code == 401
