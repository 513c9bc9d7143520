"""Writes tiny random GGUF files of embedding models: encoders like BERT, nomic-bert and embeddinggemma, and a decoder.

The encoders of BERT's kind have its word pieces, the others the byte-level BPE of `tiny_gguf`. The weights are noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.tiny_gguf import CONTROL, MERGES, vocabulary

Architecture = Literal["bert", "nomic-bert", "qwen3", "gemma-embedding"]
"""Learned positions; rotated ones; causal, with cells; two-way with windows, and an output it has no use for."""
Pooling = Literal["mean", "cls", "last", "rank"]

POOLINGS = {
    "mean": gguf.PoolingType.MEAN,
    "cls": gguf.PoolingType.CLS,
    "last": gguf.PoolingType.LAST,
    "rank": gguf.PoolingType.RANK,
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!:;()"
N_EMBD, N_HEAD, N_FF = 64, 4, 128
N_WINDOW = 24


@dataclass(frozen=True)
class EmbeddingModel:
    """What may differ from file to file; `pooling` None is a file that names none."""

    architecture: Architecture = "bert"
    pooling: Pooling | None = "mean"
    n_ctx: int = 128
    name: str = "tiny"
    seed: int = 0
    scale: float = 0.3
    has_end: bool = True

    @property
    def has_word_pieces(self) -> bool:
        return self.architecture in ("bert", "nomic-bert")

    @property
    def n_layer(self) -> int:
        """Of embeddinggemma every sixth layer has no window, and llama.cpp breaks down where there is none of these."""
        return 6 if self.architecture == "gemma-embedding" else 2


def word_pieces() -> list[str]:
    """Special tokens, then letters that begin a word and letters that go on with one, as converters write them."""
    words = ("the", "and", "light", "house", "tower", "sea")
    return [*SPECIAL, *(f"▁{piece}" for piece in (*LETTERS, *words)), *LETTERS, *words]


def write_embedding_gguf(path: Path, model: EmbeddingModel = EmbeddingModel()) -> Path:
    """Write the file and return its path."""
    writer = gguf.GGUFWriter(path, model.architecture)
    writer.add_name(model.name)
    _add_shape(writer, model)
    if model.has_word_pieces:
        _add_word_pieces(writer)
    else:
        _add_bytes(writer, has_end=model.has_end)
    n_vocab = len(word_pieces() if model.has_word_pieces else vocabulary())
    for name, weights in _tensors(model, n_vocab):
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: gguf.GGUFWriter, model: EmbeddingModel) -> None:
    writer.add_context_length(model.n_ctx)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(model.n_layer)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    if model.pooling is not None:
        writer.add_pooling_type(POOLINGS[model.pooling])
    if model.has_word_pieces:
        writer.add_layer_norm_eps(1e-12)
        writer.add_causal_attention(False)
        writer.add_token_type_count(2)
        return
    writer.add_head_count_kv(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(N_EMBD // N_HEAD)
    writer.add_value_length(N_EMBD // N_HEAD)
    if model.architecture == "gemma-embedding":
        writer.add_sliding_window(N_WINDOW)


def _add_word_pieces(writer: gguf.GGUFWriter) -> None:
    tokens = word_pieces()
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens])
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_uint32("tokenizer.ggml.cls_token_id", 2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)


def _add_bytes(writer: gguf.GGUFWriter, *, has_end: bool) -> None:
    """As Qwen3-Embedding has it: nothing in front, an end behind."""
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in CONTROL else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(has_end)


def _tensors(model: EmbeddingModel, n_vocab: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    random = np.random.default_rng(model.seed)

    def noise(*shape: int) -> NDArray[np.float32]:
        return (random.standard_normal(shape) * model.scale).astype(np.float32)

    yield "token_embd.weight", noise(n_vocab, N_EMBD)
    if model.has_word_pieces:
        yield "token_types.weight", noise(2, N_EMBD)
        yield "token_embd_norm.weight", np.ones(N_EMBD, np.float32)
        yield "token_embd_norm.bias", noise(N_EMBD)
    else:
        yield "output_norm.weight", np.ones(N_EMBD, np.float32)
    if model.architecture == "bert":
        yield "position_embd.weight", noise(model.n_ctx, N_EMBD)
    for layer in range(model.n_layer):
        for name, shape in _layer_shapes(model).items():
            is_norm = "norm" in name and name.endswith("weight")
            yield f"blk.{layer}.{name}", np.ones(shape, np.float32) if is_norm else noise(*shape)


def _layer_shapes(model: EmbeddingModel) -> dict[str, tuple[int, ...]]:
    square, head = (N_EMBD, N_EMBD), (N_EMBD // N_HEAD,)
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q.weight": square,
        "attn_k.weight": square,
        "attn_v.weight": square,
        "attn_output.weight": square,
        "ffn_up.weight": (N_FF, N_EMBD),
        "ffn_down.weight": (N_EMBD, N_FF),
    }
    if model.has_word_pieces:
        norms = ("attn_output_norm", "layer_output_norm")
        shapes |= {f"{norm}.{part}": (N_EMBD,) for norm in norms for part in ("weight", "bias")}
    else:
        shapes |= {f"{norm}.weight": (N_EMBD,) for norm in ("attn_norm", "ffn_norm")}
        shapes |= {f"{norm}.weight": head for norm in ("attn_q_norm", "attn_k_norm")}
    if model.architecture == "gemma-embedding":
        shapes |= {f"{norm}.weight": (N_EMBD,) for norm in ("post_attention_norm", "post_ffw_norm")}
    if model.architecture != "bert":
        shapes["ffn_gate.weight"] = (N_FF, N_EMBD)
    return shapes
