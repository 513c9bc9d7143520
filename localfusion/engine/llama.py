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
from typing import Any, Literal

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from localfusion.engine.devices import device_list, devices
from localfusion.engine.drafting import LONGEST
from localfusion.engine.footprint import N_CTX_PADDING, embedding_window
from localfusion.engine.protocol import LESS_ON_GPU
from localfusion.messages import N_CTX_AUTO, EngineFacts, ModelSpec

LIBRARIES = Path(llama_cpp.__file__).parent / "lib"
KV_TYPES = {"auto": llama_cpp.GGML_TYPE_F16, "f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}
PIECE_BYTES = 4096
MOST_STREAMS = 256
"""LLAMA_MAX_SEQ of llama.cpp."""
MOST_TEXTS = 64
"""How many texts are embedded side by side."""
UNPOOLED = frozenset({llama_cpp.LLAMA_POOLING_TYPE_NONE, llama_cpp.LLAMA_POOLING_TYPE_RANK})
"""What makes no vector of a text: one of each token, or a score."""
COUNT = np.dtype("<u4")
STATE_HEAD_BYTES = 3 * COUNT.itemsize
"""What a sequence's state begins with: a mark, the sequence, the number of streams."""
PROBE = "The 1st\n"

_NEVER_BEGUN = -1
"""What llama_decode returns for a batch that it does not take; after anything else, pending copies are done."""

_log_callbacks: list[Any] = []
"""ctypes callbacks must outlive their registration."""

VocabularyPointer = Any
ContextPointer = Any
"""llama_cpp gives pointers no type of their own."""


FETCH_AGAIN = "fetch the file again or choose another"


class LoadError(Exception):
    """llama.cpp refused the file or the settings; the message is one sentence, `hint` what to do."""

    def __init__(self, message: str, hint: str = FETCH_AGAIN) -> None:
        super().__init__(message)
        self.hint = hint


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

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """The ids of `text`; nothing is added in front or behind unless `add_special`, then what the file says."""
        raw = text.encode("utf-8", "surrogatepass")
        size = len(raw) + 16
        ids = (llama_cpp.llama_token * size)()
        n = int(llama_cpp.llama_tokenize(self.pointer, raw, len(raw), ids, size, add_special, parse_special))
        if n < 0:
            ids = (llama_cpp.llama_token * -n)()
            n = int(llama_cpp.llama_tokenize(self.pointer, raw, len(raw), ids, -n, add_special, parse_special))
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

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int | Literal["auto"],
        device: str = "",
        use_mmap: bool = True,
        use_extra_bufts: bool = True,
        is_dry: bool = False,
    ) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0 if n_gpu_layers == "auto" else n_gpu_layers
        if device or not params.n_gpu_layers:  # on none, llama.cpp would still compute on one and take its memory
            listed = device_list(LIBRARIES, *([device] if params.n_gpu_layers else []))
            if device and params.n_gpu_layers and not listed[0]:
                raise LoadError(f"the GPU {device} is not there", "localfusion doctor lists what is there")
            params.devices = ctypes.cast(listed, ctypes.c_void_p)
        self.is_on_gpu = bool(params.n_gpu_layers and llama_cpp.llama_supports_gpu_offload())
        params.use_extra_bufts = use_extra_bufts
        params.no_alloc = is_dry
        # The default (AUTO) maps the file wherever the devices can; with no_alloc any mode but NONE aborts.
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_AUTO if use_mmap and not is_dry else llama_cpp.LLAMA_LOAD_MODE_NONE
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise LoadError("llama.cpp could not load it", LESS_ON_GPU if self.is_on_gpu else FETCH_AGAIN)
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

    `n_ctx` is the window of one sequence, padded to 256 as llama.cpp pads it. Each sequence has cells of its own
    (a stream of llama.cpp's), so that attention passes over nobody else's. One batch is evaluated at once where the
    sequences in it are neighbours, come in the order of their numbers and have equally many tokens; else in parts.

    Not every memory lets a sequence be cut anywhere. Recurrent layers know only the state behind the last
    token; layers with a window keep only what the next token sees. For such models there are `n_kept` more
    sequences after the spec's own, where beginnings stand that others will start from: the one window or
    state that each takes is part of what llama.cpp says the context takes. Their cells are one pool of windows,
    where a copy shares cells; streams would take a whole window for each beginning.
    """

    def __init__(self, weights: Weights, spec: ModelSpec) -> None:
        wanted = min(weights.facts.n_ctx_train, N_CTX_AUTO) if spec.n_ctx == "auto" else spec.n_ctx
        self.n_ctx = -(-wanted // N_CTX_PADDING) * N_CTX_PADDING
        self.n_batch = spec.n_batch
        params = llama_cpp.llama_context_default_params()
        params.n_batch = spec.n_batch
        params.n_ubatch = min(spec.n_batch, spec.n_ubatch)
        facts = weights.facts
        self._only_whole = facts.only_whole_sequences
        self._n_window = int(llama_cpp.llama_model_n_swa(weights.pointer)) if facts.has_window else 0
        self._is_deterministic = spec.deterministic
        self.n_kept = spec.n_kept if self._only_whole or self._n_window else 0
        params.n_seq_max = self._n_seq_max = spec.n_parallel + self.n_kept
        params.n_outputs_max = max(spec.n_parallel + LONGEST, self._n_seq_max)
        params.n_ctx = self.n_ctx * spec.n_parallel
        self._is_plain = not (self._only_whole or self._n_window)
        self._n_streams = self._n_seq_max if self._is_plain else 1
        params.kv_unified = self._n_seq_max > 1 and self._n_streams == 1
        params.swa_full = False
        self.n_threads = 1 if spec.n_threads == "auto" else spec.n_threads
        params.n_threads = params.n_threads_batch = self.n_threads
        self.pointer = _make_context(weights, spec, params, smaller="n_ctx")
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        if not self._memory:
            raise LoadError(
                "it writes no text: it is an embedding model, or of another kind", "name a model that writes"
            )
        self._being_copied: set[int] = set()
        empty = int(llama_cpp.llama_state_seq_get_size(self.pointer, 0))
        self._has_plain_states = empty == STATE_HEAD_BYTES + self._n_streams * COUNT.itemsize
        self._n_vocab = weights.vocabulary.n_tokens
        self._batch = llama_cpp.llama_batch_init(spec.n_batch, 0, 1)

    @property
    def has_streams(self) -> bool:
        """Each sequence has cells of its own, and a copy takes as long as all of them are many."""
        return self._n_streams > 1

    @property
    def is_about_to_copy(self) -> bool:
        """The next decode has cells to copy before it evaluates anything."""
        return bool(self._being_copied)

    def set_threads(self, n_threads: int) -> None:
        """Use this many threads from the next decode on."""
        if n_threads != self.n_threads:
            llama_cpp.llama_set_n_threads(self.pointer, n_threads, n_threads)
            self.n_threads = n_threads

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
        if code != _NEVER_BEGUN:
            self._being_copied.clear()
        if code != 0:
            raise DecodeError(code)

    def logits(self, row: int) -> NDArray[np.float32]:
        """The logits (n_vocab) of a row of the batch just decoded: a view, valid until the next decode."""
        pointer = llama_cpp.llama_get_logits_ith(self.pointer, row)
        row_of_floats: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))
        return row_of_floats

    def can_start_at(self, sequence: int, n_tokens: int, *, n_past: int) -> bool:
        """Whether a sequence of `n_past` evaluated tokens could go on after the first `n_tokens` of them.

        seq_rm and seq_cp of llama.cpp do not say: cells that fell out of a window are gone in silence.
        """
        if n_tokens in (0, n_past):
            return True
        if self._only_whole or (self._n_window and self._is_deterministic):  # a window's cells lie as they fell
            return False
        if not self._n_window:
            return True
        return int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence)) <= max(0, n_tokens - self._n_window)

    def truncate(self, sequence: int, n_keep: int) -> bool:
        """Take back all but the first `n_keep` tokens; False where the memory cannot (then nothing changed)."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, n_keep, -1))

    def clear(self, sequence: int) -> None:
        """Take back all of a sequence; where it is the only one, the memory is as new."""
        if self._n_seq_max == 1:
            llama_cpp.llama_memory_clear(self._memory, False)
        else:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def copy(self, source: int, target: int, n_tokens: int) -> bool:
        """Let an empty sequence start with the first `n_tokens` of another, which `can_start_at` allows.

        False where a window finds no room; then the target is empty.
        """
        end = -1 if self._only_whole or self.has_streams else n_tokens  # streams are copied whole, by the next decode
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, end)
        if self.has_streams:
            self._being_copied |= {source, target}
            return self.truncate(target, n_tokens)
        if self._n_window and not self._own_window(target):
            self.clear(target)
            return False
        return True

    def state_bytes(self, sequence: int) -> int:
        """What `write_state` would write."""
        return self._state_bytes(sequence) + (MOST_STREAMS * COUNT.itemsize if self._has_plain_states else 0)

    def write_state(self, sequence: int, target: memoryview) -> bool:
        """Put all that is evaluated of a sequence into `state_bytes` of memory, which hold zeros."""
        size = self._state_bytes(sequence)
        raw = (ctypes.c_uint8 * size).from_buffer(target)
        return int(llama_cpp.llama_state_seq_get_data(self.pointer, raw, size, sequence)) == size

    def can_read_state(self, sequence: int) -> bool:
        """Whether a state may be read into a sequence now: not while the next decode has to copy its cells."""
        return sequence not in self._being_copied

    def read_state(self, sequence: int, source: memoryview) -> bool:
        """Let an empty sequence be what was written; False where it does not fit, then the sequence is empty.

        Only for what `write_state` wrote, of the same file and settings: anything else may end the process. The
        memory is changed.
        """
        if self._has_plain_states:
            source = self._with_own_streams(source)
        raw = (ctypes.c_uint8 * len(source)).from_buffer(source)
        n_read = int(llama_cpp.llama_state_seq_set_data(self.pointer, raw, len(source), sequence))
        if n_read and (self._has_plain_states or n_read == len(source)):
            return True
        self.clear(sequence)
        return False

    def _state_bytes(self, sequence: int) -> int:
        return int(llama_cpp.llama_state_seq_get_size(self.pointer, sequence))

    def _with_own_streams(self, state: memoryview) -> memoryview:
        """A state that was written with other streams than these: llama.cpp takes only what has as many.

        It is a head that ends with the number of streams, and for each the number of cells and the cells: none
        but for one. Numbers of streams before that one are skipped; behind it are zeros for as many as there can be.
        """
        counts = np.frombuffer(state, COUNT, MOST_STREAMS, STATE_HEAD_BYTES)
        n_skipped = int(np.argmax(counts != 0)) * COUNT.itemsize
        head = state[: STATE_HEAD_BYTES - COUNT.itemsize].tobytes() + np.array(self._n_streams, COUNT).tobytes()
        state[n_skipped : n_skipped + STATE_HEAD_BYTES] = head
        return state[n_skipped:]

    def _own_window(self, sequence: int) -> bool:
        """Give a copied sequence a window of its own: cells that two sequences share never fall out of either's."""
        flags = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = int(llama_cpp.llama_state_seq_get_size_ext(self.pointer, sequence, flags))
        window = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data_ext(self.pointer, window, size, sequence, flags)
        return bool(llama_cpp.llama_state_seq_set_data_ext(self.pointer, window, size, sequence, flags))


def _make_context(
    weights: Weights, spec: ModelSpec, params: llama_cpp.llama_context_params, *, smaller: str
) -> ContextPointer:
    """A context of these parameters and the spec's attention and cache. Raises LoadError; `smaller` may help then."""
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if spec.flash_attn else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.type_k = params.type_v = KV_TYPES[spec.kv_type]
    pointer: ContextPointer = llama_cpp.llama_init_from_model(weights.pointer, params)
    if not pointer:
        raise LoadError(
            "llama.cpp could not make a context of these settings for it",
            f"choose kv_type f16, flash_attn true, or a smaller {smaller}, and free some memory"
            + (f"; {LESS_ON_GPU}" if weights.is_on_gpu else ""),
        )
    return pointer


class EmbeddingContext:
    """Vectors of texts: pooled as the file says, with the attention that the file says, a batch of whole texts at once.

    `n_ctx` is the longest text in tokens. The texts of a batch share the cells of one window, where there are any, and
    none sees another's; nothing is kept from batch to batch.
    """

    def __init__(self, weights: Weights, spec: ModelSpec) -> None:
        self.n_ctx = embedding_window(weights.facts.n_ctx_train, spec)
        self.n_texts = 1 if spec.deterministic else min(MOST_TEXTS, self.n_ctx)
        self.n_embd = int(llama_cpp.llama_model_n_embd_out(weights.pointer))
        params = llama_cpp.llama_context_default_params()
        params.embeddings = True
        params.n_ctx = params.n_batch = params.n_ubatch = self.n_ctx
        params.n_seq_max = self.n_texts
        params.kv_unified = True
        params.swa_full = False
        self.n_threads = 1 if spec.n_threads == "auto" else spec.n_threads
        params.n_threads = params.n_threads_batch = self.n_threads
        self.pointer = _make_context(weights, spec, params, smaller="n_batch")
        pooling = int(llama_cpp.llama_pooling_type(self.pointer))
        if pooling in UNPOOLED:
            is_ranker = pooling == llama_cpp.LLAMA_POOLING_TYPE_RANK
            what = "it scores pairs of texts" if is_ranker else "it names no pooling of its tokens"
            raise LoadError(
                f"it is no embedding model: {what}", "name an embedding model, such as a bge or a nomic-embed"
            )
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        self._batch = llama_cpp.llama_batch_init(self.n_ctx, 0, 1)

    def set_threads(self, n_threads: int) -> None:
        """Use this many threads from the next batch on."""
        if n_threads != self.n_threads:
            llama_cpp.llama_set_n_threads(self.pointer, n_threads, n_threads)
            self.n_threads = n_threads

    def pooled(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The vector of each text as it comes (n, n_embd); `n_texts` with `n_ctx` tokens in sum at most, none empty.

        Raises DecodeError.
        """
        batch = self._batch
        rows = [(token, place, text) for text, ids in enumerate(texts) for place, token in enumerate(ids)]
        for row, (token, place, text) in enumerate(rows):
            batch.token[row], batch.pos[row] = token, place
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, text
            batch.logits[row] = True
        batch.n_tokens = len(rows)
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        code = int(llama_cpp.llama_decode(self.pointer, batch))
        if code != 0:
            raise DecodeError(code)
        found = [llama_cpp.llama_get_embeddings_seq(self.pointer, text) for text in range(len(texts))]
        return np.array([np.ctypeslib.as_array(vector, shape=(self.n_embd,)) for vector in found], np.float32)


def describe() -> EngineFacts:
    """How llama.cpp was built, by its own line: "CPU : AVX2 = 1 | FMA = 1 | ...", and the GPUs it finds."""
    llama_cpp.llama_backend_init()
    line = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    features = frozenset(re.findall(r"(\w+) = 1\b", line))
    return EngineFacts(features, devices(LIBRARIES) if llama_cpp.llama_supports_gpu_offload() else ())


def build_name() -> str:
    """Which llama.cpp this is: what it makes of one file on one machine may differ from build to build."""
    llama_cpp.llama_backend_init()
    return f"{llama_cpp.__version__} {llama_cpp.llama_print_system_info().decode('utf-8', 'replace')}"


def dry_run(spec: ModelSpec) -> list[str]:
    """What llama.cpp logs of a load on this machine that allocates next to nothing; raises LoadError."""
    lines: list[str] = []
    send_log_to(lines.append)
    weights = Weights(
        spec.path,
        n_gpu_layers=spec.n_gpu_layers,
        device=spec.device,
        use_extra_bufts=spec.use_extra_bufts,
        is_dry=True,
    )
    if spec.embeddings:
        EmbeddingContext(weights, spec)
    else:
        Context(weights, spec)
    return lines


def token_counts(vocabulary: Vocabulary, texts: Sequence[str]) -> tuple[int, ...]:
    """How many tokens each text has, text of control tokens read as plain text."""
    return tuple(len(vocabulary.tokenize(text, parse_special=False)) for text in texts)
