"""Pages of the web that were fetched once: kept for a time with their hash, and fetched once by all who ask at once.

`Snapshots` keeps pages, `RememberedPages` is a fetcher that looks there first. What a run has read is kept by `store`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from localfusion import codec
from localfusion.analysis import Link, Page
from localfusion.database import Database, Migration, Transaction
from localfusion.domains import Domains
from localfusion.errors import LocalFusionError
from localfusion.search.addresses import parse_address, require_admitted
from localfusion.search.fetcher import Fetcher, utc_time
from localfusion.search.source import Fetched

FILE_NAME = "pages.sqlite3"
MAX_AGE_S = 24 * 60 * 60.0

MIGRATIONS: tuple[Migration, ...] = (
    (
        "CREATE TABLE content (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT",
        """CREATE TABLE page (
            url TEXT PRIMARY KEY, title TEXT NOT NULL, sha256 TEXT NOT NULL REFERENCES content,
            retrieved_at TEXT NOT NULL, extras TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX page_content ON page (sha256)",
        "CREATE INDEX page_retrieved_at ON page (retrieved_at)",
        """CREATE TABLE asked (
            url TEXT PRIMARY KEY, page TEXT NOT NULL REFERENCES page ON DELETE CASCADE
        ) STRICT""",
        "CREATE INDEX asked_page ON asked (page)",
    ),
)
"""`asked` leads from every address that was asked for, the page's own included, to the page that it came to."""


@dataclass(frozen=True, slots=True)
class _Extras:
    """What of a page is never looked for: stored as one text."""

    links: tuple[Link, ...]
    warnings: tuple[str, ...]
    byline: str


class Snapshots:
    """The kept pages; runs share them, in this process and in others. Blocks."""

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file; None keeps pages in memory. `clock` gives seconds since 1970.

        Raises what `Database` raises.
        """
        self._database = Database(path, MIGRATIONS)
        self._clock = clock

    def get(self, url: str, max_age_s: float = MAX_AGE_S) -> Fetched | None:
        """The page that an address, in its one spelling, came to; None if that was more than `max_age_s` ago."""
        now = self._clock()
        found = self._database.rows(
            _fetched,
            "SELECT page.url, title, text, page.sha256, retrieved_at, extras"
            " FROM asked JOIN page ON page.url = asked.page JOIN content USING (sha256)"
            " WHERE asked.url = ? AND retrieved_at BETWEEN ? AND ?",
            (url, utc_time(now - max_age_s), utc_time(now)),
        )
        return found[0] if found else None

    def put(self, url: str, fetched: Fetched) -> None:
        """Keep the page that `url` came to, in place of an older one; a text that several pages have is kept once."""
        page = fetched.page
        extras = codec.to_text(_Extras(fetched.links, fetched.warnings, page.byline))
        with self._database.transaction() as transaction:
            before = transaction.rows(str, "SELECT sha256 FROM page WHERE url = ?", (page.url,))
            transaction.execute("INSERT OR IGNORE INTO content VALUES (?, ?)", (page.sha256, page.text))
            transaction.execute(
                "INSERT INTO page VALUES (?, ?, ?, ?, ?) ON CONFLICT (url) DO UPDATE SET title = excluded.title,"
                " sha256 = excluded.sha256, retrieved_at = excluded.retrieved_at, extras = excluded.extras",
                (page.url, page.title, page.sha256, page.retrieved_at, extras),
            )
            for address in {url, page.url}:
                transaction.execute("INSERT OR REPLACE INTO asked VALUES (?, ?)", (address, page.url))
            _drop_unused(transaction, before)

    def remove_older_than(self, seconds: float) -> int:
        """Remove the pages that were fetched more than so long ago; returns how many."""
        return self._remove("retrieved_at < ?", utc_time(self._clock() - seconds))

    def purge(self) -> int:
        """Remove every page; returns how many."""
        return self._remove("retrieved_at >= ?", "")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _remove(self, which: str, than: str) -> int:
        with self._database.transaction(durable=True) as transaction:
            removed = transaction.rows(str, f"SELECT sha256 FROM page WHERE {which}", (than,))
            transaction.execute(f"DELETE FROM page WHERE {which}", (than,))
            _drop_unused(transaction, removed)
        return len(removed)


def _fetched(url: str, title: str, text: str, sha256: str, retrieved_at: str, extras: str) -> Fetched:
    kept = codec.from_text(_Extras, extras)
    return Fetched(Page(url, title, text, sha256, retrieved_at, kept.byline), kept.links, kept.warnings)


def _drop_unused(transaction: Transaction, texts: Iterable[str]) -> None:
    """Drop those of the texts, named by their hashes, that no page has any more."""
    query = (
        "DELETE FROM content WHERE sha256 = ? AND NOT EXISTS (SELECT 1 FROM page WHERE page.sha256 = content.sha256)"
    )
    transaction.execute_many(query, [(text,) for text in texts])


@dataclass(slots=True)
class _Flight:
    """A fetch under way, and how many wait for it."""

    task: asyncio.Task[Fetched]
    waiting: int = 0


class RememberedPages:
    """Fetches pages as a `Fetcher` does, unless they are kept; all who ask for one at once share one request."""

    def __init__(self, fetcher: Fetcher, snapshots: Snapshots, *, max_age_s: float = MAX_AGE_S) -> None:
        """A page is served from the store for `max_age_s` after it was fetched."""
        self._fetcher = fetcher
        self._snapshots = snapshots
        self._max_age_s = max_age_s
        self._flights: dict[tuple[str, Domains], _Flight] = {}

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """The page at `url`, under its own address. Raises WebError, which is not remembered."""
        address = parse_address(url)
        require_admitted(address, domains)
        key = (address.url, domains)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._find(address.url, domains)))
            flight.task.add_done_callback(lambda task: self._land(key, flight, task))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._forget(key, flight)
                flight.task.cancel()

    async def close(self) -> None:
        """Give up what is under way, and close the fetcher and the store."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fetcher.close()
        self._snapshots.close()

    def _land(self, key: tuple[str, Domains], flight: _Flight, task: asyncio.Task[Fetched]) -> None:
        self._forget(key, flight)
        if not task.cancelled():
            task.exception()  # taken note of, also where nobody waits for it any more

    def _forget(self, key: tuple[str, Domains], flight: _Flight) -> None:
        """Let the next who asks start anew."""
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _find(self, url: str, domains: Domains) -> Fetched:
        """A page out of the store, or fetched and stored; a store that fails is a warning and costs no page."""
        try:
            kept = await asyncio.to_thread(self._snapshots.get, url, self._max_age_s)
        except LocalFusionError as error:
            return _with_warning(await self._fetcher.fetch(url, domains), error)
        if kept is not None and domains.admit(kept.page.url):
            return kept
        fetched = await self._fetcher.fetch(url, domains)
        try:
            await asyncio.to_thread(self._snapshots.put, url, fetched)
        except LocalFusionError as error:
            return _with_warning(fetched, error)
        return fetched


def _with_warning(fetched: Fetched, error: LocalFusionError) -> Fetched:
    return replace(fetched, warnings=(*fetched.warnings, f"{fetched.page.url} could not be kept: {error.message}"))
