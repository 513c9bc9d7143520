"""What localfusion is measured against: llama-cpp-python in processes of their own, used as its documentation shows.

The functions run in the child; `Peer` is the parent's side. Threads are all cores unless said, all else is the
default of `Llama`. It is given token ids and its text is never made from tokens, so neither is in its times.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import LlamaGrammar

from localfusion.engine.llama import send_log_to

P = ParamSpec("P")
T = TypeVar("T")

_llamas: dict[str, llama_cpp.Llama] = {}
"""What this process has open, by name."""


@dataclass(frozen=True, slots=True)
class Wrote:
    """One text: the seconds that reading and writing took, and the tokens written."""

    seconds: float
    ids: list[int]


class Peer(AbstractContextManager["Peer"]):
    """A child process; what dies in it is a BrokenProcessPool here."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_be_quiet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._pool.shutdown()

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let the child do `work`, a function of a module; returns at once."""
        return self._pool.submit(work, *args, **kwargs)

    def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Let the child do `work` and wait for it."""
        return self.start(work, *args, **kwargs).result()


def _be_quiet() -> None:
    """What C code prints to stdout goes to stderr, and llama.cpp's log nowhere: stdout is the table's."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    send_log_to(lambda _: None)


def open_llama(name: str, path: Path, *, n_ctx: int, n_threads: int | None) -> float:
    """A new `Llama`; returns the seconds that took. `n_threads` None leaves threads to its own default."""
    started = time.monotonic()
    _llamas[name] = llama_cpp.Llama(
        str(path), n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, verbose=False
    )
    return time.monotonic() - started


def close_all() -> None:
    """Free every `Llama`."""
    while _llamas:
        _llamas.popitem()[1].close()


def write(name: str, prompt: Sequence[int], n_tokens: int) -> Wrote:
    """Read a prompt, of which the `Llama` keeps what it has, and write so many tokens greedily, whatever they are."""
    started = time.monotonic()
    written = list(islice(_llamas[name].generate(list(prompt), temp=0.0), n_tokens))
    return Wrote(time.monotonic() - started, written)


def write_json(name: str, prompt: Sequence[int], n_tokens: int, schema: object) -> Wrote:
    """The same under llama.cpp's own grammar of a JSON schema; ends where the JSON does."""
    llama = _llamas[name]
    grammar = LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
    started = time.monotonic()
    written: list[int] = []
    for token in islice(llama.generate(list(prompt), temp=0.0, grammar=grammar), n_tokens):
        if token == llama.token_eos():
            break
        written.append(token)
    return Wrote(time.monotonic() - started, written)


_bare: list[Any] = []
"""The one bare model and context of this process: llama_cpp gives pointers no type of their own."""


def open_bare(path: Path, *, n_ctx: int, n_sequences: int, n_threads: int) -> None:
    """A context by the low-level API, with the settings that localfusion gives its own."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max = n_ctx * n_sequences, n_sequences
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = n_threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama_cpp.llama_init_from_model(model, params)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    _bare[:] = [context, llama_cpp.llama_batch_init(512, 0, 1), n_vocab]


def decode_bare(prompts: Sequence[Sequence[int]], n_tokens: int) -> float:
    """Seconds to read short prompts in one batch and write `n_tokens` behind each, side by side, by argmax."""
    context, batch, n_vocab = _bare
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    started = time.monotonic()
    fresh = [list(prompt) for prompt in prompts]
    n_past = [0] * len(prompts)
    for _ in range(n_tokens):
        batch.n_tokens = 0
        rows = []
        for sequence, ids in enumerate(fresh):
            for token in ids:
                row = batch.n_tokens
                batch.token[row], batch.pos[row] = token, n_past[sequence]
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
                batch.logits[row] = False
                batch.n_tokens, n_past[sequence] = row + 1, n_past[sequence] + 1
            batch.logits[batch.n_tokens - 1] = True
            rows.append(batch.n_tokens - 1)
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        logits = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, row), (n_vocab,)) for row in rows]
        fresh = [[int(np.argmax(row))] for row in logits]
    return time.monotonic() - started
