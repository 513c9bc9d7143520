"""Rows "panel" and "files": a panel on one file, and a panel of three files, against what else one could do.

Loads are in nobody's time here: every file is loaded, and every `Llama` made, before the clock runs.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from localfusion.engine import client
from localfusion.messages import ModelSpec
from scripts.engine_bench import ours, peers
from scripts.engine_bench.figures import Figure
from scripts.engine_bench.ours import Work
from scripts.engine_bench.peers import Peer
from scripts.engine_bench.prompts import Reader
from scripts.engine_bench.setting import PANEL, Setting, median

N_SEATS = 4
N_TAIL = 30
"""Tokens of a panelist's own at the end of its prompt."""
ASKED = "Which of these notes contradict each other, and what would you look up next?"


def panel(setting: Setting) -> Iterable[Figure]:
    """Four seats on one file; their prompts have all but the last 30 tokens in common."""
    n_read, n_written = setting.pick((96, 16), (1000, 128))
    path = setting.model(PANEL)
    reader = Reader(path)
    spec = ours.spec(path, n_ctx=n_read + n_written + 256, n_seq_max=N_SEATS)
    times: dict[str, list[float]] = {"ours": [], "fresh": [], "reused": []}
    for repetition in range(setting.pick(1, 2)):
        works = seats(reader, spec, n_read, n_written, seed=repetition)
        prompts = [reader.prompt_ids(request) for _, request in works]
        setting.say(f"panel, repetition {repetition + 1}: prompts of {len(prompts[0])} tokens")
        times["ours"].append(asyncio.run(_timed(setting, works)))
        for name in ("fresh", "reused"):
            times[name].append(_one_after_another(spec, prompts, n_written, setting.cores, is_fresh=name == "fresh"))
    mine = median(times["ours"])
    name = f"panel of {N_SEATS} on one file, {n_read} read, {n_written} written"
    yield Figure(name, median(times["fresh"]) / mine, "times", "four fresh Llama one after another", 2.8)
    yield Figure(name, median(times["reused"]) / mine, "times", "one Llama used again, which keeps its prefix", 1.2)
    yield Figure("panel: localfusion", mine, "s")
    yield Figure("panel: four fresh Llama", median(times["fresh"]), "s")
    yield Figure("panel: one Llama used again", median(times["reused"]), "s")


def seats(reader: Reader, spec: ModelSpec, n_read: int, n_written: int, *, seed: int) -> list[Work]:
    """What each seat is asked: one system message and question, and an instruction of its own at the end."""
    frame = len(reader.prompt_ids(ours.request("", f"{ASKED}\n\n", 1, system="x")))
    shared = reader.prose(n_read - N_TAIL - frame, seed=seed)
    tails = [reader.prose(N_TAIL, seed=1000 + seat) for seat in range(N_SEATS)]
    return [
        (spec, ours.request(f"{seed}-{seat}", f"{ASKED}\n\n{tail}", n_written, system=shared))
        for seat, tail in enumerate(tails)
    ]


async def _timed(setting: Setting, works: Sequence[Work]) -> float:
    async with ours.scheduler(setting) as scheduler:
        await ours.warm(scheduler, list(dict.fromkeys(spec for spec, _ in works)))
        return await ours.together(scheduler, works)


def _one_after_another(
    spec: ModelSpec, prompts: Sequence[Sequence[int]], n_written: int, cores: int, *, is_fresh: bool
) -> float:
    assert isinstance(spec.n_ctx, int)
    with Peer() as peer:
        names = [str(seat) for seat in range(len(prompts))] if is_fresh else ["one"] * len(prompts)
        for name in dict.fromkeys(names):
            peer.do(peers.open_llama, name, spec.path, n_ctx=spec.n_ctx, n_threads=cores)
            peer.do(peers.write, name, prompts[0][-4:], 4)
        started = time.monotonic()
        for name, prompt in zip(names, prompts, strict=True):
            peer.do(peers.write, name, prompt, n_written)
        return time.monotonic() - started


N_FILES = 3


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second, read and written, of one file with one core and with all."""

    read_by_one: float
    written_by_one: float
    read_by_all: float
    written_by_all: float

    def bound(self, *, cores: int, n_read: int, n_written: int) -> float:
        """Seconds that no schedule of N_FILES texts undercuts, if one core's work never slows another's.

        files * n_read / max(read_by_all, k * read_by_one) + files * n_written / max(written_by_all, k * written_by_one)
        with k = min(cores, files): reading and writing each in the better of the two ways, one file at a time on all
        cores or a file a core, and no core ever idle. Whole texts do not always divide so, hence 0.9 of it is wanted.
        """
        k = min(cores, N_FILES)
        read = max(self.read_by_all, k * self.read_by_one)
        written = max(self.written_by_all, k * self.written_by_one)
        return N_FILES * n_read / read + N_FILES * n_written / written


def files(setting: Setting) -> Iterable[Figure]:
    """Three seats on three files."""
    n_read, n_written = setting.pick((64, 16), (256, 256))
    paths = [setting.model(PANEL, seed=seed) for seed in range(N_FILES)]
    reader = Reader(paths[0])
    specs = [ours.spec(path, n_ctx=n_read + n_written + 256) for path in paths]
    frame = len(reader.prompt_ids(ours.request("", "x", 1)))
    texts = [reader.prose(n_read - frame, seed=seat) for seat in range(N_FILES)]
    works = [(spec, ours.request("seat", text, n_written)) for spec, text in zip(specs, texts, strict=True)]
    prompts = [reader.prompt_ids(request) for _, request in works]
    setting.say(f"files: prompts of {len(prompts[0])} tokens")
    mine = asyncio.run(_timed(setting, works))
    others = _in_processes(specs, prompts, n_written, setting.cores)
    rates = asyncio.run(_rates(setting, specs[0], reader.prose(n_read, seed=99), n_written))
    bound = rates.bound(cores=setting.cores, n_read=n_read, n_written=n_written)
    name = f"panel of {N_FILES} files, {n_read} read, {n_written} written"
    yield Figure(name, others["at once"] / mine, "times", "the three at once, all cores each", 2.0)
    yield Figure(name, others["in turn"] / mine, "times", "one after another, all cores", 1.0)
    yield Figure(name, bound / mine, "of 1", "the bound by this run's rates with one core and with all", 0.9)
    yield Figure(name, others["at once, its defaults"] / mine, "times", "the three at once, Llama's own threads")
    yield Figure("files: localfusion", mine, "s")
    yield Figure("files: bound", bound, "s")
    yield from (Figure(f"files: {way}", seconds, "s") for way, seconds in others.items())
    yield Figure("files: read, one core", rates.read_by_one, "tok/s")
    yield Figure("files: read, all cores", rates.read_by_all, "tok/s")
    yield Figure("files: written, one core", rates.written_by_one, "tok/s")
    yield Figure("files: written, all cores", rates.written_by_all, "tok/s")


def _in_processes(
    specs: Sequence[ModelSpec], prompts: Sequence[Sequence[int]], n_written: int, cores: int
) -> dict[str, float]:
    """Seconds of three processes with a `Llama` each, in the ways to let them work."""
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        workers = [stack.enter_context(Peer()) for _ in specs]
        for way, n_threads in (("at once", cores), ("in turn", cores), ("at once, its defaults", None)):
            for peer, spec, prompt in zip(workers, specs, prompts, strict=True):
                assert isinstance(spec.n_ctx, int)
                peer.do(peers.close_all)
                peer.do(peers.open_llama, "one", spec.path, n_ctx=spec.n_ctx, n_threads=n_threads)
                peer.do(peers.write, "one", prompt[-4:], 4)
            started = time.monotonic()
            works = []
            for peer, prompt in zip(workers, prompts, strict=True):
                works.append(peer.start(peers.write, "one", prompt, n_written))
                if way == "in turn":
                    works[-1].result()
            for work in works:
                work.result()
            seconds[way] = time.monotonic() - started
    return seconds


async def _rates(setting: Setting, spec: ModelSpec, text: str, n_written: int) -> Rates:
    model = await client.load(spec)
    try:
        rates: list[float] = []
        for number, n_threads in enumerate((1, setting.cores)):
            await model.set_threads(n_threads)
            await ours.complete(model, ours.request("warm", f"{number}", 4))
            found = await ours.pace(model, ours.request(f"{number}", f"{number} {text}", n_written))
            rates += [found.read_rate, found.write_rate]
        return Rates(*rates)
    finally:
        await model.close()
