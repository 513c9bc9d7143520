"""Documents found by words and by meaning together: an embedder that anybody can compute, and a real worker."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from localfusion.engine import client
from localfusion.errors import ModelError
from localfusion.messages import ModelSpec, SourcesSpec, TextKind
from localfusion.scheduler import Engine, Limits, Scheduler, embedder_of
from localfusion.search.documents import DocumentIndex
from localfusion.search.local_documents import LocalDocuments
from localfusion.search.meaning import Embedder, Vectors
from localfusion.search.opening import VECTORS_FILE, Embedders, Sources
from localfusion.search.source import Search
from localfusion.search.vectors import VectorFile
from tests.embedding_gguf import write_embedding_gguf

CONCEPTS: tuple[frozenset[str], ...] = (
    frozenset({"ship", "vessel", "boat", "schooner"}),
    frozenset({"king", "monarch", "ruler"}),
    frozenset({"sank", "foundered", "lost"}),
    frozenset({"bread", "loaf"}),
)
"""Words that mean the same, for a model that knows these and no others."""
PAGES = {
    "ship.md": "# The Marigold\n\nThe schooner foundered in the strait in 1870.",
    "king.md": "# Osric\n\nThe monarch was crowned in the spring.",
    "bread.md": "# Baking\n\nA loaf rises for two hours.",
    "list.md": "# List\n\nThe word ship stands here, and so does the word shape.",
}


class ConceptEmbedder:
    """A vector says which concepts a text has. `fails_at` is the request that a model error answers."""

    identity = "concepts"

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[tuple[TextKind, tuple[str, ...]]] = []
        self.fails_at = fails_at

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Vectors:
        if len(self.asked) == self.fails_at:
            raise ModelError("concepts", "the worker of concepts was ended by SIGKILL")
        self.asked.append((kind, tuple(texts)))
        words = [set(text.lower().replace(".", " ").replace("?", " ").split()) for text in texts]
        rows = np.array([[float(bool(concept & own)) for concept in CONCEPTS] for own in words], np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        vectors: Vectors = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
        return vectors

    def embedded(self) -> list[str]:
        return [text for kind, texts in self.asked for text in texts if kind == "passage"]


@contextmanager
def opened(tmp_path: Path, embedder: Embedder) -> Iterator[tuple[DocumentIndex, VectorFile]]:
    index = DocumentIndex(tmp_path / "documents.sqlite3", n_processes=1)
    file = VectorFile(tmp_path / "vectors.sqlite3", model=embedder.identity)
    try:
        yield index, file
    finally:
        file.close()
        index.close()


def write(folder: Path, pages: Mapping[str, str] = PAGES) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        (folder / name).write_text(text)
    return folder


def found(source: LocalDocuments, query: str, *, n: int = 5) -> list[str]:
    """The names of the documents that a search finds."""
    results = asyncio.run(source.search(Search(query, max_results=n))).results
    return [result.url.rsplit("/", 1)[-1] for result in results]


def test_other_words_of_the_same_meaning_are_found(tmp_path: Path) -> None:
    embedder = ConceptEmbedder()
    with opened(tmp_path, embedder) as (index, file):
        by_words = index.add([write(tmp_path / "docs")]).source
        source = by_words.by_meaning(file, embedder)
        assert asyncio.run(source.embed_missing()) == len(PAGES)
        assert found(by_words, "Which vessel was lost?") == []
        assert found(source, "Which vessel was lost?")[0] == "ship.md"
        assert found(by_words, "the ruler of the ship") == ["list.md"]
        assert set(found(source, "the ruler of the ship", n=3)) == {"list.md", "king.md", "ship.md"}
        assert [kind for kind, _ in embedder.asked].count("query") == 2, "one request a search"
        assert found(source, "?!") == found(source, "") == []
        assert "The Marigold\nThe Marigold\nThe schooner foundered in the strait in 1870." in embedder.embedded()


def test_what_is_found_by_both_comes_first_and_stands_in_the_page(tmp_path: Path) -> None:
    embedder = ConceptEmbedder()
    with opened(tmp_path, embedder) as (index, file):
        source = index.add([write(tmp_path / "docs")]).source.by_meaning(file, embedder)
        asyncio.run(source.embed_missing())
        results = asyncio.run(source.search(Search("schooner lost in the strait"))).results
        assert results[0].url.endswith("ship.md")
        for result in results:
            assert result.page is not None
            assert all(line in result.page.text for line in result.passage.splitlines())
        assert [result.score for result in results] == sorted((r.score for r in results), reverse=True)


def test_only_what_is_new_or_changed_is_embedded(tmp_path: Path) -> None:
    embedder = ConceptEmbedder()
    folder = write(tmp_path / "docs")
    with opened(tmp_path, embedder) as (index, file):
        source = index.add([folder]).source.by_meaning(file, embedder)
        assert asyncio.run(source.embed_missing()) == 4
        assert asyncio.run(source.embed_missing()) == 0
    write(folder, {"king.md": "# Osric\n\nA vessel.", "new.md": "# New\n\nA boat that was lost."})
    (folder / "bread.md").unlink()
    with opened(tmp_path, embedder) as (index, file):
        source = index.add([folder]).source.by_meaning(file, embedder)
        done: list[tuple[int, int]] = []
        assert asyncio.run(source.embed_missing(lambda n, total: done.append((n, total)))) == 2
        assert done == [(2, 2)]
        assert "king.md" in found(source, "a ship of state", n=9)
        assert "bread.md" not in found(source, "a loaf of bread", n=9)


def test_an_embedding_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", {f"{n}.md": f"# Page {n}\n\nThe ship {n} foundered." for n in range(200)})
    broken = ConceptEmbedder(fails_at=2)
    with opened(tmp_path, broken) as (index, file):
        source = index.add([folder]).source
        with pytest.raises(ModelError):
            asyncio.run(source.by_meaning(file, broken).embed_missing())
        n_before = len(broken.embedded())
        assert 0 < n_before < 200
        again = ConceptEmbedder()
        assert asyncio.run(source.by_meaning(file, again).embed_missing()) == 200 - n_before
        assert len(set(broken.embedded() + again.embedded())) == 200


def test_a_run_sees_its_own_documents_alone(tmp_path: Path) -> None:
    embedder = ConceptEmbedder()
    write(tmp_path / "one")
    write(tmp_path / "two", {"two.md": "# Two\n\nA boat was lost."})
    with opened(tmp_path, embedder) as (index, file):
        for folder in ("one", "two"):
            asyncio.run(index.add([tmp_path / folder]).source.by_meaning(file, embedder).embed_missing())
        assert len(embedder.embedded()) == 5
        two = index.add([tmp_path / "two"]).source.by_meaning(file, embedder)
        assert found(two, "a vessel that was lost", n=9) == ["two.md"]


def test_without_the_model_words_are_enough_and_it_is_said(tmp_path: Path) -> None:
    with opened(tmp_path, ConceptEmbedder()) as (index, file):
        by_words = index.add([write(tmp_path / "docs")]).source
        source = by_words.by_meaning(file, ConceptEmbedder(fails_at=0))
        answer = asyncio.run(source.search(Search("schooner")))
        assert answer.warnings == (
            "documents were searched by words alone: the worker of concepts was ended by SIGKILL",
        )
        assert answer.results == asyncio.run(by_words.search(Search("schooner"))).results
        assert asyncio.run(by_words.embed_missing()) == 0
        no_vectors = by_words.by_meaning(file, ConceptEmbedder())
        assert found(no_vectors, "schooner") == ["ship.md"]


def test_a_real_worker_makes_the_vectors(tmp_path: Path) -> None:
    """With weights that are noise, a text is still nearest to itself."""
    spec = ModelSpec("tiny", write_embedding_gguf(tmp_path / "tiny.gguf"))

    async def run() -> None:
        limits = Limits(cores=2, memory_bytes=1 << 30, available_bytes=lambda: 1 << 33)
        scheduler = Scheduler(Engine(client.load, client.footprint), limits)
        embedder = embedder_of(scheduler, spec, waits=True)
        with opened(tmp_path, embedder) as (index, file):
            added = await asyncio.to_thread(index.add, [write(tmp_path / "docs")])
            source = added.source.by_meaning(file, embedder)
            try:
                assert await source.embed_missing() == len(PAGES)
                answer = await source.search(Search("Baking\nBaking\nA loaf rises for two hours."))
            finally:
                await scheduler.close()
        assert answer.results[0].url.endswith("bread.md")
        assert answer.warnings == ()

    asyncio.run(run())


def test_a_damaged_file_of_vectors_leaves_a_search_by_words(tmp_path: Path) -> None:
    (tmp_path / VECTORS_FILE).write_bytes(b"damaged " * 1000)
    embedders = Embedders(ConceptEmbedder(), ConceptEmbedder())

    async def search(index: DocumentIndex) -> tuple[tuple[str, ...], int]:
        sources = Sources(index, tmp_path, keep_pages_s=0)
        spec = SourcesSpec(docs=(write(tmp_path / "docs"),), offline=True)
        async with sources.open(spec, names_pages=False, embedders=embedders) as opened:
            results = (await opened.source.search(Search("schooner"))).results
        await sources.aclose()
        return opened.not_embedded, len(results)

    with closing(DocumentIndex(None)) as index:
        (warning,), n_results = asyncio.run(search(index))
    assert warning.startswith("documents are searched by words alone: ")
    assert n_results == 1
