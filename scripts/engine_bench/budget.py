"""Row "budget": random panels under random budgets; the workers' memory sampled, and what was refused looked at again.

The memory of a worker is its proportional set size: pages that several share are counted in parts (proc(5), smaps).
What could have fitted is found by trying every combination of the settings that are open. Linux only.
"""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from localfusion.engine import client
from localfusion.errors import OutOfMemory
from localfusion.messages import Footprint, ModelSpec
from localfusion.scheduler import Engine, Limits, Scheduler, fitting
from scripts.engine_bench import ours
from scripts.engine_bench.figures import Figure
from scripts.engine_bench.random_models import RandomModel
from scripts.engine_bench.setting import Setting

SAMPLE_S = 0.02
SMALL = RandomModel(n_embd=512, n_layer=4, n_ff=1024, n_head=8, n_head_kv=4)
SHELF: tuple[RandomModel, ...] = (
    SMALL,
    replace(SMALL, n_layer=12, quantization="q8_0"),
    replace(SMALL, n_layer=8, quantization="f16"),
    replace(SMALL, architecture="gemma3", n_layer=6),
    replace(SMALL, architecture="mamba2", n_layer=8),
    replace(SMALL, architecture="lfm2", n_layer=8, quantization="q4_k"),
)
SENTENCE = "the keeper of the light said that the tower was built by hand and that nobody knew its height "


@dataclass(slots=True)
class Sampler:
    """The summed memory of the workers that are noted, sampled by a thread; `peak` is the most there was."""

    pids: set[int] = field(default_factory=set)
    peak: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.is_over.is_set():
            self.peak = max(self.peak, sum(map(proportional_bytes, list(self.pids))))
            time.sleep(SAMPLE_S)


@dataclass(frozen=True, slots=True)
class Trial:
    """One panel under one budget: bytes; `refused_wrongly` where some of its settings would have fitted."""

    budget: int
    peak: int = 0
    is_refused: bool = False
    is_wrong: bool = False


def budget(setting: Setting) -> Iterable[Figure]:
    """Every trial has a scheduler and workers of its own."""
    rng = random.Random(7)
    shelf = [setting.exactly(model) for model in SHELF[: setting.pick(3, len(SHELF))]]
    trials = [asyncio.run(_try(shelf, rng, cores=setting.cores)) for _ in _counted(setting.pick(3, 200), setting)]
    ran = [trial for trial in trials if not trial.is_refused]
    worst = max((trial.peak / trial.budget for trial in ran), default=0.0)
    name = f"budget: most memory measured in {len(ran)} panels that ran"
    yield Figure(name, worst, "of 1", "the budget", 1.0, is_limit=True)
    wrong = sum(trial.is_wrong for trial in trials)
    refused = len(trials) - len(ran)
    yield Figure(f"budget: of {refused} refusals wrong", wrong, "panels", "exhaustive search", 0, is_limit=True)


def _counted(n: int, setting: Setting) -> Iterator[int]:
    for number in range(n):
        if number % 20 == 0:
            setting.say(f"budget, panel {number} of {n}")
        yield number


async def _try(shelf: Sequence[Path], rng: random.Random, *, cores: int) -> Trial:
    specs = [_random_spec(rng.choice(shelf), rng) for _ in range(rng.randint(1, 4))]
    specs = list({spec.path: spec for spec in specs}.values())
    with sampled() as sampler:
        engine = Engine(_noting(sampler), client.footprint)
        measured = {v: await client.footprint(v) for spec in specs for v in fitting.variants(spec)}
        limit = _random_budget(specs, measured, rng)
        async with _scheduler(engine, Limits(cores, limit, lambda: 2**50)) as scheduler:
            try:
                found = await scheduler.fit(specs)
            except OutOfMemory:
                could = all(min(measured[v].total_bytes for v in fitting.variants(spec)) <= limit for spec in specs)
                return Trial(limit, is_refused=True, is_wrong=could)
            together = any(total <= limit for total in _totals(specs, measured))
            await asyncio.gather(*(_write(scheduler, chosen) for chosen in found.chosen.values()))
    return Trial(limit, sampler.peak, is_wrong=together and not found.is_side_by_side)


def _random_spec(path: Path, rng: random.Random) -> ModelSpec:
    n_ctx, n_seq_max = 256 * rng.randint(1, 8), rng.randint(1, 3)
    return ModelSpec("", path, n_ctx=n_ctx, n_seq_max=n_seq_max, kv_type="auto", use_mmap="auto")


def _random_budget(specs: Sequence[ModelSpec], measured: Mapping[ModelSpec, Footprint], rng: random.Random) -> int:
    """From a little less than the largest model takes to a little more than all take."""
    least = max(min(measured[v].total_bytes for v in fitting.variants(spec)) for spec in specs)
    most = sum(max(measured[v].total_bytes for v in fitting.variants(spec)) for spec in specs)
    return int(rng.uniform(0.9 * least, 1.1 * most))


def _totals(specs: Sequence[ModelSpec], measured: Mapping[ModelSpec, Footprint]) -> Iterator[int]:
    """What each combination of open settings takes, all KV caches of one kind."""
    for kv_type in fitting.KV_TYPES:
        for chosen in product(*(fitting.variants(spec, kv_type) for spec in specs)):
            yield sum(measured[variant].total_bytes for variant in chosen)


async def _write(scheduler: Scheduler, spec: ModelSpec) -> None:
    """Fill every sequence of a model to two thirds, then write a little."""
    n_ctx = spec.n_ctx if spec.n_ctx != "auto" else 256
    text = SENTENCE * (n_ctx // 160)

    async def one(number: int) -> None:
        await ours.write(scheduler, (spec, ours.request(f"{number}", f"{number} {text}", 4)))

    await asyncio.gather(*(one(number) for number in range(spec.n_seq_max)))


@asynccontextmanager
async def _scheduler(engine: Engine, limits: Limits) -> AsyncIterator[Scheduler]:
    made = Scheduler(engine, limits)
    try:
        yield made
    finally:
        await made.close()


@contextmanager
def sampled() -> Iterator[Sampler]:
    """A sampler at work."""
    sampler = Sampler()
    thread = threading.Thread(target=sampler.run, daemon=True)
    thread.start()
    try:
        yield sampler
    finally:
        sampler.is_over.set()
        thread.join()


def _noting(sampler: Sampler) -> Callable[[ModelSpec], Awaitable[client.Model]]:
    async def load(spec: ModelSpec) -> client.Model:
        model = await client.load(spec)
        sampler.pids.add(model.pid)
        return model

    return load


def proportional_bytes(pid: int) -> int:
    """The proportional set size of a process, 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
