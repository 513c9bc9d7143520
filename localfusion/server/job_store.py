"""Jobs on disk: what was asked, what a client is told now, every event as text. Blocks; every call is one transaction.

What a request, a body or an event says is not known here: all three are JSON that is kept.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localfusion.database import Database, Migration, Transaction
from localfusion.messages import Json
from localfusion.owner import Owner, is_alive, this_process
from localfusion.server.job import JobKind, JobStatus

FILE_NAME = "server.sqlite3"

MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE job (
            id TEXT PRIMARY KEY, created REAL NOT NULL, kind TEXT NOT NULL, owner TEXT NOT NULL, request TEXT NOT NULL,
            is_background INTEGER NOT NULL, idempotency_key TEXT NOT NULL, status TEXT NOT NULL, body TEXT NOT NULL,
            run_id TEXT, ended REAL, n_starts INTEGER NOT NULL,
            owner_pid INTEGER NOT NULL, owner_started REAL NOT NULL, owner_boot TEXT NOT NULL
        ) STRICT""",
        "CREATE UNIQUE INDEX job_key ON job (owner, idempotency_key) WHERE idempotency_key <> ''",
        "CREATE INDEX job_ended ON job (ended)",
        """CREATE TABLE event (
            job TEXT NOT NULL REFERENCES job ON DELETE CASCADE, sequence INTEGER NOT NULL, text TEXT NOT NULL,
            PRIMARY KEY (job, sequence)
        ) STRICT, WITHOUT ROWID""",
    ),
)

_COLUMNS = "id, created, kind, owner, request, is_background, idempotency_key, status, body, run_id, ended, n_starts"
_BUSY_S = 5.0
_KEPT_IN_MEMORY = 1000
_TRIM_EVERY = 200


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is stored; `request` and `body` are JSON, `ended` is None while it has no end.

    `n_starts` counts the servers that began it: one that ends its server each time is not begun for ever.
    """

    id: str
    created: float
    kind: JobKind
    owner: str
    request: str
    is_background: int
    idempotency_key: str
    status: JobStatus
    body: str
    run_id: str | None
    ended: float | None
    n_starts: int


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written of a job: its record if it has none (`record`), how it stands, its events from `first`."""

    id: str
    record: JobRecord | None
    status: JobStatus
    body: Json
    run_id: str | None
    ended: float | None
    first: int
    texts: Sequence[str]


class JobStore:
    """Every stored job of this home; several servers may write at once."""

    def __init__(
        self, home: Path | None, *, clock: Callable[[], float] = time.time, owner: Owner | None = None
    ) -> None:
        """Open `server.sqlite3` under `home`; None keeps the latest jobs in memory."""
        self._database = Database(None if home is None else home / FILE_NAME, MIGRATIONS, timeout_s=_BUSY_S)
        self._owner = owner or this_process()
        self._clock = clock
        self._is_in_memory = home is None
        self._n_ended = 0

    def create(self, record: JobRecord) -> JobRecord:
        """Keep a job of this process, or return the one that has its owner and idempotency key."""
        with self._database.transaction() as transaction:
            found = _keyed(transaction, record.owner, record.idempotency_key)
            if not found:
                self._insert(transaction, record)
            return found[0] if found else record

    def write(self, changes: Sequence[Change]) -> None:
        """Write what was told of several jobs, all or nothing; the end of one waits for the disk.

        What was deleted stays deleted, and of what another process has taken over nothing is written. Raises Unstorable
        where one of them is refused.
        """
        n_ended = sum(change.ended is not None for change in changes)
        with self._database.transaction(durable=n_ended > 0) as transaction:
            for change in changes:
                self._write(transaction, change)
            self._n_ended += n_ended
            if self._is_in_memory and self._n_ended >= _TRIM_EVERY:
                self._n_ended = 0
                transaction.execute(
                    "DELETE FROM job WHERE id IN (SELECT id FROM job WHERE ended IS NOT NULL"
                    " ORDER BY ended DESC LIMIT -1 OFFSET ?)",
                    (_KEPT_IN_MEMORY,),
                )

    def record(self, job_id: str) -> JobRecord | None:
        """One job; None where there is none of this id."""
        found = self._database.rows(JobRecord, f"SELECT {_COLUMNS} FROM job WHERE id = ?", (job_id,))
        return found[0] if found else None

    def keyed(self, owner: str, idempotency_key: str) -> JobRecord | None:
        """The job of an owner with this idempotency key."""
        with self._database.snapshot() as transaction:
            found = _keyed(transaction, owner, idempotency_key)
        return found[0] if found else None

    def events(self, job_id: str, at: int, *, limit: int) -> list[tuple[int, str]]:
        """Some events of a job with their sequence, the first of them `at` or behind it."""
        return self._database.rows(
            _numbered,
            "SELECT sequence, text FROM event WHERE job = ? AND sequence >= ? ORDER BY sequence LIMIT ?",
            (job_id, at, limit),
        )

    def n_events(self, job_id: str) -> int:
        """The sequence of a job's next event."""
        query = "SELECT coalesce(max(sequence) + 1, 0) FROM event WHERE job = ?"
        return self._database.rows(int, query, (job_id,))[0]

    def claim(self, job_id: str | None = None) -> list[JobRecord]:
        """Make those jobs this process's that have no end and whose process is gone; or only the one that is named."""
        with self._database.transaction() as transaction:
            owners = transaction.rows(
                _owned,
                "SELECT id, owner_pid, owner_started, owner_boot FROM job WHERE ended IS NULL AND coalesce(id = ?, 1)",
                (job_id,),
            )
            claimed = []
            for id, owner in owners:
                if not is_alive(owner):
                    own = "owner_pid = ?, owner_started = ?, owner_boot = ?"
                    transaction.execute(
                        f"UPDATE job SET n_starts = n_starts + 1, {own} WHERE id = ?", (*self._own(), id)
                    )
                    claimed += transaction.rows(JobRecord, f"SELECT {_COLUMNS} FROM job WHERE id = ?", (id,))
            return claimed

    def release(self, job_ids: Sequence[str]) -> None:
        """Leave jobs to whichever server starts next; they were not begun in vain."""
        with self._database.transaction() as transaction:
            transaction.execute_many(
                "UPDATE job SET n_starts = n_starts - 1, owner_pid = 0, owner_started = 0, owner_boot = ''"
                " WHERE id = ? AND ended IS NULL",
                [(job_id,) for job_id in job_ids],
            )

    def let_go(self, job_id: str) -> None:
        """Free the idempotency key of a job for another."""
        with self._database.transaction() as transaction:
            transaction.execute("UPDATE job SET idempotency_key = '' WHERE id = ?", (job_id,))

    def delete(self, job_id: str) -> None:
        """Forget a job with all that was told of it; nothing of it is left in the file."""
        with self._database.transaction(durable=True) as transaction:
            transaction.execute("DELETE FROM job WHERE id = ?", (job_id,))
        self._database.empty_log()

    def tidy(self, *, keep_s: float, forget_runs: Callable[[Sequence[str]], None]) -> None:
        """Forget the jobs that ended longer ago than `keep_s`; before that their runs are forgotten."""
        before = self._clock() - keep_s
        run_ids = self._database.rows(str, "SELECT coalesce(run_id, '') FROM job WHERE ended < ?", (before,))
        if not run_ids:
            return
        forget_runs([run_id for run_id in run_ids if run_id])
        with self._database.transaction(durable=True) as transaction:
            transaction.execute("DELETE FROM job WHERE ended < ?", (before,))
        self._database.empty_log()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _insert(self, transaction: Transaction, record: JobRecord) -> None:
        transaction.execute(
            f"INSERT INTO job ({_COLUMNS}, owner_pid, owner_started, owner_boot)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(record.id, record.created, record.kind, record.owner, record.request, record.is_background),
                *(record.idempotency_key, record.status, record.body, record.run_id, record.ended, record.n_starts),
                *self._own(),
            ),
        )

    def _write(self, transaction: Transaction, change: Change) -> None:
        if change.record is not None:
            self._insert(transaction, change.record)
        there = transaction.rows(
            str,
            "UPDATE job SET status = ?1, body = ?2, run_id = ?3, ended = ?4, idempotency_key ="
            " CASE WHEN ?1 IN ('failed', 'cancelled') THEN '' ELSE idempotency_key END"
            " WHERE id = ?5 AND owner_pid = ?6 AND owner_started = ?7 AND owner_boot = ?8 RETURNING id",
            (change.status, json.dumps(change.body), change.run_id, change.ended, change.id, *self._own()),
        )
        if there:
            numbered = enumerate(change.texts, change.first)
            transaction.execute_many(
                "INSERT INTO event (job, sequence, text) VALUES (?, ?, ?)",
                ((change.id, sequence, text) for sequence, text in numbered),
            )

    def _own(self) -> tuple[int, float, str]:
        return self._owner.pid, self._owner.started, self._owner.boot


def _keyed(transaction: Transaction, owner: str, idempotency_key: str) -> list[JobRecord]:
    if not idempotency_key:
        return []
    query = f"SELECT {_COLUMNS} FROM job WHERE owner = ? AND idempotency_key = ? AND idempotency_key <> ''"
    return transaction.rows(JobRecord, query, (owner, idempotency_key))


def _numbered(sequence: int, text: str) -> tuple[int, str]:
    return sequence, text


def _owned(id: str, pid: int, started: float, boot: str) -> tuple[str, Owner]:
    return id, Owner(pid, started, boot)
