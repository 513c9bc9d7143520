"""What a loaded model takes of memory, in parts: from a file's header, llama.cpp's log, and arithmetic.

Pure: nothing is read or started here. The context's buffers are llama.cpp's own figures, from a dry run or a load;
`estimate_context` stands in where there are none. The weights are planned from the table of tensors by the rules
that llama.cpp loads them by, which the log of a real load corrects.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from localfusion.engine.drafting import LONGEST
from localfusion.gguf_header import LENGTH_BYTES, Header, ListSize, Tensor
from localfusion.messages import N_CTX_AUTO, Footprint, ModelSpec

N_CTX_PADDING = 256

WORKER_BYTES = 26 << 20
"""A worker that has not been told yet what to load: Python and its modules; measured on 64-bit Linux."""
HEAP_BYTES = 4 << 20
"""What a load and the first requests leave in the heap, whatever the file."""
CELL_BYTES = 384
"""Of each cell of the window beside what it holds: llama.cpp's table of cells, and the tokens as a worker has them."""
LIBRARIES_BYTES = 30 << 20
"""Pages of libraries that a worker has mapped; several workers share them."""
TOKEN_BYTES, TEXT_BYTES, MERGE_BYTES = 235, 15, 150
"""Of each token, each byte of a token's text, and each merge: llama.cpp's tables, and llguidance's from the first
grammar on. Measured with the vocabularies of Qwen 2, Llama 2 and 3, Gemma 4, Command R, GPT-2, Phi 3, Falcon and
DeepSeek and llguidance 1.9 (within 8 %)."""
DEVICE_CONTEXT_BYTES = 400 << 20
"""What a process takes of a GPU before any layer is there, where the GPU has memory of its own: CUDA's context, which
is reported as 300 to 500 MiB. Not measured."""
TENSOR_BYTES = 8192
"""Of each tensor: what llama.cpp keeps of its graphs."""

LOGIT_BYTES = STATE_BYTES = 4
KV_BYTES: Mapping[str, float] = {"auto": 2.0, "f16": 2.0, "q8_0": 34 / 32}
"""Of each element."""

Q4_0, Q4_1, Q8_0, Q2_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4 = 2, 3, 8, 10, 12, 13, 14, 20, 23, 39
NEON_TYPES = frozenset({Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4})
REPACKED: tuple[tuple[str, frozenset[int]], ...] = (
    ("AVX2", frozenset({Q4_0, Q4_K, IQ4_NL, MXFP4})),
    ("AVX512", frozenset({Q2_K})),
    ("DOTPROD", NEON_TYPES),
    ("MATMUL_INT8", NEON_TYPES),
    ("AMX_INT8", frozenset({Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_XS})),
)
"""Processor feature, by llama.cpp's name, and the types that llama.cpp rearranges for it."""
EVERY_REPACKED = frozenset[int]().union(*(types for _, types in REPACKED))
FAMILIES = frozenset({"SSE3", "AVX2", "NEON"})
"""Of a processor with none of these, what is rearranged is not known here."""
EMBEDDING = "token_embd.weight"
LOOKED_UP = frozenset({EMBEDDING, "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"})
"""Tables whose rows are picked out and not multiplied: never rearranged."""

BUFFER = re.compile(r"^\w+: +(\S+) +(?:(model|KV|RS|compute|output)|\S.* state) buffer size = +([\d.]+) MiB")
TOTAL = re.compile(r"^llama_(kv_cache|memory_recurrent)[^:]*: size = +([\d.]+) MiB")
MIB = 1 << 20

ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)
"""Architectures that llama.cpp evaluates without any cells: nothing of a text is kept."""
HEADLESS = ENCODERS - {"gemma-embedding"}
"""Those of which the embedding serves for no output either."""


@dataclass(frozen=True, slots=True)
class WeightSizes:
    """Bytes of the weights: pages of the file, rearranged copies, plain copies, and what is on a device."""

    mapped_bytes: int = 0
    repacked_bytes: int = 0
    copied_bytes: int = 0
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ContextSizes:
    """Bytes of a context's buffers; `device_*` are the part of them that is on a device, where the log says so."""

    kv_bytes: int = 0
    recurrent_bytes: int = 0
    compute_bytes: int = 0
    device_kv_bytes: int = 0
    device_compute_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DryRun:
    """What llama.cpp said without loading: its context's buffers, how it was built, and the kind of device it used."""

    context: ContextSizes
    features: tuple[str, ...]
    has_gpu: bool
    is_integrated: bool = False


def read_weights(log: Iterable[str]) -> WeightSizes | None:
    """Where a real load put the weights; None where the log does not say."""
    found = [(name, size) for name, what, size in _buffers(log) if what == "model" and size]
    if not found:
        return None
    mapped = sum(size for name, size in found if _is_host(name) and name.endswith("_Mapped"))
    copied = sum(size for name, size in found if name == "CPU" or name.endswith("_Host"))
    device = sum(size for name, size in found if not _is_host(name))
    return WeightSizes(mapped, sum(size for _, size in found) - mapped - copied - device, copied, device)


def read_context(log: Iterable[str]) -> ContextSizes:
    """The buffers of a context, from the log of a dry run or a load."""
    lines = list(log)
    buffers = list(_buffers(lines))
    totals = {"kv_cache": 0, "memory_recurrent": 0}
    for line in lines:
        if hit := TOTAL.match(line):
            totals[hit[1]] += _bytes(hit[2])
    states = [(name, size) for name, what, size in buffers if what == "state"]
    compute = {name: size for name, what, size in buffers if what == "compute"}  # the last of each: it may grow
    kept = [(name, size) for name, what, size in buffers if what in ("KV", "RS", "state")]
    return ContextSizes(
        kv_bytes=totals["kv_cache"] + sum(size for _, size in states),
        recurrent_bytes=totals["memory_recurrent"],
        compute_bytes=sum(compute.values()),
        device_kv_bytes=sum(size for name, size in kept if not _is_host(name)),
        device_compute_bytes=sum(size for name, size in compute.items() if not _is_host(name)),
    )


def _buffers(log: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Of each buffer that the log names: where it is, what it is for ("state" for what has longer names), bytes."""
    for line in log:
        if hit := BUFFER.match(line):
            yield hit[1], hit[2] or "state", _bytes(hit[3])


def _bytes(mib: str) -> int:
    return round(float(mib) * MIB)


def _is_host(name: str) -> bool:
    """Whether a buffer of this name is in the machine's own memory."""
    return name.startswith(("CPU", "AMX")) or name.endswith("_Host")


def plan_weights(
    header: Header, spec: ModelSpec, *, features: Iterable[str], has_gpu: bool, is_integrated: bool = False
) -> WeightSizes:
    """Where llama.cpp will put the weights of a file on a processor with these features.

    Beside layers on a GPU with memory of its own nothing is rearranged: the rest is where the GPU can read it.
    """
    if any(tensor.n_bytes == 0 for tensor in header.tensors):
        return WeightSizes(mapped_bytes=header.file_bytes) if spec.use_mmap else WeightSizes(0, 0, header.file_bytes)
    features = frozenset(features)
    on_device = _tensors_on_device(header, spec) if has_gpu else frozenset()
    host = [tensor for tensor in header.tensors if tensor.name not in on_device]
    is_plain = bool(on_device) and not is_integrated
    types = repacked_types(features) if spec.use_extra_bufts and not is_plain else frozenset()
    n_rows = 4 if "NEON" in features else 8
    rearrangeable = [t for t in host if t.type in types and len(t.shape) > 1 and t.shape[1] % n_rows == 0]
    repacked = {t.name for t in rearrangeable if _is_multiplied(t)}
    has_head = header.metadata.get("general.architecture") not in HEADLESS
    is_tied = has_head and all(tensor.name != "output.weight" for tensor in header.tensors)
    tied = [t for t in rearrangeable if is_tied and t.name == EMBEDDING]
    plain = [tensor for tensor in host if tensor.name not in repacked]
    return WeightSizes(
        mapped_bytes=_mapped_range(plain) if spec.use_mmap else 0,
        repacked_bytes=sum(t.n_bytes for t in host if t.name in repacked) + sum(t.n_bytes for t in tied),
        copied_bytes=0 if spec.use_mmap else sum(t.n_bytes for t in plain),
        device_bytes=sum(t.n_bytes for t in header.tensors if t.name in on_device)
        + sum(t.n_bytes for t in header.tensors if on_device and is_tied and t.name == EMBEDDING),
    )


def repacked_types(features: frozenset[str]) -> frozenset[int]:
    """Types of which llama.cpp keeps rearranged copies; at most these, on a processor that is not known here."""
    if not features & {"REPACK", "AMX_INT8", "KLEIDIAI"}:
        return frozenset()
    if not features & FAMILIES:
        return EVERY_REPACKED
    return frozenset[int]().union(*(types for feature, types in REPACKED if feature in features))


def _is_multiplied(tensor: Tensor) -> bool:
    """Whether it is a matrix of a kind that llama.cpp rearranges: plain ones, and experts."""
    return tensor.name not in LOOKED_UP and (
        len(tensor.shape) == 2 or (len(tensor.shape) == 3 and "_exps" in tensor.name)
    )


def _mapped_range(plain: Iterable[Tensor]) -> int:
    """In each part of a file, llama.cpp keeps mapped what lies between the first and the last tensor it uses there."""
    ends: dict[int, tuple[int, int]] = {}
    for tensor in plain:
        first, last = ends.get(tensor.part, (tensor.offset, 0))
        ends[tensor.part] = min(first, tensor.offset), max(last, tensor.offset + tensor.n_bytes)
    return sum(last - first for first, last in ends.values())


def _tensors_on_device(header: Header, spec: ModelSpec) -> frozenset[str]:
    """The last layers first, the output counting as one more; the embedding never."""
    n_layer = _number(header, "block_count")
    first = n_layer + 1 - _n_on_device(header, spec)
    layers = {t.name: layer for t in header.tensors if (layer := layer_of(t)) is not None and layer >= first}
    last = [t.name for t in header.tensors if t.name.startswith("output") and n_layer >= first]
    return frozenset([*layers, *last])


def _n_on_device(header: Header, spec: ModelSpec) -> int:
    """How many layers are on a device, where there is one; a number below 0 means all, the output included."""
    n_all = _number(header, "block_count") + 1
    n_gpu_layers = 0 if spec.n_gpu_layers == "auto" else spec.n_gpu_layers
    return n_all if n_gpu_layers < 0 else min(n_gpu_layers, n_all)


def layer_of(tensor: Tensor) -> int | None:
    """The layer that a tensor belongs to."""
    head, _, rest = tensor.name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if head == "blk" and number.isdecimal() else None


def n_cells(header: Header, spec: ModelSpec) -> int:
    """Cells of the window of all sequences together, padded as llama.cpp pads them."""
    if spec.embeddings:
        wanted, n_windows = embedding_window(_number(header, "context_length"), spec), 1
    else:
        wanted = min(_number(header, "context_length"), N_CTX_AUTO) if spec.n_ctx == "auto" else spec.n_ctx
        n_windows = spec.n_parallel
    return -(-wanted // N_CTX_PADDING) * N_CTX_PADDING * n_windows


def embedding_window(n_ctx_train: int, spec: ModelSpec) -> int:
    """How many tokens of a text are embedded: it has to be one batch, and positions end with the training."""
    wanted = n_ctx_train if spec.n_ctx == "auto" else spec.n_ctx
    return min(wanted, n_ctx_train, spec.n_batch, spec.n_ubatch)


def estimate_context(header: Header, spec: ModelSpec) -> ContextSizes | None:
    """The buffers of a context by arithmetic; None for an architecture whose layers keep something unknown.

    Keys, values and states are exact but for sliding windows, which count as full. The compute buffer is a bound.
    """
    if header.metadata.get("general.architecture") in ENCODERS:
        return ContextSizes(compute_bytes=_compute_bound(header, spec))
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    layers = {layer for tensor in header.tensors if (layer := layer_of(tensor)) is not None}
    kept = [_kept_of_layer(header, shapes, layer) for layer in sorted(layers)]
    if not kept or any(elements is None for elements in kept):
        return None
    kv = sum(elements[0] for elements in kept if elements is not None)
    states = sum(elements[1] for elements in kept if elements is not None)
    return ContextSizes(
        kv_bytes=int(kv * KV_BYTES[spec.kv_type] * n_cells(header, spec)),
        recurrent_bytes=states * STATE_BYTES * (spec.n_parallel + spec.n_kept),
        compute_bytes=_compute_bound(header, spec),
    )


def _kept_of_layer(header: Header, shapes: Mapping[str, tuple[int, ...]], layer: int) -> tuple[int, int] | None:
    """Elements that a layer keeps: of each token (keys and values), and of each sequence (a state)."""

    def n_rows(name: str) -> int:
        shape = shapes.get(f"blk.{layer}.{name}.weight", ())
        return shape[1] if len(shape) > 1 else 0

    if n_rows("attn_kv_a_mqa"):
        return n_rows("attn_kv_a_mqa"), 0
    if n_rows("ssm_conv1d"):
        state = _number(header, "ssm.inner_size") * _number(header, "ssm.state_size")
        return 0, (_number(header, "ssm.conv_kernel") - 1) * n_rows("ssm_conv1d") + state
    if n_rows("shortconv.conv"):
        return 0, (_number(header, "shortconv.l_cache") - 1) * n_rows("shortconv.conv")
    if n_rows("attn_qkv"):
        out = shapes.get(f"blk.{layer}.attn_output.weight")
        return None if out is None else (n_rows("attn_qkv") - out[0], 0)
    if n_rows("attn_k") and n_rows("attn_v"):
        return n_rows("attn_k") + n_rows("attn_v"), 0
    return None


def _compute_bound(header: Header, spec: ModelSpec) -> int:
    """Activations of a batch, the mask over all cells, the logits; without flash attention the scores too."""
    n_embd, n_tokens = _number(header, "embedding_length"), min(spec.n_batch, spec.n_ubatch)
    cells = n_cells(header, spec)
    activations = n_tokens * (6 * n_embd + 3 * _widest_row(header)) * LOGIT_BYTES
    scores = 0 if spec.flash_attn else 2 * _number(header, "attention.head_count") * LOGIT_BYTES
    mask = n_tokens * cells * (scores + LOGIT_BYTES + 2)
    n_rows = n_tokens if spec.embeddings else spec.n_parallel + LONGEST
    return activations + mask + _logits_bytes(header, n_rows)


def _widest_row(header: Header) -> int:
    """The widest that the activations of a token become between two matrices of a layer."""
    return max((max(t.shape[:2]) for t in header.tensors if len(t.shape) > 1 and layer_of(t) is not None), default=0)


def _logits_bytes(header: Header, n_rows: int) -> int:
    """By the embedding's rows, which are at least the tokens."""
    n_vocab = next((t.shape[1] for t in header.tensors if t.name == EMBEDDING and len(t.shape) > 1), 0)
    return n_vocab * n_rows * LOGIT_BYTES


def _output_bytes(header: Header, spec: ModelSpec) -> int:
    """Logits of each sequence; where texts are embedded, llama.cpp keeps room for logits and a vector of each token."""
    if not spec.embeddings:
        return _logits_bytes(header, spec.n_parallel)
    n_rows = embedding_window(_number(header, "context_length"), spec)
    return _logits_bytes(header, n_rows) + n_rows * _number(header, "embedding_length") * LOGIT_BYTES


def _scratch_bytes(header: Header, spec: ModelSpec) -> int:
    """What llama.cpp and the worker need beside the buffers: activations as a product reads them, graphs, cells."""
    activations = min(spec.n_batch, spec.n_ubatch) * _widest_row(header)
    tables = TENSOR_BYTES * len(header.tensors) + CELL_BYTES * n_cells(header, spec)
    return HEAP_BYTES + activations + tables


def _vocabulary_bytes(header: Header) -> int:
    tokens, merges = (header.lists.get(f"tokenizer.ggml.{name}", ListSize()) for name in ("tokens", "merges"))
    text_bytes = tokens.n_bytes - LENGTH_BYTES * tokens.count
    return TOKEN_BYTES * tokens.count + TEXT_BYTES * text_bytes + MERGE_BYTES * merges.count


def predict(
    header: Header,
    spec: ModelSpec,
    *,
    weights: WeightSizes,
    context: ContextSizes,
    has_gpu: bool,
    is_integrated: bool = False,
) -> Footprint:
    """All parts together."""
    kept_bytes = context.kv_bytes + context.recurrent_bytes
    device_kv = context.device_kv_bytes
    if has_gpu and not device_kv:  # a dry run does not say
        on_device = _tensors_on_device(header, spec)
        layers = {layer for t in header.tensors if (layer := layer_of(t)) is not None}
        there = {layer for t in header.tensors if t.name in on_device and (layer := layer_of(t)) is not None}
        device_kv = kept_bytes * len(there) // max(1, len(layers))
    share = 1 - device_kv / kept_bytes if kept_bytes else 1
    n_on_device = _n_on_device(header, spec) if has_gpu else 0
    around = DEVICE_CONTEXT_BYTES if n_on_device and not is_integrated else 0
    return Footprint(
        weights_mapped_bytes=weights.mapped_bytes,
        weights_repacked_bytes=weights.repacked_bytes,
        weights_copied_bytes=weights.copied_bytes,
        kv_bytes=round(context.kv_bytes * share),
        recurrent_bytes=round(context.recurrent_bytes * share),
        compute_bytes=context.compute_bytes - context.device_compute_bytes,
        output_bytes=_output_bytes(header, spec),
        drafts_bytes=0 if context.recurrent_bytes or spec.embeddings else _logits_bytes(header, LONGEST),
        scratch_bytes=_scratch_bytes(header, spec),
        worker_bytes=WORKER_BYTES + _vocabulary_bytes(header),
        libraries_bytes=LIBRARIES_BYTES,
        vram_bytes=weights.device_bytes + device_kv + context.device_compute_bytes + around,
        n_gpu_layers=n_on_device,
        is_integrated=is_integrated,
    )


def _number(header: Header, key: str) -> int:
    """A number that the architecture has under `key`; 0 where it has none."""
    value = header.metadata.get(f"{header.metadata['general.architecture']}.{key}", 0)
    return value if isinstance(value, int) else 0
