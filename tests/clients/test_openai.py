"""The official `openai` client, unmodified and typed, over a real socket: what it can ask, and what it is told."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolUnionParam
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from localfusion.events import AnswerStarted, PanelistCompleted
from localfusion.store import Store
from tests.clients.command import MICRO, QUESTION, VECTORS, furnish, lock, serving

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How high is Skerry?"}]
PLUGIN = {"plugins": [{"id": "fusion", "preset": "micro"}]}
LONG_PANEL = {"plugins": [{"id": "fusion", "analysis_models": ["micro-a", "micro-b", "micro-c"] * 2 + ["micro-a"]}]}
"""Long enough that something is left to do when the first panelist has ended."""
OVER = {"completed", "failed", "cancelled", "incomplete"}


class Height(BaseModel):
    """How high a place is."""

    place: Literal["Skerry", "Quay"]
    is_known: bool


TOOLS: list[ChatCompletionToolUnionParam] = [pydantic_function_tool(Height)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("openai")
    furnish(home)
    return home


@pytest.fixture(scope="module")
def keys(home: Path) -> dict[str, str]:
    return lock(home, laptop=None, phone=None, slow=1)


@pytest.fixture(scope="module")
def url(home: Path, keys: dict[str, str]) -> Iterator[str]:
    assert keys
    with serving(home, "--models", str(home / "models.yaml")) as root:
        yield f"{root}/v1"


@pytest.fixture(scope="module")
def client(url: str, keys: dict[str, str]) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key=keys["laptop"], max_retries=0) as client:
        yield client


def ended(client: OpenAI, id: str) -> Response:
    """The response once it is over."""
    while (response := client.responses.retrieve(id)).status not in OVER:
        time.sleep(0.02)
    return response


def spoken(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_models_are_listed_and_shown(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {MICRO, VECTORS, "localfusion/fusion", "openrouter/fusion", "localfusion/micro"} <= set(names)
    assert [client.models.retrieve(name).id for name in names] == names


def test_a_chat_is_the_same_whole_and_in_chunks(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=MICRO, messages=ASKED, max_completion_tokens=12, temperature=0)
    [choice] = whole.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    with client.chat.completions.create(
        model=MICRO,
        messages=ASKED,
        max_completion_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    first, *_, last, usage = chunks
    assert {(chunk.id, chunk.object, chunk.model) for chunk in chunks} == {(first.id, "chat.completion.chunk", MICRO)}
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert spoken(chunks) == choice.message.content
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == (choice.finish_reason, None)
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-2]] == [None] * (len(chunks) - 2)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == whole.usage.completion_tokens
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_the_clients_own_accumulation_of_a_stream_is_the_whole(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=MICRO, messages=ASKED, max_tokens=60, tools=TOOLS, tool_choice="required", response_format=openai.omit
    ) as stream:
        kinds = {event.type for event in stream}
        [choice] = stream.get_final_completion().choices
    assert {"chunk", "tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert isinstance(choice.message.tool_calls[0].function.parsed_arguments, Height)


def test_a_forced_call_is_made_and_its_result_is_answered(client: OpenAI) -> None:
    completion = client.chat.completions.parse(
        model=MICRO,
        messages=ASKED,
        max_tokens=60,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "Height"}},
    )
    [choice] = completion.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert isinstance(call.function.parsed_arguments, Height)
    said: list[ChatCompletionMessageParam] = [
        *ASKED,
        choice.message.to_dict(),  # type: ignore[list-item]
        {"role": "tool", "tool_call_id": call.id, "content": "It is 43 metres high."},
    ]
    after = client.chat.completions.create(
        model=MICRO, messages=said, max_tokens=12, tools=TOOLS, tool_choice="none"
    ).choices[0]
    assert after.message.content
    assert after.message.tool_calls is None


def test_a_model_that_may_call_answers_or_calls_what_is_valid(client: OpenAI) -> None:
    for seed in range(3):
        message = (
            client.chat.completions.parse(
                model=MICRO, messages=ASKED, max_tokens=60, tools=TOOLS, temperature=1, seed=seed
            )
            .choices[0]
            .message
        )
        calls = message.tool_calls or []
        assert all(isinstance(call.function.parsed_arguments, Height) for call in calls)
        assert bool(message.content) != bool(calls)


def test_structured_outputs_are_of_the_callers_class(client: OpenAI) -> None:
    chat = client.chat.completions.parse(model=MICRO, messages=ASKED, max_tokens=60, response_format=Height)
    assert isinstance(chat.choices[0].message.parsed, Height)
    response = client.responses.parse(model=MICRO, input="How high is it?", max_output_tokens=60, text_format=Height)
    assert isinstance(response.output_parsed, Height)
    found = client.chat.completions.create(
        model=MICRO, messages=ASKED, max_tokens=60, response_format={"type": "json_object"}
    )
    assert (found.choices[0].message.content or "").startswith("{")


def test_log_probabilities_are_of_the_text(client: OpenAI) -> None:
    [choice] = client.chat.completions.create(
        model=MICRO, messages=ASKED, max_tokens=4, logprobs=True, top_logprobs=2, temperature=0
    ).choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert "".join(token.token for token in tokens) == choice.message.content
    for token in tokens:
        assert token.logprob <= 0
        assert token.bytes == list(token.token.encode())
        assert [token.token, len(token.top_logprobs)] == [token.top_logprobs[0].token, 2]


def test_stop_seed_and_n(client: OpenAI) -> None:
    def drawn(*, seed: int, n: int = 1) -> list[str | None]:
        found = client.chat.completions.create(
            model=MICRO, messages=ASKED, max_tokens=12, temperature=2, seed=seed, n=n
        )
        return [choice.message.content for choice in sorted(found.choices, key=lambda choice: choice.index)]

    three = drawn(seed=1, n=3)
    assert len(three) == 3
    assert three[0] == drawn(seed=1)[0]
    assert len({*three, *drawn(seed=5, n=8)}) > 1
    whole = client.chat.completions.create(model=MICRO, messages=ASKED, max_tokens=12, temperature=0).choices[0]
    text = whole.message.content or ""
    middle = text[len(text) // 2]
    cut = client.chat.completions.create(model=MICRO, messages=ASKED, max_tokens=12, temperature=0, stop=[middle])
    assert (cut.choices[0].message.content or "") == text.partition(middle)[0]
    assert cut.choices[0].finish_reason == "stop"


def test_vectors(client: OpenAI) -> None:
    found = client.embeddings.create(model=VECTORS, input=["Skerry", "a boat"])
    numbers = client.embeddings.create(model=VECTORS, input=["Skerry", "a boat"], encoding_format="float")
    assert [item.index for item in found.data] == [0, 1]
    for decoded, number in zip(found.data, numbers.data, strict=True):
        assert decoded.embedding == pytest.approx(number.embedding, abs=1e-6)


def test_a_response_is_created_retrieved_followed_and_deleted(client: OpenAI) -> None:
    first = client.responses.create(model=MICRO, input="How high is Skerry?", max_output_tokens=8, metadata={"a": "b"})
    assert first.output_text
    assert first.metadata == {"a": "b"}
    assert client.responses.retrieve(first.id) == first
    after = client.responses.create(model=MICRO, input="And?", max_output_tokens=8, previous_response_id=first.id)
    alone = client.responses.create(model=MICRO, input="And?", max_output_tokens=8)
    assert after.previous_response_id == first.id
    assert after.usage is not None
    assert alone.usage is not None
    assert after.usage.input_tokens > alone.usage.input_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MICRO, input="And?", previous_response_id=first.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_response_is_streamed_in_order_and_again_from_any_place(client: OpenAI) -> None:
    with client.responses.stream(model=MICRO, input="How high?", max_output_tokens=8) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] in {"response.completed", "response.incomplete"}
    whole = list(client.responses.retrieve(final.id, stream=True))
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    assert text_of(whole) == final.output_text
    for after in (0, 5, len(whole) - 2):
        assert list(client.responses.retrieve(final.id, stream=True, starting_after=after)) == whole[after + 1 :]


def text_of(events: list[ResponseStreamEvent]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


@pytest.mark.slow
def test_what_runs_in_the_background_is_polled_and_listened_to(client: OpenAI) -> None:
    begun = client.responses.create(
        model="localfusion/fusion", input=QUESTION, tool_choice="required", background=True, extra_body=PLUGIN
    )
    assert begun.status in {"queued", "in_progress"}
    assert begun.background is True
    events = list(client.responses.retrieve(begun.id, stream=True, starting_after=1))
    assert [event.sequence_number for event in events] == list(range(2, 2 + len(events)))
    over = ended(client, begun.id)
    assert over.status == "completed"
    assert text_of(events) == over.output_text
    assert over.model == "micro-judge"
    assert [item.type for item in over.output] == ["openrouter:fusion", "message"]


def test_what_runs_in_the_background_is_cancelled_and_forgotten(client: OpenAI) -> None:
    begun = client.responses.create(
        model="localfusion/fusion", input=QUESTION, tool_choice="required", background=True, extra_body=PLUGIN
    )
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.retrieve(begun.id).status == "cancelled"
    assert client.responses.cancel(begun.id).status == "cancelled"
    client.responses.delete(begun.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel(begun.id)


@pytest.mark.slow
def test_a_deliberation_is_a_chat_to_whoever_knows_no_more(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="openrouter/fusion",
        messages=[{"role": "user", "content": QUESTION}],
        tool_choice="required",
        stream=True,
        stream_options={"include_usage": True},
        extra_body=PLUGIN,
    ) as stream:
        chunks = list(stream)
    assert [len(chunk.choices) for chunk in chunks] == [1] * (len(chunks) - 1) + [0]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].model == "micro-judge"
    assert "Skerry" in spoken(chunks)
    usage = chunks[-1].usage
    assert usage is not None
    seats = usage.to_dict()["localfusion"]["seats"]  # type: ignore[index]
    assert [seat["role"] for seat in seats] == ["panelist"] * 3 + ["judge", "writer"]


def test_a_key_that_is_sent_twice_is_one_request(client: OpenAI) -> None:
    def ask(content: str) -> tuple[str, str]:
        raw = client.chat.completions.with_raw_response.create(
            model=MICRO,
            messages=[{"role": "user", "content": content}],
            max_tokens=2,
            extra_headers={"Idempotency-Key": "once"},
        )
        assert raw.headers["content-type"] == "application/json"
        return raw.parse().id, raw.headers["x-request-id"]

    first, second = ask("a"), ask("a")
    assert first[0] == second[0]
    assert first[1] != second[1]
    with pytest.raises(openai.BadRequestError) as refused:
        ask("b")
    assert refused.value.code == "idempotency_key_reused"


REFUSED: tuple[tuple[str, Callable[[OpenAI], object], int, str, str | None], ...] = (
    (
        "no such model",
        lambda c: c.chat.completions.create(model="micro", messages=ASKED),
        400,
        "invalid_model",
        "model",
    ),
    ("no such card", lambda c: c.models.retrieve("none/such"), 404, "not_found", None),
    ("no such response", lambda c: c.responses.retrieve("resp_none"), 404, "not_found", None),
    (
        "no message",
        lambda c: c.chat.completions.create(model=MICRO, messages=[]),
        400,
        "invalid_value",
        "messages",
    ),
    (
        "a field of the wrong kind",
        lambda c: c.chat.completions.create(model=MICRO, messages=ASKED, temperature=3),
        400,
        "invalid_value",
        "temperature",
    ),
    (
        "a field that is not obeyed",
        lambda c: c.chat.completions.create(model=MICRO, messages=ASKED, frequency_penalty=1),
        400,
        "unsupported_value",
        "frequency_penalty",
    ),
    (
        "more than the context holds",
        lambda c: c.chat.completions.create(model=MICRO, messages=[{"role": "user", "content": "high " * 3000}]),
        400,
        "context_length_exceeded",
        None,
    ),
    (
        "no embedding model",
        lambda c: c.embeddings.create(model=MICRO, input="a"),
        400,
        "invalid_model",
        "model",
    ),
)


@pytest.mark.parametrize(
    ("ask", "status", "code", "param"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_errors_are_the_clients_own(
    client: OpenAI, ask: Callable[[OpenAI], object], status: int, code: str, param: str | None
) -> None:
    kind = {400: openai.BadRequestError, 404: openai.NotFoundError}[status]
    with pytest.raises(kind) as refused:
        ask(client)
    assert (refused.value.code, refused.value.param, refused.value.type) == (code, param, "invalid_request_error")
    assert refused.value.request_id


def test_keys_and_rates_are_the_clients_own_errors(client: OpenAI, keys: dict[str, str]) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="lf-none").models.list()
    assert unknown.value.code == "invalid_api_key"
    slow = client.with_options(api_key=keys["slow"])
    slow.models.list()
    with pytest.raises(openai.RateLimitError) as limited:
        slow.models.list()
    assert limited.value.code == "rate_limit_exceeded"
    assert int(limited.value.response.headers["retry-after"]) > 0


def test_what_one_key_asked_no_other_sees(client: OpenAI, keys: dict[str, str]) -> None:
    response = client.responses.create(model=MICRO, input="How high?", max_output_tokens=2)
    other = client.with_options(api_key=keys["phone"])
    for ask in (other.responses.retrieve, other.responses.cancel, other.responses.delete):
        with pytest.raises(openai.NotFoundError):
            ask(response.id)
    assert client.responses.retrieve(response.id) == response


async def left_in_mid_stream(url: str, key: str, *, background: bool) -> str:
    """Close a client when the first panelist has ended; returns the id of its response."""
    id = ""
    async with (
        AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client,
        await client.responses.create(
            model="localfusion/fusion",
            input=QUESTION,
            tool_choice="required",
            stream=True,
            background=background,
            extra_body=LONG_PANEL,
        ) as stream,
    ):
        async for event in stream:
            if event.type == "response.created":
                id = event.response.id
            if str(event.type) == "response.fusion_call.panel.completed":
                break
    return id


@pytest.mark.slow
def test_a_client_that_leaves_ends_what_it_waits_for(
    url: str, home: Path, client: OpenAI, keys: dict[str, str]
) -> None:
    id = asyncio.run(left_in_mid_stream(url, keys["laptop"], background=False))
    assert ended(client, id).status == "cancelled"
    with closing(Store(home)) as store:
        [left] = [run for run in store.list_runs() if run.status == "interrupted"][:1]
        kinds = [type(event) for event in store.events(left.id)]
    assert PanelistCompleted in kinds
    assert AnswerStarted not in kinds


@pytest.mark.slow
def test_a_client_that_leaves_does_not_end_what_runs_in_the_background(
    url: str, client: OpenAI, keys: dict[str, str]
) -> None:
    id = asyncio.run(left_in_mid_stream(url, keys["laptop"], background=True))
    over = ended(client, id)
    assert over.status == "completed"
    assert over.output_text
