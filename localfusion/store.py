"""Runs on disk: the request, every event as it happens, the pages that were read, the final document.

What a run means, how it is resumed and how it is shown is not known here. Blocks; every call is one transaction.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from localfusion import codec
from localfusion.analysis import Page
from localfusion.database import Database, Migration, Transaction
from localfusion.errors import ConfigError, LocalFusionError
from localfusion.events import (
    LIVE_ONLY,
    AnalysisCompleted,
    AnswerCompleted,
    Event,
    PanelistCompleted,
    RunEnded,
    RunStarted,
    ToolReturned,
)
from localfusion.messages import CloudLeave, Json, Message, PanelSpec, SourcesSpec
from localfusion.owner import Owner, is_alive, this_process

FILE_NAME = "runs.sqlite3"
RunStatus = Literal["running", "ok", "error", "interrupted"]

MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE run (
            id TEXT PRIMARY KEY, created REAL NOT NULL, ended REAL, status TEXT NOT NULL, question TEXT NOT NULL,
            request TEXT NOT NULL, document TEXT, owner_pid INTEGER NOT NULL, owner_started REAL NOT NULL
        ) STRICT""",
        """CREATE TABLE event (
            run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, sequence INTEGER NOT NULL, at REAL NOT NULL,
            type TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run, sequence)
        ) STRICT""",
        "CREATE TABLE content (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT",
        """CREATE TABLE page (
            run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, url TEXT NOT NULL, title TEXT NOT NULL,
            sha256 TEXT NOT NULL REFERENCES content, PRIMARY KEY (run, url)
        ) STRICT""",
        "CREATE INDEX page_content ON page (sha256)",
    ),
    ("ALTER TABLE run ADD COLUMN owner_boot TEXT NOT NULL DEFAULT ''",),
)

LASTING = (PanelistCompleted, AnalysisCompleted, RunEnded)
"""What took long to write: the disk is waited for, and with it for every step that led there.

The end comes right behind the answer and waits for both.
"""

_EVENT_TYPES: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


@dataclass(frozen=True, slots=True)
class RunRequest:
    """All that a run was asked for, enough to do it again or to go on with it.

    `context` is the conversation before the question, which everybody is shown; a caller's own instructions are its
    system turns.
    """

    question: str
    panel: PanelSpec
    sources: SourcesSpec
    seed: int = 0
    cloud: CloudLeave = field(default_factory=CloudLeave)
    context: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of the list of runs; `seconds` is None while a run has no end."""

    id: str
    created: datetime
    status: RunStatus
    question: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with the time when it was stored, in seconds since 1970."""

    at: float
    event: Event


@dataclass(frozen=True, slots=True)
class History:
    """Some of the events of one run, in order; `created` is when it began, in seconds since 1970."""

    id: str
    created: float
    status: RunStatus
    events: tuple[StoredEvent, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    created: float
    ended: float | None
    status: RunStatus
    question: str
    request: str
    document: str | None
    owner_pid: int
    owner_started: float
    owner_boot: str

    @property
    def owner(self) -> Owner:
        return Owner(self.owner_pid, self.owner_started, self.owner_boot)

    def status_now(self) -> RunStatus:
        """A run whose process is gone without an end was interrupted."""
        if self.status == "running" and not is_alive(self.owner):
            return "interrupted"
        return self.status


_COLUMNS = "id, created, ended, status, question, request, document, owner_pid, owner_started, owner_boot"
_CHUNK = 200
"""Runs whose events are read by one query."""
_BRIEF: dict[type[Event], str] = {
    RunStarted: "json_set(body, '$.question', '', '$.sources', json('[]'))",
    ToolReturned: "json_set(body, '$.result.call.arguments', json('{}'), '$.result.passages', json('[]'),"
    " '$.result.links', json('[]'), '$.result.warnings', json('[]'))",
    PanelistCompleted: "json_set(body, '$.response.content', '', '$.response.steps', json('[]'),"
    " '$.response.citations', json('[]'))",
    AnalysisCompleted: "json_set(body, '$.analysis', json('{}'), '$.raw', '')",
    AnswerCompleted: "json_set(body, '$.content', '', '$.citations', json('[]'))",
}
"""An event without what was written or read: most of what is stored, and most of the time that reading takes."""
_BODY = (
    "CASE type " + " ".join(f"WHEN '{kind.__name__}' THEN {brief}" for kind, brief in _BRIEF.items()) + " ELSE body END"
)
_PAGES = "SELECT url, title, text, sha256 FROM page JOIN content USING (sha256)"


class Store:
    """Every run of this home; several processes may write at once."""

    def __init__(
        self,
        home: Path | None,
        *,
        clock: Callable[[], float] = time.time,
        owner: Owner | None = None,
    ) -> None:
        """Open `runs.sqlite3` under `home`; None keeps the runs in memory, which is what no storing means."""
        self._database = Database(None if home is None else home / FILE_NAME, MIGRATIONS)
        self._clock = clock
        self._owner = owner or this_process()

    def create_run(self, request: RunRequest) -> str:
        """Begin a run of this process; returns its id, which sorts by time."""
        now = self._clock()
        run_id = f"run_{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S}_{secrets.token_hex(4)}"
        owner = (self._owner.pid, self._owner.started, self._owner.boot)
        with self._database.transaction() as transaction:
            transaction.execute(
                "INSERT INTO run (id, created, status, question, request, owner_pid, owner_started, owner_boot)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (run_id, now, "running", request.question, codec.to_text(request), *owner),
            )
        return run_id

    def claim(self, run_id: str) -> RunRequest:
        """Make a stored run one of this process, to go on with it. Raises ConfigError while another works on it."""
        with self._database.transaction() as transaction:
            row = _get(transaction, run_id)
            if row.status_now() == "running":
                raise ConfigError(f"{run_id} is still running", hint=f"process {row.owner_pid} works on it")
            transaction.execute(
                "UPDATE run SET status = 'running', ended = NULL, owner_pid = ?, owner_started = ?, owner_boot = ?"
                " WHERE id = ?",
                (self._owner.pid, self._owner.started, self._owner.boot, run_id),
            )
        return codec.from_text(RunRequest, row.request)

    def append(self, run_id: str, event: Event) -> None:
        """Store one event behind those of the run; events that are shown only are left out. `RunEnded` ends it."""
        if isinstance(event, LIVE_ONLY):
            return
        now = self._clock()
        with self._database.transaction(durable=isinstance(event, LASTING)) as transaction:
            transaction.execute(
                "INSERT INTO event (run, sequence, at, type, body)"
                " SELECT ?, coalesce(max(sequence), 0) + 1, ?, ?, ? FROM event WHERE run = ?",
                (run_id, now, type(event).__name__, codec.to_text(event), run_id),
            )
            if isinstance(event, RunEnded):
                transaction.execute("UPDATE run SET status = ?, ended = ? WHERE id = ?", (event.status, now, run_id))

    def events(self, run_id: str) -> tuple[Event, ...]:
        """Every stored event of a run, in order."""
        with self._database.transaction() as transaction:
            _get(transaction, run_id)
            query = "SELECT type, body FROM event WHERE run = ? ORDER BY sequence"
            return tuple(transaction.rows(_event, query, (run_id,)))

    def save_page(self, run_id: str, page: Page) -> None:
        """Keep a page as this run read it first; a text that several runs read is kept once."""
        with self._database.transaction() as transaction:
            transaction.execute("INSERT OR IGNORE INTO content VALUES (?, ?)", (page.sha256, page.text))
            transaction.execute(
                "INSERT OR IGNORE INTO page (run, url, title, sha256) VALUES (?, ?, ?, ?)",
                (run_id, page.url, page.title, page.sha256),
            )

    def page(self, run_id: str, url: str) -> Page | None:
        """A page that the run has read; None for any other address."""
        found = self._database.rows(Page, f"{_PAGES} WHERE run = ? AND url = ?", (run_id, url))
        return found[0] if found else None

    def pages(self, run_id: str) -> tuple[Page, ...]:
        """Every page that the run has read, by address."""
        return tuple(self._database.rows(Page, f"{_PAGES} WHERE run = ? ORDER BY url", (run_id,)))

    def finish(self, run_id: str, document: Json) -> None:
        """Keep the final document of a run, in place of an earlier one."""
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        with self._database.transaction() as transaction:
            _get(transaction, run_id)
            transaction.execute("UPDATE run SET document = ? WHERE id = ?", (text, run_id))

    def document(self, run_id: str) -> Json:
        """The final document of a run; None before there is one."""
        text = self._get(run_id).document
        if text is None:
            return None
        document: Json = json.loads(text)
        return document

    def request(self, run_id: str) -> RunRequest:
        """What a run was asked for."""
        return codec.from_text(RunRequest, self._get(run_id).request)

    def summary(self, run_id: str) -> RunSummary:
        """One run in a line. Raises ConfigError for an unknown id."""
        return _summary(self._get(run_id))

    def list_runs(self) -> tuple[RunSummary, ...]:
        """Every run, the newest first."""
        rows = self._database.rows(_Row, f"SELECT {_COLUMNS} FROM run ORDER BY created DESC, id DESC")
        return tuple(_summary(row) for row in rows)

    def histories(
        self, kinds: Sequence[type[Event]], *, since: float = 0.0, until: float = float("inf")
    ) -> Iterator[History]:
        """Every run that was at work between two times, with its events of some kinds, all times included, briefly.

        Brief events hold nothing that was asked, written or read, see `_BRIEF`. Runs come in the order of their ids,
        some at a time, each as it is when its turn comes.
        """
        at_work = "SELECT id FROM run WHERE created < ? AND coalesce(ended, ?) >= ? ORDER BY id"
        ids = self._database.rows(str, at_work, (until, since, since))
        for start in range(0, len(ids), _CHUNK):
            yield from self._brief_histories(ids[start : start + _CHUNK], kinds)

    def _brief_histories(self, ids: Sequence[str], kinds: Sequence[type[Event]]) -> list[History]:
        runs, types = _places(ids), _places(kinds)
        query = (
            f"SELECT run, at, type, {_BODY} FROM event WHERE run IN ({runs}) AND type IN ({types})"
            " ORDER BY run, sequence"
        )
        with self._database.snapshot() as transaction:
            rows = transaction.rows(_Row, f"SELECT {_COLUMNS} FROM run WHERE id IN ({runs}) ORDER BY id", ids)
            events = transaction.rows(_stored, query, (*ids, *(kind.__name__ for kind in kinds)))
        by_run: dict[str, list[StoredEvent]] = {row.id: [] for row in rows}
        for run, event in events:
            by_run[run].append(event)
        return [History(row.id, row.created, row.status_now(), tuple(by_run[row.id])) for row in rows]

    def remove(self, run_id: str) -> None:
        """Forget a run with all that was stored for it; nothing of it is left in the file.

        Raises ConfigError while it is running.
        """
        with self._database.transaction(durable=True) as transaction:
            if _get(transaction, run_id).status_now() == "running":
                raise ConfigError(f"{run_id} is still running", hint="interrupt it first")
            _delete(transaction, run_id)
        self._database.empty_log()

    def forget(self, run_ids: Sequence[str]) -> None:
        """Remove runs whose work here has ended; those that are gone, or that another process works on, are let be."""
        with self._database.transaction(durable=True) as transaction:
            for run_id in run_ids:
                found = transaction.rows(_Row, f"SELECT {_COLUMNS} FROM run WHERE id = ?", (run_id,))
                if found and (found[0].owner == self._owner or found[0].status_now() != "running"):
                    _delete(transaction, run_id)
        self._database.empty_log()

    def discard(self, run_id: str) -> None:
        """Forget a run of this process that could not begin."""
        with self._database.transaction() as transaction:
            transaction.execute("DELETE FROM run WHERE id = ?", (run_id,))
        self._database.empty_log()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _get(self, run_id: str) -> _Row:
        with self._database.transaction() as transaction:
            return _get(transaction, run_id)


def _get(transaction: Transaction, run_id: str) -> _Row:
    found = transaction.rows(_Row, f"SELECT {_COLUMNS} FROM run WHERE id = ?", (run_id,))
    if not found:
        raise ConfigError(f"there is no run {run_id}", hint="`localfusion runs list` shows the runs")
    return found[0]


def _delete(transaction: Transaction, run_id: str) -> None:
    transaction.execute("DELETE FROM run WHERE id = ?", (run_id,))
    transaction.execute("DELETE FROM content WHERE sha256 NOT IN (SELECT sha256 FROM page)")


def _summary(row: _Row) -> RunSummary:
    seconds = None if row.ended is None else round(row.ended - row.created, 3)
    return RunSummary(row.id, datetime.fromtimestamp(row.created, UTC), row.status_now(), row.question, seconds)


def _event(type_: str, body: str) -> Event:
    kind = _EVENT_TYPES.get(type_)
    if kind is None:
        raise LocalFusionError(
            f"a stored event is of the unknown type {type_}", hint="it was written by another version of localfusion"
        )
    return codec.from_text(kind, body)


def _places(values: Sequence[object]) -> str:
    """Where the values of a list stand in a query."""
    return ", ".join("?" * len(values))


def _stored(run: str, at: float, type_: str, body: str) -> tuple[str, StoredEvent]:
    return run, StoredEvent(at, _event(type_, body))
