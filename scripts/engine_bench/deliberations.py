"""Row "deliberation": a whole deliberation, and the same requests done as council scripts do them.

Ours is `Session.ask` with the real panel, tools, judge and store, workers started and files loaded in its time.
The others read and write the same tokens, in the order of a script, without grammars, tools or checks, and load
the files in their time too: every request with a fresh `Llama`, or one `Llama` a file that keeps its prefix.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from localfusion.engine import client
from localfusion.engine.interface import Resident
from localfusion.engine.measurements import Measurements
from localfusion.messages import (
    JudgeSpec,
    ModelSpec,
    PanelistSpec,
    PanelSpec,
    Sampling,
    SearchLimits,
    SourcesSpec,
    ToolOptions,
    local_models,
)
from localfusion.outcome import Outcome
from localfusion.scheduler import Engine, Scheduler
from localfusion.search.documents import DocumentIndex
from localfusion.search.opening import Sources
from localfusion.session import Session
from localfusion.store import RunRequest, Store
from scripts.engine_bench import ours, peers
from scripts.engine_bench.documents import QUESTION, write_documents
from scripts.engine_bench.figures import Figure
from scripts.engine_bench.peers import Peer
from scripts.engine_bench.prompts import Reader
from scripts.engine_bench.setting import PANEL, Setting
from scripts.engine_bench.steering import SteeredModel, Written

SEATS = ("a", "b", "c")
N_CALLS = 2
Load = Callable[[ModelSpec], Awaitable[Resident]]


class NotWhole(Exception):
    """The deliberation did not go the way that is measured."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens that each part may be long, and how much a search returns."""

    n_ctx: int
    n_step: int
    n_analysis: int
    n_answer: int
    tools: ToolOptions


FULL = Sizes(8192, 128, 600, 256, ToolOptions(search=SearchLimits(max_results=3, max_characters=500)))
SMALL = Sizes(4096, 48, 600, 32, ToolOptions(search=SearchLimits(max_results=2, max_characters=300)))


@dataclass(frozen=True, slots=True)
class Replay:
    """A request as others do it: the prompt is all that was read and written in request `after`, then `ids`."""

    path: Path
    after: int | None
    ids: list[int]
    n_written: int


def deliberation(setting: Setting) -> Iterable[Figure]:
    """Once with all seats and the judge on one file, once with three files, the judge on the first."""
    one, three = [setting.model(PANEL)], [setting.model(PANEL, seed=seed) for seed in range(3)]
    yield from _compared(setting, "one file", one, fresh=2.5, persistent=None)
    yield from _compared(setting, "three files", three, fresh=None, persistent=1.2)


def _compared(
    setting: Setting, title: str, paths: Sequence[Path], *, fresh: float | None, persistent: float | None
) -> Iterable[Figure]:
    sizes = setting.pick(SMALL, FULL)
    panel = seated(paths, sizes)
    seconds, record = asyncio.run(timed(panel, sizes, client.load, cores=setting.cores))
    n_read = sum(w.completion.usage.prompt_tokens for w in record)
    n_written = sum(w.completion.usage.completion_tokens for w in record)
    size = f"{len(record)} requests, prompts of {n_read} tokens in sum, {n_written} written"
    setting.say(f"{title}: {size}")
    replays = to_replays(record, setting.say)
    by_fresh = _replayed(replays, sizes.n_ctx, setting.cores, is_fresh=True)
    by_kept = _replayed(replays, sizes.n_ctx, setting.cores, is_fresh=False)
    name = f"whole deliberation on {title}, {size}"
    yield Figure(name, by_fresh / seconds, "times", "a fresh Llama for each request", fresh)
    yield Figure(name, by_kept / seconds, "times", "one Llama a file, which keeps its prefix", persistent)
    yield Figure(f"deliberation, {title}: localfusion", seconds, "s")
    yield Figure(f"deliberation, {title}: fresh Llama", by_fresh, "s")
    yield Figure(f"deliberation, {title}: one Llama a file", by_kept, "s")


def seated(paths: Sequence[Path], sizes: Sizes) -> PanelSpec:
    """Three seats over the files in turn, and the judge on the first."""
    users = [paths[seat % len(paths)] for seat in range(len(SEATS))] + [paths[0]]
    specs = {path: ours.spec(path, n_ctx=sizes.n_ctx, n_seq_max=users.count(path)) for path in paths}
    panelists = tuple(
        PanelistSpec(
            id,
            specs[path],
            sampling=Sampling(seed=seat),
            tools=sizes.tools,
            max_tool_calls=N_CALLS,
            max_tokens=sizes.n_step,
        )
        for seat, (id, path) in enumerate(zip(SEATS, users, strict=False))
    )
    return PanelSpec(panelists, JudgeSpec(specs[paths[0]], max_tokens=sizes.n_analysis))


async def timed(panel: PanelSpec, sizes: Sizes, load: Load, *, cores: int) -> tuple[float, list[Written]]:
    """Seconds of a whole deliberation with steered models, and its requests in the order in which they were done.

    What the models take is found out before, as for any user but the first.
    """
    record: list[Written] = []

    async def load_steered(spec: ModelSpec) -> Resident:
        return SteeredModel(await load(spec), spec.path, record, n_answer=sizes.n_answer)

    measure = partial(client.footprint, cache=Measurements())
    for spec in local_models(panel):
        await measure(spec)
    return await ask(panel, Engine(load_steered, measure), cores=cores), record


async def ask(
    panel: PanelSpec, engine: Engine, *, cores: int, documents: Callable[[None], DocumentIndex] = DocumentIndex
) -> float:
    """Seconds of a whole deliberation on documents that were read before, loads included; raises NotWhole."""
    with tempfile.TemporaryDirectory() as folder:
        docs = write_documents(Path(folder) / "documents")
        with closing(Store(Path(folder))) as store, closing(documents(None)) as index:
            index.add([docs])
            scheduler = Scheduler(engine, ours.unbounded(cores))
            session = Session(store, index, Sources(index, None, keep_pages_s=0), scheduler)
            started = time.monotonic()
            try:
                outcome = await session.ask(RunRequest(QUESTION, panel, SourcesSpec(docs=(docs,))), emit=lambda _: None)
                seconds = time.monotonic() - started
            finally:
                await scheduler.close()
    _check_whole(outcome)
    return seconds


def _check_whole(outcome: Outcome) -> None:
    calls = [len([step for step in response.steps if step.passages]) for response in outcome.responses]
    if outcome.failed_models or calls != [N_CALLS] * len(SEATS) or outcome.analysis is None or not outcome.answer:
        raise NotWhole(f"{outcome.failed_models or ''} calls {calls}, {outcome.error or outcome.warnings}")


def to_replays(record: Sequence[Written], say: Callable[[str], None]) -> list[Replay]:
    """The requests in the order of a script: each panelist from its first step to its answer, then the judge."""
    ordered = sorted(record, key=lambda written: written.request.sequence)  # a, b, c, judge
    readers: dict[Path, Reader] = {}
    replays: list[Replay] = []
    kept: dict[tuple[Path, str], tuple[int, str, int]] = {}
    for index, written in enumerate(ordered):
        request, usage = written.request, written.completion.usage
        reader = readers.get(written.path) or readers.setdefault(written.path, Reader(written.path))
        prompt = reader.prompt(request.messages, request.tools)
        key = (written.path, request.sequence)
        after, text, n_kept = kept.get(key, (None, "", 0))
        if not prompt.startswith(text):
            after, text, n_kept = None, "", 0
        ids = reader.ids(prompt[len(text) :])
        if n_kept + len(ids) != usage.prompt_tokens:
            say(f"a prompt of {request.sequence} has {n_kept + len(ids)} tokens here and {usage.prompt_tokens} there")
        replays.append(Replay(written.path, after, ids, usage.completion_tokens))
        kept[key] = index, prompt + written.completion.content, n_kept + len(ids) + usage.completion_tokens
    return replays


def _replayed(replays: Sequence[Replay], n_ctx: int, cores: int, *, is_fresh: bool) -> float:
    """Seconds of all requests one after another, all cores, loads included."""
    opened: set[str] = set()
    done: list[list[int]] = []
    with Peer() as peer:
        peer.do(peers.close_all)  # the process is there
        started = time.monotonic()
        for replay in replays:
            name = replay.path.name
            if is_fresh:
                peer.do(peers.close_all)
            if is_fresh or name not in opened:
                peer.do(peers.open_llama, name, replay.path, n_ctx=n_ctx, n_threads=cores)
                opened.add(name)
            prompt = (done[replay.after] if replay.after is not None else []) + replay.ids
            wrote = peer.do(peers.write, name, prompt, replay.n_written)
            done.append(prompt + wrote.ids)
        return time.monotonic() - started
