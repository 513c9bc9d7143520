"""States of sequences on disk, so that a prompt seen in an earlier run is read back instead of evaluated again.

One file a state: what tokens it stands for, and the bytes that llama.cpp makes of their cells. A file is used only
after its checksum was verified, since llama.cpp may end the process over bytes that are none of its own. Several
workers may use one folder. Not here: what a sequence is, and when its state is worth asking for.
"""

import mmap
import os
import re
import shutil
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tempfile import mkstemp
from time import time

import numpy as np
import psutil
from numpy.typing import NDArray

from localfusion.gguf_header import part_paths

MAX_BYTES = 4 << 30
"""What a folder may hold, all models together; the states that were used longest ago go first."""
MINIMUM_TOKENS = 256
"""A gain of fewer tokens is evaluated rather than kept or read back."""
NEW_PART = 4
"""A state is written where at least 1/NEW_PART of it is new: a growing conversation is not written at every turn."""
BYTES_PER_S = 500e6
"""How fast a state is taken to be read, checksum included. What takes longer than evaluating is not kept."""
SPARE_DISK = 2
"""Nothing is written where less than this many times its size is free."""
ABANDONED_S = 3600.0
"""How old an unfinished file is when its writer must be gone, though a process has its number."""
YOUNG_S = 60.0
"""How old it is when a writer whose number no process has is taken to be gone: it may be in another container."""
RELEASE_S = 0.005
"""How often the pages that were used are let go: some tens of MiB are held of a state of any size."""
CHANGED_BYTES = 1 << 20
"""How much of a state, from its start on, whoever reads it may change."""

MAGIC = b"lfstate2"
DIGEST_BYTES = 32
FIELDS = struct.Struct(f"<{DIGEST_BYTES}sdIQ")
"""Behind magic and checksum: key, seconds per token, number of tokens, bytes of the state. Then tokens and state."""
HEAD_BYTES = len(MAGIC) + DIGEST_BYTES + FIELDS.size
TOKEN = np.dtype("<i4")
SUFFIX, UNFINISHED = ".state", ".unfinished"
FINGERPRINT_BYTES = 16 << 20

Tokens = NDArray[np.int32]


def content_key(path: Path, *settings: object) -> bytes:
    """What states depend on: the model file and the settings that shape or change its cells.

    Of each part of the file its size, its time of change and its first 16 MiB, which hold the header with the
    vocabulary. A path alone would outlive a new download under the old name; a digest of all weights would take longer
    than loading them. A copy with a new time costs one evaluation, never a wrong state.
    """
    digest = blake2b(repr((MAGIC, settings)).encode(), digest_size=DIGEST_BYTES)
    for part in part_paths(path):
        with part.open("rb") as file:
            status = os.fstat(file.fileno())
            digest.update(f"|{status.st_size}|{status.st_mtime_ns}|".encode())
            digest.update(file.read(FINGERPRINT_BYTES))
    return digest.digest()


@dataclass(frozen=True, slots=True)
class State:
    """A file of the cache: the tokens it stands for, and what evaluating one of them took when it was written."""

    path: Path
    ids: Tokens
    n_bytes: int
    seconds_per_token: float


@dataclass(slots=True)
class StateCache:
    """The states of one model in a folder. What cannot be written or read is done without, and never an error.

    `to_disk` sees to it that a file's memory is on the disk, and takes as long as the disk takes.
    """

    folder: Path
    key: bytes
    max_bytes: int = MAX_BYTES
    to_disk: Callable[[mmap.mmap], object] = mmap.mmap.flush
    _known: dict[str, State] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    _read_tokens: int = 0
    _read_seconds: float = 0.0
    _writer: threading.Thread | None = None
    _is_broken: bool = False

    def note_reading(self, n_tokens: int, seconds: float) -> None:
        """So many tokens of a prompt were evaluated in so many seconds."""
        self._read_tokens += n_tokens
        self._read_seconds += seconds

    def find(self, ids: Sequence[int], *, n_known: int, is_whole: bool) -> tuple[State, int] | None:
        """The state that has most of a prompt of which `n_known` tokens are evaluated, and how many; None: no gain.

        `is_whole`: only the whole of a state is of use. The last token of a prompt is always evaluated.
        """
        wanted = np.array(ids[:-1], TOKEN)
        wanted_states = [state for state in self._states() if state.path.name not in self._refused]
        found = [(state, self._usable(state, wanted, is_whole=is_whole)) for state in wanted_states]
        best = max(found, key=lambda pair: pair[1], default=None)
        if best is None or best[1] - n_known < MINIMUM_TOKENS:
            return None
        state, n_tokens = best
        return best if _pays(state.n_bytes, (n_tokens - n_known) * state.seconds_per_token) else None

    def restore(self, state: State, read: Callable[[memoryview], bool]) -> bool:
        """Give a state's bytes to `read`, which may change the first CHANGED_BYTES; whether it took them.

        The file is gone where they are damaged. One that is refused stays, for others: there may be no room for it now.
        """
        try:
            with state.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as raw:
                start = HEAD_BYTES + state.ids.nbytes
                with _passing(raw):
                    is_sound = self._is_sound(raw, state)
                if is_sound:
                    with _passing(raw, start + CHANGED_BYTES):
                        is_read = _lend(raw, start, len(raw), read)
        except (OSError, ValueError):  # gone, or empty
            is_sound = False
        if not is_sound:
            self._forget(state.path)
            return False
        if not is_read:
            self._refused.add(state.path.name)
            return False
        with suppress(OSError):
            os.utime(state.path)
        return True

    def offer(self, ids: Sequence[int], *, is_whole: bool, n_bytes: int, write: Callable[[memoryview], bool]) -> bool:
        """Keep the state of these tokens, which `write` puts into `n_bytes` of memory, where that is worth it.

        Checksum and disk are left to a thread; while it is busy, nothing else is kept.
        """
        if self._is_broken or len(ids) < MINIMUM_TOKENS or (self._writer is not None and self._writer.is_alive()):
            return False
        tokens, pace = np.array(ids, TOKEN), self._read_seconds / max(self._read_tokens, 1)
        if not _pays(n_bytes, len(ids) * pace) or n_bytes > self.max_bytes // 2 or not self._is_new(tokens, is_whole):
            return False
        try:
            unfinished = self._open_unfinished(HEAD_BYTES + tokens.nbytes + n_bytes)
        except OSError:
            self._is_broken = True
            return False
        head = FIELDS.pack(self.key, pace, len(ids), n_bytes) + tokens.tobytes()
        start = len(MAGIC) + DIGEST_BYTES
        unfinished.raw[start : start + len(head)] = head
        with _passing(unfinished.raw):
            is_written = _lend(unfinished.raw, start + len(head), len(unfinished.raw), write)
        if not is_written:
            unfinished.discard()
            return False
        name = f"{self._prefix}{blake2b(tokens.tobytes(), digest_size=16).hexdigest()}{SUFFIX}"
        self._writer = threading.Thread(target=self._finish, args=(unfinished, self.folder / name), daemon=True)
        self._writer.start()
        return True

    def wait(self) -> None:
        """Until what was kept last is on disk."""
        if self._writer is not None:
            self._writer.join()

    @property
    def _prefix(self) -> str:
        return f"{self.key.hex()[:16]}-"

    def _is_new(self, tokens: Tokens, is_whole: bool) -> bool:
        known = max((self._usable(state, tokens, is_whole=is_whole) for state in self._states()), default=0)
        return len(tokens) - known >= max(MINIMUM_TOKENS, len(tokens) // NEW_PART)

    @staticmethod
    def _usable(state: State, wanted: Tokens, *, is_whole: bool) -> int:
        n = min(len(state.ids), len(wanted))
        different = np.flatnonzero(state.ids[:n] != wanted[:n])
        common = int(different[0]) if len(different) else n
        return common if common == len(state.ids) or not is_whole else 0

    def _states(self) -> list[State]:
        """This model's states, as far as their heads can be read; others of its name are removed."""
        names = {path.name for path in _files(self.folder) if path.name.startswith(self._prefix)}
        self._known = {name: state for name, state in self._known.items() if name in names}
        for name in names - set(self._known):
            if name.endswith(SUFFIX):
                state = self._read_head(self.folder / name)
                if state is not None:
                    self._known[name] = state
        return list(self._known.values())

    def _read_head(self, path: Path) -> State | None:
        try:
            with path.open("rb") as file:
                size, head = os.fstat(file.fileno()).st_size, file.read(HEAD_BYTES)
                if len(head) == HEAD_BYTES and head.startswith(MAGIC):
                    key, pace, n_tokens, n_bytes = FIELDS.unpack(head[len(MAGIC) + DIGEST_BYTES :])
                    if key == self.key and HEAD_BYTES + n_tokens * TOKEN.itemsize + n_bytes == size:
                        ids = np.frombuffer(file.read(n_tokens * TOKEN.itemsize), TOKEN)
                        return State(path, ids, n_bytes, pace)
        except FileNotFoundError:
            return None
        except OSError:
            pass
        self._forget(path)
        return None

    def _is_sound(self, raw: mmap.mmap, state: State) -> bool:
        """Whether the file holds what was written, and what its head said when it was looked at."""
        start = len(MAGIC) + DIGEST_BYTES
        head = FIELDS.pack(self.key, state.seconds_per_token, len(state.ids), state.n_bytes) + state.ids.tobytes()
        is_whole = len(raw) == start + len(head) + state.n_bytes and raw[start : start + len(head)] == head
        return is_whole and raw[len(MAGIC) : start] == _checksum(raw)

    def _forget(self, path: Path) -> None:
        self._known.pop(path.name, None)
        with suppress(OSError):
            path.unlink()

    def _open_unfinished(self, n_bytes: int) -> "Unfinished":
        """A file of this size, its room on the disk taken: a page of it that finds none would end the process."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room(n_bytes)
        if shutil.disk_usage(self.folder).free < SPARE_DISK * n_bytes:
            raise OSError("the disk is nearly full")
        prefix = f"{self._prefix}{os.getpid()}-"
        descriptor, name = mkstemp(prefix=prefix, suffix=UNFINISHED, dir=self.folder)  # for the owner only
        path = Path(name)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, n_bytes)
            else:
                os.ftruncate(descriptor, n_bytes)
            return Unfinished(path, mmap.mmap(descriptor, n_bytes))
        except OSError:
            self._forget(path)
            raise
        finally:
            os.close(descriptor)

    def _finish(self, unfinished: "Unfinished", path: Path) -> None:
        """On a thread: the checksum, the way to the disk, the name under which it is found."""
        try:
            raw = unfinished.raw
            raw[: len(MAGIC)] = MAGIC
            with _passing(raw):
                raw[len(MAGIC) : len(MAGIC) + DIGEST_BYTES] = _checksum(raw)
                self.to_disk(raw)
            raw.close()
            unfinished.path.replace(path)
            self._make_room(0)
        except OSError:
            self._is_broken = True
            unfinished.discard()

    def _make_room(self, n_bytes: int) -> None:
        """Remove what was used longest ago until `n_bytes` more fit, and what a writer left that is gone."""
        found: list[tuple[float, int, Path]] = []
        for path in _files(self.folder):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total, now = sum(size for _, size, _ in found) + n_bytes, time()
        for used, size, path in sorted(found):
            is_abandoned = path.suffix == UNFINISHED and (
                now - used > ABANDONED_S or (now - used > YOUNG_S and _is_of_the_dead(path))
            )
            if is_abandoned or (path.suffix == SUFFIX and total > self.max_bytes):
                with suppress(OSError):
                    path.unlink()
                    total -= size


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A file that is being written, as memory."""

    path: Path
    raw: mmap.mmap

    def discard(self) -> None:
        self.raw.close()
        with suppress(OSError):
            self.path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in folder.iterdir() if path.suffix in (SUFFIX, UNFINISHED))


def _is_of_the_dead(path: Path) -> bool:
    """Whether the process that an unfinished file names as its writer is gone."""
    named = re.match(r"[^-]*-([0-9]{1,9})-", path.name)
    return named is not None and not psutil.pid_exists(int(named[1]))


@contextmanager
def _passing(raw: mmap.mmap, start: int = 0) -> Iterator[None]:
    """While the block runs, pages of a file's memory are let go soon after they were used; the file has them.

    Of a private memory only what nobody changed may pass: from `start` on. Where the system lets nothing go (Windows),
    all that was used stays until the end.
    """
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    if not hasattr(mmap, "MADV_DONTNEED") or first >= len(raw):
        yield
        return
    is_over = threading.Event()

    def let_go() -> None:
        while not is_over.wait(RELEASE_S):
            raw.madvise(mmap.MADV_DONTNEED, first)
        raw.madvise(mmap.MADV_DONTNEED, first)

    releasing = threading.Thread(target=let_go, daemon=True)
    releasing.start()
    try:
        yield
    finally:
        is_over.set()
        releasing.join()


def _pays(n_bytes: int, seconds: float) -> bool:
    return n_bytes / BYTES_PER_S < seconds


def _lend(raw: mmap.mmap, start: int, end: int, use: Callable[[memoryview], bool]) -> bool:
    """Let `use` have a part of a file's memory, and no longer than it runs."""
    with memoryview(raw) as whole, whole[start:end] as part:
        return use(part)


def _checksum(raw: mmap.mmap) -> bytes:
    with memoryview(raw) as whole, whole[len(MAGIC) + DIGEST_BYTES :] as content:
        return blake2b(content, digest_size=DIGEST_BYTES).digest()
