"""Our index found by words and by meaning, with an embedding model that is named: through the real engine."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from localfusion.engine import client
from localfusion.messages import ModelSpec
from localfusion.scheduler import Engine, Scheduler, embedder_of
from localfusion.search.local_documents import LocalDocuments
from localfusion.search.source import Search
from localfusion.search.vectors import VectorFile
from localfusion.session import limits
from scripts.search_bench.systems import N_RESULTS


class Hybrid:
    """A run's view of our index with the vectors of its passages, which are made at the start. To be closed."""

    name = "localfusion, by meaning too"

    def __init__(self, source: LocalDocuments, paths: dict[str, str], *, model: Path, file: Path) -> None:
        """`paths` maps addresses to the names that the bench knows documents by; `file` takes the vectors."""
        self._paths = paths
        self._runner = asyncio.Runner()
        self._scheduler = Scheduler(Engine(client.load, client.footprint), limits(None))
        embedder = embedder_of(self._scheduler, ModelSpec(model.stem, model), waits=True)
        self._file = VectorFile(file, model=embedder.identity)
        self._source = source.by_meaning(self._file, embedder)
        self.n_embedded = self._runner.run(self._source.embed_missing())

    def search(self, query: str) -> Sequence[str]:
        """As a panelist searches."""
        found = self._runner.run(self._source.search(Search(query, N_RESULTS, 2000)))
        return [self._paths[result.url] for result in found.results]

    def close(self) -> None:
        """End the worker, close the file."""
        self._runner.run(self._scheduler.close())
        self._runner.close()
        self._file.close()
