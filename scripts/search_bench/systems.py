"""Three indexes of the same passages: localfusion's, SQLite's full-text search used plainly, and tantivy."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import apsw
import tantivy

from localfusion.database import Database
from localfusion.search.document_tables import MIGRATIONS, PASSAGES
from localfusion.search.local_documents import LocalDocuments
from localfusion.search.source import Search
from scripts.search_bench.known_items import Stored

N_RESULTS = 5
_N_PASSAGES = 25
"""Passages that a peer is asked for, so that five documents are among them."""
_WORD = re.compile(r"\w+")


class System(Protocol):
    """Something that finds documents."""

    name: str

    def search(self, query: str) -> Sequence[str]:
        """The best documents, each once."""
        ...


class Ours:
    """A run's view of our index."""

    name = "localfusion"

    def __init__(self, source: LocalDocuments, paths: dict[str, str]) -> None:
        """`paths` maps addresses to the names that the bench knows documents by."""
        self._source = source
        self._paths = paths

    def search(self, query: str) -> Sequence[str]:
        """Passages and pages are put together too, as for a panelist."""
        found = self._source.find(Search(query, N_RESULTS, 2000))
        return [self._paths[result.url] for result in found]


class BareFts5:
    """A table of passages with Porter's stems, asked for any of the words, ranked by bm25."""

    name = "bare FTS5"

    def __init__(self, path: Path, passages: Iterable[Stored]) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
        self._connection.execute(
            "CREATE VIRTUAL TABLE passage USING fts5(document UNINDEXED, title, headings, text,"
            " tokenize = 'porter unicode61')"
        )
        with self._connection:
            rows = ((p.document, p.title, p.headings, p.text) for p in passages)
            self._connection.executemany("INSERT INTO passage VALUES (?, ?, ?, ?)", rows)

    def search(self, query: str) -> Sequence[str]:
        asked = " OR ".join(f'"{word}"' for word in _WORD.findall(query))
        statement = "SELECT document, text FROM passage WHERE passage MATCH ? ORDER BY rank LIMIT ?"
        return _documents(str(row[0]) for row in self._connection.execute(statement, (asked, _N_PASSAGES)))


class Tantivy:
    """The default query parser over title, headings and text, with English stems."""

    name = "tantivy"

    def __init__(self, path: Path, passages: Iterable[Stored]) -> None:
        schema = tantivy.SchemaBuilder().add_text_field("document", stored=True, tokenizer_name="raw")
        for field in ("title", "headings", "text"):
            schema = schema.add_text_field(field, stored=True, tokenizer_name="en_stem")
        path.mkdir()
        self._index = tantivy.Index(schema.build(), path=str(path))
        writer = self._index.writer()
        for passage in passages:
            document = tantivy.Document()
            for field in ("document", "title", "headings", "text"):
                document.add_text(field, getattr(passage, field))
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()

    def search(self, query: str) -> Sequence[str]:
        asked = self._index.parse_query(" ".join(_WORD.findall(query)), ["title", "headings", "text"])
        found = self._searcher.search(asked, _N_PASSAGES).hits
        return _documents(str(self._searcher.doc(address)["document"][0]) for _, address in found)


def stored_passages(path: Path) -> list[Stored]:
    """The passages that our index of a file holds."""
    database = Database(path, MIGRATIONS)
    found = database.rows(
        Stored,
        "SELECT document.path, document.title, passage.headings, passage.text FROM passage"
        f" JOIN document ON document.id = passage.id / {PASSAGES} ORDER BY passage.id",
    )
    database.close()
    return found


def _documents(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))[:N_RESULTS]
