"""The index of local documents: reads files into passages and keeps them, so that unchanged files are not read twice.

Runs share one index, in this process and in others. What a run sees of it is a `LocalDocuments`; how a file becomes
text is decided in `readers`, which files there are in `folders`. Nothing here fetches from a network.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from localfusion import machine
from localfusion.database import Database, Transaction
from localfusion.errors import ConfigError
from localfusion.search.carried import from_lines, to_lines
from localfusion.search.document_tables import (
    MIGRATIONS,
    Known,
    Prepared,
    carried_roots,
    delete,
    delete_empty_folders,
    drop_deleted_terms,
    forget_links,
    forget_unregistered_links,
    known_at,
    known_under,
    linked_from,
    linking_to,
    note_carried,
    note_links,
    place_of_document,
    place_of_folder,
    prepare,
    write,
)
from localfusion.search.extraction import extract
from localfusion.search.folders import (
    CarriedFile,
    FoundFile,
    FoundFiles,
    find_files,
    is_below,
    is_gone,
    is_there,
    real_path,
)
from localfusion.search.formats import SUFFIXES
from localfusion.search.languages import DEFAULT
from localfusion.search.local_documents import LocalDocuments, Scope

OnProgress = Callable[[int, int, str], None]
"""Is told how many files were read, how many there are to read, and the name of the last."""

_BATCH_FILES = 256
_BATCH_CHARACTERS = 4 * 2**20
_BATCH_S = 2.0
"""A batch of files is stored in one transaction: what an interruption may cost."""
_FILES_PER_PROCESS = 16
_MAX_PLACES = 64
"""Single files that are looked for by name; more of them are looked for by their folders."""


class Stopped(Exception):
    """The reading of documents was given up between two files."""


@dataclass(frozen=True, slots=True)
class Added:
    """What `DocumentIndex.add` did; each warning names a file that was skipped and says why."""

    source: LocalDocuments
    read: int
    unchanged: int
    removed: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Root:
    """A registered file or folder; `n_bytes` is of its readable files, `refreshed` a time as `time.time` gives it.

    Of one that `is_carried` the files are not on this machine, and `refreshed` is when it came.
    """

    path: Path
    n_files: int
    n_bytes: int
    n_unreadable: int
    refreshed: float | None
    is_carried: bool = False

    @property
    def is_there(self) -> bool:
        """Whether it can be searched: a disk may be away, what is carried never is."""
        return self.is_carried or is_there(self.path)


def tell_nobody(*_: object) -> None:
    """Progress that nobody looks at."""


class DocumentIndex:
    """Every document that was ever added and still exists."""

    def __init__(
        self, path: Path | None, *, clock: Callable[[], float] = time.time, n_processes: int | None = None
    ) -> None:
        """Open or create the index file; None keeps it in memory. Raises what `Database` raises.

        Files are read in at most `n_processes` processes, one for each usable core unless it is given.
        """
        self._database = Database(path, MIGRATIONS)
        self._clock = clock
        self._n_processes = n_processes or machine.usable_cores()

    def add(
        self,
        paths: Sequence[Path],
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        on_progress: OnProgress = tell_nobody,
    ) -> Added:
        """Read what is new or changed under `paths`, forget what is gone, and return the view of just these paths.

        Blocks. A file that cannot be read is a warning; a path that does not exist, or paths under which
        nothing can be read, are a ConfigError. `is_stopped` is asked again and again: then Stopped is
        raised, and what was read is kept.
        """
        added = self._bring_up_to_date(paths, is_stopped, on_progress)
        if not added.source.urls:
            raise _nothing_readable(paths, added.warnings)
        return added

    def _bring_up_to_date(
        self, paths: Sequence[Path], is_stopped: Callable[[], bool], on_progress: OnProgress
    ) -> Added:
        carried = self._carried()
        found = find_files(paths, carried)
        before = self._known(found)
        changed = [file for file in found.files if not _is_current(file, before)]
        read = self._read(changed, is_stopped, on_progress) if changed else 0
        if is_stopped():
            raise Stopped
        emptied = [root for root in found.empty if any(is_below(path, root) for path in before)]
        removed = self._forget_missing(before, found, (*emptied, *carried))
        known = self._known(found)
        kept = (f"{root} is empty now: what was read from it is kept" for root in emptied)
        warnings = (*found.skipped, *kept, *_earlier(before.values()), *_problems(found, known))
        source = LocalDocuments(self._database, self._scope(found, known))
        return Added(source, read=read, unchanged=len(found.files) - read, removed=removed, warnings=warnings)

    def register(self, paths: Sequence[Path], *, is_read: bool = False) -> None:
        """Keep files and folders by name, for `roots` and `refresh`; `is_read` says that they were added just now.

        Raises ConfigError for one that is not there.
        """
        find = [real_path(path) for path in paths if not is_there(path)]
        if find:
            raise ConfigError(f"{find[0]} does not exist", hint="name files and folders")
        with self._database.transaction(durable=True) as transaction:
            rows = [(real_path(path),) for path in paths]
            transaction.execute_many("INSERT OR IGNORE INTO root (path) VALUES (?)", rows)
            if is_read:
                self._note_time(transaction, paths)

    def roots(self) -> tuple[Root, ...]:
        """What is registered, by path."""
        with self._database.snapshot() as transaction:
            rows = transaction.rows(lambda *row: row, "SELECT path, refreshed, is_carried FROM root ORDER BY path")
            carried = carried_roots(transaction)
            return tuple(
                _root(path, refreshed, bool(is_carried), _without(carried, path, known_under(transaction, path)))
                for path, refreshed, is_carried in rows
            )

    def refresh(
        self,
        paths: Sequence[Path] = (),
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        on_progress: OnProgress = tell_nobody,
    ) -> Added:
        """`add` of what is registered, or of the `paths` that are given, and note the time.

        A registered path that is not there now, or that is empty, is a warning, and its documents are kept: a disk may
        be away. What is carried stays as it is.
        """
        roots = self.roots()
        wanted = list(paths) or [root.path for root in roots]
        if not wanted:
            raise ConfigError("no documents are registered", hint="`localfusion docs add PATH` registers some")
        there = list(paths) or [root.path for root in roots if root.is_there]
        added = self._bring_up_to_date(there, is_stopped, on_progress)
        with self._database.transaction(durable=True) as transaction:
            self._note_time(transaction, there)
        away = (f"{path} was skipped: it is not there now" for path in wanted if path not in there)
        return Added(added.source, added.read, added.unchanged, added.removed, (*away, *added.warnings))

    def unregister(self, path: Path) -> int:
        """Forget a file or a folder with all that was read from it, from the disk too; how many documents it were.

        What is also under another registered path is kept. Raises ConfigError where nothing is known there.
        """
        root = real_path(path)
        with self._database.transaction(durable=True) as transaction:
            others = transaction.rows(str, "SELECT path FROM root WHERE path != ?", (root,))
            is_registered = bool(transaction.rows(str, "SELECT path FROM root WHERE path = ?", (root,)))
            linked = linked_from(transaction, root)
            known = [*known_under(transaction, root), *_known_of(transaction, linked, besides=root)]
            if not known and not is_registered:
                raise ConfigError(f"nothing is known of {path}", hint="`localfusion docs list` shows what is")
            transaction.execute("DELETE FROM root WHERE path = ?", (root,))
            forget_unregistered_links(transaction, root)
            gone = [file for file in known if not _is_held(transaction, file.path, others)]
            _forget(transaction, gone)
        self._database.empty_log()
        return len(gone)

    def carried_lines(self, path: Path) -> Iterator[bytes]:
        """The documents under a registered path as lines for `carry`; raises ConfigError for one that is not."""
        root = real_path(path)
        with self._database.snapshot() as transaction:
            if not transaction.rows(str, "SELECT path FROM root WHERE path = ?", (root,)):
                raise ConfigError(f"{path} was not added", hint="`localfusion docs add` adds it")
            yield from to_lines(transaction, root)

    def is_file(self, path: Path) -> bool:
        """Whether what was registered here is a file, and no folder."""
        with self._database.snapshot() as transaction:
            return known_at(transaction, real_path(path)) is not None

    def carry(self, lines: Iterable[bytes], root: Path, *, is_file: bool, n_documents: int) -> None:
        """Keep documents that were read on another machine under `root`, where nothing is.

        They take the place of what was carried there before. All or nothing; raises ConfigError for what is no such
        lines, or not as many.
        """
        place = real_path(root)
        places: dict[str, str] = {}
        with self._database.transaction(durable=True) as transaction:
            _forget(transaction, known_under(transaction, place))
            for found in from_lines(lines, Path(place), is_file=is_file, n_documents=n_documents):
                write(transaction, prepare(found), places)
            note_carried(transaction, place, self._clock())

    def passage_ids(self) -> tuple[int, ...]:
        """The ids of all passages, for what is kept of them elsewhere."""
        return tuple(self._database.rows(int, "SELECT id FROM passage"))

    def close(self) -> None:
        """Close the file; sources made from it are of no use after."""
        self._database.close()

    def _carried(self) -> dict[str, list[CarriedFile]]:
        """The files that are known under carried roots."""
        with self._database.snapshot() as transaction:
            return {
                root: [CarriedFile(file.path, file.size, file.mtime_ns) for file in known_under(transaction, root)]
                for root in carried_roots(transaction)
            }

    def _known(self, found: FoundFiles) -> dict[str, Known]:
        """What is known of the files that were found, and of those that were under the same paths before."""
        with self._database.snapshot() as transaction:
            known = {file.path: file for root in found.roots for file in known_under(transaction, root)}
            linked = {path for _, path in found.links}.union(*(linked_from(transaction, root) for root in found.roots))
            known |= {path: file for path in linked if (file := known_at(transaction, path))}
        return known

    def _note_time(self, transaction: Transaction, paths: Iterable[Path]) -> None:
        rows = [(self._clock(), real_path(path)) for path in paths]
        transaction.execute_many("UPDATE root SET refreshed = ? WHERE path = ? AND NOT is_carried", rows)

    def _read(self, files: Sequence[FoundFile], is_stopped: Callable[[], bool], on_progress: OnProgress) -> int:
        """Read files and store them, batch by batch; how many had another content than before."""
        n_processes = min(self._n_processes, 1 + len(files) // _FILES_PER_PROCESS)
        paths = (Path(file.path) for file in files)
        fresh = 0
        batch = _Batch(self._database, self._clock)
        with closing(extract(paths, n_processes=n_processes, is_stopped=is_stopped)) as extracted:
            try:
                for done, found in enumerate(extracted, 1):
                    batch.add(prepare(found))
                    if batch.is_full:
                        fresh += batch.store()
                    on_progress(done, len(files), str(found.path))
            finally:
                fresh += batch.store()
        return fresh

    def _forget_missing(self, known: Mapping[str, Known], found: FoundFiles, spared: Sequence[str]) -> int:
        """Drop, from the disk too, the documents whose files no longer exist or that nothing leads to any more.

        What is below `spared` roots is kept.
        """
        there = {file.path for file in found.files}
        absent = [
            file
            for path, file in known.items()
            if path not in there and not any(is_below(path, root) for root in spared)
        ]
        with self._database.transaction() as transaction:
            held = (*found.roots, *transaction.rows(str, "SELECT path FROM root"))
            if not found.skipped:  # else a link may be where nobody can look
                for root in found.roots:
                    if root not in spared:
                        forget_links(transaction, root)
            note_links(transaction, found.links)
            gone = [file for file in absent if is_gone(file.path) or not _is_held(transaction, file.path, held)]
            if gone:
                _forget(transaction, gone)
        if gone:
            self._database.empty_log()
        return len(gone)

    def _scope(self, found: FoundFiles, known: Mapping[str, Known]) -> Scope:
        readable = [(stored, file.url) for file in found.files if (stored := _readable(known.get(file.path)))]
        documents = {stored.id: url for stored, url in readable}
        with self._database.snapshot() as transaction:
            n_readable = transaction.rows(int, "SELECT count(*) FROM document WHERE problem IS NULL")[0]
            is_all = n_readable == len(documents)
            places = () if is_all else _places(found, known, lambda path: place_of_folder(transaction, path))
        reached = sum(file.problem is None for file in known.values())
        return Scope(
            documents,
            places,
            n_passages=sum(stored.passages for stored, _ in readable),
            languages=tuple(sorted({stored.language for stored, _ in readable})) or (DEFAULT,),
            is_wider=not is_all and (len(found.roots) + len(found.links) > _MAX_PLACES or reached > len(documents)),
        )


class _Batch:
    """Files that wait to be stored in one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._files: list[Prepared] = []
        self._n_characters = 0
        self._since = clock()

    @property
    def is_full(self) -> bool:
        return (
            len(self._files) >= _BATCH_FILES
            or self._n_characters >= _BATCH_CHARACTERS
            or self._clock() - self._since >= _BATCH_S
        )

    def add(self, file: Prepared) -> None:
        self._files.append(file)
        self._n_characters += len(file.found.text)

    def store(self) -> int:
        """Store what waits; how many files had another content than before."""
        files, self._files = self._files, []
        self._n_characters, self._since = 0, self._clock()
        if not files:
            return 0
        places: dict[str, str] = {}
        with self._database.transaction() as transaction:
            return sum(write(transaction, file, places) for file in files)


def _is_current(file: FoundFile, known: Mapping[str, Known]) -> bool:
    stored = known.get(file.path)
    return stored is not None and stored.is_of(file.size, file.mtime_ns)


def _is_held(transaction: Transaction, path: str, roots: Collection[str]) -> bool:
    """Whether a file is below one of the roots, or a link there leads to it."""
    leading = (path, *linking_to(transaction, path))
    return any(is_below(place, root) for place in leading for root in roots)


def _forget(transaction: Transaction, files: Iterable[Known]) -> None:
    """Delete documents, and what only they left in the file."""
    for file in files:
        delete(transaction, file.id)
    delete_empty_folders(transaction)
    drop_deleted_terms(transaction)


def _known_of(transaction: Transaction, paths: Iterable[str], *, besides: str) -> list[Known]:
    """What is known of files that are not below a root."""
    elsewhere = (known_at(transaction, path) for path in paths if not is_below(path, besides))
    return [file for file in elsewhere if file is not None]


def _readable(file: Known | None) -> Known | None:
    return None if file is None or file.problem is not None else file


def _places(found: FoundFiles, known: Mapping[str, Known], place_of: Callable[[str], str | None]) -> tuple[str, ...]:
    """Terms that lead to all files found: the given folders, files given or linked by themselves, or their folders."""
    folders = [place for root in found.roots if (place := place_of(root))]
    within = [root for root in found.roots if place_of(root)]
    alone = [file.path for file in found.files if not any(is_below(file.path, root) for root in within)]
    if len(alone) <= _MAX_PLACES:
        places = [place_of_document(known[path].id) for path in alone if path in known]
    else:
        places = [place for folder in {str(Path(path).parent) for path in alone} if (place := place_of(folder))]
    return tuple(sorted({*folders, *places}))


def _problems(found: FoundFiles, known: Mapping[str, Known]) -> list[str]:
    stored = (known.get(file.path) for file in found.files)
    return [f"{file.path} was skipped: {file.problem}" for file in stored if file and file.problem is not None]


def _earlier(known: Iterable[Known]) -> list[str]:
    count = sum(file.is_earlier for file in known)
    return [f"{count} documents were indexed by an earlier version, and are read again"] if count else []


def _without(carried: Iterable[str], root: str, known: Sequence[Known]) -> list[Known]:
    """What is known under a root without what is carried below it under a name of its own."""
    others = [other for other in carried if other != root and is_below(other, root)]
    return [file for file in known if not any(is_below(file.path, other) for other in others)]


def _root(path: str, refreshed: float | None, is_carried: bool, known: Sequence[Known]) -> Root:
    readable = [file for file in known if file.problem is None]
    n_bytes = sum(file.size for file in readable)
    return Root(Path(path), len(readable), n_bytes, len(known) - len(readable), refreshed, is_carried)


def _nothing_readable(paths: Sequence[Path], warnings: Sequence[str]) -> ConfigError:
    named = ", ".join(str(path) for path in paths)
    reason = f" ({'; '.join(warnings[:3])})" if warnings else ""
    return ConfigError(
        f"nothing under {named or 'no path'} can be read{reason}",
        hint=f"--docs takes files and folders with {', '.join(sorted(s[1:] for s in SUFFIXES))}",
    )
