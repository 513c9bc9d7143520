"""localfusion's side of the rows: the real scheduler, real workers, requests written to their end and timed."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from localfusion.engine import client
from localfusion.engine.interface import Model
from localfusion.messages import Completion, Delta, GenerateRequest, Message, ModelSpec
from localfusion.scheduler import Engine, Limits, Scheduler
from scripts.engine_bench.setting import Setting

Work = tuple[ModelSpec, GenerateRequest]


class StoppedEarly(Exception):
    """A model ended its text before the tokens that a row counts on."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds to the first token and from there to the last, and how many tokens each part was."""

    read_seconds: float
    write_seconds: float
    n_read: int
    n_written: int

    @property
    def read_rate(self) -> float:
        return self.n_read / self.read_seconds

    @property
    def write_rate(self) -> float:
        """Tokens a second behind the first, which the reading gave."""
        return (self.n_written - 1) / self.write_seconds


def unbounded(cores: int) -> Limits:
    """So many cores, and memory for everything; models stay loaded."""
    return Limits(cores, 1 << 50, lambda: 1 << 50)


@asynccontextmanager
async def scheduler(setting: Setting) -> AsyncIterator[Scheduler]:
    """A scheduler whose workers stay loaded."""
    made = Scheduler(Engine(client.load, client.footprint), unbounded(setting.cores))
    try:
        yield made
    finally:
        await made.close()


def spec(path: Path, *, n_ctx: int, n_seq_max: int = 1) -> ModelSpec:
    """A file as the rows load it."""
    return ModelSpec(path.stem, path, n_ctx=n_ctx, n_seq_max=n_seq_max)


def request(sequence: str, text: str, n_tokens: int, *, system: str = "") -> GenerateRequest:
    """One text of so many tokens, greedy."""
    messages = (*([Message("system", system)] if system else []), Message("user", text))
    return GenerateRequest(sequence=sequence, messages=messages, max_tokens=n_tokens)


async def warm(made: Scheduler, specs: Sequence[ModelSpec]) -> None:
    """Load each file and let it write a little, so that no load is in what follows."""
    for wanted in specs:
        await write(made, (wanted, request("warm", "Begin.", 4)))


async def write(made: Scheduler, work: Work) -> Completion:
    """A lease, as every panelist takes one, and one text to its end."""
    wanted, asked = work
    async with made.lease(wanted) as lease:
        return await complete(lease.model, asked)


async def complete(model: Model, asked: GenerateRequest) -> Completion:
    """A finished text; StoppedEarly where it is shorter than asked, unless a grammar may end it."""
    async with aclosing(model.generate(asked)) as stream:
        async for item in stream:
            if isinstance(item, Completion):
                if asked.grammar is None and item.usage.completion_tokens != asked.max_tokens:
                    raise StoppedEarly(f"{item.usage.completion_tokens} tokens of {asked.max_tokens}")
                return item
    raise StoppedEarly("no completion")


async def together(made: Scheduler, works: Sequence[Work]) -> float:
    """Seconds in which all of it is written, at once as far as the scheduler lets it."""
    started = time.monotonic()
    await asyncio.gather(*(write(made, work) for work in works))
    return time.monotonic() - started


async def pace(model: Model, asked: GenerateRequest) -> Pace:
    """How fast one text is read and written."""
    started = first = time.monotonic()
    async with aclosing(model.generate(asked)) as stream:
        async for item in stream:
            if isinstance(item, Delta) and first == started:
                first = time.monotonic()
            if isinstance(item, Completion):
                usage = item.usage
                n_read = usage.prompt_tokens - usage.cached_tokens
                return Pace(first - started, time.monotonic() - first, n_read, usage.completion_tokens)
    raise StoppedEarly("no completion")
