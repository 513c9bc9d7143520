"""Cloud endpoints against a provider on loopback: what leaves, what comes back, and every way it can go wrong."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringLocked

from localfusion.assistant import Ask, write
from localfusion.engine.interface import Model
from localfusion.errors import (
    ConfigError,
    ContextOverflow,
    InvalidRequest,
    LimitReached,
    LocalFusionError,
    MalformedOutput,
    ProviderError,
)
from localfusion.events import CloudCharged
from localfusion.messages import CloudLeave, FunctionSpec, Json, Message, Prices, RemoteModel, ToolCall, Usage
from localfusion.providers import Spending, open_endpoint
from localfusion.providers.turns import framed_call
from tests.asking import ALLOWED, ENVIRON, KEY, QUESTION, Heard, answer_of, ask, plain, remote, stepwise
from tests.harbour import ROOT
from tests.provider_server import Reply, Sent, called, delta, events, http, provider, refused, spoken, usage

TEXT = "Orla Tamsin keeps it: “the keeper of Skerry” [1]."
SEARCH: dict[str, tuple[str, ...]] = {"web_search": ()}
BOTH: dict[str, tuple[str, ...]] = {"web_search": (), "web_fetch": ("doc://a.txt", "doc://b.txt")}
SCHEMA: Json = {
    "type": "object",
    "properties": {"consensus": {"type": "string"}},
    "required": ["consensus"],
    "additionalProperties": False,
}


def step(**fields: Json) -> str:
    return json.dumps({"step": fields}, ensure_ascii=False)


# What leaves


def test_what_leaves_is_what_was_asked_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET", "DATA_RESIDENCY"):
        monkeypatch.setenv(f"OPENAI_{name}", f"other-{name}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: other\nAuthorization: Bearer other")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with provider(spoken(TEXT)) as server:
        heard = ask(remote(server.url), plain())
    (sent,) = server.sent
    assert sent.line == "POST /v1/chat/completions HTTP/1.1"
    assert {name.lower() for name in sent.headers} == {
        "host", "connection", "content-length", "content-type", "accept", "accept-encoding", "user-agent",
        "authorization", "x-openrouter-fusion-depth",
    }  # fmt: skip
    headers = {name.lower(): value for name, value in sent.headers.items()}
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["user-agent"].startswith("localfusion/")
    assert not any("other" in value for value in headers.values())
    assert sent.body == {
        "model": "maker/far-1",
        "messages": [{"role": message.role, "content": message.content} for message in QUESTION],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "seed": 3,
        "max_tokens": 100,
    }
    (said,) = heard.said
    assert (said.id, said.provider, said.base_url) == ("a", "cloud", server.url)
    assert (said.model, said.remote_model) == ("far", "maker/far-1")
    assert said.prompt_characters == sum(len(text) for text in sent.texts)


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other")
    with provider(spoken(TEXT)) as server:
        ask(remote(server.url, key=""), plain(), environ={})
    assert "authorization" not in {name.lower() for name in server.sent[0].headers}


def test_nothing_is_opened_without_leave() -> None:
    with provider(spoken(TEXT)) as server:
        with pytest.raises(ProviderError, match="may send nothing"):
            ask(remote(server.url), plain(), spending=Spending(CloudLeave()), environ={})
        assert not server.sent


def test_a_redirect_is_not_followed() -> None:
    with provider(spoken(TEXT)) as other:
        moved = http("", status=307, kind="text/plain", location=f"{other.url}/chat/completions")
        with provider(moved) as server, pytest.raises(ProviderError, match="another address"):
            ask(remote(server.url), plain())
        assert not other.sent


def test_a_proxy_of_the_environment_is_used_off_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with provider(spoken(TEXT)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        heard = ask(remote("http://models.example/v1"), plain())
    assert answer_of(heard).content == TEXT
    assert proxy.sent[0].line == "POST http://models.example/v1/chat/completions HTTP/1.1"


# Keys


class Ring(KeyringBackend):
    """A keyring in memory that may be locked."""

    priority = 1

    def __init__(self, key: str = "", *, is_locked: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked: list[tuple[str, str]] = []
        self._key = key
        self._is_locked = is_locked

    def get_password(self, service: str, username: str) -> str | None:
        self.asked.append((service, username))
        if self._is_locked:
            raise KeyringLocked("locked")
        return self._key or None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError


NO_RING: KeyringBackend = NoKeyring()  # type: ignore[no-untyped-call]


@pytest.fixture
def no_ring() -> Iterator[None]:
    before = keyring.get_keyring()
    keyring.set_keyring(NO_RING)
    yield
    keyring.set_keyring(before)


@pytest.mark.usefixtures("no_ring")
def test_the_keyring_is_asked_where_the_variable_is_not_set() -> None:
    ring = Ring("from-the-keyring")
    keyring.set_keyring(ring)
    with provider(spoken(TEXT)) as server:
        ask(remote(server.url), plain(), environ={"CLOUD_KEY": " "})
        ask(remote(server.url), plain())
    assert ring.asked == [("localfusion", "cloud")]
    sent = [{name.lower(): value for name, value in sent.headers.items()} for sent in server.sent]
    assert [headers["authorization"] for headers in sent] == ["Bearer from-the-keyring", f"Bearer {KEY}"]


@pytest.mark.usefixtures("no_ring")
@pytest.mark.parametrize("ring", [NO_RING, Ring(is_locked=True), Ring()], ids=["none", "locked", "empty"])
def test_without_any_key_the_variable_is_named(ring: KeyringBackend) -> None:
    keyring.set_keyring(ring)
    with pytest.raises(ConfigError, match="CLOUD_KEY is not set"):
        ask(remote("http://127.0.0.1:1/v1"), plain(), environ={})


@pytest.mark.parametrize(
    "backend", ["nosuch.Backend", "keyring.NoSuch", "nodots", "json.dumps", "keyring.backend.KeyringBackend"]
)
def test_a_keyring_that_cannot_be_loaded_is_none(backend: str) -> None:
    code = f"""
import os
os.environ["PYTHON_KEYRING_BACKEND"] = {backend!r}
from localfusion.errors import ConfigError
from tests.asking import ask, plain, remote
try:
    ask(remote("http://127.0.0.1:1/v1"), plain(), environ={{}})
except ConfigError as error:
    print(error.message)
"""
    assert "CLOUD_KEY is not set" in in_python(code)


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel", "a b"])
def test_a_key_that_cannot_be_sent_is_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(remote("http://127.0.0.1:1/v1"), plain(), environ={"CLOUD_KEY": key})
    assert key not in caught.value.message + caught.value.hint


def letters(text: str) -> str:
    return "".join(char for char in text.lower() if char.isascii() and char.isalnum())


REPEATS = [
    refused(400, {"message": f"bad key {KEY}"}),
    refused(400, {"message": f"bad key ...{KEY[4:12]}***"}),
    refused(400, {"message": f"bad key {' '.join(KEY.upper())}"}),
    refused(400, {"message": f"bad key {KEY[:8]} - {KEY[8:12]}, {KEY[12:]}"}),
    refused(400, {"message": f"bad key {'·'.join(KEY)}"}),
    refused(401, {"message": f"Incorrect API key provided: {KEY}"}),
    refused(429, {"message": f"slow down, {KEY}"}, retry_after="100"),
    refused(500, f"Authorization: Bearer {KEY}"),
    http(events({"error": {"message": f"key {KEY} is out of credits", "code": 402}})),
    http(f"<p>{KEY}</p>", kind="text/html"),
    http(f"data: {{{KEY}\n\n"),
]


@pytest.mark.parametrize("reply", REPEATS)
def test_a_key_that_a_provider_repeats_is_shown_nowhere(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    heard = Heard()
    with provider(reply) as server, pytest.raises(ProviderError) as caught:
        ask(remote(server.url), plain(), heard=heard)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert letters(KEY)[4:12] not in letters(f"{chain!r} {chain} {vars(chain)}")
        chain = chain.__cause__
    assert KEY[4:12] not in f"{caught.value.hint} {heard.said} {caplog.text}"


# What comes back


def test_text_is_streamed_and_counted() -> None:
    counts: Json = {"cached_tokens": 4}
    reply = http(
        events(
            delta(role="assistant"),
            delta(reasoning_content="Let me "),
            delta(reasoning="think."),
            delta(content="Orla\x02\x07 "),
            delta(content="Tamsin."),
            delta("stop"),
            usage(12, 9, prompt_tokens_details=counts, completion_tokens_details={"reasoning_tokens": 3}, cost=0.25),
        )
    )
    spending = Spending(ALLOWED)
    with provider(reply) as server:
        heard = ask(remote(server.url, prices=Prices(1, 1)), plain(), spending=spending)
    done = answer_of(heard)
    assert [(delta.kind, delta.text) for delta in heard.deltas] == [
        ("thinking", "Let me "), ("thinking", "think."), ("content", "Orla "), ("content", "Tamsin."),
    ]  # fmt: skip
    assert (done.content, done.thinking, done.finish_reason) == ("Orla Tamsin.", "Let me think.", "stop")
    took = replace(done.usage, seconds=0)
    assert (took.prompt_tokens, took.cached_tokens, took.completion_tokens, took.reasoning_tokens) == (12, 4, 9, 3)
    assert took.cost == spending.cost == 0.25
    assert heard.charged == [CloudCharged("a", "cloud", "far", done.usage)]
    assert spending.tokens == 21


def test_a_cost_that_is_not_told_is_of_the_price_table() -> None:
    with provider(spoken(TEXT)) as server:
        done = answer_of(ask(remote(server.url, prices=Prices(100, 1000)), plain()))
    assert done.usage.cost == pytest.approx((10 * 100 + 5 * 1000) / 1e6)


def test_content_in_parts_is_text_and_thinking() -> None:
    thought: Json = {"type": "thinking", "thinking": [{"type": "text", "text": "Who?"}]}
    parts: list[Json] = [thought, {"type": "text", "text": "Orla."}]
    with provider(http(events(delta(content=parts), delta("stop")))) as server:
        done = answer_of(ask(remote(server.url), plain()))
    assert (done.content, done.thinking) == ("Orla.", "Who?")


PLACES = [
    ("http://[::1", {}),
    ("http://models.example/v1", {"HTTP_PROXY": "gopher://127.0.0.1:1"}),
    ("https://models.example/v1", {"SSL_CERT_FILE": "/nowhere/there.pem"}),
]


@pytest.mark.parametrize(("url", "variables"), PLACES)
def test_an_address_or_a_proxy_that_cannot_be_used_is_one_sentence(
    url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LocalFusionError) as caught:
        ask(remote(url), plain())
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("counted", [None, {"prompt_tokens": -1}, {"prompt_tokens": "9", "completion_tokens": 1}, 7])
def test_what_is_not_counted_is_estimated_and_charged(counted: Json) -> None:
    spending = Spending(ALLOWED)
    chunk: Json = {"choices": [], "usage": counted}
    with provider(http(events(delta(content=TEXT), delta("stop"), chunk))) as server:
        done = answer_of(ask(remote(server.url, prices=Prices(100, 1000)), plain(), spending=spending))
    assert done.usage.prompt_tokens > 5
    assert done.usage.completion_tokens > len(TEXT) / 5
    assert spending.cost == done.usage.cost > 0


def test_a_reply_that_is_not_streamed_is_read_too() -> None:
    message: Json = {"role": "assistant", "content": TEXT}
    whole: Json = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    with provider(http(json.dumps(whole), kind="application/json")) as server:
        assert answer_of(ask(remote(server.url), plain())).content == TEXT


FRAMINGS = {
    "crlf": events(delta(content=TEXT), delta("stop")).replace("\n", "\r\n"),
    "cr": events(delta(content=TEXT), delta("stop")).replace("\n", "\r"),
    "comments": ": waiting\n\n: waiting\n\nevent: message\nid: 1\n" + events(delta(content=TEXT), delta("stop")),
    "no end": events(delta(content=TEXT), delta("stop"), done=False).rstrip("\n"),
    "after the end": events(delta(content=TEXT), delta("stop")) + "data: {oops\n\n",
    "two lines": events(delta(content=TEXT), delta("stop")).replace('{"id"', '{\ndata: "id"'),
    "other choices": events({"choices": [{"index": 1, "delta": {"content": "no"}}]}, delta("stop", content=TEXT)),
}


@pytest.mark.parametrize("body", FRAMINGS.values(), ids=FRAMINGS)
def test_streams_are_framed_in_many_ways(body: str) -> None:
    with provider(http(body)) as server:
        assert answer_of(ask(remote(server.url), plain())).content == TEXT


# Steps


def history() -> tuple[Message, ...]:
    call = ToolCall("web_search", {"query": "keeper"})
    return (*QUESTION, Message("assistant", tool_calls=(call,)), Message("tool", "[1] The keeper.", fields={}))


def test_steps_are_json_under_a_strict_schema() -> None:
    with provider(spoken(step(answer=TEXT))) as server:
        heard = ask(remote(server.url), stepwise(BOTH, messages=history()))
    assert answer_of(heard).content == heard.content == TEXT
    assert len(heard.deltas) > 3
    body = server.sent[0].body
    assert "tools" not in body
    form = body["response_format"]
    assert isinstance(form, dict)
    assert form["type"] == "json_schema"
    schema = json.dumps(form["json_schema"])
    assert '"strict": true' in schema
    assert '"enum": ["doc://a.txt", "doc://b.txt"]' in schema
    system, asked, made, result = server.sent[0].texts
    assert system.startswith("Answer.")
    assert "web_fetch(url)" in system
    assert (asked, result) == ("Who keeps Skerry?", "[1] The keeper.")
    assert json.loads(made) == {"step": {"call": "web_search", "query": "keeper"}}


def test_steps_are_the_endpoints_own_tools() -> None:
    with provider(called("web_fetch", '{"url": "doc://b.txt"}')) as server:
        heard = ask(remote(server.url, tools=True), stepwise(BOTH, messages=history()))
    assert answer_of(heard).content == framed_call("web_fetch", "doc://b.txt")
    assert not heard.deltas
    body = server.sent[0].body
    assert "response_format" not in body
    assert body["tool_choice"] == "auto"
    assert '"enum": ["doc://a.txt", "doc://b.txt"]' in json.dumps(body["tools"])
    messages = body["messages"]
    assert isinstance(messages, list)
    made, result = messages[2:]
    assert isinstance(made, dict)
    assert isinstance(result, dict)
    assert result["role"] == "tool"
    assert str(result["tool_call_id"]) in json.dumps(made["tool_calls"])


FORCED: Json = {"type": "function", "function": {"name": "write_result"}}


@pytest.mark.parametrize(
    ("calls", "schema", "choice", "names"),
    [
        (SEARCH, None, "auto", ["web_search"]),
        ({}, None, "none", ["web_search", "web_fetch"]),
        (SEARCH, SCHEMA, "required", ["web_search", "write_result"]),
        ({}, SCHEMA, FORCED, ["web_search", "web_fetch", "write_result"]),
    ],
)
def test_what_may_be_called_is_what_is_offered(
    calls: dict[str, tuple[str, ...]], schema: Json, choice: Json, names: list[str]
) -> None:
    reply = spoken(TEXT) if schema is None else called("write_result", '{"consensus": "x"}')
    with provider(reply) as server:
        ask(remote(server.url, tools=True), stepwise(calls, schema=schema))
    tools = server.sent[0].body["tools"]
    assert isinstance(tools, list)
    assert [tool["function"]["name"] for tool in tools if isinstance(tool, dict)] == names  # type: ignore[index, call-overload]
    assert server.sent[0].body["tool_choice"] == choice


RESULT = '{"consensus": "x"}'
CALL = step(call="web_search", query="the keeper")
WRITTEN: list[tuple[str, bool, Reply, dict[str, tuple[str, ...]], Json, str]] = [
    ("call", False, spoken(step(call="web_search", query=" the\n keeper ")), SEARCH, None, "call"),
    (
        "fenced call",
        False,
        spoken(f"```json\n{CALL}\n```"),
        SEARCH,
        None,
        "call",
    ),
    ("bare call", False, spoken('{"call": "web_search", "query": "the keeper"}'), SEARCH, None, "call"),
    ("own call", True, called("web_search", '{"query": "the keeper"}'), SEARCH, None, "call"),
    ("bare answer", False, spoken('{"answer": "Orla."}'), SEARCH, None, "Orla."),
    ("fenced answer", False, spoken('```json\n{"step": {"answer": "Orla."}}\n```'), SEARCH, None, "Orla."),
    ("unconstrained answer", False, spoken("Orla."), SEARCH, None, "Orla."),
    ("code", False, spoken("`Orla`."), SEARCH, None, "`Orla`."),
    ("own answer", True, spoken("Orla."), SEARCH, None, "Orla."),
    ("result", False, spoken(step(result={"consensus": "x"})), SEARCH, SCHEMA, RESULT),
    ("bare result", False, spoken(RESULT), SEARCH, SCHEMA, RESULT),
    ("fenced result", False, spoken(f"```json\n{RESULT}\n```"), {}, SCHEMA, RESULT),
    ("own result", True, called("write_result", RESULT), SEARCH, SCHEMA, RESULT),
    ("told result", True, spoken(f"```\n{RESULT}\n```"), SEARCH, SCHEMA, RESULT),
    ("prose for a result", True, spoken("They agree."), SEARCH, SCHEMA, "They agree."),
]


@pytest.mark.parametrize(
    ("is_tools", "reply", "calls", "schema", "content"), [w[1:] for w in WRITTEN], ids=[w[0] for w in WRITTEN]
)
def test_what_is_written_is_read(
    is_tools: bool, reply: Reply, calls: dict[str, tuple[str, ...]], schema: Json, content: str
) -> None:
    with provider(reply) as server:
        done = answer_of(ask(remote(server.url, tools=is_tools), stepwise(calls, schema=schema)))
    assert done.content == (framed_call("web_search", "the keeper") if content == "call" else content)


# Nonsense


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
BEGUN = events(delta(content="O"), done=False).encode()
CUT = Reply(http("x" * 10_000).raw[:-10_000] + BEGUN)

HOSTILE: list[tuple[str, bool, Reply, type[LocalFusionError]]] = [
    ("html", False, http("<html>Sign in</html>", kind="text/html"), ProviderError),
    ("html as events", False, http("<html>Sign in</html>"), ProviderError),
    ("empty", False, http(""), ProviderError),
    ("done", False, http("data: [DONE]\n\n"), ProviderError),
    ("no choices", False, http(events({"choices": []})), ProviderError),
    ("null choices", False, http(events({"choices": None})), ProviderError),
    ("nothing", False, http(events({})), ProviderError),
    ("list", False, http(events([1])), ProviderError),
    ("half a chunk", False, http('data: {"choices": [{"index": 0, "del\n\n'), ProviderError),
    ("deep", False, http("data: " + "[" * 100_000 + "\n\n"), ProviderError),
    ("number as content", False, http(events(delta(content=7), delta("stop"))), ProviderError),
    ("choices as text", False, http(events({"choices": "x"})), ProviderError),
    ("text as delta", False, http(events({"choices": [{"index": 0, "delta": "x"}]})), ProviderError),
    ("no end", False, http(events(delta(content="Orla"))), ProviderError),
    ("cut", False, CUT, ProviderError),
    ("error", False, http(events({"error": {"message": "overloaded"}})), ProviderError),
    ("late error", False, http(events(delta(content="O"), {"error": {"code": 502}})), ProviderError),
    ("error with 200", False, http('{"error": "no credits"}', kind="application/json"), ProviderError),
    ("filter", False, http(events(delta(content="Or"), delta("content_filter"))), ProviderError),
    ("finish error", False, http(events(delta(content="Or"), delta("error"))), ProviderError),
    ("blank answer", False, http(events(delta(content=" "), delta("stop"))), MalformedOutput),
    ("half an answer", False, spoken('{"step": {"answer": "Orla'), MalformedOutput),
    ("half a call", False, spoken('{"step": {"call": "web_se'), MalformedOutput),
    ("bad escape", False, spoken('{"step": {"answer": "a\\x"}}'), MalformedOutput),
    ("no step", False, spoken('{"step": 7}'), MalformedOutput),
    ("other tool", False, spoken(step(call="shell", query="rm")), MalformedOutput),
    ("tool of later", False, spoken(step(call="web_fetch", url="doc://a.txt")), MalformedOutput),
    ("no argument", False, spoken(step(call="web_search")), MalformedOutput),
    ("wrong argument", False, spoken(step(call="web_search", query=7)), MalformedOutput),
    ("endless argument", False, spoken(step(call="web_search", query="a " * 600)), MalformedOutput),
    ("own other tool", True, called("shell", '{"query": "rm"}'), MalformedOutput),
    ("own tool of later", True, called("web_fetch", '{"url": "doc://a.txt"}'), MalformedOutput),
    ("own result unasked", True, called("write_result", "{}"), MalformedOutput),
    ("own half a call", True, called("web_search", '{"query": "the'), MalformedOutput),
    ("own list", True, called("web_search", "[]"), MalformedOutput),
    ("not http", False, Reply(b"\x15\x03\x01\x00\x02"), ProviderError),
    ("hung up", False, Reply(b""), ProviderError),
    ("huge header", False, Reply(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 300_000), ProviderError),
    ("bad length", False, Reply(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), ProviderError),
    ("bad gzip", False, http(b"nonsense", content_encoding="gzip"), ProviderError),
    ("huge event", False, http("data: " + "x" * (3 << 20)), ProviderError),
    ("huge error", False, http("x" * (3 << 20), status=418, kind="text/plain"), ProviderError),
    ("error of text", False, http("no", status=404, kind="text/plain"), ProviderError),
    ("error of lists", False, http('[{"error": {"message": "no", "code": 400}}]', status=400), ProviderError),
    ("error of errors", False, http('{"error": [["x"]], "detail": 7}', status=422), ProviderError),
    ("no content", False, Reply(b"HTTP/1.1 204 No Content\r\n\r\n"), ProviderError),
]  # fmt: skip


@pytest.mark.parametrize(("is_tools", "reply", "kind"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_nonsense_is_one_sentence(is_tools: bool, reply: Reply, kind: type[LocalFusionError]) -> None:
    spending = Spending(CloudLeave(is_allowed=True, max_tokens=5000))
    with provider(reply) as server, pytest.raises(kind) as caught:
        ask(remote(server.url, tools=is_tools), stepwise(SEARCH), spending=spending)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    with provider(spoken(step(answer="Orla."))) as server:  # what was put by for it is free again
        ask(remote(server.url), stepwise(SEARCH), spending=spending)


@pytest.mark.parametrize("code", ["context_length_exceeded", "exceed_context_size_error"])
def test_a_window_that_is_full_is_told_by_its_code(code: str) -> None:
    told: list[Json] = [{"message": "?", "code": code}, {"message": "?", "type": code, "code": 400}]
    for error in told:
        with provider(refused(400, error)) as server, pytest.raises(ContextOverflow) as caught:
            ask(remote(server.url), plain())
        assert caught.value.n_ctx == 8192
    with provider(refused(400, {"message": code})) as server, pytest.raises(ProviderError):
        ask(remote(server.url), plain())


def test_parameters_that_a_provider_does_not_know_are_left_out() -> None:
    def strict(sent: Sent) -> Reply:
        if "seed" in sent.body:
            detail: Json = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]
            return http(json.dumps({"detail": detail}), status=422, kind="application/json")
        for name in ("max_tokens", "temperature"):
            if name in sent.body:
                return refused(400, {"message": "no", "code": "unsupported_parameter", "param": name})
        return spoken(TEXT)

    with provider(strict) as server:
        heard = ask(remote(server.url), plain())
    assert answer_of(heard).content == TEXT
    assert len(heard.said) == len(server.sent) == 4
    assert server.sent[-1].body["max_completion_tokens"] == 100


def test_a_parameter_that_is_refused_twice_ends_it() -> None:
    reply = refused(400, {"message": "no", "code": "unsupported_parameter", "param": "max_tokens"})
    with provider(reply) as server:
        with pytest.raises(ProviderError):
            ask(remote(server.url), plain())
        assert len(server.sent) == 2


# Time, retries, the end


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_sent_again_and_said_again(status: int) -> None:
    with provider(refused(status, retry_after="0"), spoken(TEXT)) as server:
        heard = ask(remote(server.url, retries=1), plain())
    assert answer_of(heard).content == TEXT
    assert len(heard.said) == len(server.sent) == 2


def test_a_connection_that_breaks_before_the_first_word_is_tried_again() -> None:
    with provider(Reply(b""), http(events(delta(role="assistant"), done=False)), spoken(TEXT)) as server:
        heard = ask(remote(server.url, retries=2), plain())
    assert answer_of(heard).content == TEXT
    assert len(heard.said) == 3


NOT_AGAIN = {
    "not allowed": refused(403),
    "no such model": refused(404),
    "asked to wait for long": refused(429, retry_after="3600"),
    "after the first word": CUT,
    "error after the first word": http(events(delta(content="O"), {"error": {"code": 503, "message": "?"}})),
}


@pytest.mark.parametrize("reply", NOT_AGAIN.values(), ids=NOT_AGAIN)
def test_what_does_not_pass_is_not_sent_again(reply: Reply) -> None:
    with provider(reply) as server:
        with pytest.raises(ProviderError):
            ask(remote(server.url, retries=3), plain())
        assert len(server.sent) == 1


def test_retries_end() -> None:
    with provider(refused(503, retry_after="0")) as server:
        with pytest.raises(ProviderError) as caught:
            ask(remote(server.url, retries=2), plain())
        assert len(server.sent) == 3
    assert caught.value.status == 503


def test_each_request_is_charged_whatever_its_end() -> None:
    spending = Spending(ALLOWED)
    heard = Heard()
    with provider(refused(503, retry_after="0"), CUT) as server, pytest.raises(ProviderError):
        ask(remote(server.url, retries=1, prices=Prices(100, 1000)), plain(), spending=spending, heard=heard)
    refusal, broken = heard.charged
    assert (refusal.usage, broken.usage.cost > 0) == (Usage(), True)
    assert spending.cost == broken.usage.cost
    assert len(heard.said) == 2


def test_a_port_where_nobody_listens_is_one_sentence() -> None:
    with provider(spoken(TEXT)) as server:
        url = server.url
    with pytest.raises(ProviderError, match="cannot be reached") as caught:
        ask(remote(url), plain())
    assert url in caught.value.hint


@pytest.mark.parametrize("start", [b"", STREAM[:30], STREAM, STREAM + BEGUN])
def test_a_reply_that_takes_too_long_is_given_up(start: bytes) -> None:
    with provider(Reply(start, hang=True)) as server:
        with pytest.raises(ProviderError):
            ask(remote(server.url, timeout_s=0.3), plain())
        assert server.closed.wait(10)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_whoever_closes_closes_the_connection(is_cancelled: bool) -> None:
    reply = Reply(STREAM + BEGUN, hang=True)
    spending = Spending(ALLOWED)

    async def scenario(model: RemoteModel) -> None:
        said: list[object] = []
        async with open_endpoint(model, id="a", environ=ENVIRON, spending=spending, emit=said.append) as endpoint:
            stream = endpoint.generate(plain())
            await anext(stream)
            if is_cancelled:
                waiting = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                await stream.aclose()
            assert await asyncio.to_thread(server.closed.wait, 10)

    with provider(reply) as server:
        asyncio.run(scenario(remote(server.url, prices=Prices(1, 1))))
    assert spending.cost > 0


@pytest.mark.parametrize("start", [b"", STREAM[:30], STREAM])
def test_whoever_gives_up_before_the_first_word_is_charged_by_estimate(start: bytes) -> None:
    spending = Spending(ALLOWED)
    heard = Heard()

    async def scenario(model: RemoteModel) -> None:
        opened = open_endpoint(model, id="a", environ=ENVIRON, spending=spending, emit=heard.hear)
        async with opened as endpoint, aclosing(endpoint.generate(plain())) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            assert await asyncio.to_thread(server.asked.wait, 10)
            for _ in range(10):  # what the server has, the client has yet to hear that it wrote
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    with provider(Reply(start, hang=True)) as server:
        asyncio.run(scenario(remote(server.url, prices=Prices(100, 1000))))
    (charged,) = heard.charged
    assert charged.usage.completion_tokens == 0
    assert spending.cost == charged.usage.cost > 0


ENDS = {
    "hung up": (Reply(b""), True),
    "half a header": (Reply(STREAM[:30]), True),
    "cut before the first word": (Reply(http("x" * 99).raw[:-99]), True),
    "refused": (refused(503), False),
    "no chat": (http("<p>", kind="text/html"), False),
}


@pytest.mark.parametrize(("reply", "costs"), ENDS.values(), ids=ENDS)
def test_what_was_sent_may_cost_where_no_answer_says_otherwise(reply: Reply, costs: bool) -> None:
    heard = Heard()
    with provider(reply) as server, pytest.raises(ProviderError):
        ask(remote(server.url, prices=Prices(100, 1000)), plain(), heard=heard)
    assert [charged.usage.cost > 0 for charged in heard.charged] == [costs]


def test_what_was_never_sent_costs_nothing() -> None:
    with provider(spoken(TEXT)) as server:
        url = server.url
    heard = Heard()
    with pytest.raises(ProviderError):
        ask(remote(url, prices=Prices(100, 1000)), plain(), heard=heard)
    assert [charged.usage for charged in heard.charged] == [Usage()]


def test_an_endless_stream_is_stopped() -> None:
    piece = events(delta(content="Orla Tamsin keeps it. " * 10), done=False).encode()
    with provider(Reply(STREAM + piece * 50, hang=True)) as server:
        done = answer_of(ask(remote(server.url), plain(max_tokens=20)))
        assert server.closed.wait(10)
    assert done.finish_reason == "length"
    assert len(done.content) < 20 * 8 * 2 + 500


# Limits


def test_the_request_is_lowered_to_what_is_left() -> None:
    leave = CloudLeave(is_allowed=True, max_cost=0.1)
    with provider(spoken(TEXT)) as server:
        ask(remote(server.url, prices=Prices(0, 1000)), plain(max_tokens=4000), spending=Spending(leave))
    assert server.sent[0].body["max_tokens"] == 100


@pytest.mark.parametrize(
    ("leave", "prices"),
    [
        (CloudLeave(is_allowed=True, max_cost=0.01), Prices(0, 1000)),
        (CloudLeave(is_allowed=True, max_cost=0.0), Prices(1, 1)),
        (CloudLeave(is_allowed=True, max_cost=10.0), None),
        (CloudLeave(is_allowed=True, max_tokens=30), None),
    ],
)
def test_what_cannot_be_paid_is_not_sent(leave: CloudLeave, prices: Prices | None) -> None:
    with provider(spoken(TEXT)) as server:
        with pytest.raises(LimitReached):
            ask(remote(server.url, prices=prices), plain(), spending=Spending(leave))
        assert not server.sent


def test_a_run_ends_where_its_limit_is() -> None:
    spending = Spending(CloudLeave(is_allowed=True, max_cost=1.0))
    dear = http(events(delta(content=TEXT), delta("stop"), usage(10, 5, cost=0.4)))
    with provider(dear) as server:
        model = remote(server.url, prices=Prices(100, 3000))
        for _ in range(3):
            ask(model, plain(), spending=spending)
        with pytest.raises(LimitReached):
            ask(model, plain(), spending=spending)
    most = [sent.body["max_tokens"] for sent in server.sent]
    assert most[:2] == [100, 100]
    assert most[2] in range(60, 67)
    assert spending.cost == pytest.approx(1.2)


def test_a_resumed_run_has_spent_what_it_had_spent() -> None:
    spending = Spending(CloudLeave(is_allowed=True, max_cost=1.0), spent=Usage(cost=1.0))
    with provider(spoken(TEXT)) as server, pytest.raises(LimitReached):
        ask(remote(server.url, prices=Prices(1, 1)), plain(), spending=spending)


# The rest of a model


def test_an_endpoint_is_a_model_that_makes_no_vectors() -> None:
    async def scenario() -> None:
        model = remote("http://127.0.0.1:1/v1")
        said: list[object] = []
        async with open_endpoint(
            model, id="a", environ=ENVIRON, spending=Spending(ALLOWED), emit=said.append
        ) as endpoint:
            as_model: Model = endpoint
            assert as_model.info.n_ctx == 8192
            short, long = await as_model.count_tokens(["Orla", TEXT])
            assert 0 < short < long
            request = stepwise(BOTH)
            bare = await as_model.count_prompt(request.messages)
            assert bare < await as_model.count_prompt(request.messages, request.tools)
            with pytest.raises(ProviderError, match="makes no vectors"):
                await as_model.embed([TEXT], kind="query")
            for asked in (replace(request, n_logprobs=0), replace(request, functions=(FunctionSpec("f"),))):
                with pytest.raises(ProviderError, match="is not asked for"):
                    await anext(as_model.generate(asked))
            for turn, param in (
                (Ask(request.messages, n_logprobs=0), "logprobs"),
                (Ask(request.messages, functions=(FunctionSpec("f"),)), "tools"),
            ):
                with pytest.raises(InvalidRequest, match="a provider's model") as refused:
                    await anext(write(as_model, turn, name="model"))
                assert refused.value.param == param

    asyncio.run(scenario())


def in_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_who_asks_no_provider_imports_none_of_it() -> None:
    code = "import sys, localfusion.cli.ask, localfusion.providers; print({'openai', 'keyring'} & {*sys.modules})"
    assert in_python(code) == "set()"


@pytest.mark.parametrize("missing", ["openai", "keyring", "tenacity"])
def test_a_package_that_is_missing_is_named_by_its_extra(missing: str) -> None:
    code = f"""
import asyncio, sys
sys.modules[{missing!r}] = None
from localfusion.errors import ConfigError
from tests.asking import ask, plain, remote
try:
    ask(remote("http://127.0.0.1:1/v1"), plain())
except ConfigError as error:
    print(error.hint)
"""
    assert in_python(code) == 'pip install "localfusion[cloud]"'
