"""The only door to SQLite (by apsw): opens a file, migrates its schema, runs transactions, names what goes wrong.

One `Database` is one connection behind one lock, so that any thread may use it; several processes may
open the same file (write-ahead log, busy timeout). What the tables mean is known only to those who open it.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw
import sqlite_vec

from localfusion.errors import ConfigError, LocalFusionError, Unstorable

T = TypeVar("T")
Value = None | int | float | str | bytes
Migration = tuple[str, ...]
"""Statements that lead from one version of a schema to the next; a published one is never changed."""

BUSY_TIMEOUT_S = 30.0
_RETRY_S = 0.02

_NAMED_ERRORS: dict[int, tuple[str, str]] = {
    apsw.SQLITE_CORRUPT: ("the database {path} is damaged", "move the file away; a new one is made"),
    apsw.SQLITE_NOTADB: ("{path} is not a database", "move the file away; a new one is made"),
    apsw.SQLITE_BUSY: ("the database {path} is locked", "wait for the other localfusion to end, then try again"),
    apsw.SQLITE_LOCKED: ("the database {path} is locked", "wait for the other localfusion to end, then try again"),
    apsw.SQLITE_FULL: ("the disk that holds {path} is full", "free some space, or set LOCALFUSION_HOME elsewhere"),
    apsw.SQLITE_READONLY: (
        "the database {path} cannot be written",
        "check the permissions of the file and of its folder, or set LOCALFUSION_HOME elsewhere",
    ),
    apsw.SQLITE_CANTOPEN: (
        "the database {path} cannot be opened",
        "check the permissions of the file and of its folder, or set LOCALFUSION_HOME elsewhere",
    ),
    apsw.SQLITE_IOERR: ("the disk failed while {path} was used", "check the disk, then try again"),
}
"""By SQLite's primary result code; `{path}` is the file."""
_UNSTORABLE = frozenset({apsw.SQLITE_CONSTRAINT, apsw.SQLITE_MISMATCH, apsw.SQLITE_TOOBIG})


class Transaction:
    """The statements of one transaction; made by `Database.transaction` and of no use after it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Sequence[Value] = ()) -> int:
        """Run one statement; returns the rowid that an INSERT made, else a number without meaning."""
        for _ in self._connection.execute(statement, parameters):
            pass
        return self._connection.last_insert_rowid()

    def execute_many(self, statement: str, rows: Iterable[Sequence[Value]]) -> None:
        """Run one statement for each row of parameters."""
        self._connection.executemany(statement, rows)

    def rows(self, kind: Callable[..., T], query: str, parameters: Sequence[Value] = ()) -> list[T]:
        """Each row as `kind(*columns)`: a dataclass with the columns' order, or `str`, `int` for one column."""
        return [kind(*row) for row in self._connection.execute(query, parameters)]


class Database:
    """A database file of this program; `path` None keeps it in memory, for one process and its life."""

    def __init__(
        self,
        path: Path | None,
        migrations: Sequence[Migration],
        *,
        timeout_s: float = BUSY_TIMEOUT_S,
        vectors: bool = False,
    ) -> None:
        """Open or create the file with mode 0600 (its folder 0700) and bring its schema up to date.

        With `vectors` the functions and tables of sqlite-vec are there, for the migrations too.
        What is committed outlives the process, and a power cut once a durable transaction was committed after it.
        Raises ConfigError where the place cannot be used, LocalFusionError where the file is damaged or newer.
        """
        self._name = "in memory" if path is None else str(path)
        self._lock = threading.RLock()
        self._waits_for_disk: bool | None = None
        if path is not None:
            _make_private(path)
        with self._mapped():
            self._connection = apsw.Connection(":memory:" if path is None else str(path))
            try:
                self._prepare(timeout_s)
                if vectors:
                    _load_vectors(self._connection)
                self._migrate(migrations)
            except BaseException:
                self._connection.close()
                raise

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Transaction]:
        """All or nothing: committed at the end of the block, rolled back when it raises. Does not nest.

        A durable one waits for the disk, which takes milliseconds, for itself and for all that was committed before.
        """
        with self._lock, self._mapped():
            if durable != self._waits_for_disk:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._waits_for_disk = durable
            with self._within("BEGIN IMMEDIATE") as transaction:
                yield transaction

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """A transaction that only reads: all queries see one state, while others write. Does not nest."""
        with self._lock, self._mapped(), self._within("BEGIN") as transaction:
            yield transaction

    def rows(self, kind: Callable[..., T], query: str, parameters: Sequence[Value] = ()) -> list[T]:
        """What a query outside of any transaction finds, see `Transaction.rows`."""
        with self._lock, self._mapped():
            return Transaction(self._connection).rows(kind, query, parameters)

    def empty_log(self) -> None:
        """Write back what the write-ahead log holds, so that nothing deleted is left in it, unless another reads it."""
        with self._lock, self._mapped():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the connection; closing twice does nothing."""
        with self._lock, self._mapped():
            self._connection.close()

    @contextmanager
    def _within(self, begin: str) -> Iterator[Transaction]:
        self._connection.execute(begin)
        try:
            yield Transaction(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _prepare(self, timeout_s: float) -> None:
        self._connection.set_busy_timeout(int(timeout_s * 1000))
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA secure_delete = ON")
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
                return
            except apsw.BusyError:
                # Two processes that create one file at once: SQLite does not wait here of itself.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        if self._version() == len(migrations):
            return
        with self.transaction() as transaction:
            version = self._version()
            if version > len(migrations):
                raise ConfigError(
                    f"the database {self._name} was written by a newer localfusion",
                    hint="update localfusion, or set LOCALFUSION_HOME elsewhere",
                )
            for migration in migrations[version:]:
                for statement in migration:
                    transaction.execute(statement)
            transaction.execute(f"PRAGMA user_version = {len(migrations)}")

    def _version(self) -> int:
        return Transaction(self._connection).rows(int, "PRAGMA user_version")[0]

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Every error of apsw leaves as one of ours; told apart by code, never by text."""
        try:
            yield
        except apsw.Error as error:
            code = _primary(error)
            message, hint = _NAMED_ERRORS.get(
                code, (f"the database {{path}} refused: {error}", "report this as a bug of localfusion")
            )
            kind = Unstorable if code in _UNSTORABLE else LocalFusionError
            raise kind(message.format(path=self._name), hint=hint) from error
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{error.object!a:.200} is not UTF-8 and cannot be stored", hint="rename the file or the folder"
            ) from error


def _primary(error: apsw.Error) -> int:
    """The primary result code; 0 for an error that is apsw's own."""
    return int(getattr(error, "result", 0))


def _load_vectors(connection: apsw.Connection) -> None:
    """sqlite-vec, and nothing else: no statement can load an extension, nor can any later code by chance."""
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
    try:
        connection.load_extension(sqlite_vec.loadable_path())
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise ConfigError(
            f"the database {path} cannot be opened: {error.strerror}",
            hint="check the permissions of the file and of its folder, or set LOCALFUSION_HOME elsewhere",
        ) from error
