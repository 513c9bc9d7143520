"""Files read side by side in processes of their own: a file that breaks its reader costs itself and no other.

Which files there are, and where what was read is kept, is decided in `documents`.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from localfusion.errors import LocalFusionError
from localfusion.search.extractor_client import COMMAND, Broken, ReaderProcess
from localfusion.search.extractor_protocol import DEFAULT, FileRead, Limits, ReadFiles, to_file
from localfusion.search.passages import Piece

_BATCH_FILES = 64
_BATCH_BYTES = 2**20
_BATCHES_AHEAD = 3
"""For each process: one that it reads, one that waits, one that was read and is being taken."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Extracted:
    """A file as it was read; `problem` says in a clause why it cannot be, and then there is no text.

    `content_sha256` is of the bytes of the file, "" where they could not be read to the end: the file is gone or too
    large, or its reader broke down. `size` is -1 where it could not even be opened, or its reader broke down.
    """

    path: Path
    size: int
    mtime_ns: int
    content_sha256: str
    problem: str | None
    title: str
    text: str
    passages: tuple[Piece, ...]


def extract(
    files: Iterable[Path],
    *,
    n_processes: int,
    is_stopped: Callable[[], bool] = lambda: False,
    limits: Limits = DEFAULT,
    command: Sequence[str] = COMMAND,
) -> Generator[Extracted]:
    """Each file as soon as it is read, in any order; ends early when `is_stopped`, which is asked all the time.

    `files` is iterated as results are taken, in the caller's thread. Closing the iterator ends the processes. Raises
    LocalFusionError where no process can be started.
    """
    crew = _Crew(n_processes, limits, command)
    batches = _batches(files)
    try:
        while not is_stopped():
            while crew.has_room and (batch := next(batches, None)) is not None:
                crew.hand_over(batch)
            if crew.is_idle:
                return
            if (found := crew.take()) is not None:
                yield found
    finally:
        crew.close()


def _batches(files: Iterable[Path]) -> Iterator[tuple[Path, ...]]:
    """Small files together, so that they are not waited for one by one; a large one alone."""
    batch: list[Path] = []
    n_bytes = 0
    for file in files:
        size = _size(file)
        if batch and (n_bytes + size > _BATCH_BYTES or len(batch) == _BATCH_FILES):
            yield tuple(batch)
            batch, n_bytes = [], 0
        batch.append(file)
        n_bytes += size
    if batch:
        yield tuple(batch)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


class _BatchDone:
    """What a thread says behind the last file of a batch."""


class _Crew:
    """A thread for each process, started with the first batch that is there for it."""

    def __init__(self, n_processes: int, limits: Limits, command: Sequence[str]) -> None:
        self._n_processes = max(1, n_processes)
        self._limits = limits
        self._command = command
        self._batches: SimpleQueue[tuple[Path, ...] | None] = SimpleQueue()
        self._found: SimpleQueue[Extracted | _BatchDone | BaseException] = SimpleQueue()
        self._n_ahead = 0
        self._threads: list[threading.Thread] = []
        self._readers: set[ReaderProcess] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def has_room(self) -> bool:
        """Whether another batch may be handed over; so what waits to be taken is bounded too."""
        return self._n_ahead < _BATCHES_AHEAD * self._n_processes

    @property
    def is_idle(self) -> bool:
        return not self._n_ahead

    def hand_over(self, batch: tuple[Path, ...]) -> None:
        self._n_ahead += 1
        self._batches.put(batch)
        if len(self._threads) < self._n_processes:
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()

    def take(self) -> Extracted | None:
        """The next file that was read; None where there is none yet. Raises what ended a thread."""
        try:
            found = self._found.get(timeout=_POLL_S)
        except Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, _BatchDone):
            self._n_ahead -= 1
            return None
        return found

    def close(self) -> None:
        """End every process and wait for the threads."""
        with self._lock:
            self._is_closed = True
            for reader in self._readers:
                reader.kill()
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        reader: ReaderProcess | None = None
        try:
            while (batch := self._batches.get()) is not None and not self._is_closed:
                reader = self._read_batch(batch, reader)
                self._found.put(_BatchDone())
        except BaseException as error:  # whoever takes what was found has to know
            self._found.put(error)
            if not isinstance(error, LocalFusionError):
                raise
        finally:
            self._end(reader)

    def _read_batch(self, batch: Sequence[Path], reader: ReaderProcess | None) -> ReaderProcess | None:
        """Read all files of a batch; the process to go on with is returned."""
        waiting = deque(batch)
        while waiting and not self._is_closed:
            if reader is None or reader.has_grown():
                self._end(reader)
                reader = self._start()
            try:
                reader.send(ReadFiles(tuple(waiting)))
                while waiting:
                    self._found.put(_extracted(waiting[0], reader.reply(to_file)))
                    waiting.popleft()
            except Broken as broken:
                self._end(reader)
                reader = None
                self._found.put(_broken(waiting.popleft(), broken.problem))
        return reader

    def _start(self) -> ReaderProcess:
        with self._lock:
            reader = ReaderProcess(self._limits, self._command)
            self._readers.add(reader)
            if self._is_closed:
                reader.kill()
        try:
            reader.begin()
        except LocalFusionError:
            self._end(reader)
            raise
        return reader

    def _end(self, reader: ReaderProcess | None) -> None:
        if reader is not None:
            reader.close()
            with self._lock:
                self._readers.discard(reader)


def _extracted(path: Path, found: FileRead) -> Extracted:
    return Extracted(
        path,
        size=found.size,
        mtime_ns=found.mtime_ns,
        content_sha256=found.content_sha256,
        problem=found.problem,
        title=found.title,
        text=found.text,
        passages=found.passages,
    )


def _broken(path: Path, problem: str) -> Extracted:
    """A file that broke its reader; of no size, so that it is tried again: perhaps it was not the file's fault."""
    return Extracted(path, -1, 0, "", problem, "", "", ())
