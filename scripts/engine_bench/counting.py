"""Row "evaluated": tokens evaluated in a whole deliberation against those that had to be.

Counted at the door, in llama_decode itself, so that drafts which failed and prompts that were read again count too.
What had to be evaluated are the nodes of the prefix tree, for each file, of all that its sequences ever held once
a step was over: a node is a token with all that stands before it. The loop runs in this process instead of a
worker, otherwise the deliberation is the real one. The models are small: counts do not depend on their size.
"""

import asyncio
import ctypes
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import llama_cpp

from localfusion.engine.client import TOOL_ARGUMENTS
from localfusion.engine.interface import Embeddings, Resident
from localfusion.engine.llama import send_log_to
from localfusion.engine.loop import Loop
from localfusion.engine.protocol import Counted, CountPrompt, Failed, Generate, Output, Overflowed, Reply
from localfusion.errors import ContextOverflow, ModelError
from localfusion.messages import (
    Completion,
    Delta,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelSpec,
    Progress,
    TextKind,
    ToolSpec,
)
from scripts.engine_bench.deliberations import FULL, SMALL, seated, timed
from scripts.engine_bench.figures import Figure
from scripts.engine_bench.peers import Peer
from scripts.engine_bench.random_models import Architecture
from scripts.engine_bench.setting import QUICK, Setting

Pointer = Any
"""llama_cpp gives pointers no type of their own."""
WANTED = 1.05


class UncountedError(Exception):
    """The engine does something that is not seen here, so that the count would be wrong."""


@dataclass(slots=True)
class Tree:
    """The prefix tree of one file: a node is known by its parent and its token; `needed` are those that stayed."""

    nodes: dict[tuple[int, int], int] = field(default_factory=dict)
    needed: set[int] = field(default_factory=set)
    n_evaluated: int = 0

    def child(self, parent: int, token: int) -> int:
        return self.nodes.setdefault((parent, token), len(self.nodes) + 1)


@dataclass(slots=True)
class Cells:
    """What the sequences of one context hold now, as paths of nodes."""

    tree: Tree
    held: dict[int, list[int]] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)

    def put(self, sequence: int, position: int, token: int) -> None:
        path = self.held.setdefault(sequence, [])
        if position > len(path):
            raise UncountedError("a sequence grew by something else than tokens that were decoded or copied")
        del path[position:]
        path.append(self.tree.child(path[-1] if path else 0, token))
        self.tree.n_evaluated += 1
        self.changed.add(sequence)

    def settle(self) -> None:
        """A step is over: what stands now was needed."""
        for sequence in self.changed:
            self.tree.needed.update(self.held.get(sequence, ()))
        self.changed.clear()


class Probe:
    """Stands before llama.cpp's functions that evaluate, copy and remove, in this process, until it ends."""

    def __init__(self) -> None:
        self._cells: dict[int, Cells] = {}
        self._decode = llama_cpp.llama_decode
        self._copy = llama_cpp.llama_memory_seq_cp
        self._remove = llama_cpp.llama_memory_seq_rm
        llama_cpp.llama_decode = self.decode
        llama_cpp.llama_memory_seq_cp = self.copy
        llama_cpp.llama_memory_seq_rm = self.remove

    def watch(self, context: Pointer, tree: Tree) -> Cells:
        """Count what this context does in `tree`."""
        return self._cells.setdefault(_address(llama_cpp.llama_get_memory(context)), Cells(tree))

    def decode(self, context: Pointer, batch: Pointer) -> int:
        cells = self._cells[_address(llama_cpp.llama_get_memory(context))]
        code = int(self._decode(context, batch))
        if code == 0:
            for row in range(batch.n_tokens):
                cells.put(batch.seq_id[row][0], batch.pos[row], batch.token[row])
        return code

    def copy(self, memory: Pointer, source: int, target: int, start: int, end: int) -> None:
        self._copy(memory, source, target, start, end)
        cells = self._cells[_address(memory)]
        path = cells.held.get(source, [])
        cells.held[target] = path[: len(path) if end < 0 else end]

    def remove(self, memory: Pointer, sequence: int, start: int, end: int) -> bool:
        done = bool(self._remove(memory, sequence, start, end))
        if done:
            del self._cells[_address(memory)].held.get(sequence, [])[max(start, 0) :]
        return done


def _address(pointer: Pointer) -> int:
    return int(ctypes.cast(pointer, ctypes.c_void_p).value or 0)


class LoopModel:
    """A loaded model without a worker process: the loop's steps are taken between those who wait for them."""

    def __init__(self, loop: Loop, cells: Cells, spec: ModelSpec) -> None:
        self._loop, self._cells, self._spec = loop, cells, spec
        self._ids = count(1)
        self._queues: dict[int, asyncio.Queue[Reply]] = {}
        self._stepping: asyncio.Task[None] | None = None

    @property
    def info(self) -> ModelInfo:
        return self._loop.info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        number = next(self._ids)
        queue = self._queues[number] = asyncio.Queue()
        self._hand_over(self._loop.submit(Generate(number, request)))
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step())
        while True:
            match await queue.get():
                case Output(item=item):
                    yield item
                    if isinstance(item, Completion):
                        return
                case Overflowed(tokens=tokens, n_ctx=n_ctx):
                    raise ContextOverflow(self._spec.name, tokens=tokens, n_ctx=n_ctx)
                case Failed(message=message):
                    raise ModelError(self._spec.name, message)

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(len(self._loop.vocabulary.tokenize(text, parse_special=False)) for text in texts)

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        reply = self._loop.count_prompt(CountPrompt(0, tuple(messages), tuple(tools)))
        assert isinstance(reply, Counted)
        return reply.counts[0]

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Embeddings:
        raise ModelError(self._spec.name, f"no {kind} is embedded here, nor {len(texts)} of them")

    async def set_threads(self, n_threads: int) -> None:
        self._loop.set_threads(n_threads)

    def is_current(self) -> bool:
        return True

    async def close(self) -> None:
        """The memory goes with the process."""

    async def _step(self) -> None:
        while not self._loop.is_idle:
            replies = self._loop.step()
            self._cells.settle()
            self._hand_over(replies)
            await asyncio.sleep(0.001)

    def _hand_over(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            assert isinstance(reply, Output | Failed | Overflowed)
            self._queues[reply.id].put_nowait(reply)


def count_tokens(paths: Sequence[Path], *, quick: bool, cores: int) -> tuple[int, int]:
    """Tokens evaluated and tokens needed in a deliberation on these files; to be run in a process of its own."""
    send_log_to(lambda _: None)
    probe = Probe()
    trees: dict[Path, Tree] = {path: Tree() for path in paths}

    async def load(spec: ModelSpec) -> Resident:
        loop = Loop(spec, TOOL_ARGUMENTS)
        return LoopModel(loop, probe.watch(loop.context.pointer, trees[spec.path]), spec)

    sizes = SMALL if quick else FULL
    asyncio.run(timed(seated(paths, sizes), sizes, load, cores=cores))
    return sum(tree.n_evaluated for tree in trees.values()), sum(len(tree.needed) for tree in trees.values())


CASES: tuple[tuple[str, Architecture, int, float | None], ...] = (
    ("one file", "llama", 1, WANTED),
    ("three files", "llama", 3, WANTED),
    ("one sliding-window file", "gemma3", 1, None),
    ("one hybrid file", "lfm2", 1, None),
)


def evaluated(setting: Setting) -> Iterable[Figure]:
    """Plain files are held to the limit; what windows and recurrent layers cost is reported apart."""
    for title, architecture, n_files, wanted in setting.pick(CASES[:1] + CASES[-1:], CASES):
        shape = replace(QUICK, architecture=architecture, n_layer=3)  # one of them with attention in a hybrid
        paths = [setting.exactly(replace(shape, seed=seed)) for seed in range(n_files)]
        with Peer() as peer:
            n_evaluated, n_needed = peer.do(count_tokens, paths, quick=setting.quick, cores=setting.cores)
        name, against = f"tokens evaluated, deliberation on {title}", f"{n_needed} nodes of the prefix trees"
        yield Figure(name, n_evaluated / n_needed, "of 1", against, wanted, is_limit=True)
