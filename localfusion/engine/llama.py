"""Thin typed wrappers of llama.cpp's low-level API: a model's weights, its vocabulary, a context, a batch.

The one module where llama_cpp is imported (it is untyped in places, which ends here). Not here: what is
put into a batch, how tokens are chosen, what a sequence is kept for.
"""

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from localfusion.messages import EngineFacts, ModelSpec

KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}
N_CTX_PADDING = 256
N_CTX_AUTO = 8192
PIECE_BYTES = 4096
PROBE = "The 1st\n"

_log_callbacks: list[Any] = []
"""ctypes callbacks must outlive their registration."""

VocabularyPointer = Any
"""llama_cpp gives pointers no type of their own."""


class LoadError(Exception):
    """llama.cpp refused the file or the settings; the message is one sentence."""


class DecodeError(Exception):
    """llama_decode returned something other than 0; `code` is what it returned."""

    def __init__(self, code: int) -> None:
        super().__init__(f"llama_decode returned {code}")
        self.code = code


def send_log_to(on_line: Callable[[str], None]) -> None:
    """Send llama.cpp's and ggml's log to `on_line`, whole lines without their end, and never to the terminal."""
    pending: list[str] = []

    def collect(_level: int, text: bytes, _user: object) -> None:
        pending.append(text.decode("utf-8", "replace"))
        if text.endswith(b"\n"):
            line = "".join(pending).strip()
            pending.clear()
            if line:
                on_line(line)

    callback = llama_cpp.llama_log_callback(collect)
    _log_callbacks.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))


class Vocabulary:
    """Tokens and text of one model; token ids are plain ints."""

    def __init__(self, pointer: VocabularyPointer) -> None:
        self.pointer = pointer
        self.n_tokens = int(llama_cpp.llama_vocab_n_tokens(pointer))
        self.bos = int(llama_cpp.llama_vocab_bos(pointer))
        self.eos = int(llama_cpp.llama_vocab_eos(pointer))
        get_attribute = llama_cpp.llama_vocab_get_attr
        attributes = np.fromiter(map(get_attribute, repeat(pointer), range(self.n_tokens)), np.int32, self.n_tokens)
        self.control = frozenset(np.flatnonzero(attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL).tolist())
        self._named = frozenset(np.flatnonzero(attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED).tolist())
        ends = self.control | {self.eos, int(llama_cpp.llama_vocab_eot(pointer))}
        self.eog = frozenset(t for t in ends if t >= 0 and llama_cpp.llama_vocab_is_eog(pointer, t))
        self.add_bos = bool(llama_cpp.llama_vocab_get_add_bos(pointer))

    def can_read(self, text: str) -> bool:
        """Whether `text` becomes tokens that exist. On some broken vocabularies llama.cpp ends the process here."""
        ids = self.tokenize(text, parse_special=False)
        return bool(ids) and all(0 <= token < self.n_tokens for token in ids)

    def end_at(self, text: str) -> None:
        """Let the special token that `text` begins with, if any, end a generation: the template ends turns with it."""
        names = self.special_tokens()
        ends = [name for name in names if text.lstrip().startswith(name)]
        if ends:
            self.eog |= {names[max(ends, key=len)]}

    def go_on_after(self, text: str) -> None:
        """Let no token of `text` end a generation: llama.cpp guesses ends by name ("<|call|>"), the template knows."""
        declared = {self.eos, int(llama_cpp.llama_vocab_eot(self.pointer))}
        self.eog -= frozenset(self.tokenize(text, parse_special=True)) - declared

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, special tokens included; may end inside a character."""
        size = PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = int(llama_cpp.llama_token_to_piece(self.pointer, token, buffer, size, 0, True))
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def all_bytes(self) -> list[bytes]:
        """The bytes of every token in order of their ids: one loop that calls llama.cpp and little else."""
        to_piece, pointer, buffer = (
            llama_cpp.llama_token_to_piece,
            self.pointer,
            ctypes.create_string_buffer(PIECE_BYTES),
        )
        pieces: list[bytes] = []
        for token in range(self.n_tokens):
            n = to_piece(pointer, token, buffer, PIECE_BYTES, 0, True)
            pieces.append(buffer.raw[:n] if n >= 0 else self.token_bytes(token))
        return pieces

    @property
    def tokenize_address(self) -> int:
        """Where llama.cpp's tokenize stands in memory, for a library that calls it with `pointer`."""
        return ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value or 0  # noqa: SLF001

    def token_text(self, token: int) -> str:
        """The text of a token, "" for an id that the vocabulary does not have (llama.cpp's -1)."""
        return self.token_bytes(token).decode("utf-8", "replace") if 0 <= token < self.n_tokens else ""

    def special_tokens(self) -> dict[str, int]:
        """Tokens by their text that a grammar must name by id: control tokens, and those added as "<...>"."""
        added = {token for token in self._named if re.fullmatch("<.*>", self.token_text(token))}
        texts = {self.token_text(token): token for token in sorted(self.control | self.eog | added)}
        texts.pop("", None)
        return texts

    def control_texts(self) -> list[str]:
        """The texts of control tokens: what must not be read as one in text from outside."""
        return [text for token in sorted(self.control | self.eog) if (text := self.token_text(token))]

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """The ids of `text`, nothing added in front or behind."""
        raw = text.encode("utf-8", "surrogatepass")
        size = len(raw) + 16
        ids = (llama_cpp.llama_token * size)()
        n = int(llama_cpp.llama_tokenize(self.pointer, raw, len(raw), ids, size, False, parse_special))
        if n < 0:
            ids = (llama_cpp.llama_token * -n)()
            n = int(llama_cpp.llama_tokenize(self.pointer, raw, len(raw), ids, -n, False, parse_special))
        return list(ids[:n])


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """What a loaded file says of itself; sizes in bytes."""

    description: str
    n_ctx_train: int
    n_params: int
    size_bytes: int
    chat_template: str | None
    only_whole_sequences: bool
    has_window: bool


class Weights:
    """A loaded GGUF file. `facts.only_whole_sequences`: recurrent or hybrid, so that no part can be taken back.

    `facts.has_window`: layers see only the latest tokens, and cells of older ones may be used anew.

    `is_dry`: nothing is allocated or read beyond the header; good only for a Context that is never decoded.
    """

    def __init__(self, path: Path, *, n_gpu_layers: int, is_dry: bool = False) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        if is_dry:  # any other load mode aborts
            params.no_alloc, params.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise LoadError("llama.cpp could not load it")
        self.vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(self.pointer))
        if not self.vocabulary.can_read(PROBE):
            raise LoadError("its vocabulary is broken: it has no tokens for plain text")
        self.facts = self._read_facts()

    def _read_facts(self) -> WeightsFacts:
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.pointer, buffer, len(buffer))
        template = llama_cpp.llama_model_chat_template(self.pointer, None)
        return WeightsFacts(
            description=buffer.value.decode("utf-8", "replace"),
            n_ctx_train=int(llama_cpp.llama_model_n_ctx_train(self.pointer)),
            n_params=int(llama_cpp.llama_model_n_params(self.pointer)),
            size_bytes=int(llama_cpp.llama_model_size(self.pointer)),
            chat_template=template.decode("utf-8", "replace") if template else None,
            only_whole_sequences=bool(
                llama_cpp.llama_model_is_recurrent(self.pointer) or llama_cpp.llama_model_is_hybrid(self.pointer)
            ),
            has_window=llama_cpp.llama_model_n_swa(self.pointer) > 0,
        )


class Context:
    """The KV cells of one loaded file and the decoding over them.

    `n_ctx` is the window of one sequence, padded to 256 as llama.cpp pads it. With several sequences the
    cells are one unified pool of n_seq_max windows: parts of a sequence can be copied to another without
    taking cells twice, and a batch may mix sequences freely (separate streams allow neither).
    """

    def __init__(self, weights: Weights, spec: ModelSpec) -> None:
        wanted = min(weights.facts.n_ctx_train, N_CTX_AUTO) if spec.n_ctx == "auto" else spec.n_ctx
        self.n_ctx = -(-wanted // N_CTX_PADDING) * N_CTX_PADDING
        self.n_batch = spec.n_batch
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.n_ctx * spec.n_seq_max
        params.n_batch = spec.n_batch
        params.n_ubatch = min(spec.n_batch, spec.n_ubatch)
        params.n_seq_max = spec.n_seq_max
        params.kv_unified = spec.n_seq_max > 1
        params.n_threads = params.n_threads_batch = 1 if spec.n_threads == "auto" else spec.n_threads
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if spec.flash_attn else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.type_k = params.type_v = KV_TYPES[spec.kv_type]
        self.pointer = llama_cpp.llama_init_from_model(weights.pointer, params)
        if not self.pointer:
            raise LoadError("llama.cpp could not make a context of these settings for it")
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        self._n_vocab = weights.vocabulary.n_tokens
        self._batch = llama_cpp.llama_batch_init(spec.n_batch, 0, 1)

    def set_threads(self, n_threads: int) -> None:
        """Use this many threads from the next decode on."""
        llama_cpp.llama_set_n_threads(self.pointer, n_threads, n_threads)

    def add(self, token: int, *, position: int, sequence: int, wants_logits: bool) -> int:
        """Put one token into the batch; returns its row, to be given to `logits` after `decode`."""
        batch, row = self._batch, self._batch.n_tokens
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = sequence
        batch.logits[row] = wants_logits
        batch.n_tokens = row + 1
        return int(row)

    def decode(self) -> None:
        """Evaluate the batch and empty it; raises DecodeError."""
        code = int(llama_cpp.llama_decode(self.pointer, self._batch))
        self._batch.n_tokens = 0
        if code != 0:
            raise DecodeError(code)

    def logits(self, row: int) -> NDArray[np.float32]:
        """The logits (n_vocab) of a row of the batch just decoded: a view, valid until the next decode."""
        pointer = llama_cpp.llama_get_logits_ith(self.pointer, row)
        row_of_floats: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))
        return row_of_floats

    def truncate(self, sequence: int, n_keep: int) -> bool:
        """Take back all but the first `n_keep` tokens; False where the memory cannot (then nothing changed)."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, n_keep, -1))

    def clear(self, sequence: int) -> None:
        """Take back all of a sequence."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Let an empty sequence start with the first `n_tokens` of another; the cells are shared."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens)


def describe() -> EngineFacts:
    """How llama.cpp was built, by its own line: "CPU : AVX2 = 1 | FMA = 1 | ..."."""
    llama_cpp.llama_backend_init()
    line = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    features = frozenset(re.findall(r"(\w+) = 1\b", line))
    return EngineFacts(features, has_gpu=bool(llama_cpp.llama_supports_gpu_offload()))


SIZES = {
    "kv_bytes": re.compile(r"^llama_(?:kv_cache|memory_recurrent)[^:]*: size = +([\d.]+) MiB"),
    "compute_bytes": re.compile(r" compute buffer size = +([\d.]+) MiB"),
    "output_bytes": re.compile(r" output buffer size = +([\d.]+) MiB"),
}
"""How llama.cpp logs what it allocates, one line a buffer."""


def measure_context(spec: ModelSpec) -> dict[str, int]:
    """Bytes by SIZES that the context of a file would take on this machine, by a dry run; raises LoadError."""
    lines: list[str] = []
    send_log_to(lines.append)
    Context(Weights(spec.path, n_gpu_layers=spec.n_gpu_layers, is_dry=True), spec)
    found = {what: [float(hit[1]) for line in lines if (hit := size.search(line))] for what, size in SIZES.items()}
    return {what: int(sum(sizes) * 2**20) for what, sizes in found.items()}


def token_counts(vocabulary: Vocabulary, texts: Sequence[str]) -> tuple[int, ...]:
    """How many tokens each text has, text of control tokens read as plain text."""
    return tuple(len(vocabulary.tokenize(text, parse_special=False)) for text in texts)
