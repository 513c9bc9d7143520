"""What the whole application says of itself: models, health, metrics, its OpenAPI; and vectors of texts."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from openrouter import components

from localfusion.catalog import locate
from localfusion.config import ModelsFile, load_models_file
from localfusion.config.settings import ServerSettings
from localfusion.errors import InvalidRequest
from localfusion.messages import CloudLeave, ModelSpec, SourcesSpec
from localfusion.server.app import create_app
from localfusion.server.cards import card, model_list
from localfusion.server.embedding import Embedding
from localfusion.server.keys import KeyRing
from localfusion.server.opening import Opening, put_together
from localfusion.server.served import Served
from localfusion.session import open_session
from localfusion.wire.listings import EmbeddingList
from tests.embedding_gguf import write_embedding_gguf
from tests.harbour import surroundings
from tests.serving import served

MODELS = """\
providers:
  far: {base_url: "https://far.example/v1"}
models:
  vectors: {path: vectors.gguf, embeddings: true, family: tiny}
  gone: {path: gone.gguf, embeddings: true}
  remote: {provider: far, model: big, prices: {prompt: 2.5, completion: 10}, n_ctx: 32768}
aliases: {embed: vectors}
"""


@pytest.fixture
def models(tmp_path: Path) -> ModelsFile:
    write_embedding_gguf(tmp_path / "vectors.gguf")
    (tmp_path / "models.yaml").write_text(MODELS)
    return load_models_file(tmp_path / "models.yaml")


@asynccontextmanager
async def standing(home: Path, models: ModelsFile) -> AsyncIterator[Served]:
    """A server's ground in a home of its own."""
    async with open_session(surroundings(home)) as session:
        opening = Opening(
            settings=ServerSettings.model_validate({}),
            models=models,
            home=home,
            sources=SourcesSpec(),
            cloud=CloudLeave(),
            keys=KeyRing(home),
        )
        async with put_together(opening, session) as ground:
            yield ground


def test_the_application_tells_of_itself(tmp_path: Path, models: ModelsFile) -> None:
    async def run() -> None:
        async with standing(tmp_path, models) as ground:
            await ground.embedding.vectors("vectors", ["a"], encoding="float")
            async with served(create_app(ground)) as url, httpx.AsyncClient(base_url=url) as client:
                listed = (await client.get("/api/v1/models")).json()
                assert [one["id"] for one in listed["data"]] == [
                    "localfusion/fusion",
                    "openrouter/fusion",
                    "vectors",
                    "embed",
                ]
                one = (await client.get("/v1/models/embed")).json()
                assert (one["id"], one["canonical_slug"], one["owned_by"]) == ("embed", "vectors", "tiny")
                gone = await client.get("/v1/models/none/such")
                assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
                assert (await client.get("/health")).json()["status"] == "ok"
                page = (await client.get("/metrics")).text
                assert 'localfusion_requests_total{method="GET",route="/v1/models/{id:path}",status="404"} 1.0' in page
                assert "localfusion_queue 0.0" in page
                resident = next(line for line in page.splitlines() if line.startswith("localfusion_resident_bytes{"))
                assert 'model="vectors"' in resident
                assert float(resident.split()[-1]) > 0
                described = (await client.get("/openapi.json")).json()
                assert {"200", "401", "404", "421", "429"} <= set(
                    described["paths"]["/v1/models/{id}"]["get"]["responses"]
                )

    asyncio.run(run())


def test_cards_are_what_clients_of_openrouter_read(models: ModelsFile) -> None:
    listed = model_list(models, ["vectors", "remote", "localfusion/fusion"], prefix="/api/v1")
    parsed = components.ModelsListResponse.model_validate(listed.model_dump())
    assert [one.id for one in parsed.data] == ["vectors", "remote", "localfusion/fusion"]
    far = card(models, "remote", prefix="/v1")
    assert (far.owned_by, far.context_length) == ("far", 32768)
    assert (far.pricing.prompt, far.pricing.completion) == ("0.0000025", "0.00001")


def test_vectors_are_the_same_as_numbers_and_as_bytes(tmp_path: Path, models: ModelsFile) -> None:
    async def run() -> tuple[EmbeddingList, EmbeddingList]:
        async with standing(tmp_path, models) as ground:
            texts = ["the height of Skerry", "a boat"]
            numbers = await ground.embedding.vectors("embed", texts, encoding="float")
            return numbers, await ground.embedding.vectors("embed", texts, encoding="base64")

    numbers, coded = asyncio.run(run())
    assert [item.index for item in numbers.data] == [0, 1]
    assert numbers.usage.prompt_tokens == numbers.usage.total_tokens > 0
    for number, code in zip(numbers.data, coded.data, strict=True):
        assert isinstance(code.embedding, str)
        decoded = np.frombuffer(base64.b64decode(code.embedding), dtype="<f4")
        assert np.linalg.norm(decoded) == pytest.approx(1, abs=1e-4)
        assert np.allclose(decoded, number.embedding, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "dimensions", "message"),
    [
        ("gone", None, "gone"),
        ("vector", None, "'vector' is no embedding model"),
        ("remote", None, "'remote' is no embedding model"),
        ("vectors", 3, "dimensions"),
    ],
)
def test_what_cannot_become_vectors_is_said(
    tmp_path: Path, models: ModelsFile, name: str, dimensions: int | None, message: str
) -> None:
    async def run() -> None:
        async with standing(tmp_path, models) as ground:
            await ground.embedding.vectors(name, ["a"], encoding="float", dimensions=dimensions)

    with pytest.raises(InvalidRequest, match=message):
        asyncio.run(run())


def test_the_configured_model_is_listed_first(tmp_path: Path, models: ModelsFile) -> None:
    async def run() -> tuple[str, ...]:
        async with standing(tmp_path, models) as ground:
            mine = ModelSpec("mine", tmp_path / "vectors.gguf")
            return Embedding(ground.session.scheduler, models, locate(tmp_path), mine).names()

    assert asyncio.run(run()) == ("mine", "vectors", "embed")
