"""The routes that ask models, over a real socket and the real engine; the parts are the smallest there are."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from localfusion.catalog import locate
from localfusion.config import ModelsFile
from localfusion.config.settings import ServerSettings
from localfusion.messages import Json, ModelSpec
from localfusion.server.app import create_app
from localfusion.server.embedding import Embedding
from localfusion.server.keys import KeyRing
from localfusion.server.limits import Queue, Rates
from localfusion.server.metrics import Metrics
from localfusion.server.served import Served
from localfusion.session import open_session
from tests.harbour import micro_panel, surroundings
from tests.plain_parts import PlainJobs, plain_parts
from tests.serving import served

NONE = ModelsFile("none")
ENDLESS = 100_000


@asynccontextmanager
async def answering(home: Path, **settings: object) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    """A server that one micro model answers."""
    spec = micro_panel().panelists[0].model
    assert isinstance(spec, ModelSpec)
    async with open_session(surroundings(home), stored=False) as session:
        ground = Served(
            session=session,
            settings=ServerSettings.model_validate(settings),
            models=NONE,
            embedding=Embedding(session.scheduler, NONE, locate(home)),
            parts=plain_parts(spec),
            jobs=PlainJobs(),
            keys=KeyRing(home),
            queue=Queue(2),
            rates=Rates(),
            metrics=Metrics(),
        )
        async with served(create_app(ground)) as url, httpx.AsyncClient(base_url=f"{url}/v1", timeout=60) as client:
            yield ground, client


def data(reply: httpx.Response) -> list[dict[str, Json]]:
    """The events of a stream, [DONE] left out."""
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(event: dict[str, Json]) -> str:
    """The text of a delta."""
    output = event["output"]
    assert isinstance(output, list)
    return str(output[0])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)


def test_a_chat_is_answered_whole_and_in_pieces(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (ground, client):
            asked = {"model": "m", "input": "How high is Skerry?"}
            whole = (await client.post("/chat/completions", json=asked | {"n": 2})).json()
            assert whole["status"] == "completed"
            assert whole["output"][0]
            reply = await client.post("/chat/completions", json=asked | {"stream": True})
            pieces = data(reply)
            assert reply.text.endswith("data: [DONE]\n\n")
            assert "".join(text_of(one) for one in pieces if one["type"] == "delta") == whole["output"][0]
            assert ground.queue.n == 0
            page = (await client.get("../metrics")).text
            assert 'localfusion_tokens_total{kind="completion"}' in page

    asyncio.run(run())


def test_a_response_is_kept_numbered_gone_on_with_and_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (_, client):
            first = (await client.post("/responses", json={"model": "m", "input": "How high?"})).json()
            assert first["status"] == "completed"
            assert (await client.get(f"/responses/{first['id']}")).json() == first
            events = data(await client.get(f"/responses/{first['id']}?stream=true&starting_after=0"))
            assert [event["sequence_number"] for event in events] == list(range(1, len(events) + 1))
            follow = {"model": "m", "input": "And?", "previous_response_id": first["id"]}
            second = (await client.post("/responses", json=follow)).json()
            assert second["status"] == "completed"
            assert (await client.delete(f"/responses/{first['id']}")).json()["deleted"] is True
            assert (await client.get(f"/responses/{first['id']}")).status_code == 404
            gone = await client.post("/responses", json=follow)
            assert (gone.status_code, gone.json()["error"]["code"]) == (400, "previous_response_not_found")

    asyncio.run(run())


def test_what_runs_in_the_background_is_polled_and_cancelled(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (ground, client):
            asked = {"model": "m", "input": "Go on.", "max_tokens": ENDLESS, "background": True}
            begun = (await client.post("/responses", json=asked)).json()
            assert begun["status"] == "in_progress"
            ended = (await client.post(f"/responses/{begun['id']}/cancel")).json()
            assert ended["status"] == "cancelled"
            assert (await client.get(f"/responses/{begun['id']}")).json() == ended
            assert ground.queue.n == 0

    asyncio.run(run())


def test_places_are_bounded_and_free_again_when_clients_leave(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (ground, client):
            asked = {"model": "m", "input": "Go on.", "max_tokens": ENDLESS}
            waiting = [asyncio.create_task(client.post("/chat/completions", json=asked)) for _ in range(2)]
            await until(lambda: ground.queue.n == 2)
            full = await client.post("/chat/completions", json=asked)
            assert (full.status_code, full.json()["error"]["code"], full.headers["retry-after"]) == (
                503,
                "queue_full",
                "5",
            )
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            await until(lambda: ground.queue.n == 0)
            again = await client.post("/chat/completions", json=asked | {"max_tokens": 2})
            assert again.status_code == 200

    asyncio.run(asyncio.wait_for(run(), 60))


def test_what_takes_too_long_or_does_not_fit_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with answering(tmp_path) as (_, client):
            long = {"model": "m", "input": "word " * 20_000}
            reply = await client.post("/responses", json=long)
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
            streamed = data(await client.post("/responses", json=long | {"stream": True}))
            assert [event["type"] for event in streamed] == ["created", "failed"]
            wrong = await client.post("/responses", json={"model": "m"}, headers={"x-openrouter-fusion-depth": "x"})
            assert wrong.json()["error"]["param"] == "x-openrouter-fusion-depth"
        async with answering(tmp_path, timeout_s=0.001) as (ground, client):
            slow = await client.post("/responses", json={"model": "m", "input": "Go on.", "max_tokens": ENDLESS})
            assert (slow.status_code, slow.json()["error"]["code"]) == (504, "timeout")
            assert ground.queue.n == 0

    asyncio.run(run())
