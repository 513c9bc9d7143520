"""Reads the header of a GGUF file: metadata and the table of tensors; refuses what is no whole GGUF.

Sound bounds only: what a value means, and whether the vocabulary is sound, is llama.cpp's to judge (in the
worker, where it may die of it). Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NoReturn

from localfusion.errors import ModelLoadError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
COUNT_LIMIT = 1 << 24
NESTING_LIMIT = 4
DEFAULT_ALIGNMENT = 32
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9

Value = bool | int | float | str | tuple["Value", ...]

BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),
}  # fmt: skip
"""Elements and bytes of a block of each ggml type."""

REPACKED = frozenset({2, 8, 10, 12, 13, 14, 20, 39})
"""Types that llama.cpp may keep a second, rearranged copy of on a CPU: Q4_0, Q8_0, Q2/4/5/6_K, IQ4_NL, MXFP4."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's place: `offset` from the start of the file; `n_bytes` is 0 for a type not known here."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the weights."""

    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    file_bytes: int


class _MalformedError(Exception):
    """The header is not what the format says; the message says how."""


class _Cursor:
    """Reads forward in the file's bytes and never beyond them."""

    def __init__(self, raw: bytes | mmap.mmap) -> None:
        self._raw = raw
        self.at = 0

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self._raw):
            raise _MalformedError("it ends within its header")
        self.at += size
        return bytes(self._raw[self.at - size : self.at])

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def count(self) -> int:
        value = self.number("<Q")
        if value > COUNT_LIMIT:
            raise _MalformedError("its header names an impossible number of entries")
        return value

    def text(self) -> str:
        size = self.number("<Q")
        return self.take(size).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Value:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._array(depth)
        if kind not in SCALARS:
            raise _MalformedError("its header holds a value of an unknown type")
        form = SCALARS[kind]
        (scalar,) = struct.unpack(form, self.take(struct.calcsize(form)))
        value: Value = scalar
        return value

    def _array(self, depth: int) -> Value:
        kind, count = self.number("<I"), self.count()
        if depth >= NESTING_LIMIT:
            raise _MalformedError("its header nests too deeply")
        if kind in SCALARS:
            form = SCALARS[kind]
            return struct.unpack(f"<{count}{form[1]}", self.take(struct.calcsize(form) * count))
        return tuple(self.value(kind, depth + 1) for _ in range(count))


def read_header(path: Path, *, model: str) -> Header:
    """The header of a whole, readable GGUF file; raises ModelLoadError naming `model` for anything else."""

    def refuse(why: str, hint: str) -> NoReturn:
        raise ModelLoadError(model, f"the model file {path} {why}", hint=hint)

    again = "fetch the file again; it is damaged or was not fetched to its end"
    try:
        size = path.stat().st_size
        if not path.is_file():
            refuse("is not a file", "give the path of a GGUF file")
        if size == 0:
            refuse("is empty", again)
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                refuse("is not a GGUF file", "localfusion runs GGUF files only; a page saved as a file is not one")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
                return _parse(_Cursor(raw), size)
    except _MalformedError as error:
        refuse(f"is damaged: {error}", again)
    except FileNotFoundError:
        refuse("does not exist", "check the path of the model in models.yaml")
    except OSError as error:
        refuse(f"cannot be read: {error.strerror}", "check the permissions of the file")


def _parse(cursor: _Cursor, size: int) -> Header:
    cursor.take(len(MAGIC))
    version = cursor.number("<I")
    if version not in VERSIONS:
        raise _MalformedError(f"it is GGUF version {version}, and versions 2 and 3 can be read")
    n_tensors, n_values = cursor.count(), cursor.count()
    metadata = {cursor.text(): cursor.value(cursor.number("<I")) for _ in range(n_values)}
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or not 0 < alignment <= COUNT_LIMIT:
        raise _MalformedError("its alignment is impossible")
    found = [_tensor(cursor) for _ in range(n_tensors)]
    start = -(-cursor.at // alignment) * alignment
    tensors = tuple(Tensor(t.name, t.shape, t.type, start + t.offset, t.n_bytes) for t in found)
    end = max((t.offset + t.n_bytes for t in tensors), default=0)
    if end > size:
        raise _MalformedError(f"{end} bytes are named in its header and {size} are there")
    if not tensors or "general.architecture" not in metadata:
        raise _MalformedError("it holds no model")
    return Header(metadata, tensors, size)


def _tensor(cursor: _Cursor) -> Tensor:
    name, n_dimensions = cursor.text(), cursor.number("<I")
    if n_dimensions > 8:
        raise _MalformedError("a tensor has an impossible number of dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(n_dimensions))
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    elements, size = BLOCKS.get(kind, (1, 0))
    return Tensor(name, shape, kind, offset, prod(shape) // elements * size)


def weights_bytes(header: Header, *, on_cpu: bool) -> int:
    """At most what the weights take in memory, repacked copies included; the file's size where a type is unknown."""
    if any(tensor.n_bytes == 0 for tensor in header.tensors):
        return header.file_bytes
    copies = sum(t.n_bytes for t in header.tensors if on_cpu and t.type in REPACKED and len(t.shape) > 1)
    return sum(t.n_bytes for t in header.tensors) + copies
