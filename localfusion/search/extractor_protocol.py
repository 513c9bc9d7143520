"""What crosses the pipes to and from a process that reads files, and how it is framed.

That process reads files of unknown origin and may be taken over by one. So a frame is a bounded number of byte strings
and nothing is built from it but numbers and text: no pickle, no nesting. What a taken-over process says of a file may
still be untrue; that it is of the right form is all that is checked here.
"""

import os
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from localfusion.analysis import Link
from localfusion.search.blocks import MAX_CHARACTERS
from localfusion.search.passages import Piece
from localfusion.search.read_page import ReadPage

_HEAD = struct.Struct(">II")
"""The number of parts and the bytes of all; the length of each part follows, then the parts."""
_MAX_INTEGER = 2**63 - 1
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
_INTEGER = re.compile(rb"-?\d{1,19}")

NO_MEMORY = 77
"""What the process returns that ends because a file takes more memory than it may."""

Frame = tuple[bytes, ...]


class Malformed(ValueError):
    """A frame that is not what its place asks for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may take. `time_s` is of the processor; by the clock, on a busy machine, four times as much.

    `max_characters` is of the text that is made of it.
    """

    time_s: float = 30.0
    memory_bytes: int = 2**30
    max_characters: int = MAX_CHARACTERS

    @property
    def clock_s(self) -> float:
        return 4 * self.time_s

    @property
    def max_reply_bytes(self) -> int:
        """The text once whole and once in passages, in UTF-8, with the headings above each passage."""
        return 12 * self.max_characters + 2**20

    @property
    def max_reply_parts(self) -> int:
        """A passage, which is two parts, has at least one character; so has a link."""
        return min(2 * self.max_characters, 2**21) + 2**10


DEFAULT = Limits()


@dataclass(frozen=True, slots=True)
class FileRead:
    """What was found in a file; `problem` says why it cannot be read.

    `size` is -1 where it could not even be opened, `content_sha256` is "" where its bytes were not read.
    """

    size: int
    mtime_ns: int
    content_sha256: str
    problem: str | None = None
    title: str = ""
    text: str = ""
    passages: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Begin:
    """The first request: what holds from now on; answered by an empty frame."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """Answered by a FileRead for each path, in order, each as soon as it is there."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class ReadFetched:
    """The arguments of `read_page`; answered by a ReadPage, or by why there is none."""

    content: bytes
    media_type: str
    charset: str | None
    url: str


Request = Begin | ReadFiles | ReadFetched


def request_frame(request: Request) -> Frame:
    """A request as it is sent."""
    match request:
        case Begin(limits):
            numbers = (limits.time_s, limits.memory_bytes, limits.max_characters)
            return (b"begin", *(f"{number}".encode() for number in numbers))
        case ReadFiles(paths):
            return (b"files", *(os.fsencode(path) for path in paths))
        case ReadFetched(content, media_type, charset, url):
            named = [] if charset is None else [charset]
            return (b"page", content, *(_encoded(text) for text in (media_type, url, *named)))


def to_request(frame: Frame) -> Request:
    """The request that our own parent sent."""
    match frame:
        case b"begin", time_s, memory_bytes, max_characters:
            return Begin(Limits(float(time_s), int(memory_bytes), int(max_characters)))
        case b"files", *paths:
            return ReadFiles(tuple(Path(os.fsdecode(path)) for path in paths))
        case b"page", content, media_type, url, *charset:
            return ReadFetched(content, media_type.decode(), charset[0].decode() if charset else None, url.decode())
        case _:
            raise Malformed("it is no request")


def file_frame(found: FileRead) -> Frame:
    """The answer to one path of ReadFiles."""
    problem = [] if found.problem is None else [found.problem]
    numbers = (found.size, found.mtime_ns, len(problem))
    texts = [found.content_sha256, *problem, found.title, found.text]
    texts += [text for piece in found.passages for text in (piece.headings, piece.text)]
    return (*(f"{number}".encode() for number in numbers), *map(_encoded, texts))


def to_file(frame: Frame) -> FileRead:
    """What `file_frame` wrote. Raises Malformed."""
    numbers = tuple(_integer(part) for part in frame[:3])
    texts = _texts(frame[3:])
    size, mtime_ns, n_problems = numbers if len(numbers) == 3 else (0, 0, -1)
    if n_problems not in (0, 1) or len(texts) < 3 + n_problems or not _DIGEST.fullmatch(texts[0]):
        raise Malformed("it is no file that was read")
    digest, problems, (title, text, *rest) = texts[0], texts[1 : 1 + n_problems], texts[1 + n_problems :]
    pieces = tuple(Piece(headings, part) for headings, part in _pairs(rest))
    return FileRead(size, mtime_ns, digest, problems[0] if problems else None, title, text, pieces)


def page_frame(found: ReadPage | str) -> Frame:
    """The answer to ReadFetched: a page, or why it cannot be read."""
    if isinstance(found, str):
        return (_encoded(found),)
    around = (found.title, found.text, found.author, found.published, found.site)
    texts = [*around, *(text for link in found.links for text in (link.url, link.text))]
    return (f"{len(found.warnings)}".encode(), *map(_encoded, found.warnings), *map(_encoded, texts))


def to_page(frame: Frame) -> ReadPage | str:
    """What `page_frame` wrote. Raises Malformed."""
    if len(frame) == 1:
        return _texts(frame)[0]
    n_warnings = _integer(frame[0]) if frame else 0
    texts = _texts(frame[1:])
    if not 0 <= n_warnings <= len(texts) - 5:
        raise Malformed("it is no page")
    title, text, author, published, site, *rest = texts[n_warnings:]
    links = tuple(Link(url, words) for url, words in _pairs(rest))
    return ReadPage(title, text, links, tuple(texts[:n_warnings]), author, published, site)


def write_frame(stream: BinaryIO, frame: Frame) -> None:
    """Write one frame, at once."""
    lengths = struct.pack(f">{len(frame)}I", *map(len, frame))
    stream.write(b"".join((_HEAD.pack(len(frame), sum(map(len, frame))), lengths, *frame)))
    stream.flush()


def read_frame(stream: BinaryIO, *, max_parts: int = 2**31, max_bytes: int = 2**31) -> Frame | None:
    """The next frame; None where the pipe was closed, in the middle of one or between two. Raises Malformed."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    n_parts, n_bytes = _HEAD.unpack(head)
    if n_parts > max_parts or n_bytes > max_bytes:
        raise Malformed("it is larger than it may be")
    packed = stream.read(4 * n_parts)
    body = stream.read(n_bytes)
    if len(packed) < 4 * n_parts or len(body) < n_bytes:
        return None
    lengths = struct.unpack(f">{n_parts}I", packed)
    if sum(lengths) != n_bytes:
        raise Malformed("its parts are not as long as it says")
    return tuple(_parts(body, lengths))


def _parts(body: bytes, lengths: Sequence[int]) -> Iterable[bytes]:
    start = 0
    for length in lengths:
        yield body[start : start + length]
        start += length


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _integer(part: bytes) -> int:
    if not _INTEGER.fullmatch(part) or abs(int(part)) > _MAX_INTEGER:
        raise Malformed("it is no number")
    return int(part)


def _texts(parts: Iterable[bytes]) -> list[str]:
    try:
        return [part.decode() for part in parts]
    except UnicodeDecodeError as error:
        raise Malformed("it is no text") from error


def _pairs(texts: Sequence[str]) -> Iterable[tuple[str, str]]:
    if len(texts) % 2:
        raise Malformed("one of a pair is missing")
    return zip(texts[::2], texts[1::2], strict=True)
