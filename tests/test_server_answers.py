"""The routes that ask models as the server's parts are put together: places, time, what is kept, who may leave.

The real engine answers over a real socket; what stands on the wire is shown by the clients' own tests.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from localfusion.config import load_models_file
from localfusion.config.settings import ServerSettings
from localfusion.config.surroundings import packaged_models_file
from localfusion.messages import CloudLeave, Json, SourcesSpec
from localfusion.server.app import create_app
from localfusion.server.keys import KeyRing, Keys, load_keys, new_key, save_keys
from localfusion.server.opening import Opening, put_together
from localfusion.server.served import Served
from localfusion.session import open_session
from tests.harbour import HARBOUR, surroundings
from tests.serving import served

MODELS = load_models_file(packaged_models_file())
CHAT = {"model": "micro-a", "messages": [{"role": "user", "content": "How high is Skerry?"}], "max_tokens": 8}
RESPONSE = {"model": "micro-a", "input": "How high is Skerry?", "max_output_tokens": 8}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "minLength": 1500}}, "required": ["a"]}
LONG_CHAT = CHAT | {
    "max_tokens": 1800,
    "response_format": {"type": "json_schema", "json_schema": {"name": "long", "schema": SCHEMA}},
}
"""It writes on until somebody stops it, for as long as any of these tests takes."""
LONG_RESPONSE = RESPONSE | {
    "max_output_tokens": 1800,
    "text": {"format": {"type": "json_schema", "name": "long", "schema": SCHEMA}},
}


@asynccontextmanager
async def answering(
    home: Path, *, sources: SourcesSpec | None = None, **settings: object
) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    """A server that the micro models answer."""
    async with open_session(surroundings(home)) as session:
        opening = Opening(
            settings=ServerSettings.model_validate(settings),
            models=MODELS,
            home=home,
            sources=sources or SourcesSpec(),
            cloud=CloudLeave(),
            keys=KeyRing(home),
        )
        async with (
            put_together(opening, session) as ground,
            served(create_app(ground)) as url,
            httpx.AsyncClient(base_url=f"{url}/v1", timeout=60) as client,
        ):
            yield ground, client


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)


def test_what_is_answered_is_counted_and_leaves_its_place(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (ground, client):
            whole = (await client.post("/chat/completions", json=CHAT)).json()
            usage = whole["usage"]
            assert ground.queue.n == 0
            page = (await client.get("../metrics")).text
            assert f'localfusion_tokens_total{{kind="completion"}} {usage["completion_tokens"]}.0' in page
            assert f'localfusion_tokens_total{{kind="prompt"}} {usage["prompt_tokens"]}.0' in page
            assert 'localfusion_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in page
            three = (await client.post("/chat/completions", json=CHAT | {"n": 3})).json()
            assert three["usage"]["prompt_tokens"] == 3 * usage["prompt_tokens"]

    asyncio.run(run())


def test_what_runs_in_the_background_is_cancelled_and_leaves_its_place(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (ground, client):
            begun = (await client.post("/responses", json=LONG_RESPONSE | {"background": True})).json()
            assert begun["status"] == "in_progress"
            assert ground.queue.n == 1
            ended = (await client.post(f"/responses/{begun['id']}/cancel")).json()
            assert ended["status"] == "cancelled"
            assert (await client.get(f"/responses/{begun['id']}")).json() == ended
            assert ground.queue.n == 0

    asyncio.run(run())


def test_what_is_not_to_be_stored_is_not_there_later(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (_, client):
            made = (await client.post("/responses", json=RESPONSE | {"store": False})).json()
            assert made["status"] in {"completed", "incomplete"}
            assert (await client.get(f"/responses/{made['id']}")).status_code == 404
            refused = await client.post("/responses", json=RESPONSE | {"store": False, "background": True})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "store")

    asyncio.run(run())


def test_of_what_is_deleted_or_not_to_be_stored_no_word_is_left(tmp_path: Path) -> None:
    """The deliberations are those of the micro panel; one that nobody said anything of is kept as any other."""
    said = "How high is the-secret of Skerry?"
    fusion: dict[str, Json] = {"model": "localfusion/micro", "tool_choice": "required"}
    chat = fusion | {"messages": [{"role": "user", "content": said}]}
    response = fusion | {"input": said}

    def holds() -> bool:
        return any(b"the-secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    async def left(client: httpx.AsyncClient, path: str, asked: dict[str, Json], is_begun: Callable[[], bool]) -> None:
        async with client.stream("POST", path, json=asked | {"stream": True}):
            await until(is_begun)

    async def run() -> None:
        async with answering(tmp_path, sources=SourcesSpec(docs=(HARBOUR,), offline=True)) as (ground, client):

            def n_runs() -> int:
                return len(ground.session.store.list_runs())

            for path, asked in (("/chat/completions", chat), ("/responses", response)):
                whole = await client.post(path, json=asked | {"store": False})
                assert (whole.status_code, n_runs(), holds()) == (200, 0, False)
                await left(client, path, asked | {"store": False}, lambda: n_runs() == 1)
                await until(lambda: ground.queue.n == 0)
                assert (n_runs(), holds()) == (0, False)
            for is_background in (False, True):
                kept = (await client.post("/responses", json=response | {"background": is_background})).json()
                await until(lambda: n_runs() == 1)
                assert holds()
                assert (await client.delete(f"/responses/{kept['id']}")).status_code == 200
                assert (n_runs(), holds()) == (0, False)
            await left(client, "/chat/completions", chat, lambda: n_runs() == 1)
            await until(lambda: ground.queue.n == 0)
            assert (n_runs(), holds()) == (1, True)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_new_key_of_an_old_name_sees_nothing_of_the_old_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        caplog.set_level(logging.INFO, "localfusion.server")
        made = [new_key("laptop", created="2026-01-01") for _ in range(2)]
        save_keys(tmp_path, Keys((made[0][1],)))
        async with answering(tmp_path) as (_, client):
            old, new = ({"authorization": f"Bearer {secret}", "idempotency-key": "k"} for secret, _ in made)
            first = (await client.post("/responses", json=RESPONSE, headers=old)).json()["id"]
            path = f"/responses/{first}"
            save_keys(tmp_path, load_keys(tmp_path).removed("laptop").added(made[1][1]))
            assert (await client.get(path, headers=old)).status_code == 401
            asked = RESPONSE | {"previous_response_id": first}
            assert (await client.post("/responses", json=asked, headers=new)).status_code == 400
            for refused in (client.get(path, headers=new), client.delete(path, headers=new)):
                assert (await refused).status_code == 404
            assert (await client.post("/responses", json=RESPONSE, headers=new)).json()["id"] != first
            save_keys(tmp_path, load_keys(tmp_path).removed("laptop").added(made[0][1]))
            assert (await client.post("/responses", json=RESPONSE, headers=old)).json()["id"] == first
            assert (await client.get(path, headers=old)).json()["id"] == first

    asyncio.run(run())
    assert " laptop " in caplog.text
    assert "key_" not in caplog.text


def test_places_are_bounded_and_free_again_when_clients_leave(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path, max_queue=2) as (ground, client):
            waiting = [asyncio.create_task(client.post("/chat/completions", json=LONG_CHAT)) for _ in range(2)]
            await until(lambda: ground.queue.n == 2)
            for route, asked in (("/chat/completions", CHAT), ("/responses", RESPONSE)):
                full = await client.post(route, json=asked)
                assert (full.status_code, full.json()["error"]["code"]) == (503, "queue_full")
                assert full.headers["retry-after"] == "5"
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            await until(lambda: ground.queue.n == 0)
            assert (await client.post("/chat/completions", json=CHAT)).status_code == 200

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_stream_that_is_left_leaves_its_place(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (ground, client):
            for route, asked in (("/chat/completions", LONG_CHAT), ("/responses", LONG_RESPONSE)):
                async with client.stream("POST", route, json=asked | {"stream": True}) as reply:
                    await anext(reply.aiter_lines())
                    assert ground.queue.n == 1
                await until(lambda: ground.queue.n == 0)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_what_takes_too_long_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path, timeout_s=0.001) as (ground, client):
            for route, asked in (("/chat/completions", LONG_CHAT), ("/responses", LONG_RESPONSE)):
                slow = await client.post(route, json=asked)
                assert (slow.status_code, slow.json()["error"]["code"]) == (504, "timeout")
            streamed = (await client.post("/responses", json=LONG_RESPONSE | {"stream": True})).text
            assert "event: response.failed" in streamed
            begun = (await client.post("/responses", json=LONG_RESPONSE | {"background": True})).json()
            told = (await client.get(f"/responses/{begun['id']}", params={"stream": True})).text
            assert told.count("event: response.failed") == 1
            kept = (await client.get(f"/responses/{begun['id']}")).json()
            assert kept["status"] == "failed"
            assert "longer than" in kept["error"]["message"]
            assert ground.queue.n == 0

    asyncio.run(run())


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (_, client):
            asked = RESPONSE | {"input": "high " * 3000}
            whole = await client.post("/responses", json=asked)
            assert (whole.status_code, whole.json()["error"]["code"]) == (400, "context_length_exceeded")
            streamed = (await client.post("/responses", json=asked | {"stream": True})).text
            named = [line.removeprefix("event: ") for line in streamed.splitlines() if line.startswith("event: ")]
            assert named == ["response.created", "response.in_progress", "response.failed"]

    asyncio.run(run())


def test_how_deep_a_request_is_must_be_a_number(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (_, client):
            for depth, code, param in (
                ("x", "invalid_value", "x-openrouter-fusion-depth"),
                ("1", "fusion_invocation_capped", "model"),
            ):
                asked = CHAT | {"model": "localfusion/fusion"}
                wrong = await client.post("/chat/completions", json=asked, headers={"x-openrouter-fusion-depth": depth})
                assert wrong.status_code == 400
                assert (wrong.json()["error"]["code"], wrong.json()["error"]["param"]) == (code, param)

    asyncio.run(run())
