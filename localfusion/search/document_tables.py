"""The tables of the document index: documents, their text, their passages, and the terms by which these are found.

Each function is a statement or two within a transaction of the caller. How text becomes terms is decided in `tokens`,
how passages are chosen by their terms in `candidates`.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localfusion.database import Migration, Transaction, Value
from localfusion.search.extraction import Extracted
from localfusion.search.languages import STOP_WORDS, guess
from localfusion.search.sentences import break_roughly
from localfusion.search.tokens import term_line

MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE document (
            id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
            content_sha256 TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, sha256 TEXT NOT NULL, problem TEXT
        ) STRICT""",
        """CREATE VIRTUAL TABLE passage USING fts5(
            title, headings, text, tokenize = 'porter unicode61 remove_diacritics 2'
        )""",
    ),
    (  # everything is read again: hidden text of Markdown is out, and no id is given twice
        "DROP TABLE document",
        """CREATE TABLE document (
            id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL, content_sha256 TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
            sha256 TEXT NOT NULL, problem TEXT
        ) STRICT""",
        "DELETE FROM passage",
    ),
    (  # what was known is kept by name, and is read again when it is next looked at: its size is -2
        "ALTER TABLE document RENAME TO earlier",
        "DROP TABLE passage",
        """CREATE TABLE document (
            id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL, content_sha256 TEXT NOT NULL, title TEXT NOT NULL, sha256 TEXT NOT NULL,
            language TEXT NOT NULL, passages INTEGER NOT NULL, problem TEXT
        ) STRICT""",
        """INSERT INTO document
            SELECT id, path, -2, 0, '', title, '', '', 0, 'it is to be read again' FROM earlier""",
        "DROP TABLE earlier",
        """CREATE TABLE content (
            document INTEGER PRIMARY KEY REFERENCES document ON DELETE CASCADE, text TEXT NOT NULL
        ) STRICT""",
        "CREATE TABLE passage (id INTEGER PRIMARY KEY, headings TEXT NOT NULL, text TEXT NOT NULL) STRICT",
        "CREATE TABLE passage_terms (id INTEGER PRIMARY KEY, lines TEXT NOT NULL) STRICT",
        """CREATE VIRTUAL TABLE term USING fts5(
            terms, content = '', contentless_delete = 1, detail = none, tokenize = "ascii tokenchars '._:,-/+'"
        )""",
        "INSERT INTO term (term, rank) VALUES ('hashsize', 8388608)",
        "CREATE VIRTUAL TABLE frequency USING fts5vocab(term, row)",
        "CREATE TABLE folder (id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE) STRICT",
        "CREATE TABLE root (path TEXT PRIMARY KEY, refreshed REAL) STRICT",
    ),
    (  # everything is read again, as before: passages are cut anew, and single characters are terms
        "INSERT INTO term (term) VALUES ('delete-all')",
        "DELETE FROM passage",
        "DELETE FROM passage_terms",
        "DELETE FROM content",
        """UPDATE document SET size = -2, mtime_ns = 0, content_sha256 = '', sha256 = '', language = '', passages = 0,
            problem = 'it is to be read again'""",
        "CREATE TABLE link (root TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (root, path)) STRICT",
        "CREATE INDEX link_path ON link (path)",
    ),
    (  # documents below a carried root have no files: a migration that empties others must keep or rewrite these
        "ALTER TABLE root ADD COLUMN is_carried INTEGER NOT NULL DEFAULT 0",
    ),
)
"""A passage's id is its document's times `PASSAGES` plus its place in the document.

No id is given twice, so that one that a run holds never comes to mean another document.
"""

PASSAGES = 1 << 20
"""More passages than any document has."""
SALIENT = "+"
"""Before a term: the passage is about it, see `_salient`."""
_SALIENT_COUNT = 3
_KNOWN = "SELECT id, path, size, mtime_ns, content_sha256, language, passages, problem FROM document"
_EARLIER = -2


@dataclass(frozen=True, slots=True)
class Known:
    """What the index knows of a file; `problem` says why it could not be read."""

    id: int
    path: str
    size: int
    mtime_ns: int
    content_sha256: str
    language: str
    passages: int
    problem: str | None

    @property
    def is_earlier(self) -> bool:
        """Whether it was read by an earlier version, whose passages are of no use."""
        return self.size == _EARLIER

    def is_of(self, size: int, mtime_ns: int) -> bool:
        """Whether a file with these has not changed since it was read."""
        return (self.size, self.mtime_ns) == (size, mtime_ns)


@dataclass(frozen=True, slots=True)
class PassageRow:
    """A passage as it is stored: `lines` are its terms, of title, headings and each sentence; `terms` for the index."""

    headings: str
    text: str
    lines: str
    terms: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file with all that is stored of it, worked out before the transaction that stores it."""

    found: Extracted
    language: str
    passages: tuple[PassageRow, ...]


def prepare(found: Extracted) -> Prepared:
    """The terms of a file that was read."""
    language = guess(found.text)
    title = term_line(found.title, language, with_characters=True)
    rows = tuple(_row(title, piece.headings, piece.text, language) for piece in found.passages[:PASSAGES])
    return Prepared(found, language, rows)


def known_under(transaction: Transaction, root: str) -> list[Known]:
    """Every file that is known at `root` or below it."""
    below, behind = _range(root)
    return transaction.rows(Known, f"{_KNOWN} WHERE path = ? OR (path >= ? AND path < ?)", (root, below, behind))


def known_at(transaction: Transaction, path: str) -> Known | None:
    """What is known of one file."""
    found = transaction.rows(Known, f"{_KNOWN} WHERE path = ?", (path,))
    return found[0] if found else None


def carried_roots(transaction: Transaction) -> list[str]:
    """The roots whose documents were carried here, and have no files."""
    return transaction.rows(str, "SELECT path FROM root WHERE is_carried")


def note_carried(transaction: Transaction, root: str, time: float) -> None:
    """Register a root whose documents were carried here."""
    transaction.execute("INSERT OR REPLACE INTO root (path, refreshed, is_carried) VALUES (?, ?, 1)", (root, time))


def linked_from(transaction: Transaction, root: str) -> set[str]:
    """The files elsewhere that links at `root` or below it led to when it was last looked at."""
    query = "SELECT path FROM link WHERE root = ? OR (root >= ? AND root < ?)"
    return set(transaction.rows(str, query, (root, *_range(root))))


def note_links(transaction: Transaction, links: Sequence[tuple[str, str]]) -> None:
    """Keep which roots lead to which files elsewhere."""
    transaction.execute_many("INSERT OR IGNORE INTO link (root, path) VALUES (?, ?)", links)


def linking_to(transaction: Transaction, path: str) -> list[str]:
    """The roots under which a link leads to a file elsewhere."""
    return transaction.rows(str, "SELECT root FROM link WHERE path = ?", (path,))


def forget_links(transaction: Transaction, root: str) -> None:
    """Forget where links under a root led to."""
    transaction.execute("DELETE FROM link WHERE root = ?", (root,))


def forget_unregistered_links(transaction: Transaction, root: str) -> None:
    """Forget where links at `root` and below it led to, except under roots that are registered."""
    within = "(root = ? OR (root >= ? AND root < ?))"
    unregistered = "root NOT IN (SELECT path FROM root)"
    transaction.execute(f"DELETE FROM link WHERE {within} AND {unregistered}", (root, *_range(root)))


def write(transaction: Transaction, prepared: Prepared, places: dict[str, str]) -> bool:
    """Store a file under the id that it had, or a new one; False where its content is what is stored.

    `places` holds the terms of folders that this transaction has looked up, and is added to.
    """
    found = prepared.found
    path = str(found.path)
    before = known_at(transaction, path)
    if before is not None:
        if found.content_sha256 and before.content_sha256 == found.content_sha256:
            touched = (found.size, found.mtime_ns, before.id)
            transaction.execute("UPDATE document SET size = ?, mtime_ns = ? WHERE id = ?", touched)
            return False
        _delete_passages(transaction, before.id)
    sha256 = hashlib.sha256(found.text.encode()).hexdigest()
    row = (path, found.size, found.mtime_ns, found.content_sha256, found.title, sha256, prepared.language)
    transaction.execute(
        "INSERT INTO document (path, size, mtime_ns, content_sha256, title, sha256, language, passages, problem)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET size = excluded.size,"
        " mtime_ns = excluded.mtime_ns, content_sha256 = excluded.content_sha256, title = excluded.title,"
        " sha256 = excluded.sha256, language = excluded.language, passages = excluded.passages,"
        " problem = excluded.problem",
        (*row, len(prepared.passages), found.problem),
    )
    id_ = transaction.rows(int, "SELECT id FROM document WHERE path = ?", (path,))[0]
    transaction.execute("INSERT OR REPLACE INTO content VALUES (?, ?)", (id_, found.text))
    above = " ".join(_place(transaction, str(folder), places) for folder in Path(path).parents)
    _write_passages(transaction, id_, prepared.passages, f"{place_of_document(id_)} {above}")
    return True


def delete(transaction: Transaction, document: int) -> None:
    """Forget a document with all that was stored of it."""
    _delete_passages(transaction, document)
    transaction.execute("DELETE FROM document WHERE id = ?", (document,))


def place_of_document(document: int) -> str:
    """The term that only the passages of one document have."""
    return f"/d{document}"


def place_of_folder(transaction: Transaction, path: str) -> str | None:
    """The term that the passages of all documents below a folder have; None where there never was one."""
    found = transaction.rows(int, "SELECT id FROM folder WHERE path = ?", (path,))
    return f"/{found[0]}" if found else None


def delete_empty_folders(transaction: Transaction) -> None:
    """Forget the names of the folders that no document is in."""
    transaction.execute(
        "DELETE FROM folder WHERE NOT EXISTS (SELECT 1 FROM document"
        " WHERE document.path >= rtrim(folder.path, ?) || ? AND document.path < rtrim(folder.path, ?) || ?)",
        (os.sep, os.sep, os.sep, _range("")[1]),
    )


def drop_deleted_terms(transaction: Transaction) -> None:
    """Write the index of terms anew, without what was deleted from it: else terms stay in the file for a while."""
    transaction.execute("INSERT INTO term (term) VALUES ('optimize')")


def _row(title: str, headings: str, text: str, language: str) -> PassageRow:
    above = term_line(headings, language, with_characters=True)
    lines = f" {title} \n {above} \n {term_line(break_roughly(text), language, with_characters=True)} "
    counts = Counter(lines.split())
    salient = _salient(counts, f"{title} {above}", language)
    return PassageRow(headings, text, lines, terms=" ".join((*counts, *(SALIENT + term for term in salient))))


def _salient(counts: Counter[str], around: str, language: str) -> list[str]:
    """The terms of title and headings, and those that come again and again; without the words that always do."""
    stop_words = STOP_WORDS[language]
    often = [term for term, count in counts.items() if count >= _SALIENT_COUNT]
    return [term for term in dict.fromkeys((*around.split(), *often)) if term not in stop_words]


def _write_passages(transaction: Transaction, document: int, passages: Sequence[PassageRow], places: str) -> None:
    first = document * PASSAGES
    rows: list[tuple[Value, ...]] = [(first + i, row.headings, row.text) for i, row in enumerate(passages)]
    transaction.execute_many("INSERT INTO passage VALUES (?, ?, ?)", rows)
    rows = [(first + i, row.lines) for i, row in enumerate(passages)]
    transaction.execute_many("INSERT INTO passage_terms VALUES (?, ?)", rows)
    rows = [(first + i, f"{row.terms} {places}") for i, row in enumerate(passages)]
    transaction.execute_many("INSERT INTO term (rowid, terms) VALUES (?, ?)", rows)


def _delete_passages(transaction: Transaction, document: int) -> None:
    span = (document * PASSAGES, (document + 1) * PASSAGES - 1)
    for table, key in (("term", "rowid"), ("passage", "id"), ("passage_terms", "id")):
        transaction.execute(f"DELETE FROM {table} WHERE {key} BETWEEN ? AND ?", span)


def _place(transaction: Transaction, folder: str, places: dict[str, str]) -> str:
    if folder not in places:
        found = place_of_folder(transaction, folder)
        places[folder] = found or f"/{transaction.execute('INSERT INTO folder (path) VALUES (?)', (folder,))}"
    return places[folder]


def _range(root: str) -> tuple[str, str]:
    """The least path below `root`, and the least behind all that are."""
    below = root.rstrip(os.sep) + os.sep
    return below, below[:-1] + chr(ord(os.sep) + 1)
