"""How fast this machine decodes on how many threads and with which way of waiting, by timing it. It changes nothing.

Measured as localfusion runs a model (all cores, the loop choosing threads by the clock), before and after, and with
everything fixed: a worker for each number of threads and each way in which threads wait for each other, since libgomp
reads that once, when a process starts. One thread waits for nobody, so it is measured once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

from localfusion.engine import client
from localfusion.engine.interface import Model
from localfusion.engine.pace import FIRST_TRIES, thread_counts
from localfusion.engine.random_model import write_random_model
from localfusion.errors import ModelError
from localfusion.messages import Completion, Delta, GenerateRequest, Message, ModelSpec

ACTIVE: Mapping[str, str] = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "INFINITE"}
PASSIVE: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
POLICIES: Mapping[str, Mapping[str, str]] = {"short": client.WAITING, "active": ACTIVE, "passive": PASSIVE}
"""How threads wait for each other: a moment on the core as localfusion sets it, always on it, never on it."""
TRIES, N_TOKENS = 3, 32
LIMIT_S = 1.0
"""A try that is not done by then is rated by what it wrote: threads without cores may take seconds for a token."""
N_CTX = 256


@dataclass(frozen=True, slots=True)
class Way:
    """A number of threads and how they wait, by the names of POLICIES; None where a single thread waits for nobody."""

    n_threads: int
    policy: str | None


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens a second, of each try."""

    tries: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        return median(self.tries)

    def is_as_fast_as(self, other: "Rate") -> bool:
        """Whether it is no slower by more than tries of either differ among themselves."""
        return max(self.tries) >= min(other.tries)


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured on a file of `model_bytes`: localfusion as it is, and each way in which it could be."""

    model_bytes: int
    own: Rate
    ways: Mapping[Way, Rate]

    @property
    def fastest(self) -> Way:
        return max(self.ways, key=lambda way: self.ways[way].tokens_per_s)

    @property
    def is_own_fastest(self) -> bool:
        """Whether localfusion's own choice is as fast as the fastest way, within noise."""
        return self.own.is_as_fast_as(self.ways[self.fastest])


def ways(cores: int) -> list[Way]:
    """All that is measured for so many cores."""
    counts = thread_counts(cores)
    return [Way(n, policy) for n in counts if n > 1 for policy in POLICIES] + [Way(1, None)]


async def measure(cores: int, *, environ: Mapping[str, str], on_step: Callable[[int, int], None]) -> Speed:
    """Time it all, a second or two each; `on_step` is told how many of how many are done. Raises ModelError.

    Cancelling leaves no process behind, nor the file.
    """
    found: dict[Way, Rate] = {}
    wanted = ways(cores)
    n_steps = len(wanted) + 2
    with _folder() as folder:
        path = await _random_model(folder)
        on_step(0, n_steps)
        before = await _own(path, cores, environ)
        for n_done, way in enumerate(wanted, start=1):
            on_step(n_done, n_steps)
            found[way] = await _fixed(path, way, environ)
        on_step(n_steps - 1, n_steps)
        after = await _own(path, cores, environ)
        on_step(n_steps, n_steps)
        return Speed(path.stat().st_size, Rate((*before, *after)), found)


@contextmanager
def _folder() -> Iterator[Path]:
    try:
        folder = TemporaryDirectory(prefix="localfusion-")
    except OSError as error:
        raise _unwritten(error) from error
    with folder as name:
        yield Path(name)


async def _random_model(folder: Path) -> Path:
    try:
        return await asyncio.to_thread(write_random_model, folder / "random.gguf")
    except OSError as error:
        raise _unwritten(error) from error


def _unwritten(error: OSError) -> ModelError:
    message = f"the model of random weights cannot be written: {error.strerror}"
    return ModelError("random", message, hint="let TMPDIR name a folder with 100 MiB to spare")


async def _own(path: Path, cores: int, environ: Mapping[str, str]) -> Sequence[float]:
    async with _loaded(ModelSpec("random", path, n_ctx=N_CTX), environ) as model:
        await model.set_threads(cores)
        await _rate(model, (FIRST_TRIES + 1) * len(thread_counts(cores)))  # until it knows which threads are fastest
        return await _tries(model)


async def _fixed(path: Path, way: Way, environ: Mapping[str, str]) -> Rate:
    """Deterministic means here: so many threads from the start to the end, nothing decided by the clock."""
    waiting = {} if way.policy is None else POLICIES[way.policy]
    spec = ModelSpec("random", path, n_ctx=N_CTX, n_threads=way.n_threads, deterministic=True)
    async with _loaded(spec, {**environ, **waiting}) as model:
        return Rate(tuple(await _tries(model)))


@asynccontextmanager
async def _loaded(spec: ModelSpec, environ: Mapping[str, str]) -> AsyncIterator[client.Model]:
    model = await client.load(spec, environ=environ)
    try:
        yield model
    finally:
        await model.close()


async def _tries(model: Model) -> Sequence[float]:
    """As many as fit in the time, at least one."""
    started = monotonic()
    found = [await _rate(model, N_TOKENS)]
    while len(found) < TRIES and monotonic() - started < LIMIT_S:
        found.append(await _rate(model, N_TOKENS))
    return found


async def _rate(model: Model, n_tokens: int) -> float:
    """Tokens a second, once the prompt was read; every token is a delta of its own."""
    request = GenerateRequest("timed", (Message("user", "a"),), max_tokens=n_tokens + 1)
    n_written, started, last = -1, 0.0, 0.0
    async with aclosing(model.generate(request)) as stream:
        async for item in stream:
            if isinstance(item, Delta):
                n_written, last = n_written + 1, monotonic()
                started = started or last
            if isinstance(item, Completion) or (n_written > 0 and last - started > LIMIT_S):
                break
    return n_written / max(last - started, 1e-9)
