"""From what a run names to the one source that its panelists see. Which sources are named is decided elsewhere.

What reaches a network is imported with this module but made only here, only when a run first needs it, and never for
a run that is offline. It lives as long as the session: pauses between requests to one host hold for all of its runs.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from localfusion.domains import Domains
from localfusion.errors import LocalFusionError, NotHere, WebError
from localfusion.messages import SourcesSpec
from localfusion.offline import HINT as OFFLINE_HINT
from localfusion.search.combined import Combined
from localfusion.search.ddgs_search import DEFAULT_ENGINES, EngineSearch
from localfusion.search.documents import Added, DocumentIndex
from localfusion.search.fetcher import Fetcher
from localfusion.search.guard import Guard
from localfusion.search.kiwix import KiwixServer
from localfusion.search.local_documents import LocalDocuments
from localfusion.search.meaning import Embedder
from localfusion.search.page_readers import PageReaders
from localfusion.search.searxng import SearXNG
from localfusion.search.shared import Shared
from localfusion.search.snapshots import FILE_NAME, RememberedPages, Snapshots
from localfusion.search.source import Fetched, Found, Search, Source
from localfusion.search.vectors import VectorFile
from localfusion.search.zim import ZimArchives

VECTORS_FILE = "vectors.sqlite3"
NOTHING_NAMED = "no sources were named, so there is nothing to search"

OnProgress = Callable[[int, int, str], None]
"""Files read, of how many, and the last one's name; called from any thread."""


@dataclass(frozen=True, slots=True)
class Embedders:
    """One model twice: `reading` waits for memory, before a run; `asking` does not, within one."""

    reading: Embedder
    asking: Embedder


@dataclass(frozen=True, slots=True)
class Opened:
    """The sources of one run as one; `warnings` say what of them cannot be used, `not_embedded` is part of that."""

    source: Source
    warnings: tuple[str, ...]
    not_embedded: tuple[str, ...] = ()


class Sources:
    """Opens the sources of runs, over the documents and the kept pages of one home."""

    def __init__(self, documents: DocumentIndex, home: Path | None, *, keep_pages_s: float) -> None:
        """Pages are kept under `home`, in memory where it is None, and fetched anew after `keep_pages_s`."""
        self._documents = documents
        self._home = home
        self._keep_pages_s = keep_pages_s
        self._readers = PageReaders()
        self._pages: RememberedPages | None = None
        self._engines: dict[tuple[str, ...], EngineSearch] = {}

    @asynccontextmanager
    async def open(
        self,
        spec: SourcesSpec,
        *,
        names_pages: bool,
        on_progress: OnProgress = lambda *_: None,
        embedders: Embedders | None = None,
    ) -> AsyncIterator[Opened]:
        """The sources of a run; `names_pages`: the user named addresses of the web, which then may be fetched.

        Raises ConfigError where a path or an address cannot be used. Documents that are new or changed are read first,
        and embedded where there are `embedders`.
        """
        async with AsyncExitStack() as stack:
            searched: list[Source] = []
            warnings: tuple[str, ...] = ()
            not_embedded: tuple[str, ...] = ()
            if spec.docs:
                added = await _read(self._documents, spec.docs, on_progress)
                documents, warnings = added.source, added.warnings
                if embedders is not None:
                    documents, not_embedded = await self._by_meaning(documents, embedders, stack, on_progress)
                    warnings += not_embedded
                searched.append(documents)
            if spec.zim:
                archives = ZimArchives(spec.zim, read=self._readers.read)
                stack.callback(archives.close)  # before they are open: whoever is cancelled meanwhile leaves none
                await asyncio.to_thread(archives.open)
                searched.append(archives)
            if not spec.offline:
                searched += self._on_network(spec)
            if not searched:
                warnings = (*warnings, NOTHING_NAMED)
            source: Source = searched[0] if len(searched) == 1 else Combined(searched)
            if spec.offline:
                source = _Offline(source)
            reaches = bool(spec.web or spec.searxng or spec.kiwix or names_pages) and not spec.offline
            if reaches:
                pages, problems = self._web_pages()
                source, warnings = _WithPages(source, pages), (*warnings, *problems)
            yield Opened(Shared(source), warnings, not_embedded)

    async def aclose(self) -> None:
        """End what was made for the network."""
        for engines in self._engines.values():
            engines.close()
        if self._pages is not None:
            await self._pages.close()
        await self._readers.close()

    async def _by_meaning(
        self, documents: LocalDocuments, embedders: Embedders, stack: AsyncExitStack, on_progress: OnProgress
    ) -> tuple[LocalDocuments, tuple[str, ...]]:
        """The documents found by meaning too, those that are new embedded; else as they are, and why."""
        path = None if self._home is None else self._home / VECTORS_FILE
        try:
            file = stack.enter_context(closing(VectorFile(path, model=embedders.asking.identity)))
            await documents.by_meaning(file, embedders.reading).embed_missing(
                lambda done, of: on_progress(done, of, "passages by meaning")
            )
        except LocalFusionError as error:  # of the model, or of the file of vectors
            return documents, (f"documents are searched by words alone: {error.message}",)
        return documents.by_meaning(file, embedders.asking), ()

    def _on_network(self, spec: SourcesSpec) -> list[Source]:
        sources: list[Source] = [KiwixServer(address, read=self._readers.read) for address in spec.kiwix]
        if spec.searxng:
            sources.append(SearXNG(spec.searxng))
        if spec.web:
            names = spec.engines or DEFAULT_ENGINES
            if names not in self._engines:
                self._engines[names] = EngineSearch(names)
            sources.append(self._engines[names])
        return sources

    def _web_pages(self) -> tuple[RememberedPages, tuple[str, ...]]:
        """The pages of the web, and, when they are made, why they are kept in memory alone."""
        if self._pages is not None:
            return self._pages, ()
        snapshots, problems = _kept_pages(None if self._home is None else self._home / FILE_NAME, self._keep_pages_s)
        fetcher = Fetcher(Guard(), read=self._readers.read)
        self._pages = RememberedPages(fetcher, snapshots, max_age_s=self._keep_pages_s)
        return self._pages, problems


def in_words(spec: SourcesSpec) -> tuple[str, ...]:
    """What is searched, for people."""
    engines = ", ".join(spec.engines or DEFAULT_ENGINES)
    return (
        *(str(path) for path in (*spec.docs, *spec.zim)),
        *((spec.searxng,) if spec.searxng else ()),
        *spec.kiwix,
        *((f"the web ({engines})",) if spec.web else ()),
    )


class _Offline:
    """A source of a run that uses no network, and says so of addresses of the web."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def name(self) -> str:
        return self._source.name

    async def search(self, search: Search) -> Found:
        return await self._source.search(search)

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        if url.lower().startswith("http"):
            raise WebError(url, "pages of the web need a network, and this run is offline", hint=OFFLINE_HINT)
        return await self._source.fetch(url, domains)


def _kept_pages(path: Path | None, keep_s: float) -> tuple[Snapshots, tuple[str, ...]]:
    """The pages that are kept, without those that are too old; in memory, and why, where their file is of no use."""
    try:
        snapshots = Snapshots(path)
    except LocalFusionError as error:
        return Snapshots(None), (_not_kept(error),)
    try:
        snapshots.remove_older_than(keep_s)
    except LocalFusionError as error:
        snapshots.close()
        return Snapshots(None), (_not_kept(error),)
    return snapshots, ()


def _not_kept(error: LocalFusionError) -> str:
    return f"pages are kept for this run alone: {error.message} ({error.hint})"


class _WithPages:
    """A source to search, and any page of the web to fetch."""

    def __init__(self, searched: Source, pages: RememberedPages) -> None:
        self._searched = searched
        self._pages = pages

    @property
    def name(self) -> str:
        return self._searched.name

    async def search(self, search: Search) -> Found:
        return await self._searched.search(search)

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        try:
            return await self._searched.fetch(url, domains)
        except NotHere:
            return await self._pages.fetch(url, domains)


async def _read(documents: DocumentIndex, paths: tuple[Path, ...], on_progress: OnProgress) -> Added:
    """What is new or changed under `paths` is read, in a thread that stops soon after the task is cancelled."""
    is_stopped = threading.Event()
    try:
        return await asyncio.to_thread(documents.add, paths, is_stopped=is_stopped.is_set, on_progress=on_progress)
    except asyncio.CancelledError:
        is_stopped.set()
        raise
