"""Turns as Responses events and response objects, judged by the classes of the official clients."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import openrouter.components as router
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai._streaming import SSEDecoder
from openai.types.chat import ChatCompletion
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from localfusion.errors import ContextOverflow, InvalidRequest, LocalFusionError, QueueFull
from localfusion.events import Event, FallbackTaken, RunResumed
from localfusion.messages import Json, Substitution
from localfusion.outer import Turned, TurnItem
from localfusion.server.chat_reply import ChatReply
from localfusion.server.orders import Order
from localfusion.server.responses_reply import ResponsesReply
from localfusion.server.sse import frame
from localfusion.session import open_session
from localfusion.wire.fusion_reply import FusionItem
from localfusion.wire.responses_reply import FunctionCallItem, MessageItem, ReasoningItem, Response, ResponsesEvent
from tests.harbour import request, surroundings
from tests.turns import CALLING, CALLS, FUSED, JUDGED, NOBODY, ORDER, PANEL, PLAIN, UNJUDGED, WRITTEN

OPENAI_EVENTS: TypeAdapter[BaseModel] = TypeAdapter(ResponseStreamEvent)
ROUTER_EVENTS: TypeAdapter[BaseModel] = TypeAdapter(router.StreamEvents)
FUSION = "response.fusion_call."


def reply(order: Order | None = None, *, n_told: int = 0) -> ResponsesReply:
    return ResponsesReply("resp_1", 1700, order or ORDER, n_told=n_told, clock=lambda: 1800.0)


def fed(made: ResponsesReply, items: Sequence[TurnItem]) -> list[ResponsesEvent]:
    return [*made.start(), *(event for item in items for event in made.feed(item))]


def dumped(value: BaseModel) -> dict[str, Json]:
    found: dict[str, Json] = value.model_dump(mode="json")
    return found


def types(told: Sequence[ResponsesEvent]) -> list[str]:
    return [event.type.removeprefix("response.") for event in told]


def fusion_of(response: Response) -> FusionItem:
    return next(item for item in response.output if isinstance(item, FusionItem))


def field_names(value: Json) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


ALL = {"plain": PLAIN, "calling": CALLING, "fused": FUSED, "unjudged": UNJUDGED, "nobody": NOBODY}
EACH = pytest.mark.parametrize("items", ALL.values(), ids=ALL.keys())


def test_a_plain_answer_is_told_from_the_thought_to_the_end() -> None:
    made = reply()
    assert types(fed(made, PLAIN)) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    thought, message = made.response().output
    assert isinstance(thought, ReasoningItem)
    assert isinstance(message, MessageItem)
    assert (thought.content[0].text, thought.summary) == ("Hmm.", [])
    assert (message.content[0].text, len(message.content[0].logprobs)) == ("café", 3)


def test_thinking_that_is_not_wanted_is_no_item() -> None:
    made = reply(replace(ORDER, hides_thinking=True))
    fed(made, PLAIN)
    assert [item.type for item in made.response().output] == ["message"]


def test_calls_are_items_of_their_own() -> None:
    made = reply()
    told = types(fed(made, CALLING))
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert told[-9:] == [*call, *call, "completed"]
    calls = [item for item in made.response().output if isinstance(item, FunctionCallItem)]
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [
        (call.id, call.name, call.arguments) for call in CALLS
    ]


def test_a_deliberation_is_told_in_the_order_of_the_protocol_before_the_message() -> None:
    made = reply()
    told = fed(made, FUSED)
    fusion = [event.type.removeprefix(FUSION) for event in told if event.type.startswith(FUSION)]
    assert fusion == [
        "in_progress",
        "panel.added",
        "panel.reasoning.delta",
        "panel.added",
        "panel.delta",
        "panel.delta",
        "panel.delta",
        "panel.completed",
        "panel.completed",
        "panel.added",
        "panel.failed",
        "analysis.in_progress",
        "analysis.completed",
        "completed",
    ]
    around = types(told)
    assert around[:4] == ["created", "in_progress", "output_item.added", "fusion_call.in_progress"]
    ended = around.index("fusion_call.completed")
    assert around[ended + 1 : ended + 4] == ["output_item.done", "output_item.added", "content_part.added"]
    assert around.count("output_text.annotation.added") == 4
    assert around[-1] == "completed"
    assert [item.type for item in made.response().output] == ["openrouter:fusion", "message"]


@EACH
def test_the_openrouter_client_knows_every_event_by_its_own_class(items: list[TurnItem]) -> None:
    for event in fed(reply(), items):
        parsed = ROUTER_EVENTS.validate_json(event.model_dump_json())
        assert getattr(parsed, "type", None) == event.type, f"{event.type} is {type(parsed).__name__}"
        response = getattr(parsed, "response", None)
        for item in [getattr(parsed, "item", None), *(response.output if response is not None else ())]:
            assert not getattr(item, "is_unknown", False)


@pytest.mark.parametrize("items", [PLAIN, CALLING], ids=["plain", "calling"])
def test_the_openai_client_knows_every_event_of_its_own_protocol(items: list[TurnItem]) -> None:
    made = reply()
    for event in fed(made, items):
        assert getattr(OPENAI_EVENTS.validate_json(event.model_dump_json()), "type", None) == event.type
    parsed = OpenAIResponse.model_validate_json(made.response().model_dump_json())
    last = items[-1]
    assert isinstance(last, Turned)
    assert parsed.output_text == last.content != ""


@EACH
def test_the_openai_client_reads_the_text_past_what_it_does_not_know(items: list[TurnItem]) -> None:
    made = reply()
    told = fed(made, items)
    parsed = construct_type(type_=OpenAIResponse, value=dumped(made.response()))
    assert isinstance(parsed, OpenAIResponse)
    last = items[-1]
    assert isinstance(last, Turned)
    assert parsed.output_text == last.content
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    stream = b"".join(frame(json.dumps(dumped(event), separators=(",", ":"))) for event in told)
    read = list(SSEDecoder().iter_bytes(iter([stream])))
    assert [sse.event for sse in read] == [event.type for event in told]
    assert [json.loads(sse.data) for sse in read] == [dumped(event) for event in told]


@EACH
def test_the_openrouter_client_takes_the_whole_response(items: list[TurnItem]) -> None:
    made = reply()
    fed(made, items)
    parsed = router.OpenResponsesResult.model_validate_json(made.response().model_dump_json())
    assert parsed.status == made.response().status
    assert not any(getattr(item, "is_unknown", False) for item in parsed.output)


def test_what_was_asked_is_repeated_and_nothing_else() -> None:
    echo: dict[str, Json] = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 1,
        "tool_choice": "required",
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
        "text": {"format": {"type": "json_object"}},
        "previous_response_id": "resp_0",
        "parallel_tool_calls": None,
        "status": "failed",
        "plugins": [],
    }
    made = reply(replace(ORDER, is_background=True, is_stored=False, echo=echo))
    fed(made, PLAIN)
    found = dumped(made.response())
    kept = set(echo) - {"parallel_tool_calls", "status", "plugins"}
    assert {name: found[name] for name in kept} == {name: echo[name] for name in kept}
    assert (found["parallel_tool_calls"], found["status"], found["background"], found["store"]) == (
        True,
        "completed",
        True,
        False,
    )
    assert "plugins" not in found
    assert OpenAIResponse.model_validate(found).instructions == "Be brief."
    assert router.OpenResponsesResult.model_validate(found).instructions == "Be brief."


def test_the_item_names_models_and_tells_twins_apart() -> None:
    made = reply()
    told = fed(made, FUSED)
    item = dumped(fusion_of(made.response()))
    done = next(dumped(event)["item"] for event in told if event.type == "response.output_item.done")
    assert item == done
    assert item["responses"] == [
        {"model": "twin", "panelist": "a", "content": "“40 metres” [1]"},
        {"model": "twin", "panelist": "b", "content": "It is red."},
    ]
    assert item["failed_models"] == [
        {"model": "far", "panelist": "c", "error": "the provider is out of money", "status_code": 402}
    ]
    assert item["analysis"] == {
        "consensus": ["It is 40 metres."],
        "contradictions": [
            {
                "topic": "keeper",
                "stances": [
                    {"model": "twin", "panelist": "a", "stance": "Ann"},
                    {"model": "twin", "panelist": "b", "stance": "Bo"},
                ],
            }
        ],
        "partial_coverage": [{"models": ["twin", "twin"], "panelists": ["a", "b"], "point": "the height"}],
        "unique_insights": [{"model": "twin", "panelist": "b", "insight": "It is red."}],
        "blind_spots": ["The depth."],
    }
    assert (item["run_id"], item["status"]) == ("run_1", "completed")
    panel = [dumped(event) for event in told if event.type.startswith(f"{FUSION}panel")]
    assert {(event["panelist"], event["model"]) for event in panel} == {("a", "twin"), ("b", "twin"), ("c", "far")}
    assert router.OutputFusionServerToolItem.model_validate(item).analysis is not None


def test_every_source_is_listed_once() -> None:
    made = reply()
    fed(made, FUSED)
    assert [dumped(source) for source in fusion_of(made.response()).sources or []] == [
        {"url": "doc://a.md", "title": "A"},
        {"url": "doc://j.md", "title": "J"},
    ]


def test_where_the_judge_failed_there_are_answers_a_reason_and_no_analysis() -> None:
    made = reply()
    fed(made, UNJUDGED)
    item = dumped(fusion_of(made.response()))
    assert (item["status"], item["failure_reason"], "analysis" in item) == ("completed", "judge_not_valid_json", False)
    assert isinstance(item["responses"], list)
    assert len(item["responses"]) == 2
    assert made.response().status == "completed"


def test_where_nobody_answered_the_response_failed_and_says_why() -> None:
    made = reply()
    assert types(fed(made, NOBODY))[-3:] == ["fusion_call.completed", "output_item.done", "failed"]
    item = dumped(fusion_of(made.response()))
    assert (item["status"], item["failure_reason"]) == ("incomplete", "all_panels_failed")
    assert field_names(item).isdisjoint({"responses", "analysis", "sources"})
    assert isinstance(item["failed_models"], list)
    assert len(item["failed_models"]) == 3
    response = made.response()
    assert response.status == "failed"
    assert response.error is not None
    assert "no panelist answered" in response.error.message
    assert response.usage is not None


def test_a_model_that_steps_in_is_added_and_answers_under_its_own_name() -> None:
    instead = FallbackTaken(Substitution("a", "twin", "small", "died", "it died"))
    made = reply()
    told = fed(made, [*PANEL[:8], instead])
    added = [dumped(event) for event in told if event.type == f"{FUSION}panel.added"]
    assert [(event["panelist"], event["model"]) for event in added] == [("a", "twin"), ("a", "small")]


def test_an_answer_that_found_no_room_is_incomplete() -> None:
    made = reply()
    last = PLAIN[-1]
    assert isinstance(last, Turned)
    told = fed(made, [*PLAIN[:-1], replace(last, finish_reason="length")])
    assert told[-1].type == "response.incomplete"
    parsed = OpenAIResponse.model_validate_json(made.response().model_dump_json())
    assert parsed.status == parsed.output[-1].status == "incomplete"  # type: ignore[union-attr]
    assert parsed.incomplete_details is not None
    assert parsed.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("n_heard", range(0, len(FUSED), 3))
def test_what_is_cancelled_keeps_what_was_written(n_heard: int) -> None:
    made = reply()
    told = [*fed(made, FUSED[:n_heard]), *made.cancelled()]
    response = made.response()
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert (told[-1].type, response.status, response.completed_at) == ("response.incomplete", "cancelled", None)
    assert all(getattr(item, "status", "") in ("completed", "incomplete") for item in response.output)
    assert isinstance(ROUTER_EVENTS.validate_json(told[-1].model_dump_json()), router.StreamEventsResponseIncomplete)
    items = [item for item in response.output if isinstance(item, FusionItem) and item.status == "incomplete"]
    assert [item.failure_reason for item in items] == ["cancelled"] * len(items)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFull("too many wait"), "rate_limit_exceeded"),
        (InvalidRequest("no such model", param="model"), "invalid_prompt"),
        (ContextOverflow("outer", tokens=9, n_ctx=5), "invalid_prompt"),
        (LocalFusionError("it broke", hint="mend it"), "server_error"),
    ],
)
def test_what_fails_says_why_in_words_that_clients_know(error: LocalFusionError, code: str) -> None:
    made = reply()
    told = [*fed(made, PLAIN[:5]), *made.fail(error)]
    assert told[-1].type == "response.failed"
    parsed = OpenAIResponse.model_validate_json(made.response().model_dump_json())
    assert parsed.error is not None
    assert (parsed.status, parsed.error.code) == ("failed", code)
    assert parsed.error.message == "; ".join(filter(None, [error.message, error.hint]))
    assert parsed.output[-1].status == "incomplete"  # type: ignore[union-attr]


def test_after_a_restart_numbers_go_on_and_the_outcome_tells_what_was_not_heard() -> None:
    made = reply(n_told=40)
    told = fed(made, [RunResumed("run_1", ("a",)), *WRITTEN[:3], FUSED[-1]])
    assert [event.sequence_number for event in told] == list(range(40, 40 + len(told)))
    assert told[0].type == "response.in_progress"
    item = fusion_of(made.response())
    assert [response.panelist for response in item.responses or []] == ["a", "b"]
    assert made.response().status == "completed"
    assert made.response().output[-1].type == "message"


@given(st.data())
def test_whatever_is_said_is_numbered_without_gaps_and_every_item_is_told_whole(data: st.DataObject) -> None:
    """Items that fall out, and ends that come at any time, as when a run is cancelled or fails."""
    heard = [item for item in [*PANEL, *JUDGED, *WRITTEN, *PLAIN[:-1], *CALLS] if data.draw(st.booleans())]
    end = data.draw(st.sampled_from(["turned", "cancelled", "failed"]))
    made = reply()
    told = fed(made, heard)
    if end == "turned":
        told += made.feed(FUSED[-1])
    else:
        told += made.cancelled() if end == "cancelled" else made.fail(LocalFusionError("it broke"))
    assert [event.sequence_number for event in told] == list(range(len(told)))
    added = [event.output_index for event in told if event.type == "response.output_item.added"]
    done = {event.output_index: event.item for event in told if event.type == "response.output_item.done"}
    assert added == list(range(len(made.response().output)))
    assert [done[index] for index in added] == made.response().output
    assert told[-1].type in ("response.completed", "response.incomplete", "response.failed")
    assert getattr(told[-1], "response", None) == made.response()
    for event in told:
        index, item = getattr(event, "output_index", None), getattr(event, "item_id", None)
        assert item is None or (isinstance(index, int) and done[index].id == item)


def test_a_real_run_of_the_micro_panel_is_told_whole(tmp_path: Path) -> None:
    heard: list[Event] = []

    async def ask() -> Turned:
        async with open_session(surroundings(tmp_path)) as session:
            outcome = await session.ask(request("What is the height of Skerry?"), emit=heard.append)
            return Turned(outcome.judge_model, outcome.answer, usage=outcome.usage, outcome=outcome)

    turn = asyncio.run(ask())
    assert turn.outcome is not None
    made = reply()
    told = fed(made, [*heard, turn])
    for event in told:
        assert getattr(ROUTER_EVENTS.validate_json(event.model_dump_json()), "type", None) == event.type
    item, message = made.response().output
    assert isinstance(item, FusionItem)
    assert isinstance(message, MessageItem)
    assert [one.content for one in item.responses or []] == [one.content for one in turn.outcome.responses]
    assert message.content[0].text == turn.content != ""
    chat = ChatReply("chatcmpl-1", 1700, ORDER)
    for one in [*heard, turn]:
        chat.feed(one)
    found = ChatCompletion.model_validate_json(chat.completion().model_dump_json()).choices[0].message
    marks = [one.url_citation for one in found.annotations or []]
    assert [turn.content[one.start_index] for one in marks] == ["["] * len(marks) != []
    assert len(message.content[0].annotations) == len(marks)
    usage = chat.completion().usage
    assert sum(seat.prompt_tokens for seat in usage.localfusion.seats) == usage.prompt_tokens > 0
    assert {seat.role for seat in usage.localfusion.seats} == {"panelist", "judge", "writer"}
    assert (usage.cost, usage.server_tool_use_details.tool_calls_requested > 0) == (0.0, True)
