"""Writes a GGUF of random weights in a moment, for timing steps on: as large as caches are not. It writes noise.

A llama of Q4_0 blocks, which llama.cpp rearranges for the processor as it does those of real files. Only letters can be
its next token, so that each token is a piece of text at once and none ends one.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

N_CTX = 512
N_EMBD, N_HEAD, N_FF, N_LAYER = 1024, 16, 2816, 12
VERSION, ALIGNMENT = 3, 32
UINT32, INT32, FLOAT32, STRING, LIST = 4, 5, 6, 8, 9
F32, Q4_0 = 0, 2
BLOCK, SCALE = 32, 0.01
"""Weights of a block of Q4_0, and what their four bits are steps of."""
PATTERN_BLOCKS = 4093
"""Blocks after which the noise repeats: a prime, so that no two rows of a tensor are the same."""
LETTERS = range(ord("a"), ord("z") + 1)
N_VOCAB = 256 + 2
"""The bytes, each at its own number; a pair, since llama.cpp wants one; the token that ends a text."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor's name, its shape from the row's length on, and its bytes."""

    name: str
    shape: tuple[int, ...]
    type: int
    content: bytes


def write_random_model(path: Path, *, n_layer: int = N_LAYER) -> Path:
    """Write the file, some 7 MiB a layer, and return its path."""
    tensors = list(_tensors(n_layer, Random(0)))
    values = list(_metadata(n_layer))
    head = [b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(values)), *values]
    offset = 0
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head.append(_text(tensor.name) + shape + struct.pack("<IQ", tensor.type, offset))
        offset += len(tensor.content) + -len(tensor.content) % ALIGNMENT
    with path.open("wb") as file:
        for part in (b"".join(head), *(tensor.content for tensor in tensors)):
            file.write(part + bytes(-len(part) % ALIGNMENT))
    return path


def _metadata(n_layer: int) -> Iterator[bytes]:
    numbers = {
        "context_length": N_CTX,
        "embedding_length": N_EMBD,
        "block_count": n_layer,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD,
        "rope.dimension_count": N_EMBD // N_HEAD,
    }
    tokens = [*byte_texts(), "th", "<|end|>"]
    types = [*[1] * (len(tokens) - 1), 3]  # plain, and one that is of control
    yield _value("general.architecture", STRING, _text("llama"))
    yield from (_value(f"llama.{name}", UINT32, struct.pack("<I", number)) for name, number in numbers.items())
    yield _value("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5))
    yield _value("tokenizer.ggml.model", STRING, _text("gpt2"))
    yield _value("tokenizer.ggml.pre", STRING, _text("gpt-2"))
    yield _value("tokenizer.ggml.tokens", LIST, _list(STRING, [_text(token) for token in tokens]))
    yield _value("tokenizer.ggml.token_type", LIST, _list(INT32, [struct.pack("<i", kind) for kind in types]))
    yield _value("tokenizer.ggml.merges", LIST, _list(STRING, [_text("t h")]))
    yield _value("tokenizer.ggml.bos_token_id", UINT32, struct.pack("<I", len(tokens) - 1))
    yield _value("tokenizer.ggml.eos_token_id", UINT32, struct.pack("<I", len(tokens) - 1))


def _tensors(n_layer: int, random: Random) -> Iterator[_Tensor]:
    noise = _noise(random)
    output = array("f", bytes(4 * N_VOCAB * N_EMBD))
    for place in range(LETTERS.start * N_EMBD, LETTERS.stop * N_EMBD):
        output[place] = random.gauss(0, 1)
    yield _blocks("token_embd.weight", (N_EMBD, N_VOCAB), noise)
    yield _Tensor("output.weight", (N_EMBD, N_VOCAB), F32, output.tobytes())
    yield _ones("output_norm.weight")
    for layer in range(n_layer):
        block = f"blk.{layer}"
        yield _ones(f"{block}.attn_norm.weight")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield _blocks(f"{block}.{name}.weight", (N_EMBD, N_EMBD), noise)
        yield _ones(f"{block}.ffn_norm.weight")
        yield _blocks(f"{block}.ffn_gate.weight", (N_EMBD, N_FF), noise)
        yield _blocks(f"{block}.ffn_up.weight", (N_EMBD, N_FF), noise)
        yield _blocks(f"{block}.ffn_down.weight", (N_FF, N_EMBD), noise)


def byte_texts() -> list[str]:
    """GPT-2's printable character of each byte, by byte value."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _noise(random: Random) -> bytes:
    """Blocks of Q4_0: a scale of two bytes, and 32 weights of four bits."""
    scale = struct.pack("<e", SCALE)
    return b"".join(scale + random.randbytes(BLOCK // 2) for _ in range(PATTERN_BLOCKS))


def _blocks(name: str, shape: tuple[int, int], noise: bytes) -> _Tensor:
    n_bytes = shape[0] * shape[1] // BLOCK * (2 + BLOCK // 2)
    return _Tensor(name, shape, Q4_0, (noise * (n_bytes // len(noise) + 1))[:n_bytes])


def _ones(name: str) -> _Tensor:
    return _Tensor(name, (N_EMBD,), F32, array("f", [1.0] * N_EMBD).tobytes())


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _list(kind: int, values: Sequence[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)
