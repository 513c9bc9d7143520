"""Turns as chat chunks and completions, judged by the classes of the official clients."""

import json
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openrouter.components import ChatResult, ChatStreamChunk
from openrouter.utils.eventstreaming import EventStream
from pydantic import BaseModel

from localfusion.events import Generated, RunEnded
from localfusion.messages import Delta, Json, Usage
from localfusion.outer import Turned, TurnEnd, TurnItem
from localfusion.server.chat_reply import ChatEvent, ChatReply
from localfusion.server.orders import Order
from localfusion.server.sse import DONE, HEARTBEAT, frame
from localfusion.wire.chat_reply import ChatChunk, ChatProgress
from tests.turns import (
    ANSWER,
    CALLING,
    FUSED,
    JUDGED,
    ORDER,
    PANEL,
    PLAIN,
    TOKENS,
    UNJUDGED,
    WRITTEN,
    ended,
    turned,
)


def reply(order: Order | None = None, *, watts: float | None = None) -> ChatReply:
    ticks = iter(range(0, 10**6, 3600))
    return ChatReply("chatcmpl-1", 1700, order or ORDER, watts=watts, clock=lambda: next(ticks))


def fed(made: ChatReply, items: Sequence[TurnItem]) -> list[ChatEvent]:
    told = [event for item in items for event in made.feed(item)]
    return [*told, *made.end()]


def chunks(events: Sequence[ChatEvent]) -> list[ChatChunk]:
    return [event for event in events if isinstance(event, ChatChunk)]


def dumped(value: BaseModel) -> dict[str, Json]:
    found: dict[str, Json] = value.model_dump(mode="json")
    return found


def deltas(events: Sequence[ChatEvent]) -> list[Json]:
    return [dumped(choice.delta) for chunk in chunks(events) for choice in chunk.choices]


ALL = {"plain": PLAIN, "calling": CALLING, "fused": FUSED, "unjudged": UNJUDGED}
EACH = pytest.mark.parametrize("items", ALL.values(), ids=ALL.keys())


def test_a_plain_answer_is_a_role_then_the_text_then_the_reason_why_it_ended() -> None:
    told = fed(reply(), PLAIN)
    assert deltas(told) == [
        {"role": "assistant", "content": ""},
        {"reasoning": "Hm", "reasoning_content": "Hm"},
        {"reasoning": "m.", "reasoning_content": "m."},
        {"content": "caf"},
        {"content": "é"},
        {},
    ]
    assert [choice.finish_reason for chunk in chunks(told) for choice in chunk.choices] == [None] * 5 + ["stop"]
    assert dumped(chunks(told)[0]) == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700,
        "model": "outer",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ],
    }


@EACH
@pytest.mark.parametrize("includes_usage", [False, True])
def test_the_clients_know_every_chunk_and_every_completion(items: list[TurnItem], includes_usage: bool) -> None:
    made = reply(replace(ORDER, includes_usage=includes_usage))
    for chunk in chunks(fed(made, items)):
        text = chunk.model_dump_json()
        assert ChatCompletionChunk.model_validate_json(text).id == ChatStreamChunk.model_validate_json(text).id
    text = made.completion().model_dump_json()
    choice = ChatCompletion.model_validate_json(text).choices[0]
    turn = items[-1]
    assert isinstance(turn, Turned)
    assert choice.message.content == ChatResult.model_validate_json(text).choices[0].message.content == turn.content
    assert choice.finish_reason == turn.finish_reason


@EACH
def test_a_completion_needs_no_deltas(items: list[TurnItem]) -> None:
    whole, bare = reply(), reply()
    fed(whole, items)
    fed(bare, [item for item in items if not isinstance(item, Delta)])
    assert dumped(bare.completion()) == dumped(whole.completion())


@EACH
def test_the_pieces_of_a_stream_are_the_whole(items: list[TurnItem]) -> None:
    made = reply(replace(ORDER, includes_usage=True))
    told = chunks(fed(made, items))
    whole = made.completion()
    pieces = [choice.delta for chunk in told for choice in chunk.choices]
    message = whole.choices[0].message
    assert "".join(piece.content or "" for piece in pieces) == message.content
    assert "".join(piece.reasoning or "" for piece in pieces) == (message.reasoning or "")
    calls = [(call.id, call.function) for piece in pieces for call in piece.tool_calls or []]
    assert calls == [(call.id, call.function) for call in message.tool_calls or []]
    assert [one for piece in pieces for one in piece.annotations or []] == (message.annotations or [])
    assert {chunk.model for chunk in told} == {whole.model}
    assert {name: value for name, value in whole.usage if name != "localfusion"} == {
        name: value for name, value in told[-1].usage or () if name != "localfusion"
    }


def test_thinking_that_is_not_wanted_is_not_told() -> None:
    made = reply(replace(ORDER, hides_thinking=True))
    assert deltas(fed(made, PLAIN))[1:] == [{"content": "caf"}, {"content": "é"}, {}]
    assert "reasoning" not in dumped(made.completion().choices[0].message)


def test_the_usage_is_told_last_with_no_choices_and_is_null_before_and_only_if_asked_for() -> None:
    told = [dumped(chunk) for chunk in chunks(fed(reply(replace(ORDER, includes_usage=True)), PLAIN))]
    assert [chunk["usage"] for chunk in told[:-1]] == [None] * (len(told) - 1)
    assert (told[-1]["choices"], told[-1]["usage"] is None) == ([], False)
    assert all("usage" not in dumped(chunk) for chunk in chunks(fed(reply(), PLAIN)))


def test_calls_are_counted_and_told_whole() -> None:
    made = reply()
    calls = [
        delta["tool_calls"] for delta in deltas(fed(made, CALLING)) if isinstance(delta, dict) and "tool_calls" in delta
    ]
    assert calls == [
        [
            {
                "index": 0,
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
            }
        ],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
    ]


def test_a_turn_of_calls_alone_has_no_content() -> None:
    made = reply()
    last = CALLING[-1]
    assert isinstance(last, Turned)
    fed(made, [*CALLING[1:-1], replace(last, content="")])
    message = dumped(made.completion().choices[0].message)
    assert (message["content"], message["refusal"]) == (None, None)


def test_logprobs_are_bytes_and_a_text_in_which_half_a_character_is_replaced() -> None:
    made = reply()
    told = chunks(fed(made, PLAIN))
    found = made.completion().choices[0].logprobs
    assert found is not None
    assert [(one.token, one.bytes) for one in found.content] == [
        ("caf", [99, 97, 102]),
        ("\ufffd", [195]),
        ("\ufffd", [169]),
    ]
    assert [(one.token, one.logprob) for one in found.content[0].top_logprobs] == [("caf", -0.5), (" ", -1.5)]
    pieces = [one for chunk in told for choice in chunk.choices if choice.logprobs for one in choice.logprobs.content]
    assert pieces == found.content
    assert len(pieces) == len(TOKENS)


def test_each_mark_of_an_answer_is_an_annotation_with_the_quote_that_stands_there() -> None:
    made = reply()
    fed(made, FUSED)
    found = [one.url_citation for one in made.completion().choices[0].message.annotations or []]
    assert [ANSWER[one.start_index : one.end_index] for one in found] == ["[1]", "[1]", "[2]", "[1]"]
    assert [one.content for one in found] == ["40 metres", "Ann keeps it", None, "40 metres"]
    assert [one.support for one in found] == ["verified", "weak", "not_found", "verified"]


def test_choices_are_told_apart_and_paid_together() -> None:
    made = reply(replace(ORDER, n=2, includes_usage=True))
    told: list[ChatEvent] = []
    for item in PLAIN:
        told += [*made.feed(item, 1), *made.feed(item, 0)]
    told += made.end()
    by_index = {
        index: [c.delta for chunk in chunks(told) for c in chunk.choices if c.index == index] for index in (0, 1)
    }
    assert by_index[0] == by_index[1]
    whole = made.completion()
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (20, 12)


@pytest.mark.parametrize(
    ("ending", "reason"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("cancelled", "length")],
)
def test_every_end_of_a_turn_has_a_reason_that_clients_know(ending: TurnEnd, reason: str) -> None:
    made = reply()
    last = PLAIN[-1]
    assert isinstance(last, Turned)
    told = fed(made, [*PLAIN[:-1], replace(last, finish_reason=ending)])
    assert chunks(told)[-1].choices[0].finish_reason == reason
    assert ChatCompletion.model_validate_json(made.completion().model_dump_json()).choices[0].finish_reason == reason


def test_progress_is_in_stages_and_tells_twins_apart() -> None:
    told = [event for event in fed(reply(), FUSED) if isinstance(event, ChatProgress)]
    assert [(one.stage, one.panelist) for one in told] == [
        ("reading_documents", None),
        ("started", None),
        ("loading", "a"),
        ("tool_called", "a"),
        ("tool_returned", "a"),
        ("panelist_completed", "a"),
        ("panelist_completed", "b"),
        ("tool_called", "c"),
        ("tool_returned", "c"),
        ("panelist_failed", "c"),
        ("analysis_started", "judge"),
        ("tool_called", "judge"),
        ("tool_returned", "judge"),
        ("analysis_completed", "judge"),
        ("answer_started", None),
        ("ended", None),
    ]
    assert [one.model for one in told if one.stage == "panelist_completed"] == ["twin", "twin"]


def test_both_clients_skip_progress_and_heartbeats_and_read_the_rest() -> None:
    told = fed(reply(), FUSED)
    stream = b"".join([HEARTBEAT, *(frame(json.dumps(dumped(event), separators=(",", ":"))) for event in told), DONE])
    wanted = [dumped(chunk) for chunk in chunks(told)]
    assert len(wanted) < len(told)
    read = [sse.data for sse in SSEDecoder().iter_bytes(iter([stream]))]
    assert [json.loads(data) for data in read[:-1]] == wanted
    assert read[-1] == "[DONE]"
    response = httpx.Response(200, content=stream)
    assert [event["data"] for event in EventStream(response, json.loads, sentinel="[DONE]")] == wanted


def test_a_text_with_line_ends_stays_one_event() -> None:
    made = reply()
    told = made.feed(Delta("content", "a\n\ndata: x\r\n\u2028:"))
    stream = b"".join(frame(json.dumps(dumped(event), separators=(",", ":"))) for event in told)
    read = [json.loads(sse.data) for sse in SSEDecoder().iter_bytes(iter([stream]))]
    assert read[-1]["choices"][0]["delta"]["content"] == "a\n\ndata: x\r\n\u2028:"


def test_who_took_what_is_told_for_every_seat() -> None:
    made = reply()
    fed(made, ended([*PANEL, *JUDGED, *WRITTEN], outer=Usage(7, 0, 1, 0.1)))
    usage = made.completion().usage
    seats = {(seat.role, seat.panelist, seat.model): seat.prompt_tokens for seat in usage.localfusion.seats}
    assert seats == {
        ("panelist", "a", "twin"): 10,
        ("panelist", "b", "twin"): 12,
        ("panelist", "c", "far"): 9,
        ("judge", None, "judge-model"): 100,
        ("writer", None, "judge-model"): 130,
        ("outer", None, "outer"): 7,
    }
    assert dumped(usage.server_tool_use_details) == {
        "tool_calls_requested": 3,
        "tool_calls_executed": 2,
        "web_search_requests": 2,
    }
    assert (usage.cost, usage.cost_details) == (0.25, None)


def test_energy_is_told_where_watts_are_known_and_no_second_counts_twice() -> None:
    made = reply(watts=100.0)
    last = PLAIN[-1]
    assert isinstance(last, Turned)
    fed(made, [replace(last, usage=Usage(1, 0, 1, seconds=1800.0))])
    assert made.completion().usage.localfusion.energy_wh == 50.0
    busy = reply(watts=100.0)
    fed(busy, [replace(last, usage=Usage(1, 0, 1, seconds=36_000.0))])
    assert busy.completion().usage.localfusion.energy_wh == 100.0  # one hour went by
    unknown = reply()
    fed(unknown, PLAIN)
    assert "energy_wh" not in dumped(unknown.completion().usage.localfusion)


COUNTS = st.integers(0, 10_000)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, st.floats(0, 1e4), st.floats(0, 10), COUNTS)
SEATS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "judge", "writer"]), USAGES), max_size=12)


@given(SEATS, USAGES, st.integers(0, len(JUDGED)), st.booleans())
def test_the_seats_together_are_the_whole(
    seats: list[tuple[str, Usage]], outer: Usage, n_judged: int, is_resumed: bool
) -> None:
    generated: list[TurnItem] = [Generated(id, "m", usage) for id, usage in seats]
    items = [*PANEL, *generated, *JUDGED[:n_judged], *WRITTEN[:1], RunEnded("ok")]
    made = reply()
    fed(made, [turned(items, outer=outer)] if is_resumed else ended(items, outer=outer))
    usage = made.completion().usage
    told = usage.localfusion.seats
    assert sum(seat.prompt_tokens for seat in told) == usage.prompt_tokens
    assert sum(seat.completion_tokens for seat in told) == usage.completion_tokens
    assert sum(seat.cached_tokens for seat in told) == usage.prompt_tokens_details.cached_tokens
    assert sum(seat.reasoning_tokens for seat in told) == usage.completion_tokens_details.reasoning_tokens
    assert sum(seat.cost for seat in told) == pytest.approx(usage.cost)
    assert sum(seat.seconds for seat in told) == pytest.approx(usage.localfusion.seconds)
