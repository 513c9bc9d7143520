"""The rows of `scripts/bench-search`: indexing, refreshing, asking and finding, on two kinds of text."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from localfusion.search.documents import Added, DocumentIndex
from localfusion.search.folders import find_files
from scripts.engine_bench.figures import Figure
from scripts.search_bench.hybrid import Hybrid
from scripts.search_bench.invented import write_documents
from scripts.search_bench.known_items import KnownItem, Stored, draw
from scripts.search_bench.own_text import copy_documents
from scripts.search_bench.systems import BareFts5, Ours, System, Tantivy, stored_passages

T = TypeVar("T")

REFRESH_S, REFRESH_FILES = 2.0, 10_000
P50_MS = 10.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; `say` tells of progress. `embedding` is a model for finding by meaning too."""

    quick: bool
    say: Callable[[str], None]
    embedding: Path | None = None

    @property
    def n_invented(self) -> int:
        return 300 if self.quick else REFRESH_FILES

    @property
    def n_own_files(self) -> int:
        return 300 if self.quick else 6000

    @property
    def own_bytes(self) -> int:
        return (3 if self.quick else 60) * 2**20

    @property
    def n_items(self) -> int:
        return 60 if self.quick else 400


Row = Callable[[Sizes], Iterator[Figure]]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one system did with all queries of a kind: milliseconds, and the rank of the wanted document or None."""

    milliseconds: tuple[float, ...]
    ranks: tuple[int | None, ...]

    def quantile(self, share: float) -> float:
        ordered = sorted(self.milliseconds)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    @property
    def recall(self) -> float:
        """The share of queries whose document is among the five."""
        return statistics.fmean(rank is not None for rank in self.ranks)

    @property
    def mrr(self) -> float:
        """The mean of one over the rank of the document."""
        return statistics.fmean(1 / rank if rank else 0.0 for rank in self.ranks)


def invented(sizes: Sizes) -> Iterator[Figure]:
    """Text that the bench makes up."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _measure("invented", write_documents(Path(folder) / "docs", sizes.n_invented), sizes)


def own(sizes: Sizes) -> Iterator[Figure]:
    """The text of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        copied = copy_documents(Path(folder) / "docs", max_files=sizes.n_own_files, max_bytes=sizes.own_bytes)
        yield from _measure("own text", copied, sizes)


ROWS: Mapping[str, Row] = {"invented": invented, "own": own}


def _measure(name: str, docs: Path, sizes: Sizes) -> Iterator[Figure]:
    file = docs.parent / "index.db"
    with closing(DocumentIndex(file)) as index:
        sizes.say(f"{name}: indexing")
        seconds, added = _timed(partial(index.add, [docs]))
        yield from _indexing(name, docs, seconds, added)
        sizes.say(f"{name}: nothing changed")
        seconds, added = _timed(partial(index.add, [docs]))
        wanted = REFRESH_S if len(added.source.urls) >= REFRESH_FILES else None
        yield Figure(f"{name}: refresh of {added.unchanged} unchanged files", seconds, "s", None, wanted, is_limit=True)
        passages = stored_passages(file)
        yield Figure(f"{name}: passages", len(passages), "count")
        paths = {found.url: found.path for found in find_files([docs]).files}
        systems: list[System] = [Ours(added.source, paths)]
        peers: tuple[Callable[[Path, Sequence[Stored]], System], ...] = (BareFts5, Tantivy)
        for number, peer in enumerate(peers):
            seconds, system = _timed(partial(peer, docs.parent / f"peer-{number}", passages))
            systems.append(system)
            speed = _megabytes(passages) / seconds
            yield Figure(f"{name}: passages that were cut before, indexed by {system.name}", speed, "MB/s")
        with ExitStack() as stack:
            if sizes.embedding is not None:
                sizes.say(f"{name}: embedding")
                make = partial(Hybrid, added.source, paths, model=sizes.embedding, file=docs.parent / "vectors.db")
                seconds, hybrid = _timed(make)
                stack.callback(hybrid.close)
                systems.append(hybrid)
                yield Figure(f"{name}: passages embedded", hybrid.n_embedded / seconds, "passages/s")
            sizes.say(f"{name}: asking")
            yield from _asking(name, systems, draw(passages, sizes.n_items))


def _indexing(name: str, docs: Path, seconds: float, added: Added) -> Iterator[Figure]:
    n_bytes = sum(found.size for found in find_files([docs]).files)
    yield Figure(f"{name}: files indexed", added.read / seconds, "files/s")
    yield Figure(f"{name}: bytes of files indexed", n_bytes / 2**20 / seconds, "MB/s")


def _asking(name: str, systems: Sequence[System], items: Sequence[KnownItem]) -> Iterator[Figure]:
    kinds = {
        f"{name}: 3 to 6 words": [item.words for item in items],
        f"{name}: whole questions": [item.question for item in items],
    }
    for kind, queries in kinds.items():
        ours, *peers = [_answers(system, queries, items) for system in systems]
        for system, peer in zip(systems[1:], peers, strict=True):
            ratio = peer.quantile(0.5) / ours.quantile(0.5)
            yield Figure(f"{kind}, p50, as fast as {system.name}", ratio, "times")
        for system, found in zip(systems, (ours, *peers), strict=True):
            wanted = P50_MS if found is ours and "words" in kind else None
            yield Figure(f"{kind}, p50, {system.name}", found.quantile(0.5), "ms", None, wanted, is_limit=True)
            yield Figure(f"{kind}, p95, {system.name}", found.quantile(0.95), "ms")
        for system, found in zip(systems, (ours, *peers), strict=True):
            yield Figure(f"{kind}, recall@5, {system.name}", found.recall, "share")
            yield Figure(f"{kind}, MRR, {system.name}", found.mrr, "share")


def _answers(system: System, queries: Sequence[str], items: Sequence[KnownItem]) -> Answers:
    milliseconds: list[float] = []
    ranks: list[int | None] = []
    for query, item in zip(queries, items, strict=True):
        seconds, found = _timed(partial(system.search, query))
        milliseconds.append(1000 * seconds)
        ranks.append(list(found).index(item.document) + 1 if item.document in found else None)
    return Answers(tuple(milliseconds), tuple(ranks))


def _timed(act: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    done = act()
    return time.perf_counter() - started, done


def _megabytes(passages: Sequence[Stored]) -> float:
    return sum(len(passage.text) for passage in passages) / 2**20
