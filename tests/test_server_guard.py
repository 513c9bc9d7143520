"""The guard, the log, streams and the end of a server, over real sockets, in front of a small application."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from localfusion.errors import ConfigError, QueueFull
from localfusion.server.access import Access
from localfusion.server.app import handle_errors
from localfusion.server.bodies import read_json
from localfusion.server.guard import Guard, Policy, caller_of
from localfusion.server.hosts import hosts_of
from localfusion.server.keys import FILE_NAME, KeyRing, Keys, new_key, save_keys
from localfusion.server.limits import Rates
from localfusion.server.metrics import Metrics
from localfusion.server.running import bound_socket
from localfusion.server.streaming import EventStream, WholeReply, unless_left
from localfusion.server.telling import REQUEST_ID, telling
from tests.serving import nothing, raw, served

POLICY = Policy(hosts_of("127.0.0.1"), max_body_bytes=100_000, cors_origins=("http://page.example",))
SECRET_TEXT = "the secret of Skerry"


class Left:
    """Says when a client was found to have left."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.event.set()

    async def frames(self, n: int) -> AsyncGenerator[bytes]:
        for index in range(n):
            yield b"data: %d\n\n" % index
        if not n:
            raise QueueFull("it is full")
        await self.wait()


async def frames_after(seconds: float) -> AsyncGenerator[bytes]:
    """No frame, and an error by when the reply has begun."""
    await asyncio.sleep(seconds)
    if seconds:
        raise QueueFull("it is full")
    yield b""


async def broken() -> AsyncGenerator[bytes]:
    """It fails after the first heartbeat, in a way that nobody foresaw."""
    await asyncio.sleep(0.2)
    yield b"data: begun\n\n"
    raise ValueError(SECRET_TEXT)


def application(home: Path, policy: Policy = POLICY, *, left: Left | None = None) -> FastAPI:
    """A few routes, guarded and logged as the server's are."""
    app, left = FastAPI(redirect_slashes=False), left or Left()

    async def echo(request: Request) -> Response:
        return JSONResponse({"said": await read_json(request), "caller": caller_of(request.scope).name})

    async def boom() -> Response:
        raise ValueError(SECRET_TEXT)

    async def wait(request: Request) -> Response:
        await unless_left(left.wait(), request.receive)
        return Response()

    async def stream(request: Request, n: int) -> Response:
        def failed(error: BaseException, n_sent: int) -> bytes:
            return b"data: %d %s\n\n" % (n_sent, telling(error, request.scope[REQUEST_ID]).message.encode())

        frames = left.frames(n) if n < 9 else broken()
        return await EventStream(frames, heartbeat_s=0.05, failed=failed).begin()

    async def late() -> Response:
        return await WholeReply(frames_after(0.3), heartbeat_s=0.05, failed=lambda *_: b'{"error": 1}').begin()

    async def slow() -> Response:
        await asyncio.sleep(0.3)
        return Response("done")

    for prefix in ("/v1", "/api/v1"):
        app.post(f"{prefix}/echo")(echo)
        app.get(f"{prefix}/boom")(boom)
    app.get("/v1/wait")(wait)
    app.get("/v1/stream/{n}")(stream)
    app.get("/v1/late")(late)
    app.get("/v1/slow")(slow)
    app.get("/health")(nothing)
    handle_errors(app)
    app.add_middleware(Guard, policy=policy, keys=KeyRing(home), rates=Rates())
    app.add_middleware(Access, metrics=Metrics())
    return app


REFUSED: tuple[tuple[str, str, dict[str, str], bytes, int, str], ...] = (
    ("another host", "/v1/echo", {"host": "evil.example"}, b"{}", 421, "unknown_host"),
    ("a page's request", "/v1/echo", {"origin": "http://evil.example"}, b"{}", 403, "origin_not_allowed"),
    ("a page without an origin", "/v1/echo", {"origin": "null"}, b"{}", 403, "origin_not_allowed"),
    ("no such route", "/v1/nothing", {}, b"{}", 404, "not_found"),
    ("a slash more", "/v1/echo/", {}, b"{}", 404, "not_found"),
    ("another method", "/v1/slow", {}, b"{}", 405, "method_not_allowed"),
    (
        "a form",
        "/v1/echo",
        {"content-type": "application/x-www-form-urlencoded"},
        b"a=1",
        415,
        "unsupported_media_type",
    ),
    ("no JSON", "/v1/echo", {}, b"{", 400, "invalid_json"),
    ("one byte too many", "/v1/echo", {}, b'"' + b"x" * 99_999 + b'"', 413, "body_too_large"),
)


def test_what_is_refused_is_told_in_the_shape_of_its_path(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            for name, path, headers, body, status, code in REFUSED:
                reply = await client.post(path, headers={"content-type": "application/json"} | headers, content=body)
                assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), name
                router = await client.post(
                    f"/api{path}", headers={"content-type": "application/json"} | headers, content=body
                )
                if path != "/v1/slow":
                    assert router.json()["error"]["code"] == router.status_code == status, name
                    assert router.json()["error"]["metadata"]["code"] == code, name

    asyncio.run(run())


def test_keys_are_demanded_and_counted_once_there_are_any(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/v1/echo", json={})).json()["caller"] == ""
            secret, entry = new_key("laptop", created="now", requests_per_minute=2)
            save_keys(tmp_path, Keys((entry,)))
            headers = {"authorization": f"Bearer {secret}"}
            assert (await client.get("/health")).status_code == 200
            for wrong in ({}, {"authorization": secret}, {"authorization": "Bearer lf-x"}, {"x-api-key": "no"}):
                refused = await client.post("/v1/echo", json={}, headers=wrong)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert (await client.post("/v1/echo", json={}, headers=headers)).json()["caller"] == "laptop"
            assert (await client.post("/v1/echo", json={}, headers={"x-api-key": secret})).status_code == 200
            limited = await client.post("/v1/echo", json={}, headers=headers)
            assert (limited.status_code, 1 <= int(limited.headers["retry-after"]) <= 30) == (429, True)

    asyncio.run(run())


def test_pages_that_may_ask_are_told_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
            allowed = await client.options("/v1/echo", headers={"origin": "http://page.example", **asks})
            assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, "http://page.example")
            assert allowed.headers["access-control-allow-headers"] == "authorization"
            other = await client.options("/v1/echo", headers={"origin": "http://other.example", **asks})
            assert other.status_code == 403
            assert "access-control-allow-origin" not in other.headers
            own = await client.post("/v1/echo", json={}, headers={"origin": url})
            assert (own.status_code, "access-control-allow-origin" in own.headers) == (200, False)

    asyncio.run(run())


def test_a_body_is_cut_where_it_is_too_large_whatever_it_says_of_itself(tmp_path: Path) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(100):
            yield b" " * 1_000_000

    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            headers = {"content-type": "application/json"}
            with suppress(httpx.WriteError, httpx.ReadError):  # it may still have been sending when it was cut off
                reply = await client.post("/v1/echo", content=pieces(), headers=headers)
                assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
            said = b"POST /v1/echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n{}"
            assert b" 413 " in await raw(url, said)

    asyncio.run(run())


def test_what_comes_too_slowly_is_not_waited_for(tmp_path: Path) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nhost: localhost\r\n"
    whole = b"GET /v1/slow HTTP/1.1\r\nhost: localhost\r\n\r\n"

    async def run() -> None:
        app = application(tmp_path, replace(POLICY, body_s=0.2))
        async with served(app, idle_s=1) as url:
            sent = (b"", head, whole + head, head + b"content-length: 9\r\n\r\n{")
            silent, no_head, one, no_body = await asyncio.gather(*(raw(url, one) for one in sent))
            assert (silent, no_head, one.count(b"HTTP/1.1 200")) == (b"", b"", 1)
            assert b" 408 " in no_body

    asyncio.run(run())


@pytest.mark.parametrize(
    "sent", [b"\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n"]
)
def test_what_is_no_http_is_refused(tmp_path: Path, sent: bytes) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url:
            assert (await raw(url, sent)).startswith((b"HTTP/1.1 400", b"HTTP/1.1 421"))

    asyncio.run(run())


def test_a_failure_that_nobody_foresaw_is_logged_without_what_was_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="localfusion.server")

    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            reply = await client.get("/v1/boom?q=hidden", headers={"origin": "http://page.example"})
            assert reply.status_code == 500
            id = reply.json()["error"]["message"].rsplit(" ", 1)[1]
            assert id in caplog.text
            assert (reply.headers["x-request-id"], reply.headers["x-content-type-options"]) == (id, "nosniff")
            assert reply.headers["access-control-allow-origin"] == "http://page.example"
            await client.get("/v1/private/path", headers={"authorization": "Bearer lf-hidden"})

    asyncio.run(run())
    assert "ValueError at boom:" in caplog.text
    assert "GET /v1/boom 500 " in caplog.text
    assert "GET - 404 " in caplog.text
    assert not any(text in caplog.text for text in (SECRET_TEXT, "hidden", "private"))


def test_files_of_the_server_are_for_its_log_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            (tmp_path / FILE_NAME).write_text("{}")
            reply = await client.post("/v1/echo", json={})
            error = reply.json()["error"]
            assert (reply.status_code, error["code"]) == (500, "configuration_error")
            assert error["message"].endswith(f"under {reply.headers['x-request-id']}")
            assert str(tmp_path) not in reply.text

    asyncio.run(run())
    assert f"{tmp_path / FILE_NAME} is damaged" in caplog.text


def test_a_stream_has_heartbeats_and_ends_when_its_client_leaves(tmp_path: Path) -> None:
    async def run() -> None:
        left = Left()
        async with served(application(tmp_path, left=left)) as url, httpx.AsyncClient(base_url=url) as client:
            async with client.stream("GET", "/v1/stream/2") as reply:
                assert reply.headers["content-type"].startswith("text/event-stream")
                lines = reply.aiter_lines()
                found = [line async for line in _first(lines, 6) if line]
                assert found == ["data: 0", "data: 1", ": waiting"]
            await asyncio.wait_for(left.event.wait(), 10)

    asyncio.run(run())


async def _first(lines: AsyncIterator[str], n: int) -> AsyncGenerator[str]:
    for _ in range(n):
        yield await anext(lines)


def test_an_error_before_the_first_event_has_its_status(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            reply = await client.get("/v1/stream/0")
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
            assert reply.json()["error"]["code"] == "queue_full"

    asyncio.run(run())


def test_a_document_that_takes_long_comes_behind_empty_lines(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            whole = await client.get("/v1/late")
            assert (whole.status_code, whole.headers["content-type"]) == (200, "application/json")
            assert whole.text.startswith("\n")
            assert whole.json() == {"error": 1}

    asyncio.run(run())


def test_an_error_within_a_stream_is_its_last_frame_whatever_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            reply = await client.get("/v1/stream/9")
            first, *_, begun, last, end = reply.text.split("\n\n")
            assert (first, begun, end) == (": waiting", "data: begun", "")
            id = reply.headers["x-request-id"]
            assert last.startswith("data: 1 the server failed")
            assert last.endswith(id)
            assert f"{id} failed: ValueError at broken:" in caplog.text
            assert SECRET_TEXT not in reply.text + caplog.text

    asyncio.run(run())


def test_a_client_that_leaves_while_it_waits_is_noticed(tmp_path: Path) -> None:
    async def run() -> None:
        left = Left()
        async with served(application(tmp_path, left=left)) as url:
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            writer.write(b"GET /v1/wait HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await asyncio.sleep(0.1)
            assert not left.event.is_set()
            writer.close()
            await asyncio.wait_for(left.event.wait(), 10)

    asyncio.run(run())


def test_what_is_under_way_finishes_and_the_jobs_are_closed_when_a_signal_comes(tmp_path: Path) -> None:
    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    async def run() -> None:
        async with served(application(tmp_path), on_stop=close) as url, httpx.AsyncClient(base_url=url) as client:
            under_way = asyncio.create_task(client.get("/v1/slow"))
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert (await under_way).text == "done"
            await asyncio.wait_for(closed.wait(), 10)

    asyncio.run(run())


def test_a_second_signal_waits_for_nothing(tmp_path: Path) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        app = application(tmp_path)
        async with served(app, stop_s=600, on_stop=never) as url:
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            writer.write(b"GET /v1/wait HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.3)
        writer.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    del tmp_path
    taken = bound_socket("127.0.0.1", 0)
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1"):
        bound_socket("127.0.0.1", taken.getsockname()[1])
    taken.close()
    with pytest.raises(ConfigError, match="cannot listen on no such name"):
        bound_socket("no such name", 0)


def test_a_request_of_json_is_answered_as_it_was_said(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(application(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
            said = {"a": [1, {"b": "ä"}]}
            reply = await client.post(
                "/v1/echo", content=json.dumps(said), headers={"content-type": "application/json"}
            )
            assert reply.json()["said"] == said
            assert reply.headers["x-content-type-options"] == "nosniff"

    asyncio.run(run())
