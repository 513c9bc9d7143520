"""A server over an engine that answers at once: all of it is real, application, sockets and store, but the model.

Run as a module it serves a home, named by its argument, until a signal ends it; its port is the one line that it says.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from localfusion import machine
from localfusion.catalog.gguf_files import SHIPPED
from localfusion.config import ModelEntry, ModelsFile
from localfusion.config.settings import ServerSettings
from localfusion.engine.interface import Embeddings
from localfusion.errors import ModelLoadError
from localfusion.messages import (
    CloudLeave,
    Completion,
    Delta,
    Footprint,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelSpec,
    Progress,
    SourcesSpec,
    TextKind,
    ToolSpec,
    Usage,
)
from localfusion.scheduler import Engine, Limits, Scheduler
from localfusion.search.documents import DocumentIndex
from localfusion.search.opening import Sources
from localfusion.server.keys import KeyRing
from localfusion.server.opening import Opening, log_to, run_server
from localfusion.server.running import bound_socket
from localfusion.session import Session
from localfusion.store import Store

NAME = "instant"
WORDS = "The mill stands on the north shore and is forty metres high, as both of the old surveys say."
INFO = ModelInfo(NAME, 8192, 8192, 1000, 1, 1, {}, None)
MAX_QUEUE = 4096


@dataclass(frozen=True, slots=True)
class Instant:
    """A resident model that says the same words each time, a word a token."""

    info: ModelInfo = INFO

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        del request
        pieces = WORDS.split(" ")
        for number, piece in enumerate(pieces):
            await asyncio.sleep(0)
            yield Delta("content", f" {piece}" if number else piece)
        yield Completion(WORDS, "", "stop", Usage(prompt_tokens=8, completion_tokens=len(pieces)))

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(len(text.split()) for text in texts)

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        del tools
        return sum(len(message.content.split()) for message in messages)

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Embeddings:
        del texts, kind
        raise ModelLoadError(NAME, "it makes no vectors")

    async def set_threads(self, n_threads: int) -> None:
        """It has none."""

    def is_current(self) -> bool:
        return True

    async def close(self) -> None:
        """There is nothing to end."""


@asynccontextmanager
async def instant_session(home: Path) -> AsyncIterator[Session]:
    """An open home whose every model is the instant one."""

    async def load(_: ModelSpec) -> Instant:
        return Instant()

    async def measure(_: ModelSpec) -> Footprint:
        return Footprint(kv_bytes=1)

    limits = Limits(machine.usable_cores(), 2**30, lambda: 2**30, max_runs=MAX_QUEUE)
    scheduler = Scheduler(Engine(load, measure), limits)
    with closing(Store(home)) as store, closing(DocumentIndex(None)) as documents:
        async with aclosing(Sources(documents, home, keep_pages_s=0)) as sources:
            yield Session(store, documents, sources, scheduler)
            await scheduler.close()


async def run(home: Path) -> None:
    """Serve until a signal ends it."""
    opening = Opening(
        settings=ServerSettings(max_queue=MAX_QUEUE, stop_s=1),
        models=ModelsFile("bench", {NAME: ModelEntry(path=str(SHIPPED / "micro-a.gguf"))}, {}),
        home=home,
        sources=SourcesSpec(offline=True),
        cloud=CloudLeave(),
        keys=KeyRing(home),
    )
    log_to([])
    with closing(bound_socket("127.0.0.1", 0)) as listening:
        async with instant_session(home) as session:
            print(listening.getsockname()[1], flush=True)
            await run_server(opening, session, listening)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
