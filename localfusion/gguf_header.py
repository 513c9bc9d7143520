"""Reads the header of a GGUF file: metadata and the table of tensors; refuses what is no whole GGUF.

The file is of unknown origin: whatever it says, reading it ends soon, takes little memory, and gives a header or a
ModelLoadError. Sound bounds only: what a value means, and whether the vocabulary is sound, is llama.cpp's to judge (in
the worker, where it may die of it). Lists, such as the vocabulary, are walked over, and only their sizes kept.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from pathlib import Path

from localfusion.errors import ModelLoadError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
COUNT_LIMIT = 1 << 24
ENTRY_LIMIT = 1 << 17
"""Values, and tensors, of a file; the largest models have some thousands."""
WALK_LIMIT = 1 << 22
"""Texts and lists within lists that are walked over in a file; the largest vocabularies have a million with merges."""
TEXT_LIMIT_BYTES = 1 << 26
"""All texts of a header that are kept, chat templates included."""
NAME_LIMIT_BYTES = 64
DIMENSION_LIMIT = 4
ELEMENT_LIMIT = OFFSET_LIMIT = (1 << 63) - 1
"""What llama.cpp counts elements and bytes with."""
PARTS_LIMIT = 1 << 10
"""llama.cpp writes a part number with five digits; no model that is split into files of a gigabyte has as many."""
NESTING_LIMIT = 4
DEFAULT_ALIGNMENT = 32
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, LIST = 8, 9
SIZE = struct.Struct("<Q")
LENGTH_BYTES = SIZE.size
CUT_SHORT = "it ends within its header"
SAME_TENSORS = "two of its tensors have one name"
FETCH_AGAIN = "fetch the file again or choose another"
CONVERT = "llama.cpp reads GGUF files only; convert the model, or fetch its GGUF"
FOREIGN: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"\s*(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE),
        "it is a web page, perhaps the one that said why there was no file",
        "open its address in a browser: it may ask you to log in, or to agree to a licence; then fetch the file again",
    ),
    (
        re.compile(rb"version https://git-lfs"),
        "it is a Git LFS pointer, which only names the file",
        "run `git lfs pull` in its repository, or fetch the file itself",
    ),
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "it is a zip archive, as PyTorch writes its weights", CONVERT),
    (re.compile(rb".{8}\{\s*\"", re.DOTALL), "it is a safetensors file", CONVERT),
    (re.compile(rb"\x80[\x02-\x05]"), "it is a Python pickle, which can run any program", CONVERT),
    (re.compile(rb"(lmgg|fmgg|tjgg|algg)"), "it is of a format older than GGUF", CONVERT),
    (re.compile(rb"(\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ)"), "it is compressed", "unpack it first"),
    (re.compile(rb"\s*\{\s*\""), "it is JSON, perhaps a message that said why there was no file", FETCH_AGAIN),
)
"""What a file begins with that is something else, what that is, and what to do about it."""
FOREIGN_BYTES = 256

PART_NAME = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.gguf\Z")
"""How llama.cpp names the parts of a split GGUF, counted from 1; it finds the others by the name of the first."""

Value = bool | int | float | str
FileIdentity = tuple[tuple[int, int, int, int], ...]

BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),
}  # fmt: skip
"""Elements and bytes of a block of each ggml type."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's place: `offset` from the start of its file; `n_bytes` is 0 for a type not known here.

    `shape` begins with the length of a row. `part` says which file of a split GGUF it is in, counted from 0.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    n_bytes: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class ListSize:
    """How many values a list has, and the bytes they take in the file; a text takes LENGTH_BYTES more than it has."""

    count: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the weights; of a split GGUF, what stands before the weights of all parts."""

    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    file_bytes: int
    paths: tuple[Path, ...] = ()
    lists: Mapping[str, ListSize] = field(default_factory=dict)


class _MalformedError(Exception):
    """The header is not what the format says; the message says how."""


class _CutShortError(_MalformedError):
    """The bytes end within the header."""

    def __init__(self) -> None:
        super().__init__(CUT_SHORT)


class _Cursor:
    """Reads forward in the file's bytes and never beyond them, within the limits of what a header may hold."""

    def __init__(self, raw: bytes | mmap.mmap) -> None:
        self._raw = raw
        self._n_walked = self._text_bytes = 0
        self.at = 0

    def take(self, size: int) -> bytes:
        self._skip(size)
        return bytes(self._raw[self.at - size : self.at])

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def count(self, limit: int) -> int:
        value = self.number("<Q")
        if value > limit:
            raise _MalformedError("its header names an impossible number of entries")
        return value

    def text(self) -> str:
        size = self.number("<Q")
        self._text_bytes += size
        if self._text_bytes > TEXT_LIMIT_BYTES and self.at + size <= len(self._raw):
            raise _MalformedError("its header holds impossibly long texts")
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _MalformedError("its header holds a text that is not UTF-8") from error

    def scalar(self, kind: int) -> Value:
        if kind == STRING:
            return self.text()
        if kind not in SCALARS:
            raise _MalformedError("its header holds a value of an unknown type")
        form = SCALARS[kind]
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        scalar: Value = value
        return scalar

    def skip_list(self, depth: int = 0) -> ListSize:
        kind, count, start = self.number("<I"), self.count(COUNT_LIMIT), self.at
        if depth >= NESTING_LIMIT:
            raise _MalformedError("its header nests too deeply")
        if kind in (STRING, LIST):
            self._n_walked += count
            if self._n_walked > WALK_LIMIT:
                raise _MalformedError("its header names an impossible number of entries")
        if kind == STRING:
            self._skip_texts(count)
        elif kind == LIST:
            for _ in range(count):
                self.skip_list(depth + 1)
        elif kind in SCALARS:
            self._skip(struct.calcsize(SCALARS[kind]) * count)
        else:
            raise _MalformedError("its header holds a value of an unknown type")
        return ListSize(count, self.at - start)

    def _skip_texts(self, count: int) -> None:
        """A vocabulary has some 150 000 texts, and its merges are as many: this loop is what reading a header takes."""
        raw, at, last = self._raw, self.at, len(self._raw) - SIZE.size
        for _ in range(count):
            if at > last:
                raise _CutShortError
            at += SIZE.size + SIZE.unpack_from(raw, at)[0]
        self._skip(at - self.at)

    def _skip(self, size: int) -> None:
        if self.at + size > len(self._raw):
            raise _CutShortError
        self.at += size


def read_header(path: Path, *, model: str) -> Header:
    """The header of a whole, readable GGUF, all parts of a split one together; raises ModelLoadError naming `model`."""
    first = _read_file(path, model=model)
    paths = (path, *_other_parts(path, first, model=model))
    headers = [first, *(_read_file(part, model=model) for part in paths[1:])]
    for number, (part, header) in enumerate(zip(paths, headers, strict=True)):
        if len(paths) > 1 and _place(header) != (number, len(paths)):
            raise _refusal(model, f"is not part {number + 1} of {len(paths)}", part, hint=FETCH_AGAIN)
    tensors = tuple(replace(t, part=part) for part, header in enumerate(headers) for t in header.tensors)
    header = replace(first, tensors=tensors, file_bytes=sum(part.file_bytes for part in headers), paths=paths)
    if not header.tensors or not isinstance(header.metadata.get("general.architecture"), str):
        raise _refusal(model, "is damaged", path, "it holds no model")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise _refusal(model, "is damaged", path, SAME_TENSORS)
    return header


def header_length(start: bytes, *, file_bytes: int, model: str) -> int | None:
    """How long the header is of a file of `file_bytes` that begins with `start`; None where it goes on behind that.

    What stands before the weights of this one file, which may be a part. Raises ModelLoadError for what is no GGUF.
    """
    cursor = _Cursor(start)
    try:
        if not start.startswith(MAGIC[: len(start)]):
            raise _MalformedError("it is not a GGUF")
        _parse(cursor, file_bytes)
    except _CutShortError as error:
        if len(start) < file_bytes:
            return None
        raise ModelLoadError(model, f"the file of the model {model} is damaged: {error}", hint=FETCH_AGAIN) from error
    except _MalformedError as error:
        raise ModelLoadError(model, f"the file of the model {model} is damaged: {error}", hint=FETCH_AGAIN) from error
    return cursor.at


def _place(header: Header) -> tuple[Value, Value]:
    """Which part a file says that it is, counted from 0, and of how many."""
    return header.metadata.get("split.no", 0), header.metadata.get("split.count", 1)


def _other_parts(path: Path, first: Header, *, model: str) -> list[Path]:
    number, count = _place(first)
    if not isinstance(count, int) or count <= 1:
        return []
    if count > PARTS_LIMIT:
        raise _refusal(model, "is damaged", path, "its header names an impossible number of parts")
    name = f"-00001-of-{count:05}.gguf"
    if number != 0:
        raise _refusal(model, f"is a later part of {count}", path, hint=f"name the first part, which ends in {name}")
    if not path.name.endswith(name):
        raise _refusal(model, f"is the first of {count} parts under another name", path, hint=f"let it end in {name}")
    stem = path.name.removesuffix(name)
    return [path.with_name(f"{stem}-{part:05}-of-{count:05}.gguf") for part in range(2, count + 1)]


def part_names(name: str) -> list[str]:
    """The names of all files that a model is in, by that of its first; no more than PARTS_LIMIT."""
    numbered = PART_NAME.search(name)
    if numbered is None:
        return [name]
    count = numbered[0].removesuffix(".gguf").rpartition("-")[2]
    n_parts = max(1, min(int(count), PARTS_LIMIT))
    return [f"{name[: numbered.start()]}-{part:05}-of-{count}.gguf" for part in range(1, n_parts + 1)]


def part_paths(path: Path) -> list[Path]:
    """The files that a model is in, by their names: of a split GGUF, the parts that are there."""
    if PART_NAME.search(path.name) is None:
        return [path]
    return [part for name in part_names(path.name) if (part := path.with_name(name)).exists()]


def identity(parts: Iterable[Path]) -> FileIdentity:
    """What tells one content of a model's files from another: where they lie, their sizes and times.

    A part that is gone has none.
    """
    found = []
    for part in parts:
        with suppress(OSError):
            status = part.stat()
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _read_file(path: Path, *, model: str) -> Header:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise _refusal(model, "is not a file", path, hint="give the path of a GGUF file")
        if size == 0:
            raise _refusal(model, "is empty", path)
        with path.open("rb") as file:
            beginning = file.read(FOREIGN_BYTES)
            if not beginning.startswith(MAGIC):
                raise _refusal(model, "is not a GGUF", path, *_foreign(beginning))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
                return _parse(_Cursor(raw), size)
    except _MalformedError as error:
        raise _refusal(model, "is damaged", path, str(error)) from error
    except FileNotFoundError as error:
        hint = "check the path, or choose a model whose file is there"
        raise _refusal(model, "does not exist", path, hint=hint) from error
    except OSError as error:
        hint = "name a GGUF file that you may read"
        raise _refusal(model, "cannot be read", path, error.strerror or "", hint=hint) from error


def _foreign(beginning: bytes) -> tuple[str, str]:
    """What a file is that is no GGUF, "" where that is not known, and what to do about it."""
    return next(((what, hint) for pattern, what, hint in FOREIGN if pattern.match(beginning)), ("", CONVERT))


def _refusal(model: str, how: str, path: Path, why: str = "", hint: str = FETCH_AGAIN) -> ModelLoadError:
    message, brief = (
        f"the file of the model {model} {how}: {file}{f': {why}' if why else ''}" for file in (path, path.name)
    )
    return ModelLoadError(model, message, brief=brief, hint=hint)


def _parse(cursor: _Cursor, size: int) -> Header:
    cursor.take(len(MAGIC))
    version = cursor.number("<I")
    if version not in VERSIONS:
        is_swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        said = "of a machine with another order of bytes" if is_swapped else f"version {version}"
        raise _MalformedError(f"it is GGUF {said}, and versions 2 and 3 can be read")
    n_tensors, n_values = cursor.count(ENTRY_LIMIT), cursor.count(ENTRY_LIMIT)
    metadata, lists = _metadata(cursor, n_values)
    alignment = _alignment(metadata)
    found = [_tensor(cursor) for _ in range(n_tensors)]
    start = -(-cursor.at // alignment) * alignment
    tensors = tuple(replace(tensor, offset=start + tensor.offset) for tensor in found)
    _check_places(tensors, start=start, alignment=alignment, size=size)
    vocabulary = metadata.get(f"{metadata.get('general.architecture')}.vocab_size", 0)
    if isinstance(vocabulary, int) and not 0 <= vocabulary <= min(size, COUNT_LIMIT):
        raise _MalformedError("its header names an impossible size of the vocabulary")
    return Header(metadata, tensors, size, lists=lists)


def _metadata(cursor: _Cursor, n_values: int) -> tuple[dict[str, Value], dict[str, ListSize]]:
    metadata: dict[str, Value] = {}
    lists: dict[str, ListSize] = {}
    for _ in range(n_values):
        key, kind = cursor.text(), cursor.number("<I")
        if key in metadata or key in lists:
            raise _MalformedError("its header holds two values under one key")
        if kind == LIST:
            lists[key] = cursor.skip_list()
        else:
            metadata[key] = cursor.scalar(kind)
    return metadata, lists


def _alignment(metadata: Mapping[str, Value]) -> int:
    """What offsets are multiples of: a power of two."""
    found = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= COUNT_LIMIT or found & (found - 1):
        raise _MalformedError("its alignment is impossible")
    return found


def _tensor(cursor: _Cursor) -> Tensor:
    """The next tensor of the table; its offset is from the first."""
    name, n_dimensions = cursor.text(), cursor.number("<I")
    if len(name.encode()) > NAME_LIMIT_BYTES:
        raise _MalformedError("a tensor has an impossibly long name")
    if n_dimensions > DIMENSION_LIMIT:
        raise _MalformedError("a tensor has an impossible number of dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(n_dimensions))
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    elements, size = BLOCKS.get(kind, (1, 0))
    if not 0 < prod(shape) <= ELEMENT_LIMIT or (shape and shape[0] % elements):
        raise _MalformedError("a tensor has an impossible shape")
    return Tensor(name, shape, kind, offset, prod(shape) // elements * size)


def _check_places(tensors: Sequence[Tensor], *, start: int, alignment: int, size: int) -> None:
    """Refuse tensors that are not all there, or of which one lies in another or begins where none can."""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise _MalformedError(SAME_TENSORS)
    end = max((tensor.offset + tensor.n_bytes for tensor in tensors), default=0)
    if end > OFFSET_LIMIT:
        raise _MalformedError("a tensor begins at an impossible place")
    if end > size:
        raise _MalformedError(f"{end} bytes are named in its header and {size} are there")
    if any((tensor.offset - start) % alignment for tensor in tensors):
        raise _MalformedError("a tensor begins at an impossible place")
    by_place = sorted(tensors, key=lambda tensor: (tensor.offset, tensor.n_bytes))
    if any(one.offset + one.n_bytes > other.offset for one, other in pairwise(by_place)):
        raise _MalformedError("its tensors overlap")
