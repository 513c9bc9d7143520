"""Writes tiny random GGUF files (llama, or the recurrent mamba) for tests of the engine.

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
    architecture: Literal["llama", "mamba"] = "llama"


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
    add_weights = _add_weights if model.architecture == "llama" else _add_mamba_weights
    add_weights(writer, model, n_vocab=len(vocabulary()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_settings(writer: gguf.GGUFWriter, model: TinyModel) -> None:
    writer.add_context_length(model.n_ctx)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    if model.architecture == "mamba":
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_ssm_conv_kernel(N_CONV)
        writer.add_ssm_inner_size(N_INNER)
        writer.add_ssm_state_size(N_STATE)
        writer.add_ssm_time_step_rank(N_RANK)
        return
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)


def _add_weights(writer: gguf.GGUFWriter, model: TinyModel, *, n_vocab: int) -> None:
    random = np.random.default_rng(model.seed)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * model.scale).astype(np.float32))

    add("token_embd.weight", n_vocab, N_EMBD)
    add("output.weight", n_vocab, N_EMBD)
    writer.add_tensor("output_norm.weight", np.ones(N_EMBD, np.float32))
    for layer in range(N_LAYER):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(N_EMBD, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", N_EMBD, N_EMBD)
        add(f"blk.{layer}.ffn_gate.weight", N_FF, N_EMBD)
        add(f"blk.{layer}.ffn_up.weight", N_FF, N_EMBD)
        add(f"blk.{layer}.ffn_down.weight", N_EMBD, N_FF)


def _add_mamba_weights(writer: gguf.GGUFWriter, model: TinyModel, *, n_vocab: int) -> None:
    random = np.random.default_rng(model.seed)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * model.scale).astype(np.float32))

    add("token_embd.weight", n_vocab, N_EMBD)
    add("output.weight", n_vocab, N_EMBD)
    writer.add_tensor("output_norm.weight", np.ones(N_EMBD, np.float32))
    for layer in range(N_LAYER):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(N_EMBD, np.float32))
        add(f"blk.{layer}.ssm_in.weight", 2 * N_INNER, N_EMBD)
        add(f"blk.{layer}.ssm_conv1d.weight", N_INNER, N_CONV)
        add(f"blk.{layer}.ssm_conv1d.bias", N_INNER)
        add(f"blk.{layer}.ssm_x.weight", N_RANK + 2 * N_STATE, N_INNER)
        add(f"blk.{layer}.ssm_dt.weight", N_INNER, N_RANK)
        add(f"blk.{layer}.ssm_dt.bias", N_INNER)
        writer.add_tensor(f"blk.{layer}.ssm_a", -np.abs(random.standard_normal((N_INNER, N_STATE))).astype(np.float32))
        add(f"blk.{layer}.ssm_d", N_INNER)
        add(f"blk.{layer}.ssm_out.weight", N_EMBD, N_INNER)
