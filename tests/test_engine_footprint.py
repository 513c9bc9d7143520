"""Footprints: parts predicted against what llama.cpp logs of real loads, and the arithmetic behind them."""

import asyncio
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import localfusion
from localfusion.engine import client, llama
from localfusion.engine.footprint import (
    DEVICE_CONTEXT_BYTES,
    EMBEDDING,
    EVERY_REPACKED,
    MIB,
    NEON_TYPES,
    ContextSizes,
    DryRun,
    WeightSizes,
    estimate_context,
    n_cells,
    plan_weights,
    predict,
    read_context,
    read_weights,
    repacked_types,
)
from localfusion.engine.measurements import Measurements
from localfusion.errors import ModelLoadError
from localfusion.gguf_header import Header, Tensor, Value, read_header
from localfusion.messages import Footprint, GenerateRequest, Message, ModelSpec
from scripts.engine_bench.random_models import Architecture, Quantization, RandomModel, write_random_model
from tests.tiny_gguf import TinyModel, write_tiny_gguf

ROUNDING = 6 * MIB // 100
"""llama.cpp logs hundredths of a MiB, one for each of a few buffers."""
SMALL = RandomModel(n_vocab=2000, n_embd=256, n_layer=3, n_head=4, n_head_kv=2, n_ff=2048, n_ctx=1024)
SETTINGS: Mapping[str, ModelSpec] = {
    "plain": ModelSpec("small", Path(), n_ctx=1000),
    "copied": ModelSpec("small", Path(), n_ctx=300, n_ubatch=128, use_mmap=False),
    "not repacked": ModelSpec("small", Path(), n_ctx=512, use_extra_bufts=False),
    "three sequences, q8_0": ModelSpec("small", Path(), n_ctx=512, n_seq_max=3, kv_type="q8_0"),
}
X86 = frozenset({"REPACK", "SSE3", "AVX2", "AVX512"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def small(folder: Path, architecture: Architecture, quantization: Quantization = "q4_0", *, n_parts: int = 1) -> Path:
    path = folder / f"{architecture}-{quantization}-{n_parts}.gguf"
    if not path.exists():
        model = replace(SMALL, architecture=architecture, quantization=quantization)
        return write_random_model(path, model, n_parts=n_parts)
    return path


def loaded_log(spec: ModelSpec, cache: Measurements | None = None) -> list[str]:
    """What llama.cpp logs of a real load that then wrote something."""
    lines: list[str] = []

    async def run() -> None:
        model = await client.load(spec, on_log=lines.append, cache=cache)
        done = await model.complete(GenerateRequest("s", (Message("user", "How tall is the tower?"),), max_tokens=3))
        assert done.usage.completion_tokens > 0
        await model.close()

    asyncio.run(run())
    return lines


def ask(spec: ModelSpec, cache: Measurements | None = None) -> Footprint:
    return asyncio.run(client.footprint(spec, cache=cache))


def weights_of(footprint: Footprint) -> WeightSizes:
    return WeightSizes(footprint.weights_mapped_bytes, footprint.weights_repacked_bytes, footprint.weights_copied_bytes)


def assert_same_weights(planned: WeightSizes, real: WeightSizes) -> None:
    for part in fields(WeightSizes):
        assert getattr(planned, part.name) == pytest.approx(getattr(real, part.name), abs=ROUNDING), part.name


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_architecture_is_predicted_as_it_loads(folder: Path, architecture: Architecture, settings: str) -> None:
    """The parts that llama.cpp logs, by a dry run; and by arithmetic, but for a bound of the compute buffer."""
    spec = replace(SETTINGS[settings], path=small(folder, architecture))
    predicted, log = ask(spec), loaded_log(spec)
    real_weights, real_context = read_weights(log), read_context(log)
    assert real_weights is not None
    assert_same_weights(weights_of(predicted), real_weights)
    assert (predicted.kv_bytes, predicted.recurrent_bytes) == (real_context.kv_bytes, real_context.recurrent_bytes)
    assert predicted.compute_bytes == real_context.compute_bytes > 0
    assert predicted.kv_bytes + predicted.recurrent_bytes > 0
    assert predicted.vram_bytes == 0
    assert (predicted.drafts_bytes == 0) == (real_context.recurrent_bytes > 0), "states cannot be taken back"
    estimate = estimate_context(read_header(spec.path, model="small"), spec)
    assert estimate is not None
    assert estimate.kv_bytes == pytest.approx(real_context.kv_bytes, abs=ROUNDING)
    assert estimate.recurrent_bytes == pytest.approx(real_context.recurrent_bytes, abs=ROUNDING)
    assert real_context.compute_bytes <= estimate.compute_bytes <= 2.5 * real_context.compute_bytes


@pytest.mark.parametrize("quantization", get_args(Quantization))
def test_every_quantization_is_planned_as_it_loads(folder: Path, quantization: Quantization) -> None:
    for architecture in ("llama", "lfm2"):  # an output of its own, and the embedding used for it
        spec = replace(SETTINGS["plain"], path=small(folder, architecture, quantization))
        real = read_weights(loaded_log(spec))
        assert real is not None
        assert_same_weights(weights_of(ask(spec)), real)


def test_the_parts_of_a_split_are_mapped_each(folder: Path) -> None:
    spec = replace(SETTINGS["plain"], path=small(folder, "llama", n_parts=3))
    log = loaded_log(spec)
    real = read_weights(log)
    assert real is not None
    assert sum("CPU_Mapped model buffer size" in line for line in log) == 3
    assert_same_weights(weights_of(ask(spec)), real)


def test_a_header_in_a_sparse_file_is_enough(folder: Path, tmp_path: Path) -> None:
    whole = small(folder, "llama")
    header = read_header(whole, model="small")
    hollow = tmp_path / "hollow.gguf"
    with hollow.open("wb") as file:
        file.write(whole.read_bytes()[: min(tensor.offset for tensor in header.tensors)])
        file.truncate(header.file_bytes)
    for settings in SETTINGS.values():
        assert ask(replace(settings, path=hollow)) == ask(replace(settings, path=whole))


def test_where_the_dry_run_dies_arithmetic_answers(tmp_path: Path) -> None:
    """llama.cpp ends the process over a vocabulary without bytes; the table of tensors is sound."""
    path = write_tiny_gguf(tmp_path / "broken.gguf", TinyModel(tokens=["a", "b"] * 138, merges=["x y"]))
    spec = ModelSpec("broken", path, n_ctx=512)
    with pytest.raises(ModelLoadError):
        loaded_log(spec)
    footprint = ask(spec)
    assert footprint.kv_bytes == 2 * 2 * 2 * 64 * 512
    assert footprint.weights_mapped_bytes > 0


def test_a_file_that_llama_refuses_has_no_footprint(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "refused.gguf", TinyModel(tokenizer="none such"))
    with pytest.raises(ModelLoadError, match="could not load"):
        ask(ModelSpec("refused", path))
    with pytest.raises(ModelLoadError):
        ask(ModelSpec("none", tmp_path / "none.gguf"))


LOG: tuple[tuple[str, WeightSizes | None, ContextSizes], ...] = (
    ("nothing of the kind", None, ContextSizes()),
    ("load_tensors:   CPU_Mapped model buffer size =     4.25 MiB", WeightSizes(17 * MIB // 4), ContextSizes()),
    ("load_tensors:   CPU_REPACK model buffer size =     2.00 MiB", WeightSizes(0, 2 * MIB), ContextSizes()),
    ("load_tensors:          AMX model buffer size =     2.00 MiB", WeightSizes(0, 2 * MIB), ContextSizes()),
    ("load_tensors:          CPU model buffer size =     2.00 MiB", WeightSizes(0, 0, 2 * MIB), ContextSizes()),
    ("load_tensors:    CUDA_Host model buffer size =     2.00 MiB", WeightSizes(0, 0, 2 * MIB), ContextSizes()),
    ("load_tensors:        CUDA0 model buffer size =     2.00 MiB", WeightSizes(0, 0, 0, 2 * MIB), ContextSizes()),
    ("load_tensors:          CPU model buffer size =     0.00 MiB", None, ContextSizes()),
    ("llama_kv_cache: size =   44.00 MiB (  2048 cells,  22 layers)", None, ContextSizes(kv_bytes=44 * MIB)),
    ("llama_kv_cache_iswa: creating non-SWA KV cache, size = 4096 cells", None, ContextSizes()),
    ("llama_kv_cache:        CPU KV buffer size =    44.00 MiB", None, ContextSizes()),
    ("llama_kv_cache:      CUDA0 KV buffer size =    44.00 MiB", None, ContextSizes(device_kv_bytes=44 * MIB)),
    ("llama_memory_recurrent: size =    2.00 MiB (     1 cells)", None, ContextSizes(recurrent_bytes=2 * MIB)),
    ("llama_dsv4:        CPU DSV4 csa state buffer size =     3.00 MiB", None, ContextSizes(kv_bytes=3 * MIB)),
    ("sched_reserve:        CPU compute buffer size =    34.00 MiB", None, ContextSizes(compute_bytes=34 * MIB)),
    ("sched_reserve:  CUDA_Host compute buffer size =    34.00 MiB", None, ContextSizes(compute_bytes=34 * MIB)),
    (
        "sched_reserve:      CUDA0 compute buffer size =    34.00 MiB",
        None,
        ContextSizes(compute_bytes=34 * MIB, device_compute_bytes=34 * MIB),
    ),
    ("llama_context:        CPU  output buffer size =     0.12 MiB", None, ContextSizes()),
)


@pytest.mark.parametrize(("line", "weights", "context"), LOG)
def test_lines_of_the_log(line: str, weights: WeightSizes | None, context: ContextSizes) -> None:
    assert read_weights([line]) == weights
    assert read_context([line]) == context


def test_a_log_is_the_sum_of_its_lines_but_for_a_compute_buffer_that_grew() -> None:
    log = [line for line, _, _ in LOG]
    assert read_weights(log) == WeightSizes(17 * MIB // 4, 4 * MIB, 4 * MIB, 2 * MIB)
    grown = "sched_reserve:        CPU compute buffer size =    40.00 MiB"
    assert read_context([*log, grown]).compute_bytes == (34 + 34 + 40) * MIB
    assert read_context([*log, log[8]]).kv_bytes == (44 + 44 + 3) * MIB


def test_what_is_repacked_depends_on_the_processor() -> None:
    assert repacked_types(frozenset({"SSE3", "AVX2"})) == frozenset()
    assert repacked_types(X86) == {2, 10, 12, 20, 39}
    assert repacked_types(X86 - {"AVX512"}) == {2, 12, 20, 39}
    assert repacked_types(frozenset({"REPACK", "SSE3"})) == frozenset()
    assert repacked_types(frozenset({"REPACK", "NEON", "DOTPROD"})) == NEON_TYPES
    assert repacked_types(frozenset({"REPACK", "VSX"})) == EVERY_REPACKED


SIZE = {0: (1, 4), 2: (32, 18), 8: (32, 34)}


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """Plain attention layers of random widths and types, in one to three files."""
    n_layer, n_parts = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    n_embd, n_kv = 32 * draw(st.integers(1, 8)), 32 * draw(st.integers(1, 4))
    shapes = {EMBEDDING: (n_embd, draw(st.integers(1, 100))), "output_norm.weight": (n_embd,)}
    if draw(st.booleans()):
        shapes["output.weight"] = shapes[EMBEDDING]
    for layer in range(n_layer):
        for name, width in (("attn_k", n_kv), ("attn_v", n_kv), ("attn_output", n_embd)):
            shapes[f"blk.{layer}.{name}.weight"] = (n_embd, width)
    tensors, ends = [], [0] * n_parts
    for index, (name, shape) in enumerate(shapes.items()):
        part = index * n_parts // len(shapes)
        kind = draw(st.sampled_from(sorted(SIZE))) if len(shape) > 1 else 0
        n_bytes = shape[0] * (shape[1] if len(shape) > 1 else 1) // SIZE[kind][0] * SIZE[kind][1]
        tensors.append(Tensor(name, shape, kind, ends[part], n_bytes, part))
        ends[part] += n_bytes
    metadata: dict[str, Value] = {
        "general.architecture": "llama",
        "llama.block_count": n_layer,
        "llama.embedding_length": n_embd,
        "llama.context_length": 4096,
        "llama.attention.head_count": 1,
    }
    return Header(metadata, tuple(tensors), sum(ends))


specs = st.builds(
    ModelSpec,
    name=st.just("any"),
    path=st.just(Path("any.gguf")),
    n_ctx=st.one_of(st.just("auto"), st.integers(1, 4096)),
    n_seq_max=st.integers(1, 8),
    n_ubatch=st.sampled_from([64, 512]),
    flash_attn=st.booleans(),
    kv_type=st.sampled_from(["f16", "q8_0"]),
    n_gpu_layers=st.integers(-1, 8),
    use_mmap=st.booleans(),
    use_extra_bufts=st.booleans(),
)


@given(headers(), specs, st.booleans())
def test_no_weight_is_lost_or_counted_twice_but_for_copies(header: Header, spec: ModelSpec, has_gpu: bool) -> None:
    sizes = plan_weights(header, spec, features=X86, has_gpu=has_gpu)
    total = sum(tensor.n_bytes for tensor in header.tensors)
    embedding = header.tensors[0].n_bytes
    if not spec.use_mmap:
        assert sizes.mapped_bytes == 0
        assert sizes.copied_bytes + sizes.repacked_bytes + sizes.device_bytes - total in (0, embedding)
    else:
        assert sizes.copied_bytes == 0
        assert 0 < sizes.mapped_bytes <= total
        assert sizes.mapped_bytes + sizes.repacked_bytes + sizes.device_bytes >= total
    assert (spec.use_extra_bufts and not sizes.device_bytes) or sizes.repacked_bytes == 0
    assert (has_gpu and spec.n_gpu_layers != 0) or sizes.device_bytes == 0


def test_an_embedding_that_is_the_output_too_is_on_the_gpu_as_well() -> None:
    path = next(Path(localfusion.__file__).parent.rglob("micro-a.gguf"))
    header = read_header(path, model="micro-a")
    spec = ModelSpec("micro-a", path, n_gpu_layers=-1)
    sizes = plan_weights(header, spec, features=X86, has_gpu=True)
    assert all(tensor.name != "output.weight" for tensor in header.tensors)
    assert sizes.device_bytes == sum(tensor.n_bytes for tensor in header.tensors)


@given(headers(), specs)
def test_more_of_anything_takes_no_less(header: Header, spec: ModelSpec) -> None:
    def total(spec: ModelSpec) -> int:
        context = estimate_context(header, spec)
        assert context is not None
        weights = plan_weights(header, spec, features=X86, has_gpu=False)
        return predict(header, spec, weights=weights, context=context, has_gpu=False).total_bytes

    n_ctx = n_cells(header, spec) // spec.n_seq_max
    assert total(replace(spec, n_seq_max=spec.n_seq_max + 1)) > total(spec)
    assert total(replace(spec, n_ctx=n_ctx + 1)) > total(spec)
    assert total(replace(spec, kv_type="f16")) >= total(replace(spec, kv_type="q8_0"))
    assert total(replace(spec, use_extra_bufts=True)) >= total(replace(spec, use_extra_bufts=False))
    assert total(replace(spec, use_mmap=True)) >= total(replace(spec, use_mmap=False)) - header.tensors[0].n_bytes


@given(headers(), specs)
def test_the_parts_are_the_whole_and_devices_are_apart(header: Header, spec: ModelSpec) -> None:
    context = ContextSizes(kv_bytes=1000, recurrent_bytes=100, compute_bytes=10)
    weights = plan_weights(header, spec, features=X86, has_gpu=True)
    found = predict(header, spec, weights=weights, context=context, has_gpu=True)
    apart = {"n_gpu_layers", "is_integrated"}
    parts = [getattr(found, part.name) for part in fields(Footprint) if part.name not in apart]
    assert all(part >= 0 for part in parts)
    assert replace(found, is_integrated=True).total_bytes == sum(parts)
    assert (found.n_gpu_layers == 0) == (spec.n_gpu_layers == 0)
    assert found.total_bytes == sum(parts) - found.vram_bytes == found.anonymous_bytes + found.mapped_bytes
    around = DEVICE_CONTEXT_BYTES if found.n_gpu_layers else 0
    kept = found.kv_bytes + found.recurrent_bytes + found.vram_bytes - weights.device_bytes - around
    assert kept == pytest.approx(1100, abs=2)


def test_an_unknown_type_counts_as_the_file() -> None:
    header = Header({"general.architecture": "llama"}, (Tensor("blk.0.odd", (32, 32), 99, 0, 0),), 5000)
    spec = ModelSpec("odd", Path("odd.gguf"))
    assert plan_weights(header, spec, features=X86, has_gpu=False) == WeightSizes(mapped_bytes=5000)
    assert plan_weights(header, replace(spec, use_mmap=False), features=X86, has_gpu=False).copied_bytes == 5000
    assert estimate_context(header, spec) is None


def test_the_dry_run_says_how_llama_was_built(folder: Path) -> None:
    header, cache = read_header(small(folder, "llama"), model="small"), Measurements()
    spec = replace(SETTINGS["plain"], path=small(folder, "llama"))
    ask(spec, cache)
    dry_run = cache.find(DryRun, header, spec)
    assert dry_run is not None
    facts = llama.describe()
    assert (frozenset(dry_run.features), dry_run.has_gpu) == (facts.features, facts.has_gpu)
