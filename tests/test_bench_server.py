"""The bench of the server: rows end to end in their small size, and its load against a real server. No time is looked
at.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from scripts.server_bench.load import Load, Loaded, carry, put, quantile
from tests.serving import served

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_rows_are_measured_end_to_end(tmp_path: Path) -> None:
    written = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "scripts" / "bench-server"), "--quick"]
    rows = ("--only", "peer", "--only", "answering", "--only", "memory")
    environ = {"PATH": str(tmp_path), "LOCALFUSION_HOME": str(tmp_path)}  # where there is no peer
    done = subprocess.run(
        [*command, *rows, "--json", str(written)], capture_output=True, text=True, check=False, cwd=ROOT, env=environ
    )
    assert done.returncode == 0, done.stderr
    assert "there is no litellm here" in done.stderr
    figures = {figure["name"]: figure["value"] for figure in json.loads(written.read_text())}
    assert len(figures) == len(done.stdout.splitlines()) - 1
    assert {"whole, 64 clients: p50", "streamed, 1 client: requests", "memory after 400 requests"} < set(figures)
    assert all(value > 0 for value in figures.values())


async def _answer(request: Request) -> Response:
    asked = await request.json()
    if asked["way"] == "refused":
        return JSONResponse({"error": "no"}, status_code=503)
    if asked["way"] == "whole":
        return JSONResponse({"length": 3})

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield f"data: {number}\n\n".encode()

    return StreamingResponse(pieces())


APP = Starlette(routes=[Route("/", _answer, methods=["POST"])])


def loaded(*ways: str, n_requests: int, n_clients: int) -> Loaded:
    async def scenario() -> Loaded:
        async with served(APP) as url:
            bodies = [{"way": way} for way in ways]
            return await carry(Load(int(url.rsplit(":", 1)[1]), bodies, n_requests, n_clients, path="/"))

    return asyncio.run(scenario())


def test_a_load_is_as_many_requests_as_it_says_in_turn() -> None:
    found = loaded("whole", "streamed", n_requests=21, n_clients=4)
    assert sorted(found.pieces) == [1] * 11 + [3] * 10
    assert len(found.first_ms) == len(found.whole_ms) == 21
    assert all(first <= whole for first, whole in zip(found.first_ms, found.whole_ms, strict=True))


def test_an_answer_that_is_none_ends_the_load() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        loaded("whole", "refused", n_requests=4, n_clients=1)
    assert raised.group_contains(RuntimeError, match="503.*no")


def test_a_load_from_another_process_says_why_it_ended() -> None:
    with pytest.raises(RuntimeError, match="ConnectionRefusedError"):
        put(Load(1, [{}], 1))


def test_quantiles() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99)) == (51.0, 100.0, 7.0)
