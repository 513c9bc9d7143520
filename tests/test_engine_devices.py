"""Layers on a GPU: one that is not there on any machine; where there is one, what it takes and what is written."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from localfusion.engine import client
from localfusion.engine.devices import device_list, devices
from localfusion.engine.footprint import DEVICE_CONTEXT_BYTES, read_context, read_weights
from localfusion.engine.llama import describe
from localfusion.errors import ModelLoadError
from localfusion.messages import Device, GenerateRequest, Message, ModelSpec
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return ModelSpec("tiny", write_tiny_gguf(tmp_path / "tiny.gguf"), n_ctx=512)


@pytest.fixture
def device() -> Device:
    """The first GPU of this machine; without one, what asks for it is skipped."""
    found = describe().devices
    if not found:
        pytest.skip("no GPU, or a build that uses none")
    return found[0]


def test_a_build_without_ggmls_libraries_has_no_devices(tmp_path: Path) -> None:
    assert devices(tmp_path) == ()
    assert list(device_list(tmp_path, "CUDA0")) == [None]


def test_a_gpu_that_is_not_there_is_named(spec: ModelSpec) -> None:
    with pytest.raises(ModelLoadError) as caught:
        asyncio.run(client.load(replace(spec, device="nowhere7", n_gpu_layers=-1)))
    assert caught.value.message == f"the model file {spec.path}: the GPU nowhere7 is not there"
    assert "localfusion doctor" in caught.value.hint


def test_without_layers_on_it_no_gpu_is_looked_for(spec: ModelSpec) -> None:
    written, log = asyncio.run(answer(replace(spec, device="nowhere7", n_gpu_layers=0)))
    weights = read_weights(log)
    assert written
    assert weights is not None
    assert weights.device_bytes == read_context(log).device_compute_bytes == 0


async def answer(spec: ModelSpec) -> tuple[str, list[str]]:
    """What a model writes, and llama.cpp's log of its load."""
    log: list[str] = []
    model = await client.load(spec, on_log=log.append)
    done = await model.complete(GenerateRequest("s", (Message("user", "How tall is it?"),), max_tokens=8))
    await model.close()
    return done.content, log


@pytest.mark.parametrize("n_gpu_layers", [1, 2, -1])
def test_what_a_gpu_takes_is_known_before_and_the_answer_is_the_same(
    spec: ModelSpec, device: Device, n_gpu_layers: int
) -> None:
    there = replace(spec, device=device.name, n_gpu_layers=n_gpu_layers)
    footprint = asyncio.run(client.footprint(there))
    written, log = asyncio.run(answer(there))
    weights, context = read_weights(log), read_context(log)
    assert weights is not None
    taken = weights.device_bytes + context.device_kv_bytes + context.device_compute_bytes
    around = 0 if device.is_integrated else DEVICE_CONTEXT_BYTES
    assert footprint.vram_bytes == pytest.approx(taken + around, abs=1 << 15)
    assert footprint.n_gpu_layers == (n_gpu_layers if n_gpu_layers > 0 else 3)
    assert written == asyncio.run(answer(spec))[0]


def test_a_gpu_without_room_is_an_error_that_says_what_to_do(spec: ModelSpec, device: Device) -> None:
    n_seq_max = min(64, 2 * device.total_bytes // (512 << 20))  # a window of this model takes 512 MiB
    too_much = replace(spec, device=device.name, n_gpu_layers=-1, n_ctx=1 << 20, n_seq_max=n_seq_max)
    with pytest.raises(ModelLoadError) as caught:
        asyncio.run(client.load(too_much))
    assert "n_gpu_layers" in caught.value.hint
    assert "--vram" in caught.value.hint
