"""Row "orchestration": what is left of a deliberation when the engine answers at once, a token and a request.

All of it is real but the worker's inside and the search: panel, tools, judge, checks, events, the store on disk, the
scheduler, the client and its pipe. A long and a short deliberation differ in tokens alone: that gives the time of a
token; what the short one takes beside its tokens, over its requests, that of a request. Workers start before it.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from localfusion.analysis import Page
from localfusion.catalog.gguf_files import SHIPPED
from localfusion.engine import client
from localfusion.engine.interface import Resident
from localfusion.engine.protocol import Load, Loaded
from localfusion.gguf_header import identity
from localfusion.messages import Footprint, ModelSpec, local_models
from localfusion.scheduler import Engine
from localfusion.search.documents import Added, DocumentIndex, OnProgress, tell_nobody
from localfusion.search.local_documents import LocalDocuments
from localfusion.search.source import Found, Search, SearchResult
from scripts.engine_bench import instant_worker
from scripts.engine_bench.deliberations import FULL, N_CALLS, SEATS, ask, seated
from scripts.engine_bench.figures import Figure
from scripts.engine_bench.setting import Setting, median

ROOT = Path(__file__).resolve().parents[2]
N_TEXTS = len(SEATS) + 2
N_REQUESTS = len(SEATS) * (N_CALLS + 1) + 2
N_CALL_TOKENS = len(SEATS) * N_CALLS * len(instant_worker.text("start: call_0", 0))


TEXTS = [f"The height of the mill is {number} metres. " * 30 for number in range(FULL.tools.search.max_results)]
PAGES = [Page(f"doc://{n}", f"{n}", text, sha256(text.encode()).hexdigest()) for n, text in enumerate(TEXTS)]


def orchestration(setting: Setting) -> Iterable[Figure]:
    """Medians over deliberations of few and of many tokens, in turn."""
    short, long = setting.pick((50, 550), (100, 2100))
    seconds: dict[int, list[float]] = {short: [], long: []}
    for _ in range(setting.pick(3, 5)):
        for n_tokens, taken in seconds.items():
            taken.append(asyncio.run(deliberate(n_tokens, cores=setting.cores)))
    per_token = (median(seconds[long]) - median(seconds[short])) / (N_TEXTS * (long - short))
    per_request = (median(seconds[short]) - per_token * (N_TEXTS * short + N_CALL_TOKENS)) / N_REQUESTS
    against = "an engine that answers at once"
    yield Figure("orchestration per token", 1000 * per_token, "ms", against, 0.2, is_limit=True)
    yield Figure("orchestration per request", 1000 * per_request, "ms", against, 5.0, is_limit=True)


async def deliberate(n_tokens: int, *, cores: int) -> float:
    """Seconds of a deliberation in which every text has so many tokens."""
    panel = seated([SHIPPED / "micro-a.gguf"], FULL)
    ready = await start(local_models(panel)[-1], n_tokens)

    async def load(_: ModelSpec) -> Resident:
        return ready

    async def measure(_: ModelSpec) -> Footprint:
        return Footprint()

    return await ask(panel, Engine(load, measure), cores=cores, documents=InstantDocuments)


class InstantDocuments(DocumentIndex):
    """An index that reads nothing and whose every search finds the same pages at once."""

    def add(
        self,
        paths: Sequence[Path],
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        on_progress: OnProgress = tell_nobody,
    ) -> Added:
        del paths, is_stopped, on_progress
        return Added(InstantSource(), read=0, unchanged=len(PAGES), removed=0, warnings=())


class InstantSource(LocalDocuments):
    """The documents of it."""

    def __init__(self) -> None:
        """Nothing is opened."""

    async def search(self, search: Search) -> Found:
        texts = [(page, page.text[: search.max_characters]) for page in PAGES[: search.max_results]]
        return Found(tuple(SearchResult(page.url, page.title, text, "instant", 1.0, page) for page, text in texts))


async def start(spec: ModelSpec, n_tokens: int) -> Resident:
    """A model whose worker is the instant one."""
    command = [sys.executable, "-m", "scripts.engine_bench.instant_worker", f"{n_tokens}"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    worker = client.Worker(process, spec.name, lambda _: None)
    reply = await client.first_reply(worker, Load(spec, {}))
    assert isinstance(reply, Loaded)
    file = identity([spec.path])
    return client.Model(spec, reply.info, worker, file=file, step_limit_s=client.STEP_LIMIT_S)
