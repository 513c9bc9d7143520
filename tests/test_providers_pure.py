"""What of the providers is pure: the arithmetic of limits, the decoder of steps, the reader of streams, estimates."""

import asyncio
import json
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.errors import LimitReached, ProviderError
from localfusion.messages import CloudLeave, Prices, Usage
from localfusion.providers.chunks import NotAChunk, parse_chunk
from localfusion.providers.estimates import estimated_tokens
from localfusion.providers.event_stream import EventReader, TooLarge
from localfusion.providers.refusals import refusal, retry_after
from localfusion.providers.secret import MAX_CHARACTERS, Secret
from localfusion.providers.spending import Spending, affordable, price, worst
from localfusion.providers.step_decoder import BadEscape, StepDecoder, unfenced
from tests.asking import remote
from tests.harbour import HARBOUR

DOLLARS = st.floats(0, 1000, allow_nan=False)
TOKENS = st.integers(0, 200_000)
PRICES = st.builds(Prices, DOLLARS, DOLLARS, st.none() | DOLLARS)
TEXTS = st.text(st.characters(codec="utf-8"))


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(bounds)]


# Limits


@given(TOKENS, TOKENS, st.none() | PRICES, st.none() | st.integers(-1000, 10**6), st.none() | DOLLARS)
def test_what_is_affordable_fits_and_one_more_does_not(
    prompt: int, wanted: int, prices: Prices | None, tokens_left: int | None, left: float | None
) -> None:
    cost_left = None if left is None else Fraction(left)
    most = affordable(prompt_tokens=prompt, wanted=wanted, prices=prices, tokens_left=tokens_left, cost_left=cost_left)

    def fits(n: int) -> bool:
        if tokens_left is not None and prompt + n > tokens_left:
            return False
        if prices is None or cost_left is None:
            return True
        return price(worst(prices), prompt_tokens=prompt, completion_tokens=n) <= cost_left

    assert 0 <= most <= wanted
    assert most == 0 or fits(most)
    assert most == wanted or not fits(most + 1)


CALLS = st.lists(st.tuples(TOKENS, TOKENS, st.floats(0, 1), st.booleans()), max_size=12)


@given(CALLS, st.floats(0, 100), st.integers(0, 10**6), PRICES)
def test_requests_side_by_side_never_go_over_the_limits(
    calls: list[tuple[int, int, float, bool]], max_cost: float, max_tokens: int, prices: Prices
) -> None:
    spending = Spending(CloudLeave(is_allowed=True, max_cost=max_cost, max_tokens=max_tokens))
    model = remote("http://127.0.0.1:1", prices=prices)

    async def call(prompt: int, wanted: int, share: float, is_slow: bool) -> None:
        try:
            reserved = await spending.reserve(model, prompt_tokens=prompt, wanted=wanted)
        except LimitReached:
            return
        await asyncio.sleep(0.001 if is_slow else 0)
        written = int(reserved.completion_tokens * share)
        cost = price(prices, prompt_tokens=prompt, completion_tokens=written)
        spending.settle(reserved, Usage(prompt, 0, written, 0.0, float(cost)))

    async def together() -> None:
        await asyncio.gather(*(call(*one) for one in calls))

    asyncio.run(together())
    assert spending.tokens <= max_tokens
    assert spending.cost <= max_cost * (1 + 1e-9)


def test_who_finds_too_little_waits_for_what_others_give_back() -> None:
    async def scenario() -> list[int]:
        spending = Spending(CloudLeave(is_allowed=True, max_tokens=1000))
        model = remote("http://127.0.0.1:1")
        first = await spending.reserve(model, prompt_tokens=100, wanted=800)
        second, third = (
            asyncio.ensure_future(spending.reserve(model, prompt_tokens=100, wanted=wanted)) for wanted in (800, 500)
        )
        await asyncio.sleep(0)
        assert not second.done()
        second.cancel()  # whoever is cancelled leaves nothing put by
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not third.done()
        spending.settle(first, Usage(100, 0, 100))
        found = [first, await third]
        with pytest.raises(LimitReached):  # whatever the third gives back, this is more than is left
            await spending.reserve(model, prompt_tokens=790, wanted=800)
        waiting = asyncio.ensure_future(spending.reserve(model, prompt_tokens=300, wanted=400))
        await asyncio.sleep(0)
        assert not waiting.done()
        spending.settle(found[1], Usage(100, 0, 500))
        with pytest.raises(LimitReached):  # what it waited for was used up
            await waiting
        return [reserved.completion_tokens for reserved in found]

    assert asyncio.run(scenario()) == [800, 500]


# Steps


@given(TEXTS, st.lists(st.integers(0, 10_000)), st.booleans(), st.sampled_from([None, 1]))
def test_an_answer_is_decoded_however_it_is_cut(text: str, cuts: list[int], is_ascii: bool, indent: int | None) -> None:
    written = json.dumps({"step": {"answer": text}}, ensure_ascii=is_ascii, indent=indent)
    decoder = StepDecoder()
    assert "".join(map(decoder.feed, pieces_of(written, cuts))) == text
    assert decoder.kind == "ended"


@given(TEXTS, st.integers(0, 10_000))
def test_half_an_answer_is_its_beginning(text: str, cut: int) -> None:
    written = json.dumps({"step": {"answer": text}})
    decoder = StepDecoder()
    assert text.startswith(decoder.feed(written[: cut % len(written)]))


@given(TEXTS, st.lists(st.integers(0, 10_000)))
def test_no_text_breaks_the_decoder_or_is_lost(text: str, cuts: list[int]) -> None:
    decoder = StepDecoder()
    try:
        shown = "".join(map(decoder.feed, pieces_of(text, cuts)))
    except BadEscape:
        assert "\\" in text
        return
    assert decoder.kind in ("answer", "ended") or shown + decoder.held == text


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d", "\ufffd"),
        (r"\ude00", "\ufffd"),
        (r"\ud83dx", "\ufffdx"),
        (r"\ud83d\n", "\ufffd\n"),
    ],
)
def test_halves_of_characters_are_put_together(escaped: str, text: str) -> None:
    decoder = StepDecoder()
    assert "".join(map(decoder.feed, f'{{"step": {{"answer": "{escaped}"}}}}')) == text


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('  ```\n{"a": 1}```\n', '{"a": 1}'),
        ('{"a": "```"}', '{"a": "```"}'),
        ("see ```x```", "see ```x```"),
    ],
)
def test_a_fence_around_all_is_taken_off(text: str, bare: str) -> None:
    assert unfenced(text) == bare


# Streams


@given(
    st.lists(st.text("ab{}: \u00e9", min_size=1)),
    st.lists(st.integers(0, 10_000)),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_events_are_the_same_however_they_are_cut(values: list[str], cuts: list[int], end: str) -> None:
    body = "".join(f": x{end}data: {value}{end}{end}" for value in values).encode()
    bounds = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    reader = EventReader(max_bytes=len(body))
    found = [data for at, to in pairwise(bounds) for data in reader.feed(body[at:to])]
    assert [*found, *reader.finish()] == values


def test_no_more_is_read_than_allowed() -> None:
    reader = EventReader(max_bytes=10)
    list(reader.feed(b"data: 1\n\n"))
    with pytest.raises(TooLarge):
        list(reader.feed(b"data: 2\n\n"))
    reader = EventReader(max_bytes=1 << 30)
    with pytest.raises(TooLarge):
        list(reader.feed(b"data: 1\n" * (1 << 21)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "delta", "message", "content", "usage", "index", "finish_reason", "tool_calls", "function", "error"]
    ), inner, max_size=4),
    max_leaves=15,
)  # fmt: skip


@given(VALUES)
def test_any_value_is_a_chunk_or_is_not(value: object) -> None:
    try:
        parse_chunk(json.dumps(value))
    except NotAChunk:
        return
    assert isinstance(value, dict)


@given(st.integers(100, 599), VALUES, st.binary())
def test_any_refusal_is_one_short_sentence(status: int, value: object, raw: bytes) -> None:
    for body in (json.dumps(value).encode(), raw):
        error = refusal(status, body, {}, model=remote("http://127.0.0.1:1"), secret=Secret("abcdefgh"))
        assert isinstance(error, ProviderError)
        assert "\n" not in error.message
        assert "abcdefgh" not in error.message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("inf", None), ("soon", None), ("", None),
     ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0)],
)  # fmt: skip
def test_the_wait_that_is_asked_for_is_read(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}) == seconds


# Keys and estimates


@given(st.text("abcdef0123456789-", min_size=1, max_size=40), st.text(), st.text())
def test_a_key_never_stands_in_what_is_shown(key: str, before: str, after: str) -> None:
    shown = Secret(key).scrubbed(f"{before}{key}{after}")
    if len(key) >= 6:
        assert key not in shown
    assert len(shown) <= MAX_CHARACTERS + 3
    assert shown.isprintable()
    assert key not in repr(Secret(key)) or len(key) < 6


KEYS = st.text("abcdefXYZ0123456789-_", min_size=12).filter(lambda key: sum(map(str.isalnum, key)) >= 8)


@given(KEYS, st.lists(st.sampled_from(["", " ", "-", " . ", "·", "\n"]), min_size=1), st.booleans())
def test_a_key_in_pieces_is_no_less_hidden(key: str, between: list[str], is_upper: bool) -> None:
    written = "".join(char + between[index % len(between)] for index, char in enumerate(key))
    shown = Secret(key).scrubbed(f"bad key: {written.upper() if is_upper else written} it is")
    assert "".join(filter(str.isalnum, shown)).lower() in (
        "badkeyitis",
        "badkeyit",
        "badkeyis",
        "badkey",
        "badit",
        "it",
    )


def test_estimates_of_prose_are_a_little_large() -> None:
    text = (HARBOUR / "council.md").read_text(encoding="utf-8")
    assert len(text) / 4 < estimated_tokens(text) < len(text) / 2


@given(TEXTS, TEXTS)
def test_more_text_is_not_fewer_tokens(one: str, other: str) -> None:
    assert estimated_tokens(f"{one}\n{other}") >= max(estimated_tokens(one), estimated_tokens(other))
