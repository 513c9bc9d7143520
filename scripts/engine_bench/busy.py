"""Row "busy": one other busy process per core; localfusion as it is against the best fixed threads and wait policy.

libgomp reads how its threads wait once, at the start, so every policy is a worker of its own. All of them are tried
with every number of threads, in rounds, localfusion's own choice in each: the middle of the rounds counts, since the
best of ten single tries would be the luckiest.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager

from localfusion.engine import client
from localfusion.engine.interface import Model
from localfusion.messages import Completion, Delta, ModelSpec
from scripts.engine_bench import ours
from scripts.engine_bench.figures import Figure
from scripts.engine_bench.setting import PANEL, Setting, median

POLICIES: Mapping[str, Mapping[str, str]] = {
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    "active": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "INFINITE"},
    "spin 1 000": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"},
    "spin 30 000": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "30000"},
    "spin 300 000": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"},
}
QUICK_POLICIES = ("passive", "spin 1 000")
ROUNDS = 3
LIMIT_S = 6.0
"""A combination that spins against the others writes a token in seconds; its rate is known by then."""


@contextmanager
def busy_cores(cores: int) -> Iterator[None]:
    """One process per core that does nothing but use it."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def busy(setting: Setting) -> Iterable[Figure]:
    """Tokens a second of one text."""
    spec = ours.spec(setting.model(PANEL), n_ctx=1024)
    n_tokens = setting.pick(8, 96)
    mine: list[float] = []
    rounds: list[dict[str, float]] = []
    with busy_cores(setting.cores):
        for number in range(setting.pick(1, ROUNDS)):
            setting.say(f"busy, round {number + 1}")
            mine.append(asyncio.run(_as_it_is(setting, spec, n_tokens)))
            rounds.append(asyncio.run(_all_fixed(setting, spec, n_tokens)))
    rates = {name: median([one[name] for one in rounds]) for name in rounds[0]}
    best = max(rates, key=lambda name: rates[name])
    against = f"the best of {len(rates)} fixed settings: {best}"
    yield Figure("one busy process per core", median(mine) / rates[best], "of 1", against, 0.85)
    yield Figure("busy: localfusion", median(mine), "tok/s")
    yield from (Figure(f"busy: {name}", rate, "tok/s") for name, rate in rates.items())


async def _as_it_is(setting: Setting, spec: ModelSpec, n_tokens: int) -> float:
    async with ours.scheduler(setting) as scheduler, scheduler.lease(spec) as lease:
        return await _rate(lease.model, n_tokens)


async def _all_fixed(setting: Setting, spec: ModelSpec, n_tokens: int) -> dict[str, float]:
    rates: dict[str, float] = {}
    for policy in setting.pick(QUICK_POLICIES, tuple(POLICIES)):
        model = await client.load(spec, environ={**os.environ, **POLICIES[policy]})
        try:
            for n_threads in range(1, setting.cores + 1):
                await model.set_threads(n_threads)
                rates[f"{n_threads} threads, {policy}"] = await _rate(model, n_tokens)
        finally:
            await model.close()
    return rates


async def _rate(model: Model, n_tokens: int) -> float:
    """Tokens a second, a prompt of a few tokens included, of as many as are written within LIMIT_S."""
    await ours.complete(model, ours.request("warm", f"{time.monotonic()}", 1))
    n_deltas, started = 0, time.monotonic()
    async with aclosing(model.generate(ours.request("timed", f"{started}", n_tokens))) as stream:
        async for item in stream:
            if isinstance(item, Completion):
                return item.usage.completion_tokens / (time.monotonic() - started)
            n_deltas += isinstance(item, Delta)
            if n_deltas and time.monotonic() - started > LIMIT_S:
                break
    return n_deltas / (time.monotonic() - started)
