"""Writes a network as a GGUF that llama.cpp loads: weights, tokenizer, chat template, licence, training facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch

from scripts.micro import tokenizer
from scripts.micro.network import Network
from scripts.micro.rendering import chat_template

NORMAL, CONTROL = 1, 3
FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
WEIGHT_TYPES = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}


@dataclass(frozen=True, slots=True)
class Card:
    """What the file says of itself; `facts` are stored under `micro.*`, `style` is how its template has it search."""

    name: str
    description: str
    facts: Mapping[str, int | float | str]
    style: str = ""


def _add_tokenizer(writer: gguf.GGUFWriter, style: str) -> None:
    vocab = tokenizer.vocabulary()
    control = frozenset(tokenizer.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(vocab.tokens))
    writer.add_token_types([CONTROL if token in control else NORMAL for token in vocab.tokens])
    writer.add_token_merges([f"{left} {right}" for left, right in vocab.merges])
    writer.add_bos_token_id(vocab.ids["<|user|>"])
    writer.add_eos_token_id(vocab.ids[tokenizer.END])
    writer.add_pad_token_id(vocab.ids[tokenizer.PAD])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(chat_template(style))


def _add_shape(writer: gguf.GGUFWriter, network: Network, precision: str) -> None:
    shape = network.shape
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(len(network.blocks))
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(FILE_TYPES[precision])


def _interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of a query or key matrix from rotate-halves to the neighbouring pairs that llama.cpp rotates."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _matrices(network: Network) -> dict[str, torch.Tensor]:
    heads = network.shape.heads
    found = {"token_embd.weight": network.token_matrix()}
    for index, block in enumerate(network.layers()):
        prefix = f"blk.{index}."
        found[prefix + "attn_q.weight"] = _interleave(block.query.weight, heads)
        found[prefix + "attn_k.weight"] = _interleave(block.key.weight, heads)
        found[prefix + "attn_v.weight"] = block.value.weight
        found[prefix + "attn_output.weight"] = block.out.weight
        found[prefix + "ffn_gate.weight"] = block.gate.weight
        found[prefix + "ffn_up.weight"] = block.up.weight
        found[prefix + "ffn_down.weight"] = block.down.weight
    return found


def _norms(network: Network) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {"output_norm.weight": network.norm}
    for index, block in enumerate(network.layers()):
        found[f"blk.{index}.attn_norm.weight"] = block.attention_norm
        found[f"blk.{index}.ffn_norm.weight"] = block.feed_norm
    return found


def export(network: Network, path: Path, card: Card, precision: str) -> int:
    """Write `network` to `path` with matrices in "f16" or "q8_0" and norms in f32; return the bytes written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(card.name)
    writer.add_description(card.description)
    writer.add_license("apache-2.0")
    for key, fact in card.facts.items():
        if isinstance(fact, int):
            writer.add_uint64(f"micro.{key}", fact)
        elif isinstance(fact, float):
            writer.add_float32(f"micro.{key}", fact)
        else:
            writer.add_string(f"micro.{key}", fact)
    _add_shape(writer, network, precision)
    _add_tokenizer(writer, card.style)
    kind = WEIGHT_TYPES[precision]
    for name, tensor in _matrices(network).items():
        packed = gguf.quants.quantize(tensor.detach().float().contiguous().numpy(), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    for name, tensor in _norms(network).items():
        writer.add_tensor(name, tensor.detach().numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size
