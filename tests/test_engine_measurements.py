"""What was measured before: found again where it holds, and never where file, machine or settings are others."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from localfusion.engine import client
from localfusion.engine.footprint import ContextSizes, DryRun, WeightSizes
from localfusion.engine.measurements import Measurements, may_use_gpus, this_place
from localfusion.gguf_header import Header, read_header
from localfusion.messages import ModelSpec
from tests.tiny_gguf import TinyModel, write_tiny_gguf

WEIGHTS = WeightSizes(1, 2, 3, 4)
DRY_RUN = DryRun(ContextSizes(1, 2, 3, 4, 5), ("AVX2", "REPACK"), has_gpu=False)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return ModelSpec("tiny", write_tiny_gguf(tmp_path / "tiny.gguf"), n_ctx=512)


def header_of(spec: ModelSpec) -> Header:
    return read_header(spec.path, model=spec.name)


def test_found_again_by_another_object_over_the_same_folder(tmp_path: Path, spec: ModelSpec) -> None:
    cache, header = Measurements(tmp_path / "cache"), header_of(spec)
    assert cache.find(WeightSizes, header, spec) is None
    cache.keep(WEIGHTS, header, spec)
    cache.keep(DRY_RUN, header, spec)
    for again in (cache, Measurements(tmp_path / "cache")):
        assert again.find(WeightSizes, header, spec) == WEIGHTS
        assert again.find(DryRun, header, spec) == DRY_RUN
    assert Measurements().find(WeightSizes, header, spec) is None


def test_what_does_not_matter_is_not_asked_for(tmp_path: Path, spec: ModelSpec) -> None:
    cache, header = Measurements(tmp_path / "cache"), header_of(spec)
    cache.keep(WEIGHTS, header, spec)
    cache.keep(DRY_RUN, header, spec)
    same = replace(spec, name="another", n_threads=7)
    assert cache.find(DryRun, header, same) == DRY_RUN
    assert cache.find(DryRun, header, replace(spec, use_mmap=False)) == DRY_RUN
    assert cache.find(WeightSizes, header, replace(spec, n_ctx=256, n_seq_max=4, kv_type="q8_0")) == WEIGHTS
    assert cache.find(DryRun, header, replace(spec, n_ctx=256)) is None
    assert cache.find(DryRun, header, replace(spec, n_seq_max=2)) is None
    cache.keep(DRY_RUN, header, replace(spec, n_seq_max=4, deterministic=True))
    assert cache.find(DryRun, header, replace(spec, n_seq_max=4)) is None
    assert cache.find(WeightSizes, header, replace(spec, use_mmap=False)) is None
    assert cache.find(WeightSizes, header, replace(spec, device="x")) is None
    assert cache.find(DryRun, header, replace(spec, device="x")) is None


def test_another_processor_or_build_is_another_answer(tmp_path: Path, spec: ModelSpec) -> None:
    header = header_of(spec)
    Measurements(tmp_path / "cache").keep(WEIGHTS, header, spec)
    assert Measurements(tmp_path / "cache", place="another").find(WeightSizes, header, spec) is None
    assert Measurements(tmp_path / "cache", place=this_place()).find(WeightSizes, header, spec) == WEIGHTS


@pytest.mark.parametrize(
    ("more", "may"),
    [
        ([], False),
        (["libggml-cpu-haswell.so", "libggml-blas.so", "libmtmd.so", "libllama.so.0.5.0", "ggml-cpu.dll"], False),
        (["libggml-cuda.so"], True),
        (["libggml-metal.dylib"], True),
        (["ggml-vulkan.dll"], True),
    ],
)
def test_a_build_for_gpus_is_seen_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], may: bool
) -> None:
    folder = tmp_path / "llama_cpp" / "lib"
    folder.mkdir(parents=True)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert may_use_gpus()  # what is in one library nobody sees
    for name in ("libggml.so", "libggml-base.so", "libggml-cpu.so", "libllama.so", *more):
        (folder / name).touch()
    assert may_use_gpus() == may


def test_a_changed_file_is_another_file(tmp_path: Path, spec: ModelSpec) -> None:
    cache = Measurements(tmp_path / "cache")
    cache.keep(WEIGHTS, header_of(spec), spec)
    os.utime(spec.path, ns=(1, 1))
    assert cache.find(WeightSizes, header_of(spec), spec) is None
    write_tiny_gguf(spec.path, TinyModel(n_ctx=2048))
    assert cache.find(WeightSizes, header_of(spec), spec) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b"{}", b"null", b'{"subject": "x", "value": null}', b"[" * 100_000, b'{"subject":'],
)
def test_a_file_that_cannot_be_read_back_was_never_kept(tmp_path: Path, spec: ModelSpec, content: bytes) -> None:
    header = header_of(spec)
    Measurements(tmp_path / "cache").keep(WEIGHTS, header, spec)
    (stored,) = (tmp_path / "cache").iterdir()
    whole = stored.read_bytes()
    for broken in (content, whole[:-1], whole.replace(b"WeightSizes", b"WeightSize5")):
        stored.write_bytes(broken)
        assert Measurements(tmp_path / "cache").find(WeightSizes, header, spec) is None
    stored.write_bytes(whole)
    assert Measurements(tmp_path / "cache").find(WeightSizes, header, spec) == WEIGHTS


def test_a_folder_that_cannot_be_made_costs_only_the_memory_of_it(tmp_path: Path, spec: ModelSpec) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    cache, header = Measurements(tmp_path / "cache"), header_of(spec)
    cache.keep(WEIGHTS, header, spec)
    assert cache.find(WeightSizes, header, spec) == WEIGHTS
    assert Measurements(tmp_path / "cache").find(WeightSizes, header, spec) is None


def test_a_load_teaches_the_next_footprint(tmp_path: Path, spec: ModelSpec) -> None:
    cache = Measurements(tmp_path / "cache")

    async def run() -> None:
        model = await client.load(spec, cache=cache)
        await model.close()

    planned = asyncio.run(client.footprint(spec))
    asyncio.run(run())
    learned = cache.find(WeightSizes, header_of(spec), spec)
    assert learned is not None
    assert learned.mapped_bytes == pytest.approx(planned.weights_mapped_bytes, abs=1 << 16)
    cache.keep(replace(learned, mapped_bytes=123), header_of(spec), spec)
    assert asyncio.run(client.footprint(spec, cache=cache)).weights_mapped_bytes == 123


def test_asked_twice_no_process_is_started(tmp_path: Path, spec: ModelSpec) -> None:
    first = asyncio.run(client.footprint(spec, cache=Measurements(tmp_path / "cache")))
    nowhere = {"PYTHONHOME": str(tmp_path / "no python here")}
    cache = Measurements(tmp_path / "cache")
    assert asyncio.run(client.footprint(spec, cache=cache, environ=nowhere)) == first
