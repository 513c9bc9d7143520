"""Vectors of texts by worker processes, against llama-cpp-python's own on the same files; and what is refused."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from localfusion.engine.client import Model, footprint, load
from localfusion.engine.embedding import Embedder
from localfusion.engine.footprint import estimate_context, read_context, read_weights
from localfusion.engine.llama import MOST_TEXTS
from localfusion.engine.prefixes import NO_PREFIXES, Prefixes, prefixes_of
from localfusion.engine.protocol import FLOATS, Embed, Embedded, Failed
from localfusion.errors import ModelError, ModelLoadError, WorkerDied
from localfusion.gguf_header import read_header
from localfusion.messages import GenerateRequest, Message, ModelSpec
from tests.embedding_gguf import N_EMBD, Architecture, EmbeddingModel, Pooling, write_embedding_gguf
from tests.tiny_gguf import write_tiny_gguf

N_CTX = 128
MODELS: tuple[tuple[Architecture, Pooling], ...] = (
    ("bert", "mean"),
    ("bert", "cls"),
    ("nomic-bert", "mean"),
    ("qwen3", "last"),
    ("qwen3", "mean"),
    ("gemma-embedding", "mean"),
)
TEXTS = (
    "the light house",
    "and the sea",
    "a tower by the sea; its height is 42",
    "the " * 30,
    "Ünï ☃ 漢字 \U0001f600",
    "a\x00b \x1b[31m",
    "[CLS] <|im_end|>",
)
EVERY_MODEL = pytest.mark.parametrize(("architecture", "pooling"), MODELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def spec_of(folder: Path, architecture: Architecture = "bert", pooling: Pooling | None = "mean") -> ModelSpec:
    path = folder / f"{architecture}-{pooling}.gguf"
    if not path.exists():
        write_embedding_gguf(path, EmbeddingModel(architecture, pooling, n_ctx=N_CTX))
    return ModelSpec("tiny", path, embeddings=True)


@asynccontextmanager
async def loaded(spec: ModelSpec) -> AsyncIterator[Model]:
    model = await load(spec)
    try:
        yield model
    finally:
        await model.close()


def embedded(spec: ModelSpec, texts: Sequence[str]) -> NDArray[np.float32]:
    async def run() -> NDArray[np.float32]:
        async with loaded(spec) as model:
            return (await model.embed(texts, kind="passage")).vectors

    return asyncio.run(run())


def reference(path: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """One text after another, alone in its batch."""
    model = llama_cpp.Llama(str(path), embedding=True, n_ctx=N_CTX, n_batch=N_CTX, n_ubatch=N_CTX, verbose=False)
    vectors = [model.embed(text, normalize=True) for text in texts]
    model.close()
    return np.array(vectors, np.float32)


def run_all(embedder: Embedder, *requests: Embed) -> list[tuple[int, NDArray[np.float32], int]]:
    """Each reply as the request's number, vectors and how many texts were cut."""
    for request in requests:
        embedder.submit(request)
    found = []
    while not embedder.is_idle:
        for reply in embedder.step():
            assert isinstance(reply, Embedded)
            vectors = np.frombuffer(reply.vectors, FLOATS).reshape(reply.n_texts, reply.n_embd)
            found.append((reply.id, vectors.astype(np.float32), reply.n_cut))
    return found


# Vectors


@EVERY_MODEL
def test_vectors_are_those_of_llama_cpp_python(folder: Path, architecture: Architecture, pooling: Pooling) -> None:
    spec = spec_of(folder, architecture, pooling)
    prefix = prefixes_of(read_header(spec.path, model="tiny").metadata, spec.path).passage
    ours = embedded(spec, TEXTS)
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), N_EMBD)
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1, abs=1e-5)
    theirs = reference(spec.path, [prefix + text for text in TEXTS])
    assert (ours * theirs).sum(axis=1) == pytest.approx(1, abs=1e-3)
    assert (ours @ ours.T)[0, 1:].max() < 0.999, "texts that differ have vectors that differ"


@EVERY_MODEL
def test_a_text_has_the_same_vector_in_any_company(folder: Path, architecture: Architecture, pooling: Pooling) -> None:
    embedder = Embedder(spec_of(folder, architecture, pooling))
    ((_, alone, _),) = run_all(embedder, Embed(1, TEXTS[:1]))
    for others in (TEXTS[1:3], TEXTS[3:4] * 2, tuple("abcdefghijklmnop")):
        found = run_all(embedder, Embed(2, (*others, TEXTS[0], *others)))
        together = np.concatenate([vectors for _, vectors, _ in found])
        assert together[len(others)] @ alone[0] == pytest.approx(1, abs=1e-4)
        assert np.abs(together[: len(others)] - together[len(others) + 1 :]).max() < 1e-2


@EVERY_MODEL
def test_a_text_longer_than_the_window_is_its_beginning(
    folder: Path, architecture: Architecture, pooling: Pooling
) -> None:
    """And its last token is still the one that ends every text, of which the vector may be made."""
    embedder = Embedder(spec_of(folder, architecture, pooling))
    assert embedder.info.n_ctx == N_CTX
    texts = ("x" * 5000, "x" * 6000, "y" + "x" * 5000)
    found = run_all(embedder, Embed(1, texts))
    assert [n_cut for _, _, n_cut in found] == [1, 1, 1]
    vectors = np.concatenate([vectors for _, vectors, _ in found])
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])
    whole = embedder.vocabulary.tokenize("x" * 5000, parse_special=False, add_special=True)
    n_bare = len(embedder.vocabulary.tokenize("x" * 5000, parse_special=False))
    n_fitting = N_CTX - (len(whole) - n_bare)
    if n_bare == 5000:  # a token a letter: the longest text that fits is known
        ((_, fitting, n_cut),) = run_all(embedder, Embed(2, ("x" * n_fitting,)))
        assert n_cut == 0
        assert fitting[0] @ vectors[0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "n_ctx"),
    [
        ({}, N_CTX),
        ({"n_ctx": 64}, 64),
        ({"n_batch": 50}, 50),
        ({"n_ubatch": 7, "n_ctx": 4096}, 7),
        ({"n_ctx": 100_000, "n_batch": 100_000, "n_ubatch": 100_000}, N_CTX),
    ],
)
def test_the_window_is_the_least_of_what_bounds_it(folder: Path, setting: dict[str, int], n_ctx: int) -> None:
    embedder = Embedder(replace(spec_of(folder), **setting))  # type: ignore[arg-type]
    assert embedder.info.n_ctx == n_ctx
    found = run_all(embedder, Embed(1, TEXTS))
    assert sum(len(vectors) for _, vectors, _ in found) == len(TEXTS)


def test_a_text_without_a_token_is_far_from_everything(folder: Path, tmp_path: Path) -> None:
    """Most models have tokens of their own in every text; a decoder without an end has none in an empty one."""
    path = write_embedding_gguf(tmp_path / "no-end.gguf", EmbeddingModel("qwen3", "last", has_end=False))
    vectors = embedded(ModelSpec("tiny", path, embeddings=True), ["", "the sea", ""])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([0, 1, 0], abs=1e-5)
    assert np.linalg.norm(embedded(spec_of(folder), ["", "the sea"]), axis=1) == pytest.approx(1, abs=1e-5)


def test_many_texts_are_answered_by_batches_and_in_order(folder: Path) -> None:
    texts = tuple(f"{number} sea" for number in range(3 * MOST_TEXTS))
    embedder = Embedder(spec_of(folder))
    found = run_all(embedder, Embed(1, texts))
    assert len(found) > 3
    vectors = np.concatenate([vectors for _, vectors, _ in found])
    one_by_one = [run_all(embedder, Embed(2, (text,)))[0][1][0] for text in texts[::40]]
    assert (vectors[::40] * one_by_one).sum(axis=1) == pytest.approx(1, abs=1e-4)


def test_a_query_waits_for_one_batch_of_passages_at_most(folder: Path) -> None:
    found = run_all(Embedder(spec_of(folder)), Embed(1, ("the sea",) * 200), Embed(2, ("the light",)))
    assert [id for id, _, _ in found][:2] == [1, 2]
    assert sum(len(vectors) for id, vectors, _ in found if id == 1) == 200


def test_deterministic_vectors_are_the_same_bytes_in_any_company(folder: Path) -> None:
    for architecture, pooling in MODELS:
        embedder = Embedder(replace(spec_of(folder, architecture, pooling), deterministic=True))
        together = [vectors.tobytes() for _, vectors, _ in run_all(embedder, Embed(1, TEXTS))]
        assert together == [run_all(embedder, Embed(2, (text,)))[0][1].tobytes() for text in TEXTS]


@pytest.fixture(scope="module")
def embedders(folder: Path) -> list[Embedder]:
    return [Embedder(spec_of(folder, architecture, pooling)) for architecture, pooling in MODELS]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(texts=st.lists(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))))
def test_any_text_has_a_vector(embedders: list[Embedder], texts: list[str]) -> None:
    for embedder in embedders:
        found = run_all(embedder, Embed(1, tuple(texts))) if texts else []
        assert sum(len(vectors) for _, vectors, _ in found) == len(texts)
        for _, vectors, _ in found:
            assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-4)


# Workers


def test_kinds_of_text_differ_where_the_model_was_trained_so(folder: Path) -> None:
    async def run(spec: ModelSpec) -> float:
        async with loaded(spec) as model:
            query, passage = [await model.embed(["the sea"], kind=kind) for kind in ("query", "passage")]
            return float(query.vectors[0] @ passage.vectors[0])

    assert asyncio.run(run(spec_of(folder, "bert"))) == pytest.approx(1, abs=1e-5)
    assert asyncio.run(run(spec_of(folder, "nomic-bert"))) < 0.99


def test_several_tasks_embed_side_by_side_and_one_may_give_up(folder: Path) -> None:
    async def run() -> None:
        async with loaded(spec_of(folder)) as model:
            long = asyncio.create_task(model.embed(["the " * 100] * 20_000, kind="passage"))
            found = await asyncio.gather(*(model.embed([text], kind="query") for text in TEXTS))
            assert not long.done()
            long.cancel()
            with pytest.raises(asyncio.CancelledError):
                await long
            again = await model.embed(TEXTS, kind="query")
            assert (np.concatenate([one.vectors for one in found]) * again.vectors).sum(axis=1) == pytest.approx(1)
            nothing = await model.embed([], kind="query")
            assert (len(nothing.vectors), nothing.n_cut) == (0, 0)
            assert (await model.embed(["x" * 5000, "x"], kind="query")).n_cut == 1
            await model.set_threads(2)
            assert await model.count_tokens(["the sea"]) == (2,)

    asyncio.run(run())


def test_a_worker_that_dies_is_told(folder: Path) -> None:
    async def run() -> None:
        async with loaded(spec_of(folder)) as model:
            embedding = asyncio.create_task(model.embed(["the " * 100] * 20_000, kind="passage"))
            await model.embed(["the sea"], kind="query")
            os.kill(model.pid, signal.SIGKILL)
            with pytest.raises(WorkerDied, match="SIGKILL"):
                await embedding
            with pytest.raises(WorkerDied):
                await model.embed(["the sea"], kind="query")

    asyncio.run(run())


def test_a_model_does_what_it_was_loaded_for(folder: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with loaded(spec_of(folder, "qwen3", "last")) as model:
            with pytest.raises(ModelError, match="loaded to embed"):
                await anext(model.generate(GenerateRequest("s", (Message("user", "?"),))))
            with pytest.raises(ModelError, match="loaded to embed"):
                await model.count_prompt([Message("user", "?")])
        async with loaded(ModelSpec("tiny", write_tiny_gguf(tmp_path / "tiny.gguf"))) as model:
            with pytest.raises(ModelError, match="loaded to write"):
                await model.embed(["?"], kind="query")

    asyncio.run(run())


def test_numbers_that_overflow_are_said(tmp_path: Path) -> None:
    path = write_embedding_gguf(tmp_path / "loud.gguf", EmbeddingModel(scale=5e37))
    embedder = Embedder(ModelSpec("loud", path, embeddings=True))
    embedder.submit(Embed(1, ("the sea",)))
    (reply,) = embedder.step()
    assert isinstance(reply, Failed)
    assert "no number" in reply.message
    assert embedder.is_idle


REFUSED: tuple[tuple[Architecture, Pooling | None, bool, str], ...] = (
    ("bert", None, True, "no embedding model: it names no pooling"),
    ("qwen3", None, True, "no embedding model: it names no pooling"),
    ("bert", "rank", True, "no embedding model: it scores pairs"),
    ("bert", "mean", False, "it writes no text"),
    ("gemma-embedding", "mean", False, "it writes no text"),
)


@pytest.mark.parametrize(("architecture", "pooling", "embeddings", "why"), REFUSED)
def test_a_file_of_the_other_kind_is_refused(
    folder: Path, architecture: Architecture, pooling: Pooling | None, embeddings: bool, why: str
) -> None:
    spec = replace(spec_of(folder, architecture, pooling), embeddings=embeddings)
    with pytest.raises(ModelLoadError, match=why):
        asyncio.run(load(spec))
    with pytest.raises(ModelLoadError, match=why):
        asyncio.run(footprint(spec))


@EVERY_MODEL
@pytest.mark.parametrize("setting", [{}, {"n_batch": 40}, {"flash_attn": False}, {"use_mmap": False}])
def test_the_footprint_is_what_the_load_takes(
    folder: Path, architecture: Architecture, pooling: Pooling, setting: dict[str, int]
) -> None:
    spec = replace(spec_of(folder, architecture, pooling), **setting)  # type: ignore[arg-type]
    lines: list[str] = []

    async def run() -> None:
        model = await load(spec, on_log=lines.append)
        await model.embed([*TEXTS, *TEXTS], kind="passage")
        await model.close()

    predicted = asyncio.run(footprint(spec))
    asyncio.run(run())
    real, weights = read_context(lines), read_weights(lines)
    assert weights is not None
    assert (predicted.kv_bytes, predicted.compute_bytes) == (real.kv_bytes, real.compute_bytes)
    assert (predicted.kv_bytes > 0) == (architecture == "qwen3"), "an encoder keeps nothing"
    planned = (predicted.weights_mapped_bytes, predicted.weights_repacked_bytes, predicted.weights_copied_bytes)
    logged = (weights.mapped_bytes, weights.repacked_bytes, weights.copied_bytes)
    assert planned == pytest.approx(logged, abs=1 << 16)
    assert predicted.drafts_bytes == 0
    estimate = estimate_context(read_header(spec.path, model="tiny"), spec)
    assert estimate is not None
    assert estimate.kv_bytes == pytest.approx(real.kv_bytes, abs=1 << 14)
    assert estimate.compute_bytes >= real.compute_bytes


# Prefixes

NOMIC = Prefixes("search_query: ", "search_document: ")
NAMED: tuple[tuple[str, str, str, Prefixes], ...] = (
    ("bert", "Bge Small En v1.5", "model.gguf", Prefixes("Represent this sentence for searching relevant passages: ")),
    ("bert", "", "bge-small-en-v1.5-q8_0.gguf", Prefixes("Represent this sentence for searching relevant passages: ")),
    ("bert", "bge-m3", "bge-m3.gguf", NO_PREFIXES),
    ("bert", "E5 Small v2", "e5.gguf", Prefixes("query: ", "passage: ")),
    ("bert", "multilingual-e5-base", "m.gguf", Prefixes("query: ", "passage: ")),
    ("bert", "all-MiniLM-L6-v2", "all-minilm.gguf", NO_PREFIXES),
    ("bert", "snowflake-arctic-embed-m-v2.0", "m.gguf", Prefixes("query: ")),
    ("nomic-bert", "", "m.gguf", NOMIC),
    ("nomic-bert-moe", "", "nomic-embed-text-v2-moe.gguf", NOMIC),
    (
        "nomic-bert",
        "snowflake-arctic-embed-m-long",
        "m.gguf",
        Prefixes("Represent this sentence for searching relevant passages: "),
    ),
    ("gemma-embedding", "", "m.gguf", Prefixes("task: search result | query: ", "title: none | text: ")),
    ("llama", "Some Model", "some.gguf", NO_PREFIXES),
)


@pytest.mark.parametrize(("architecture", "name", "file", "prefixes"), NAMED)
def test_prefixes_go_by_the_names_of_a_model(architecture: str, name: str, file: str, prefixes: Prefixes) -> None:
    assert prefixes_of({"general.architecture": architecture, "general.name": name}, Path(file)) == prefixes


def test_an_instruction_is_in_front_of_queries_alone() -> None:
    for name in ("Qwen3 Embedding 0.6B", "qwen3_embedding_8b", "multilingual-e5-large-instruct", "e5-mistral-7b"):
        prefixes = prefixes_of({"general.architecture": "qwen3", "general.name": name}, Path("m.gguf"))
        assert prefixes.of("query").startswith("Instruct: ")
        assert prefixes.of("query").rstrip().endswith("Query:")
        assert prefixes.of("passage") == ""
