"""Nothing is left behind: many deliberations on the real engine, in one process, with workers kept and not kept."""

import asyncio
from contextlib import AsyncExitStack, closing
from pathlib import Path

import psutil
import pytest

from localfusion import machine
from localfusion.engine import client
from localfusion.scheduler import Engine, Limits, Scheduler
from localfusion.search.documents import DocumentIndex
from localfusion.search.opening import Sources
from localfusion.session import Session
from localfusion.store import Store
from tests.harbour import micro_panel, request

QUESTIONS = ("What is the height of Skerry?", "Who is the keeper of The Kestrel?", "What is the cost of Skerry?")
WARM_UP = 20


def held() -> dict[str, int]:
    """What this process and its workers hold of the system; threads of the event loop's pool come and go."""
    own = psutil.Process()
    workers = own.children(recursive=True)
    return {
        "processes": len(workers),
        "descriptors": own.num_fds(),
        "descriptors of workers": sum(worker.num_fds() for worker in workers),
        "shared memory": len(list(Path("/dev/shm").iterdir())) if Path("/dev/shm").is_dir() else 0,
    }


async def settled(*, keep_alive: bool) -> dict[str, int]:
    """What is held once workers that are on their way out are gone."""
    while not keep_alive and psutil.Process().children():  # noqa: ASYNC110  nothing says so
        await asyncio.sleep(0.05)
    return held()


async def deliberate(times: int, *, keep_alive: bool) -> tuple[dict[str, int], dict[str, int]]:
    """What is held after the first runs, and after all."""
    panel = micro_panel()
    early: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        store = stack.enter_context(closing(Store(None)))
        index = stack.enter_context(closing(DocumentIndex(None)))
        keep_alive_s = 600.0 if keep_alive else 0.0
        limits = Limits(2, machine.available_bytes(), machine.available_bytes, keep_alive_s=keep_alive_s)
        scheduler = Scheduler(Engine(client.load, client.footprint), limits)
        stack.push_async_callback(scheduler.close)
        session = Session(store, index, Sources(index, None, keep_pages_s=0), scheduler)
        for number in range(times):
            outcome = await session.ask(request(QUESTIONS[number % 3], panel), emit=lambda _: None)
            assert (outcome.status, outcome.failed_models) == ("ok", ())
            if number == min(WARM_UP, times // 2):
                early = await settled(keep_alive=keep_alive)
        return early, await settled(keep_alive=keep_alive)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="descriptors are counted on POSIX")
@pytest.mark.parametrize(("times", "keep_alive"), [(200, True), (12, False)])
def test_nothing_leaks(times: int, keep_alive: bool) -> None:
    before = held()
    early, late = asyncio.run(deliberate(times, keep_alive=keep_alive))
    assert late == early
    assert late["processes"] == (4 if keep_alive else 0)
    after = held()
    assert after["processes"] == before["processes"] == 0
    assert after["descriptors"] <= before["descriptors"] + 2
    assert after["shared memory"] <= before["shared memory"]
