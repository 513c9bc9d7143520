"""Reads a network back from a GGUF that `export` wrote, so that training can go on from the files that ship.

What is only needed in training, the label head and the optimizers' state, is not in a file and starts anew.
"""

from pathlib import Path

import gguf
import numpy as np
import torch

from scripts.micro.network import Network, Shape

BLOCK_MATRICES = {
    "attn_v": "value",
    "attn_output": "out",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}


def read_network(path: Path) -> tuple[Network, dict[str, int]]:
    """The network in a file of the micro panel and its training facts (`micro.*`, whole numbers only)."""
    reader = gguf.GGUFReader(path)
    weights = {
        tensor.name: torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))).float()
        for tensor in reader.tensors
    }
    kept = {name: field.contents() for name, field in reader.fields.items() if name.startswith("micro.")}
    facts = {name.removeprefix("micro."): value for name, value in kept.items() if isinstance(value, int)}
    layers = len({name.split(".")[1] for name in weights if name.startswith("blk.")})
    context = int(reader.fields["llama.context_length"].contents())
    heads = int(reader.fields["llama.attention.head_count"].contents())
    shape = Shape(vocabulary=len(weights["token_embd.weight"]), layers=layers, heads=heads, context=context)
    network = Network(shape)
    with torch.no_grad():
        _set_embedding(network, weights["token_embd.weight"])
        network.norm.copy_(weights["output_norm.weight"])
        for index, block in enumerate(network.layers()):
            prefix = f"blk.{index}."
            block.query.weight.copy_(_halves(weights[prefix + "attn_q.weight"], shape.heads))
            block.key.weight.copy_(_halves(weights[prefix + "attn_k.weight"], shape.heads))
            for stored, name in BLOCK_MATRICES.items():
                block.get_submodule(name).get_parameter("weight").copy_(weights[f"{prefix}{stored}.weight"])
            block.attention_norm.copy_(weights[prefix + "attn_norm.weight"])
            block.feed_norm.copy_(weights[prefix + "ffn_norm.weight"])
    return network, facts


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo `export`'s reordering of the rows of a query or key matrix."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _set_embedding(network: Network, table: torch.Tensor) -> None:
    """Split a plain table into shared rows and the two shifts, by least squares: the table came from such a sum."""
    count = torch.zeros(len(network.rows)).index_add_(0, network.row_of, torch.ones(len(table)))[:, None]

    def row_means(values: torch.Tensor) -> torch.Tensor:
        summed = torch.zeros(len(network.rows), values.shape[1]).index_add_(0, network.row_of, values)
        return summed / count.clamp(min=1)

    flags = network.flags
    shifts = torch.linalg.lstsq(
        flags - row_means(flags)[network.row_of], table - row_means(table)[network.row_of]
    ).solution
    network.shifts.copy_(shifts)
    network.rows.copy_(row_means(table - flags @ shifts))
