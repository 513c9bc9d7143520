"""Writes tiny random GGUF files for tests of the engine: plain, sliding-window, recurrent and hybrid.

They are sound, or broken in a chosen way. The vocabulary is byte-level BPE: the 256 bytes, some merges,
control tokens. The weights are noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np

CONTROL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|call|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
MERGES = ("t h", "th e", "Ġ the", "i n", "a n", "e r", "o n", "Ġ a", "r e", "Ġ i", "e s", "Ġ s")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
N_EMBD, N_HEAD, N_FF, N_LAYER = 64, 4, 128, 2
N_CONV, N_INNER, N_STATE, N_RANK = 4, 128, 16, 4
N_WINDOW = 48

Architecture = Literal["llama", "gemma2", "mamba", "jamba"]
"""Plain; every other layer with a window of N_WINDOW; recurrent; a recurrent layer and one of attention."""


@dataclass(frozen=True)
class TinyModel:
    """What may differ from file to file."""

    seed: int = 0
    chat_template: str | None = CHATML
    n_ctx: int = 1024
    tokens: Sequence[str] | None = None
    merges: Sequence[str] = MERGES
    tokenizer: str = "gpt2"
    scale: float = 0.6
    architecture: Architecture = "llama"


def byte_alphabet() -> list[str]:
    """GPT-2's printable character of each byte, by byte value."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    for extra, byte in enumerate(b for b in range(256) if b not in table):
        table[byte] = chr(256 + extra)
    return [table[byte] for byte in range(256)]


def vocabulary() -> list[str]:
    """Control tokens, then bytes, then merged pieces."""
    return [*CONTROL, *byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES)]


def write_tiny_gguf(path: Path, model: TinyModel = TinyModel()) -> Path:
    """Write the file and return its path."""
    tokens = list(vocabulary() if model.tokens is None else model.tokens)
    writer = gguf.GGUFWriter(path, model.architecture)
    _add_settings(writer, model)
    writer.add_tokenizer_model(model.tokenizer)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    types = [gguf.TokenType.CONTROL if t in CONTROL else gguf.TokenType.NORMAL for t in tokens]
    writer.add_token_types(types)
    writer.add_token_merges(model.merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    if model.chat_template is not None:
        writer.add_chat_template(model.chat_template)
    _add_weights(writer, model, n_vocab=len(vocabulary()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_settings(writer: gguf.GGUFWriter, model: TinyModel) -> None:
    writer.add_context_length(model.n_ctx)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_layer_norm_rms_eps(1e-5)
    is_mamba, is_jamba = model.architecture == "mamba", model.architecture == "jamba"
    if is_mamba or is_jamba:
        writer.add_ssm_conv_kernel(N_CONV)
        writer.add_ssm_inner_size(N_INNER)
        writer.add_ssm_state_size(N_STATE)
        writer.add_ssm_time_step_rank(N_RANK)
    if model.architecture == "gemma2":
        writer.add_sliding_window(N_WINDOW)
    writer.add_feed_forward_length(0 if is_mamba else N_FF)
    writer.add_head_count(0 if is_mamba else N_HEAD)
    if not is_mamba:
        writer.add_head_count_kv([0, N_HEAD] if is_jamba else N_HEAD)
        writer.add_rope_dimension_count(N_EMBD // N_HEAD)


def _add_weights(writer: gguf.GGUFWriter, model: TinyModel, *, n_vocab: int) -> None:
    weights = _Weights(writer, model)
    weights.add("token_embd.weight", n_vocab, N_EMBD)
    if model.architecture != "gemma2":
        weights.add("output.weight", n_vocab, N_EMBD)
    weights.add_ones("output_norm.weight", N_EMBD)
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        weights.add_ones(f"{block}.attn_norm.weight", N_EMBD)
        if model.architecture == "mamba" or (model.architecture == "jamba" and layer == 0):
            weights.add_recurrent(block, has_norms=model.architecture == "jamba")
        else:
            for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                weights.add(f"{block}.{name}.weight", N_EMBD, N_EMBD)
        if model.architecture != "mamba":
            weights.add_ones(f"{block}.ffn_norm.weight", N_EMBD)
            weights.add(f"{block}.ffn_gate.weight", N_FF, N_EMBD)
            weights.add(f"{block}.ffn_up.weight", N_FF, N_EMBD)
            weights.add(f"{block}.ffn_down.weight", N_EMBD, N_FF)
        if model.architecture == "gemma2":
            for norm in ("post_attention_norm", "post_ffw_norm"):  # the layers outweigh the embedding
                writer.add_tensor(f"{block}.{norm}.weight", np.full(N_EMBD, 8, np.float32))


class _Weights:
    """Noise by name, drawn in the order in which it is added."""

    def __init__(self, writer: gguf.GGUFWriter, model: TinyModel) -> None:
        self._writer, self._scale, self._random = writer, model.scale, np.random.default_rng(model.seed)

    def add(self, name: str, *shape: int) -> None:
        self._writer.add_tensor(name, (self._random.standard_normal(shape) * self._scale).astype(np.float32))

    def add_ones(self, name: str, *shape: int) -> None:
        self._writer.add_tensor(name, np.ones(shape, np.float32))

    def add_recurrent(self, block: str, *, has_norms: bool) -> None:
        self.add(f"{block}.ssm_in.weight", 2 * N_INNER, N_EMBD)
        self.add(f"{block}.ssm_conv1d.weight", N_INNER, N_CONV)
        self.add(f"{block}.ssm_conv1d.bias", N_INNER)
        self.add(f"{block}.ssm_x.weight", N_RANK + 2 * N_STATE, N_INNER)
        self.add(f"{block}.ssm_dt.weight", N_INNER, N_RANK)
        self.add(f"{block}.ssm_dt.bias", N_INNER)
        decay = np.abs(self._random.standard_normal((N_INNER, N_STATE)))
        self._writer.add_tensor(f"{block}.ssm_a", -decay.astype(np.float32))
        self.add(f"{block}.ssm_d", N_INNER)
        self.add(f"{block}.ssm_out.weight", N_EMBD, N_INNER)
        if has_norms:
            self.add_ones(f"{block}.ssm_dt_norm.weight", N_RANK)
            self.add_ones(f"{block}.ssm_b_norm.weight", N_STATE)
            self.add_ones(f"{block}.ssm_c_norm.weight", N_STATE)
