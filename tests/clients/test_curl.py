"""The server to whoever writes the bytes himself: what stands on the wire, in which order, and how it is framed."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from localfusion.messages import Json
from tests.clients.command import MICRO, QUESTION, serving

CHAT = {"model": MICRO, "messages": [{"role": "user", "content": "How high is Skerry?"}], "max_tokens": 6}
RESPONSE = {"model": MICRO, "input": "How high is Skerry?", "max_output_tokens": 6}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("curl")) as url:
        yield int(url.rpartition(":")[2])


@dataclass(frozen=True)
class Reply:
    """One reply as it came; `rest` are the bytes behind it."""

    status: int
    headers: dict[str, str]
    body: bytes
    rest: bytes = b""

    @property
    def error(self) -> dict[str, Json]:
        found: dict[str, Json] = json.loads(self.body)["error"]
        return found

    @property
    def frames(self) -> list[str]:
        """The blocks of an event stream, comments left out; it ends with the end of one."""
        text = self.body.decode()
        assert text.endswith("\n\n")
        return [frame for frame in text.removesuffix("\n\n").split("\n\n") if not frame.startswith(":")]


def asked(method: str, path: str, *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A request of which nothing is added but the host; it is the last one of its connection."""
    lines = (f"{method} {path} HTTP/{version}", "Host: localhost", "Connection: close", *headers)
    return "\r\n".join([*lines, "", ""]).encode() + body


def posted(path: str, value: object, *headers: str, version: str = "1.1") -> bytes:
    body = json.dumps(value, ensure_ascii=False).encode()
    length = f"Content-Length: {len(body)}"
    return asked("POST", path, "Content-Type: application/json", length, *headers, body=body, version=version)


def sent(port: int, *pieces: bytes) -> bytes:
    """What comes back for some bytes, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def parsed(raw: bytes, *, has_body: bool = True) -> Reply:
    """The first reply in some bytes, by the rules of HTTP alone."""
    head, found, rest = raw.partition(b"\r\n\r\n")
    assert found, raw
    first, *lines = head.decode("ascii").split("\r\n")
    status = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
    assert status is not None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert len(headers) == len(lines)
    if not has_body:
        return Reply(int(status[1]), headers, b"", rest)
    if headers.get("transfer-encoding") == "chunked":
        return Reply(int(status[1]), headers, *dechunked(rest))
    length = int(headers.get("content-length", len(rest)))
    assert len(rest) >= length
    return Reply(int(status[1]), headers, rest[:length], rest[length:])


def dechunked(raw: bytes) -> tuple[bytes, bytes]:
    """A body in chunks, and what is behind its end."""
    body = b""
    while True:
        size, found, raw = raw.partition(b"\r\n")
        assert found
        n = int(size, 16)
        body, end, raw = body + raw[:n], raw[n : n + 2], raw[n + 2 :]
        assert end == b"\r\n"
        if n == 0:
            return body, raw


def chunked(body: bytes, *cuts: int) -> bytes:
    """A body in chunks that are cut at these places."""
    pieces = [body[start:end] for start, end in zip((0, *cuts), (*cuts, len(body)), strict=True)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def data(frame: str) -> dict[str, Json]:
    assert frame.startswith("data: ")
    assert "\n" not in frame
    found: dict[str, Json] = json.loads(frame.removeprefix("data: "))
    return found


def choice(chunk: dict[str, Json]) -> dict[str, Json]:
    choices = chunk["choices"]
    assert isinstance(choices, list)
    assert isinstance(choices[0], dict)
    return choices[0]


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
def test_chat_chunks_as_they_stand_on_the_wire(port: int, prefix: str) -> None:
    reply = parsed(sent(port, posted(f"{prefix}/chat/completions", CHAT | {"stream": True})))
    assert (reply.status, reply.rest) == (200, b"")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    *frames, done = reply.frames
    assert done == "data: [DONE]"
    chunks = [data(frame) for frame in frames]
    assert {tuple(chunk) for chunk in chunks} == {("id", "object", "created", "model", "choices")}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    deltas = [choice(chunk)["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all(isinstance(delta, dict) and list(delta) == ["content"] for delta in deltas[1:-1])
    assert deltas[-1] == {}
    assert [choice(chunk)["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert choice(chunks[-1])["finish_reason"] in {"stop", "length"}


def test_the_usage_is_a_last_chunk_without_choices(port: int) -> None:
    wanted = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    *frames, last, _ = parsed(sent(port, posted("/v1/chat/completions", wanted))).frames
    assert {json.dumps(data(frame)["usage"]) for frame in frames} == {"null"}
    assert data(last)["choices"] == []
    assert isinstance(data(last)["usage"], dict)


@pytest.mark.slow
def test_the_progress_of_a_deliberation_is_a_field_of_its_own(port: int) -> None:
    wanted = {
        "model": "localfusion/micro",
        "messages": [{"role": "user", "content": QUESTION}],
        "tool_choice": "required",
        "stream": True,
    }
    frames = parsed(sent(port, posted("/v1/chat/completions", wanted))).frames
    told = [json.loads(frame.partition(": ")[2]) for frame in frames if frame.startswith("localfusion: ")]
    assert {one["object"] for one in told} == {"localfusion.progress"}
    stages = [one["stage"] for one in told]
    assert [stages.count(stage) for stage in ("started", "panelist_completed", "analysis_completed")] == [1, 3, 1]
    *chunks, done = [frame for frame in frames if not frame.startswith("localfusion: ")]
    assert done == "data: [DONE]"
    assert choice(data(chunks[0]))["delta"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(("prefix", "end"), [("/v1", []), ("/api/v1", ["data: [DONE]"])])
def test_events_of_a_response_are_named_and_numbered(port: int, prefix: str, end: list[str]) -> None:
    frames = parsed(sent(port, posted(f"{prefix}/responses", RESPONSE | {"stream": True}))).frames
    assert frames[len(frames) - len(end) :] == end
    for number, frame in enumerate(frames[: len(frames) - len(end)]):
        named, told = frame.split("\n")
        event = data(told)
        assert named == f"event: {event['type']}"
        assert event["sequence_number"] == number


ERRORS: tuple[tuple[str, bytes, int, str], ...] = (
    ("no JSON", asked("POST", "/v1/chat/completions", "Content-Length: 1", body=b"{"), 400, "invalid_json"),
    ("no body", asked("POST", "/v1/chat/completions"), 400, "invalid_json"),
    ("a form", posted("/v1/responses", {}).replace(b"application/json", b"text/plain"), 415, ""),
    ("no such model", posted("/v1/responses", RESPONSE | {"model": "no"}), 400, "invalid_model"),
    ("no such model, streamed", posted("/v1/responses", {**RESPONSE, "model": "no", "stream": True}), 400, ""),
    ("too long, streamed", posted("/v1/chat/completions", {**CHAT, "stream": True, "max_tokens": 1, "messages": [
        {"role": "user", "content": "high " * 3000}]}), 400, "context_length_exceeded"),
    ("no such route", asked("GET", "/v1/none"), 404, "not_found"),
    ("another method", asked("PUT", "/v1/responses", "Content-Length: 0"), 405, "method_not_allowed"),
    ("a route and a slash", asked("GET", "/v1/models/"), 404, "not_found"),
    ("OPTIONS of nobody's page", asked("OPTIONS", "/v1/models"), 405, "method_not_allowed"),
    ("another host", asked("GET", "/v1/models").replace(b"localhost", b"evil.example"), 421, "unknown_host"),
    ("two hosts", asked("GET", "/v1/models", "Host: localhost"), 400, ""),
    ("a number that is none", asked("GET", "/v1/responses/resp_0?starting_after=x"), 400, "invalid_value"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_an_error_is_one_json_of_known_length(port: int, request_bytes: bytes, status: int, code: str) -> None:
    reply = parsed(sent(port, request_bytes))
    assert (reply.status, reply.rest) == (status, b"")
    if reply.headers["content-type"] != "application/json":
        assert reply.body == b"Invalid HTTP request received."  # before anything here has seen it
        return
    assert set(reply.error) == {"message", "type", "param", "code"}
    assert reply.error["code"] == code or not code


def test_errors_have_the_shape_of_their_prefix(port: int) -> None:
    reply = parsed(sent(port, posted("/api/v1/responses", RESPONSE | {"model": "no"})))
    assert set(reply.error) == {"code", "message", "metadata"}
    assert (reply.status, reply.error["code"]) == (400, 400)


def test_a_head_asks_for_no_body(port: int) -> None:
    for path, status in (("/health", 405), ("/v1/models", 405), ("/v1/none", 404)):
        raw = sent(port, asked("HEAD", path))
        reply = parsed(raw, has_body=False)
        assert (reply.status, reply.rest) == (status, b"")


def test_a_body_may_come_in_chunks(port: int) -> None:
    body = json.dumps(CHAT | {"user": "Zoë"}, ensure_ascii=False).encode()
    cut = body.index("ë".encode()) + 1
    head = asked("POST", "/v1/chat/completions", "Content-Type: application/json", "Transfer-Encoding: chunked")
    pieces = chunked(body, 1, cut)
    reply = parsed(sent(port, head + pieces[:9], pieces[9:]))
    assert reply.status == 200
    whole = parsed(sent(port, posted("/v1/chat/completions", CHAT)))
    assert json.loads(reply.body)["choices"] == json.loads(whole.body)["choices"]


def test_a_client_that_asks_whether_to_go_on_is_told(port: int) -> None:
    raw = sent(port, posted("/v1/chat/completions", CHAT, "Expect: 100-continue"))
    told, _, rest = raw.partition(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 100 ")
    assert parsed(rest).status == 200


def test_requests_in_a_row_are_answered_in_order(port: int) -> None:
    first = posted("/v1/chat/completions", CHAT).replace(b"Connection: close\r\n", b"")
    reply = parsed(sent(port, first + asked("GET", "/health")))
    assert json.loads(reply.body)["object"] == "chat.completion"
    assert json.loads(parsed(reply.rest).body)["status"] == "ok"


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"{}\r\n\r\n", b"a" * 2000 + b"\r\n\r\n"]
)
def test_garbage_behind_a_request_ends_the_connection(port: int, garbage: bytes) -> None:
    good = asked("GET", "/health").replace(b"Connection: close\r\n", b"")
    reply = parsed(sent(port, good, garbage))
    assert reply.status == 200
    if reply.rest:
        assert parsed(reply.rest).status == 400
    assert parsed(sent(port, asked("GET", "/health"))).status == 200


def test_an_old_client_is_sent_no_chunks(port: int) -> None:
    wanted = posted("/v1/chat/completions", CHAT | {"stream": True}, version="1.0")
    reply = parsed(sent(port, wanted))
    assert reply.status == 200
    assert "transfer-encoding" not in reply.headers
    assert reply.frames[-1] == "data: [DONE]"
