"""An embedding model on lease: real workers, memory that is not there, and what makes two models the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localfusion.engine import client
from localfusion.errors import ModelError, ModelLoadError, OutOfMemory
from localfusion.messages import ModelSpec
from localfusion.scheduler import Engine, Limits, Scheduler, embedder_of
from localfusion.search.meaning import Embedder, rank
from tests.embedding_gguf import EmbeddingModel, write_embedding_gguf
from tests.tiny_gguf import write_tiny_gguf

GIB = 1 << 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return ModelSpec("tiny", write_embedding_gguf(folder / "tiny.gguf"))


@asynccontextmanager
async def scheduler_of(memory_bytes: int = GIB) -> AsyncIterator[Scheduler]:
    limits = Limits(cores=2, memory_bytes=memory_bytes, available_bytes=lambda: 8 * GIB)
    scheduler = Scheduler(Engine(client.load, client.footprint), limits)
    try:
        yield scheduler
    finally:
        await scheduler.close()


def test_texts_are_ranked_by_a_model_that_is_loaded_when_first_asked(spec: ModelSpec) -> None:
    texts = ["the sea", "and the light house", "x" * 5000]

    async def run() -> None:
        async with scheduler_of() as scheduler:
            leased = embedder_of(scheduler, spec)
            embedder: Embedder = leased
            passages = await embedder.embed(texts, kind="passage")
            queries = await asyncio.gather(*(embedder.embed([text], kind="query") for text in texts))
            assert [rank(query[0], passages)[0] for query in queries] == [0, 1, 2]
            assert leased.n_cut == 2
            assert passages.dtype == np.float32

    asyncio.run(run())


def test_who_holds_another_model_never_waits_for_memory(folder: Path, spec: ModelSpec) -> None:
    other = ModelSpec("writer", write_tiny_gguf(folder / "writer.gguf"), n_ctx=256)

    async def run() -> None:
        async with scheduler_of() as roomy:
            sizes = [(await roomy.footprint(one)).total_bytes for one in (other, replace(spec, embeddings=True))]
        async with scheduler_of(max(sizes)) as scheduler:
            async with scheduler.lease(other):
                with pytest.raises(ModelError, match="no memory for tiny"):
                    await embedder_of(scheduler, spec).embed(["the sea"], kind="query")
                waiting = asyncio.create_task(embedder_of(scheduler, spec, waits=True).embed(["a"], kind="passage"))
                await asyncio.sleep(0.1)
                assert not waiting.done()
            assert len(await waiting) == 1
        async with scheduler_of(1 << 20) as scheduler:
            with pytest.raises(ModelError, match="no memory"):
                await embedder_of(scheduler, spec).embed(["the sea"], kind="query")
            with pytest.raises(OutOfMemory):
                await embedder_of(scheduler, spec, waits=True).embed(["the sea"], kind="query")

    asyncio.run(run())


def test_a_copy_is_the_same_model_and_anything_else_is_another(spec: ModelSpec, tmp_path: Path) -> None:
    async def identities(*specs: ModelSpec) -> list[str]:
        async with scheduler_of() as scheduler:
            return [embedder_of(scheduler, one).identity for one in specs]

    copy = tmp_path / "copy.gguf"
    copy.write_bytes(spec.path.read_bytes())
    named_e5 = tmp_path / "e5-tiny.gguf"
    named_e5.write_bytes(spec.path.read_bytes())
    other = write_embedding_gguf(tmp_path / "other.gguf", EmbeddingModel(seed=1))
    own, *found = asyncio.run(
        identities(
            spec,
            replace(spec, path=copy, name="copy", n_threads=2, use_mmap=False, n_ctx=4096),
            replace(spec, path=other),
            replace(spec, n_ctx=64),
            replace(spec, path=named_e5),
        )
    )
    assert found[0] == own
    assert len({own, *found}) == 4


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with scheduler_of() as scheduler:
            with pytest.raises(ModelLoadError, match="does not exist"):
                embedder_of(scheduler, ModelSpec("none", tmp_path / "none.gguf"))
            writer = embedder_of(scheduler, ModelSpec("writer", write_tiny_gguf(tmp_path / "writer.gguf")))
            with pytest.raises(ModelLoadError, match="no embedding model"):
                await writer.embed(["the sea"], kind="query")

    asyncio.run(run())
