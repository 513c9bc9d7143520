"""The typed messages between the parent and a worker, and how they are framed on the pipe.

A frame is a 4-byte big-endian length and a pickle. Only the pickles of our own child (and, in the child,
of our own parent) are ever read, so pickle is safe here. Nothing else crosses the process border.
"""

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from localfusion.engine.footprint import DryRun
from localfusion.messages import (
    Completion,
    Delta,
    EngineFacts,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelSpec,
    Progress,
    ToolSpec,
)

LENGTH = struct.Struct(">I")
"""The frame's head."""

FLOATS = "<f4"
"""How numbers of a vector cross the pipe, as numpy writes it: float32, little-endian."""
FLOAT_BYTES = 4

LESS_ON_GPU = "its GPU may have no room: set a smaller n_gpu_layers in models.yaml, or give a smaller --vram"
"""What to do where a file with layers on a GPU cannot be loaded, and no more is known."""


@dataclass(frozen=True, slots=True)
class Load:
    """The first command: load this file; answered by Loaded or LoadFailed.

    `tools` maps the name of each tool to its one argument, for the derivation of the tool syntax. `state_cache` is
    the folder where states of sequences outlive the worker; None: nowhere.
    """

    spec: ModelSpec
    tools: Mapping[str, str]
    state_cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """Instead of Load: find out what loading would take; answered by Measured or LoadFailed."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Describe:
    """Instead of Load: how the engine was built; answered by Described."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Answered by any number of Progress and Delta, then one Completion, Overflowed, Refused or Failed."""

    id: int
    request: GenerateRequest


@dataclass(frozen=True, slots=True)
class Embed:
    """Make a vector of each text; answered by Embedded for one batch after another, or Failed."""

    id: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the request early: a Generate is answered by its Completion ("cancelled"), an Embed by nothing more."""

    id: int


@dataclass(frozen=True, slots=True)
class CountTokens:
    """Answered by Counted."""

    id: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CountPrompt:
    """How long the prompt of this conversation is, as the file's chat template writes it; Counted or Failed."""

    id: int
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class SetThreads:
    """Use this many threads from the next decode on, unless the file is deterministic; answered by Done."""

    id: int
    n_threads: int


Command = Load | Measure | Describe | Generate | Embed | Cancel | CountTokens | CountPrompt | SetThreads


@dataclass(frozen=True, slots=True)
class Loaded:
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class Measured:
    """What llama.cpp said of a load without carrying it out; the weights are in the file's own table."""

    dry_run: DryRun


@dataclass(frozen=True, slots=True)
class Described:
    facts: EngineFacts


@dataclass(frozen=True, slots=True)
class LoadFailed:
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Log:
    """A line of llama.cpp's own log."""

    line: str


@dataclass(frozen=True, slots=True)
class Output:
    """Something that a generation produced; a Completion is the last."""

    id: int
    item: Progress | Delta | Completion


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of the next texts of a request: FLOATS, `n_embd` a text, each vector of length 1.

    `n_cut` of these texts were longer than the window: their beginnings are what was read. A text without any token has
    the vector of zeros.
    """

    id: int
    vectors: bytes
    n_embd: int
    n_cut: int

    @property
    def n_texts(self) -> int:
        return len(self.vectors) // (FLOAT_BYTES * self.n_embd)


@dataclass(frozen=True, slots=True)
class Overflowed:
    """The prompt of this request does not fit."""

    id: int
    tokens: int
    n_ctx: int


@dataclass(frozen=True, slots=True)
class Failed:
    """This request failed; the worker lives on."""

    id: int
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The grammar of this request cannot be compiled or followed; `line` of it is at fault, where that is known."""

    id: int
    message: str
    reason: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Counted:
    id: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    id: int


Answer = Output | Embedded | Overflowed | Failed | Refused | Counted | Done
"""What answers a command of a number."""

Reply = Loaded | Measured | Described | LoadFailed | Log | Answer


def to_frame(message: Command | Reply) -> bytes:
    """One message as the bytes that go through the pipe."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def read_command(stream: BinaryIO) -> Command | None:
    """The next command; None where the parent closed the pipe, in the middle of a frame or between two."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = stream.read(length)
    if len(body) < length:
        return None
    command: Command = pickle.loads(body)
    return command


def to_reply(body: bytes) -> Reply:
    """The reply that a frame's body holds."""
    reply: Reply = pickle.loads(body)
    return reply
