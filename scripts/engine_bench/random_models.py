"""Writes GGUF files of random weights in seconds: what speed and memory are measured on. What they write is noise.

Blocks of a quantization are random bits under a fixed scale, so nothing is quantized. The vocabulary is byte-level
BPE with merges that read ordinary text; the chat template is ChatML with tools.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as Kind
from numpy.typing import NDArray

Architecture = Literal["llama", "gemma3", "qwen3moe", "deepseek2", "mamba2", "lfm2"]
"""Plain, sliding window, mixture of experts, MLA (with experts), recurrent, hybrid."""
Quantization = Literal["f16", "q8_0", "q4_0", "q4_k"]

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
END_OF_TEXT, _, END_OF_TURN = range(3)
LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
"""From the most frequent in English to the least."""
SPACE = "Ġ"
"""How byte-level BPE writes a space."""
CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\nTools:\\n' }}
{%- for tool in tools %}{{ (tool | tojson) ~ '\\n' }}{% endfor %}
{{- 'A call is written <tool_call>{"name": NAME, "arguments": ARGUMENTS}</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>{"name": "' ~ call.function.name ~ '", "arguments": ' ~ (call.function.arguments | tojson) }}
{{- '}</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

KINDS: Mapping[Quantization, Kind] = {"f16": Kind.F16, "q8_0": Kind.Q8_0, "q4_0": Kind.Q4_0, "q4_k": Kind.Q4_K}
FILE_TYPES: Mapping[Quantization, gguf.LlamaFileType] = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_k": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
N_CONV, HEAD_OF_STATE, N_DENSE_LAYERS = 4, 64, 1
EMBEDDING_SCALE = 1 / 8
"""Lets the layers outweigh the embedding: a model whose output is its embedding would repeat its last token."""


@dataclass(frozen=True, slots=True)
class RandomModel:
    """The shape of a model, in llama.cpp's words; by default 0.4 billion weights, 234 MB.

    `n_window`: of the sliding-window layers, five of six. `n_expert` experts share `n_ff`, two of them at work.
    `n_state`: of the recurrent layers. Rows must fill whole blocks: multiples of 256 fit every quantization.
    """

    architecture: Architecture = "llama"
    n_vocab: int = 32_000
    n_embd: int = 1024
    n_layer: int = 22
    n_head: int = 16
    n_head_kv: int = 4
    n_ff: int = 4096
    n_expert: int = 8
    n_window: int = 512
    n_state: int = 128
    quantization: Quantization = "q4_0"
    n_ctx: int = 8192
    seed: int = 0

    @property
    def n_embd_head(self) -> int:
        return self.n_embd // self.n_head

    @property
    def n_lora(self) -> int:
        """Width of the compressed keys and values of MLA."""
        return self.n_embd // 4

    def n_head_kv_of(self, layer: int) -> int:
        """0 for the convolutions of a hybrid: every third layer has attention."""
        return 0 if self.architecture == "lfm2" and layer % 3 != 2 else self.n_head_kv


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor to write: `shape` with the rows' length last; "f32" is noise that is never quantized."""

    name: str
    shape: tuple[int, ...]
    fill: Literal["weights", "ones", "decay", "f32"] = "weights"


def write_random_model(path: Path, model: RandomModel = RandomModel(), *, n_parts: int = 1) -> Path:
    """Write the file and return its path; of a split model, the path of the first part (`-00001-of-...`).

    Written beside and then renamed, the first part last: a file that is there is whole. Needs the memory of one tensor.
    """
    planned = list(tensors(model))
    per_part = math.ceil(len(planned) / n_parts)
    if math.ceil(len(planned) / per_part) != n_parts:
        raise ValueError(f"{len(planned)} tensors do not make {n_parts} parts of one size")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".random-model-") as folder:
        writer = gguf.GGUFWriter(
            Path(folder) / path.name, model.architecture, split_max_tensors=per_part if n_parts > 1 else 0
        )
        _add_shape(writer, model)
        _add_vocabulary(writer, model)
        kinds = [_kind(tensor, model) for tensor in planned]
        for tensor, kind in zip(planned, kinds, strict=True):
            size = math.prod(tensor.shape) // kind_block(kind)[0] * kind_block(kind)[1]
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, (tensor, kind) in enumerate(zip(planned, kinds, strict=True)):
            random = np.random.default_rng([model.seed, index])
            writer.write_tensor_data(_content(tensor, kind, random))
        writer.close()
        parts = sorted(Path(folder).iterdir())
        for part in reversed(parts):
            part.replace(path.parent / part.name)
    return path.parent / parts[0].name


def kind_block(kind: Kind) -> tuple[int, int]:
    """Elements and bytes of a block."""
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    return n_elements, n_bytes


def _kind(tensor: Planned, model: RandomModel) -> Kind:
    """As llama.cpp's quantizer: vectors stay F32, the output is finer, rows that fill no block fall back."""
    if tensor.fill != "weights":
        return Kind.F32
    wanted = KINDS[model.quantization]
    is_output = tensor.name == "output.weight" and wanted in (Kind.Q4_0, Kind.Q4_K)
    choices = (Kind.Q6_K if is_output else wanted, wanted, Kind.Q8_0, Kind.F16)
    return next(kind for kind in choices if tensor.shape[-1] % kind_block(kind)[0] == 0)


def _content(tensor: Planned, kind: Kind, random: np.random.Generator) -> NDArray[np.generic]:
    size = math.prod(tensor.shape)
    match tensor.fill:
        case "ones":
            return np.ones(size, np.float32)
        case "decay":
            return np.full(size, -1.0, np.float32)
        case "f32":
            return (random.standard_normal(size, np.float32) / math.sqrt(tensor.shape[-1])).astype(np.float32)
        case "weights":
            n_elements, n_bytes = kind_block(kind)
            bits = np.frombuffer(bytearray(random.bytes(size // n_elements * n_bytes)), np.uint8)
            quiet = EMBEDDING_SCALE if tensor.name == "token_embd.weight" else 1
            SCALED[kind](bits.reshape(-1, n_bytes), quiet / math.sqrt(tensor.shape[-1]))
            return bits


def _scale_f16(blocks: NDArray[np.uint8], deviation: float) -> None:
    """Random signs and mantissas, one exponent."""
    bits = blocks.view(np.uint16)
    bits &= 0x83FF
    bits |= np.float16(2.0 ** round(math.log2(deviation))).view(np.uint16)


def _scale_q8_0(blocks: NDArray[np.uint8], deviation: float) -> None:
    blocks[:, :2] = _half(deviation / 74)


def _scale_q4_0(blocks: NDArray[np.uint8], deviation: float) -> None:
    blocks[:, :2] = _half(deviation / 4.6)


def _scale_q4_k(blocks: NDArray[np.uint8], deviation: float) -> None:
    """A weight is d * scale * q - dmin * minimum: 7.5 times d for dmin makes the mean 0."""
    blocks[:, :2] = _half(deviation / 257)
    blocks[:, 2:4] = _half(deviation / 257 * 7.5)


def _scale_q6_k(blocks: NDArray[np.uint8], deviation: float) -> None:
    blocks[:, -2:] = _half(deviation / 1366)


SCALED: Mapping[Kind, Callable[[NDArray[np.uint8], float], None]] = {
    Kind.F16: _scale_f16,
    Kind.Q8_0: _scale_q8_0,
    Kind.Q4_0: _scale_q4_0,
    Kind.Q4_K: _scale_q4_k,
    Kind.Q6_K: _scale_q6_k,
}
"""Where a block has its scale, and which makes weights of that standard deviation of random bits."""


def _half(value: float) -> NDArray[np.uint8]:
    return np.frombuffer(np.float16(value).tobytes(), np.uint8)


def merges() -> Iterator[tuple[str, str]]:
    """Every merge of the vocabulary, the first to be used first: pairs of letters, then longer pieces of them."""
    pairs = [a + b for a, b in itertools.product(LETTERS, LETTERS)]
    yield from itertools.product(LETTERS, LETTERS)
    yield from itertools.product((SPACE,), pairs)
    yield from itertools.product((SPACE,), LETTERS)
    yield from itertools.product(pairs, LETTERS)
    yield from itertools.product((SPACE + pair for pair in pairs), LETTERS)
    yield from itertools.product((SPACE + pair for pair in pairs), pairs)


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte, by byte value."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]


def _add_vocabulary(writer: gguf.GGUFWriter, model: RandomModel) -> None:
    start = [*CONTROL, *ADDED, *byte_alphabet()]
    used = list(itertools.islice(merges(), max(0, model.n_vocab - len(start))))
    tokens = [*start, *(left + right for left, right in used)]
    if len(tokens) != model.n_vocab:
        raise ValueError(f"a vocabulary of {model.n_vocab} tokens cannot be made; {len(tokens)} is the nearest")
    types = dict.fromkeys(CONTROL, gguf.TokenType.CONTROL) | dict.fromkeys(ADDED, gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([types.get(token, gguf.TokenType.NORMAL) for token in tokens])
    writer.add_token_merges([f"{left} {right}" for left, right in used])
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_shape(writer: gguf.GGUFWriter, model: RandomModel) -> None:
    writer.add_name(f"random {model.architecture}")
    writer.add_file_type(FILE_TYPES[model.quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(model.n_ctx)
    writer.add_embedding_length(model.n_embd)
    writer.add_block_count(model.n_layer)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(model.n_vocab)
    if model.architecture == "mamba2":
        _add_state_shape(writer, model)
        return
    writer.add_feed_forward_length(model.n_ff)
    writer.add_head_count(model.n_head)
    if model.architecture == "deepseek2":
        _add_mla_shape(writer, model)
        return
    writer.add_key_length(model.n_embd_head)
    writer.add_value_length(model.n_embd_head)
    writer.add_rope_dimension_count(model.n_embd_head)
    if model.architecture == "lfm2":
        writer.add_head_count_kv([model.n_head_kv_of(layer) for layer in range(model.n_layer)])
        writer.add_shortconv_l_cache(N_CONV - 1)
    else:
        writer.add_head_count_kv(model.n_head_kv)
    if model.architecture == "gemma3":
        writer.add_sliding_window(model.n_window)
    if model.architecture == "qwen3moe":
        _add_experts(writer, model)


def _add_experts(writer: gguf.GGUFWriter, model: RandomModel) -> None:
    writer.add_expert_count(model.n_expert)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(model.n_ff // model.n_expert)


def _add_mla_shape(writer: gguf.GGUFWriter, model: RandomModel) -> None:
    n_rope = model.n_embd_head // 2
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(n_rope)
    writer.add_q_lora_rank(model.n_embd // 2)
    writer.add_kv_lora_rank(model.n_lora)
    writer.add_key_length(model.n_lora + n_rope)
    writer.add_value_length(model.n_lora)
    writer.add_key_length_mla(model.n_embd_head + n_rope)
    writer.add_value_length_mla(model.n_embd_head)
    writer.add_leading_dense_block_count(N_DENSE_LAYERS)
    writer.add_expert_shared_count(1)
    writer.add_expert_weights_scale(1.0)
    _add_experts(writer, model)


def _add_state_shape(writer: gguf.GGUFWriter, model: RandomModel) -> None:
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(N_CONV)
    writer.add_ssm_inner_size(2 * model.n_embd)
    writer.add_ssm_state_size(model.n_state)
    writer.add_ssm_time_step_rank(2 * model.n_embd // HEAD_OF_STATE)
    writer.add_ssm_group_count(1)


def tensors(model: RandomModel) -> Iterator[Planned]:
    """Every tensor of the file, in its order; only gemma3 and lfm2 use the embedding for the output too."""
    yield Planned("token_embd.weight", (model.n_vocab, model.n_embd))
    if model.architecture not in ("gemma3", "lfm2"):
        yield Planned("output.weight", (model.n_vocab, model.n_embd))
    norm = "token_embd_norm.weight" if model.architecture == "lfm2" else "output_norm.weight"
    yield Planned(norm, (model.n_embd,), "ones")
    for layer in range(model.n_layer):
        yield from (
            Planned(f"blk.{layer}.{tensor.name}", tensor.shape, tensor.fill) for tensor in _layer_tensors(model, layer)
        )


def _layer_tensors(model: RandomModel, layer: int) -> Iterator[Planned]:
    yield Planned("attn_norm.weight", (model.n_embd,), "ones")
    if model.architecture == "mamba2":
        yield from _state_tensors(model)
        return
    if model.architecture == "deepseek2":
        yield from _mla_tensors(model)
    elif model.n_head_kv_of(layer):
        yield from _attention_tensors(model)
    else:
        yield from _convolution_tensors(model)
    yield Planned("ffn_norm.weight", (model.n_embd,), "ones")
    if model.architecture == "gemma3":
        yield Planned("post_attention_norm.weight", (model.n_embd,), "ones")
        yield Planned("post_ffw_norm.weight", (model.n_embd,), "ones")
    has_experts = layer >= {"qwen3moe": 0, "deepseek2": N_DENSE_LAYERS}.get(model.architecture, model.n_layer)
    yield from _expert_tensors(model) if has_experts else _feed_forward_tensors(model.n_embd, model.n_ff)


def _attention_tensors(model: RandomModel) -> Iterator[Planned]:
    n_query, n_key = model.n_head * model.n_embd_head, model.n_head_kv * model.n_embd_head
    yield Planned("attn_q.weight", (n_query, model.n_embd))
    yield Planned("attn_k.weight", (n_key, model.n_embd))
    yield Planned("attn_v.weight", (n_key, model.n_embd))
    yield Planned("attn_output.weight", (model.n_embd, n_query))
    if model.architecture != "llama":
        yield Planned("attn_q_norm.weight", (model.n_embd_head,), "ones")
        yield Planned("attn_k_norm.weight", (model.n_embd_head,), "ones")


def _mla_tensors(model: RandomModel) -> Iterator[Planned]:
    n_rope, n_query = model.n_embd_head // 2, model.n_embd // 2
    yield Planned("attn_q_a.weight", (n_query, model.n_embd))
    yield Planned("attn_q_a_norm.weight", (n_query,), "ones")
    yield Planned("attn_q_b.weight", (model.n_head * (model.n_embd_head + n_rope), n_query))
    yield Planned("attn_kv_a_mqa.weight", (model.n_lora + n_rope, model.n_embd))
    yield Planned("attn_kv_a_norm.weight", (model.n_lora,), "ones")
    yield Planned("attn_k_b.weight", (model.n_head, model.n_lora, model.n_embd_head))
    yield Planned("attn_v_b.weight", (model.n_head, model.n_embd_head, model.n_lora))
    yield Planned("attn_output.weight", (model.n_embd, model.n_head * model.n_embd_head))


def _convolution_tensors(model: RandomModel) -> Iterator[Planned]:
    yield Planned("shortconv.conv.weight", (model.n_embd, N_CONV - 1), "f32")
    yield Planned("shortconv.in_proj.weight", (3 * model.n_embd, model.n_embd))
    yield Planned("shortconv.out_proj.weight", (model.n_embd, model.n_embd))


def _state_tensors(model: RandomModel) -> Iterator[Planned]:
    n_inner = 2 * model.n_embd
    n_rank, n_mixed = n_inner // HEAD_OF_STATE, n_inner + 2 * model.n_state
    yield Planned("ssm_in.weight", (n_inner + n_mixed + n_rank, model.n_embd))
    yield Planned("ssm_conv1d.weight", (n_mixed, N_CONV), "f32")
    yield Planned("ssm_conv1d.bias", (n_mixed,), "f32")
    yield Planned("ssm_dt.bias", (n_rank,), "f32")
    yield Planned("ssm_a", (n_rank, 1), "decay")
    yield Planned("ssm_d", (n_rank, 1), "ones")
    yield Planned("ssm_norm.weight", (1, n_inner), "ones")
    yield Planned("ssm_out.weight", (model.n_embd, n_inner))


def _feed_forward_tensors(n_embd: int, n_ff: int, suffix: str = "") -> Iterator[Planned]:
    yield Planned(f"ffn_gate{suffix}.weight", (n_ff, n_embd))
    yield Planned(f"ffn_up{suffix}.weight", (n_ff, n_embd))
    yield Planned(f"ffn_down{suffix}.weight", (n_embd, n_ff))


def _expert_tensors(model: RandomModel) -> Iterator[Planned]:
    n_ff = model.n_ff // model.n_expert
    yield Planned("ffn_gate_inp.weight", (model.n_expert, model.n_embd), "f32")
    yield Planned("ffn_gate_exps.weight", (model.n_expert, n_ff, model.n_embd))
    yield Planned("ffn_up_exps.weight", (model.n_expert, n_ff, model.n_embd))
    yield Planned("ffn_down_exps.weight", (model.n_expert, model.n_embd, n_ff))
    if model.architecture == "deepseek2":
        yield from _feed_forward_tensors(model.n_embd, n_ff, "_shexp")
