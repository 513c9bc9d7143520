"""The documents that one run may see, as a search source behind `doc://` addresses. It reads the index, never files."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localfusion.analysis import Page
from localfusion.database import Database
from localfusion.domains import Domains
from localfusion.errors import LocalFusionError, NotHere, WebError
from localfusion.search.candidates import Candidates, Wanted
from localfusion.search.document_tables import PASSAGES
from localfusion.search.document_vectors import DocumentVectors, OnEmbedded
from localfusion.search.folders import canonical_address
from localfusion.search.fusion import fuse
from localfusion.search.meaning import Embedder
from localfusion.search.query import Query, parse_queries
from localfusion.search.ranking import Hit, rank
from localfusion.search.sentences import select
from localfusion.search.source import Fetched, Found, Search, SearchResult
from localfusion.search.tokens import terms
from localfusion.search.vectors import VectorFile

SOURCE_NAME = "documents"
_MAX_TERMS = 32
_NEIGHBOURS = 60
"""Passages that are found by meaning: as many as are ranked by their words."""
_SHOWN = 2
"""Passages of a document, the best, whose sentences a result is made of."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a run may see of an index: ids of documents and their addresses.

    `places` are terms of the index that together lead to all of them; none where all of the index is in it. `is_wider`
    says that they lead to others too. `languages` are those of the documents.
    """

    documents: Mapping[int, str]
    places: tuple[str, ...]
    n_passages: int
    languages: tuple[str, ...]
    is_wider: bool = False


class LocalDocuments:
    """The documents of one run as a `Source`; made by `DocumentIndex.add`. SQLite's work is done in a thread."""

    def __init__(self, database: Database, scope: Scope, vectors: DocumentVectors | None = None) -> None:
        self._database = database
        self._scope = scope
        self._vectors = vectors
        self._urls = scope.documents
        self._ids = {url: id_ for id_, url in scope.documents.items()}
        self._languages = scope.languages
        only = scope.documents.keys() if scope.is_wider else None
        self._candidates = Candidates(database, scope.places, scope.n_passages, only)

    def by_meaning(self, file: VectorFile, embedder: Embedder) -> "LocalDocuments":
        """The same documents, found by words and by meaning; `embed_missing` makes the vectors."""
        vectors = DocumentVectors(self._database, self._scope.documents.keys(), file, embedder)
        return LocalDocuments(self._database, self._scope, vectors)

    async def embed_missing(self, on_progress: OnEmbedded = lambda *_: None) -> int:
        """What `DocumentVectors.embed_missing` does; nothing where documents are found by words alone."""
        return 0 if self._vectors is None else await self._vectors.embed_missing(on_progress)

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address that can be fetched, sorted."""
        return tuple(sorted(self._ids))

    @property
    def name(self) -> str:
        """What results and warnings call it."""
        return SOURCE_NAME

    async def search(self, search: Search) -> Found:
        """The best documents first, each once, with the sentences that match; nothing for a query without words.

        By meaning too, where there are vectors; what keeps these from it is a warning.
        """
        near: Sequence[int] = ()
        warnings: tuple[str, ...] = ()
        if self._vectors is not None:
            try:
                near = await self._vectors.nearest(search.query, _NEIGHBOURS)
            except LocalFusionError as error:  # of the model, or of the file of vectors
                warnings = (f"documents were searched by words alone: {error.message}",)
        return Found(await asyncio.to_thread(self.find, search, near), warnings)

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """A document's whole text. Raises NotHere for an address that is not one of this run's documents."""
        del domains  # they are about the web
        return Fetched(await asyncio.to_thread(self._fetch, url))

    def find(self, search: Search, near: Sequence[int] = ()) -> tuple[SearchResult, ...]:
        """What `search` finds, by words and by the passages that are `near` in meaning. Blocks."""
        queries = parse_queries(search.query, self._languages)
        if not next(iter(queries.values())).words:
            return ()
        with self._database.snapshot():  # what another process changes meanwhile is changed for the next search
            return self._find(search, queries, near)

    def _find(self, search: Search, queries: Mapping[str, Query], near: Sequence[int]) -> tuple[SearchResult, ...]:
        wanted = self._candidates.wanted(_forms(queries))
        ids = self._candidates.gather(wanted, lambda id_: id_ // PASSAGES in self._urls)
        by_words = self._hits(ids)
        by_meaning = [hit for hit in self._hits(near) if hit.id // PASSAGES in self._urls]
        changed = {hit.language for hit in (*by_words, *by_meaning)} - queries.keys()
        if changed:  # read again since this run began, and now of another language
            queries = parse_queries(search.query, {*queries, *changed})
        weights = {language: _weights(query, wanted) for language, query in queries.items()}
        documents: dict[int, list[Hit]] = {}
        scores: dict[int, float] = {}
        ranked_hits = rank(by_words, queries, weights)
        for hit, score in _fused(ranked_hits, by_meaning, near) if near else ranked_hits:
            documents.setdefault(hit.id // PASSAGES, []).append(hit)
            scores.setdefault(hit.id // PASSAGES, score)
        ranked = sorted(scores, key=lambda document: (-scores[document], self._urls[document]))
        results: list[SearchResult] = []
        for document in ranked[: search.max_results]:
            hits = documents[document][:_SHOWN]
            passages = "\n".join(self._texts(sorted(hit.id for hit in hits)))
            language = hits[0].language
            passage = select(passages, queries[language], weights[language], max_characters=search.max_characters)
            page = self._page(document)
            results.append(SearchResult(page.url, page.title, passage, SOURCE_NAME, round(scores[document], 6), page))
        return tuple(results)

    def _hits(self, ids: Sequence[int]) -> list[Hit]:
        return self._database.rows(
            Hit,
            "SELECT passage_terms.id, document.language, passage_terms.lines FROM passage_terms"
            f" JOIN document ON document.id = passage_terms.id / {PASSAGES}"
            f" WHERE passage_terms.id IN ({', '.join('?' * len(ids))})",
            ids,
        )

    def _texts(self, ids: Sequence[int]) -> list[str]:
        query = f"SELECT text FROM passage WHERE id IN ({', '.join('?' * len(ids))}) ORDER BY id"
        return self._database.rows(str, query, ids)

    def _fetch(self, url: str) -> Page:
        document = self._ids.get(url) or self._ids.get(canonical_address(url))
        if document is None:
            raise NotHere(url, f"there is no document {url}", hint="fetch an address that a search returned")
        return self._page(document)

    def _page(self, document: int) -> Page:
        found = self._database.rows(
            lambda title, text, sha256: Page(self._urls[document], title, text, sha256),
            "SELECT title, text, sha256 FROM document JOIN content ON content.document = document.id"
            " WHERE id = ? AND problem IS NULL",
            (document,),
        )
        if not found:
            raise WebError(self._urls[document], f"{self._urls[document]} was deleted", hint="search again")
        return found[0]


def _fused(
    by_words: Sequence[tuple[Hit, float]], by_meaning: Sequence[Hit], near: Sequence[int]
) -> list[tuple[Hit, float]]:
    """Passages by words and by meaning (these in the order of `near`) in one ranking."""
    hits = {hit.id: hit for hit in by_meaning} | {hit.id: hit for hit, _ in by_words}
    scores = fuse([[hit.id for hit, _ in by_words], near])
    return [(hits[id_], score) for id_, score in scores if id_ in hits]


def _forms(queries: Mapping[str, Query]) -> list[tuple[str, ...]]:
    """Each term of the query, in the form that it has in each language."""
    words = next(iter(queries.values())).words
    by_language = [terms(" ".join(words), language) for language in queries]
    together = zip(*by_language, strict=False)
    return list(dict.fromkeys(tuple(dict.fromkeys(forms)) for forms in together))[:_MAX_TERMS]


def _weights(query: Query, wanted: Sequence[Wanted]) -> dict[str, float]:
    """How much each stem of the query matters; 0 for one that no passage has.

    A name matters as much as the rarest word: what a folder is all about is common in it.
    """
    weights = dict.fromkeys(query.stems, 0.0)
    for word in wanted:
        weights.update(dict.fromkeys(weights.keys() & set(word.forms), word.weight))
    most = max(weights.values(), default=0.0)
    return {stem: most if weight and stem in query.names else weight for stem, weight in weights.items()}
