"""The passages of local documents by meaning: their vectors are made when they are missing, then the nearest are found.

Which documents a run may see is told; how passages by words and by meaning become one ranking is not decided here.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from localfusion.database import Database
from localfusion.search.document_tables import PASSAGES
from localfusion.search.meaning import Embedder
from localfusion.search.vectors import VectorFile

OnEmbedded = Callable[[int, int], None]
"""Is told how many passages are embedded, and how many are to be."""

_BATCH = 64
"""Passages that are embedded and stored together: what an interruption may cost."""
_CUT = 2
"""Raised when documents are cut into passages in another way: the vectors of earlier passages no longer hold."""
_VERSION_BYTES = 7
"""What a version takes of a digest: an INTEGER of SQLite, which has a sign, holds it."""


@dataclass(frozen=True, slots=True)
class _Document:
    """What says whether a document's passages are those that were embedded: the digest of its file, their number."""

    id: int
    content_sha256: str
    n_passages: int

    @property
    def version(self) -> int:
        digest = hashlib.sha256(f"{_CUT} {self.content_sha256} {self.n_passages}".encode()).digest()
        return int.from_bytes(digest[:_VERSION_BYTES], "big")

    @property
    def passages(self) -> range:
        return range(self.id * PASSAGES, self.id * PASSAGES + self.n_passages)


@dataclass(frozen=True, slots=True)
class _Passage:
    id: int
    title: str
    headings: str
    text: str

    @property
    def whole(self) -> str:
        """What is embedded: the text, and what it stands under."""
        return "\n".join(part for part in (self.title, self.headings, self.text) if part)


class DocumentVectors:
    """The vectors of an index's passages, in a file beside it. SQLite's work is done in a thread."""

    def __init__(self, database: Database, documents: Collection[int], file: VectorFile, embedder: Embedder) -> None:
        """`documents` are the ids of those that are embedded and found."""
        self._database = database
        self._documents = frozenset(documents)
        self._file = file
        self._embedder = embedder
        self._within: frozenset[int] | None = None

    async def embed_missing(self, on_progress: OnEmbedded = lambda *_: None) -> int:
        """Embed every passage that has no vector yet, and forget the vectors of passages that are no more.

        Returns how many were embedded. Cancelling, or an error (it raises ModelError), loses one batch: what was
        stored is not made again.
        """
        versions = await asyncio.to_thread(self._versions)
        missing = await asyncio.to_thread(self._file.missing, versions)
        n_embedded = 0
        for start in range(0, len(missing), _BATCH):
            passages = await asyncio.to_thread(self._passages, missing[start : start + _BATCH])
            vectors = await self._embedder.embed([passage.whole for passage in passages], kind="passage")
            await asyncio.to_thread(self._file.put, {one.id: versions[one.id] for one in passages}, vectors)
            n_embedded += len(passages)
            on_progress(min(start + _BATCH, len(missing)), len(missing))
        return n_embedded

    async def nearest(self, query: str, n: int) -> list[int]:
        """The ids of the passages that are nearest to a query, the nearest first. Raises ModelError."""
        vectors = await self._embedder.embed([query], kind="query")
        ids = await asyncio.to_thread(self._ids)
        found = await asyncio.to_thread(self._file.nearest, vectors[0], n, within=ids)
        return [neighbour.id for neighbour in found]

    def _versions(self) -> dict[int, int]:
        """The passages of this run with the versions of their text; vectors of what the index has lost are dropped."""
        known = self._stored()
        self._file.keep_only(id_ for document in known for id_ in document.passages)
        own = [document for document in known if document.id in self._documents]
        return {id_: document.version for document in own for id_ in document.passages}

    def _ids(self) -> frozenset[int]:
        if self._within is None:
            own = (document for document in self._stored() if document.id in self._documents)
            self._within = frozenset(id_ for document in own for id_ in document.passages)
        return self._within

    def _stored(self) -> list[_Document]:
        query = "SELECT id, content_sha256, passages FROM document WHERE problem IS NULL"
        return self._database.rows(_Document, query)

    def _passages(self, ids: Sequence[int]) -> list[_Passage]:
        return self._database.rows(
            _Passage,
            "SELECT passage.id, document.title, headings, passage.text FROM passage"
            f" JOIN document ON document.id = passage.id / {PASSAGES}"
            f" WHERE passage.id IN ({', '.join('?' * len(ids))}) ORDER BY passage.id",
            ids,
        )
