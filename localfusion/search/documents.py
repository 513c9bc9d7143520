"""Local documents as a search source: an index over SQLite's full-text search, and what one run may see of it.

`DocumentIndex` reads files into passages and keeps them; unchanged files are not read twice. `LocalDocuments`
is the index as seen from the folders and files that one run was given, behind `doc://` addresses. How a file
becomes text is decided in `readers`; nothing here fetches from a network.
"""

import asyncio
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from localfusion.analysis import Page
from localfusion.database import Database, Migration, Transaction
from localfusion.domains import Domains
from localfusion.errors import ConfigError, NotHere, WebError
from localfusion.search.blocks import Unreadable
from localfusion.search.passages import cut_passages
from localfusion.search.readers import MAX_FILE_BYTES, SUFFIXES, read
from localfusion.search.sentences import Query, coverage, parse_query, select, stems
from localfusion.search.source import Fetched, Found, Search, SearchResult

SOURCE_NAME = "documents"
_PATHS_HINT = "--docs takes files and folders"

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
)
"""A passage's rowid is its document's id times `_PASSAGES` plus its place in the document.

No id is given twice, so that one that a run holds never comes to mean another document.
"""

_PASSAGES = 1 << 20
_CANDIDATES = 60
_MAX_TERMS = 32
_SENTENCE_SHARE = 2.0
_BM25 = "bm25(passage, 3.0, 2.0, 1.0)"
_IN_SCOPE = f"(rowid / {_PASSAGES}) IN (SELECT value FROM json_each(?))"


class Stopped(Exception):
    """The reading of documents was given up between two files."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file under one of the given paths: `path` has no symbolic link in it, `url` is its address in this run."""

    path: Path
    url: str


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """`skipped` holds a sentence for each file or folder that cannot even be looked at."""

    files: tuple[FoundFile, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """What `DocumentIndex.add` did; each warning names a file that was skipped and says why."""

    source: "LocalDocuments"
    read: int
    unchanged: int
    removed: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Stored:
    id: int
    size: int
    mtime_ns: int
    content_sha256: str
    problem: str | None

    def is_of(self, seen: os.stat_result) -> bool:
        return (self.size, self.mtime_ns) == (seen.st_size, seen.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as it is now; `problem` says why it cannot be read."""

    size: int
    mtime_ns: int
    content_sha256: str
    problem: str | None = None
    title: str = ""
    text: str = ""
    passages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Hit:
    rowid: int
    title: str
    headings: str
    text: str
    relevance: float

    @property
    def document(self) -> int:
        return self.rowid // _PASSAGES


class DocumentIndex:
    """Every document that was ever added and still exists; runs share it, in this process and in others."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the index file; None keeps it in memory. Raises what `Database` raises."""
        self._database = Database(path, MIGRATIONS)

    def add(self, paths: Sequence[Path], *, is_stopped: Callable[[], bool] = lambda: False) -> Added:
        """Read what is new or changed under `paths`, forget what is gone, and return the view of just these paths.

        Blocks. A file that cannot be read is a warning; a path that does not exist, or paths under which
        nothing can be read, are a ConfigError. `is_stopped` is asked before each file: then Stopped is
        raised, and what was read is kept.
        """
        found = find_files(paths)
        documents: dict[int, str] = {}
        warnings = list(found.skipped)
        fresh = 0
        for file in found.files:
            if is_stopped():
                raise Stopped
            stored, is_fresh = self._refresh(file.path)
            fresh += is_fresh
            if stored.problem is None:
                documents[stored.id] = file.url
            else:
                warnings.append(f"{file.path} was skipped: {stored.problem}")
        removed = self._forget_missing(paths)
        if not documents:
            raise _nothing_readable(paths, warnings)
        source = LocalDocuments(self._database, documents)
        return Added(source, read=fresh, unchanged=len(found.files) - fresh, removed=removed, warnings=tuple(warnings))

    def close(self) -> None:
        """Close the file; sources made from it are of no use after."""
        self._database.close()

    def _refresh(self, path: Path) -> tuple[_Stored, bool]:
        """The stored document of a file, read anew if it changed; and whether its content was taken in again."""
        stored = self._find(path)
        seen = _try_stat(path)
        if stored is not None and seen is not None and stored.is_of(seen):
            return stored, False
        content = _content(path, seen)
        digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""
        if stored is not None and seen is not None and digest and stored.content_sha256 == digest:
            with self._database.transaction() as transaction:
                touched = (seen.st_size, seen.st_mtime_ns, stored.id)
                transaction.execute("UPDATE document SET size = ?, mtime_ns = ? WHERE id = ?", touched)
            return stored, False
        now = _parse(path, content, seen, digest)
        with self._database.transaction() as transaction:
            return _write(transaction, path, now), True

    def _find(self, path: Path) -> _Stored | None:
        query = "SELECT id, size, mtime_ns, content_sha256, problem FROM document WHERE path = ?"
        found = self._database.rows(_Stored, query, (str(path),))
        return found[0] if found else None

    def _forget_missing(self, paths: Sequence[Path]) -> int:
        """Drop the documents under `paths` whose files no longer exist."""
        removed = 0
        for path in paths:
            root = str(_real(path))
            below = root.rstrip(os.sep) + os.sep
            found = self._database.rows(
                str, "SELECT path FROM document WHERE path = ? OR substr(path, 1, ?) = ?", (root, len(below), below)
            )
            gone = [candidate for candidate in found if not Path(candidate).exists()]
            if gone:
                with self._database.transaction() as transaction:
                    for candidate in gone:
                        _delete(transaction, candidate)
                removed += len(gone)
        return removed


class LocalDocuments:
    """The documents of one run as a `Source`; made by `DocumentIndex.add`. SQLite's work is done in a thread."""

    def __init__(self, database: Database, documents: Mapping[int, str]) -> None:
        """`documents` maps the ids that may be seen to their addresses."""
        self._database = database
        self._urls = dict(documents)
        self._ids = {url: id_ for id_, url in documents.items()}
        self._scope = json.dumps(sorted(documents))

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address that can be fetched, sorted."""
        return tuple(sorted(self._ids))

    @property
    def name(self) -> str:
        """What results and warnings call it."""
        return SOURCE_NAME

    async def search(self, search: Search) -> Found:
        """The best documents first, each once, with the sentences that match; nothing for a query without words."""
        found = await asyncio.to_thread(self._search, search.query, search.max_results, search.max_characters)
        return Found(found)

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """A document's whole text. Raises NotHere for an address that is not one of this run's documents."""
        del domains  # they are about the web
        return Fetched(await asyncio.to_thread(self._fetch, url))

    def _search(self, text: str, max_results: int, max_characters: int) -> tuple[SearchResult, ...]:
        query = parse_query(text)
        hits = self._hits(query)
        if not hits:
            return ()
        weights = self._weights(query)
        ranked = sorted(_rank(hits, query, weights).items(), key=lambda item: (-item[1], self._urls[item[0]]))
        results: list[SearchResult] = []
        for document, score in ranked[:max_results]:
            matching = sorted((hit for hit in hits if hit.document == document), key=lambda hit: hit.rowid)
            passage = select("\n".join(hit.text for hit in matching), query, weights, max_characters=max_characters)
            page = self._page(document)
            results.append(SearchResult(page.url, page.title, passage, SOURCE_NAME, round(score, 6), page))
        return tuple(results)

    def _hits(self, query: Query) -> list[_Hit]:
        if not query.words:
            return []
        return self._database.rows(
            _Hit,
            f"SELECT rowid, title, headings, text, -{_BM25} FROM passage WHERE passage MATCH ? AND {_IN_SCOPE}"
            f" ORDER BY {_BM25}, rowid LIMIT {_CANDIDATES}",
            (match_expression(query.words[:_MAX_TERMS]), self._scope),
        )

    def _weights(self, query: Query) -> dict[str, float]:
        """How rare each word of the query is among this run's passages (idf); 0 for a word that none has.

        A name matters as much as the rarest word: what a folder is all about is common in it.
        """
        total = self._database.rows(int, f"SELECT count(*) FROM passage WHERE {_IN_SCOPE}", (self._scope,))[0]
        weights: dict[str, float] = {}
        for word in query.words[:_MAX_TERMS]:
            having = self._database.rows(
                int,
                f"SELECT count(*) FROM passage WHERE passage MATCH ? AND {_IN_SCOPE}",
                (match_expression((word,)), self._scope),
            )[0]
            idf = math.log(1 + (total - having + 0.5) / (having + 0.5)) if having else 0.0
            weights |= {stem: max(idf, weights.get(stem, 0.0)) for stem in stems(word)}
        most = max(weights.values(), default=0.0)
        return {word: most if weight and word in query.names else weight for word, weight in weights.items()}

    def _fetch(self, url: str) -> Page:
        document = self._ids.get(url) or self._ids.get(_canonical(url))
        if document is None:
            raise NotHere(url, f"there is no document {url}", hint="fetch an address that a search returned")
        return self._page(document)

    def _page(self, document: int) -> Page:
        found = self._database.rows(
            lambda title, text, sha256: Page(self._urls[document], title, text, sha256),
            "SELECT title, text, sha256 FROM document WHERE id = ? AND problem IS NULL",
            (document,),
        )
        if not found:
            raise WebError(self._urls[document], f"{self._urls[document]} was deleted", hint="search again")
        return found[0]


def match_expression(words: Iterable[str]) -> str:
    """An FTS5 query for any of the words; as each is quoted, none can be read as query syntax."""
    return " OR ".join('"' + word.replace('"', '""') + '"' for word in words)


def find_files(paths: Sequence[Path]) -> FoundFiles:
    """The files under `paths` in a fixed order, each once, with the addresses that they have in this run.

    Hidden files and folders are left out, symbolic links are followed once. Raises ConfigError for a path
    that does not exist.
    """
    names: dict[Path, str] = {}
    found: dict[Path, FoundFile] = {}
    skipped: list[str] = []
    for path in paths:
        whole = _existing(path)
        root = whole if whole.is_dir() else whole.parent
        name = names.setdefault(root, _unique_name(root.name or "root", names.values()))
        for file in _walk(whole, skipped) if whole.is_dir() else [whole]:
            real = _real(file)
            if not _is_text(f"{real}{file}"):
                skipped.append(f"{str(file)!a} was skipped: its name is not UTF-8")
                continue
            url = f"doc://{quote(name, safe='')}/{quote(file.relative_to(root).as_posix(), safe='/')}"
            found.setdefault(real, FoundFile(real, url))
    return FoundFiles(tuple(found.values()), tuple(skipped))


def _existing(path: Path) -> Path:
    """`path` without symbolic links. Raises ConfigError where nothing is there."""
    try:
        exists = path.exists()
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}", hint=_PATHS_HINT) from error
    if not exists:
        raise ConfigError(f"{path} does not exist", hint=_PATHS_HINT)
    return _real(path)


def _real(path: Path) -> Path:
    # Path.resolve of Python 3.11 raises for a link that leads to itself.
    return Path(os.path.realpath(path))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique_name(name: str, taken: Iterable[str]) -> str:
    """`name`, or `name-2`, `name-3`: two folders of one name are told apart by the order they are given in."""
    taken = set(taken)
    return next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def _walk(root: Path, skipped: list[str]) -> list[Path]:
    """Files below `root` with a suffix that can be read, sorted, links last; a folder is entered once.

    A folder that cannot be opened is added to `skipped`.
    """
    found: list[Path] = []
    entered: set[Path] = set()

    def refused(error: OSError) -> None:
        skipped.append(f"{error.filename} was skipped: it cannot be opened ({error.strerror})")

    for folder, folders, files in os.walk(root, followlinks=True, onerror=refused):
        here = Path(folder)
        if _real(here) in entered:
            folders.clear()
            continue
        entered.add(_real(here))
        folders[:] = sorted((n for n in folders if not n.startswith(".")), key=lambda n: ((here / n).is_symlink(), n))
        found += [here / n for n in files if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES]
    return sorted((file for file in found if file.is_file()), key=lambda file: (file.is_symlink(), file))


def _try_stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _content(path: Path, seen: os.stat_result | None) -> bytes | str:
    """The bytes of a file, or why it cannot be read."""
    if seen is not None and not stat.S_ISREG(seen.st_mode):
        return "it is no file"
    if seen is not None and seen.st_size > MAX_FILE_BYTES:
        return f"it is larger than {MAX_FILE_BYTES // 2**20} MiB"
    try:
        return path.read_bytes()
    except OSError as error:
        return f"it cannot be opened ({error.strerror})"


def _parse(path: Path, content: bytes | str, seen: os.stat_result | None, digest: str) -> _Read:
    if isinstance(content, str) or seen is None:
        # No file has the size -1, so that this one is tried again next time.
        return _Read(-1, 0, "", content if isinstance(content, str) else "it was written just now")
    try:
        found = read(path, content)
    except Unreadable as error:
        return _Read(seen.st_size, seen.st_mtime_ns, digest, error.message)
    passages = tuple((piece.headings, piece.text) for piece in cut_passages(found.blocks))
    return _Read(seen.st_size, seen.st_mtime_ns, digest, None, found.title, found.text, passages[:_PASSAGES])


def _write(transaction: Transaction, path: Path, now: _Read) -> _Stored:
    """Store a document under the id that it had, or a new one."""
    known = transaction.rows(int, "SELECT id FROM document WHERE path = ?", (str(path),))
    if known:
        _delete_passages(transaction, known[0])
    digest = hashlib.sha256(now.text.encode()).hexdigest()
    row = (now.size, now.mtime_ns, now.content_sha256, now.title, now.text, digest, now.problem)
    transaction.execute(
        "INSERT INTO document (path, size, mtime_ns, content_sha256, title, text, sha256, problem)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET size = excluded.size,"
        " mtime_ns = excluded.mtime_ns, content_sha256 = excluded.content_sha256, title = excluded.title,"
        " text = excluded.text, sha256 = excluded.sha256, problem = excluded.problem",
        (str(path), *row),
    )
    id_ = transaction.rows(int, "SELECT id FROM document WHERE path = ?", (str(path),))[0]
    transaction.execute_many(
        "INSERT INTO passage (rowid, title, headings, text) VALUES (?, ?, ?, ?)",
        [(id_ * _PASSAGES + i, now.title, headings, text) for i, (headings, text) in enumerate(now.passages)],
    )
    return _Stored(id_, now.size, now.mtime_ns, now.content_sha256, now.problem)


def _delete(transaction: Transaction, path: str) -> None:
    for id_ in transaction.rows(int, "SELECT id FROM document WHERE path = ?", (path,)):
        _delete_passages(transaction, id_)
        transaction.execute("DELETE FROM document WHERE id = ?", (id_,))


def _delete_passages(transaction: Transaction, document: int) -> None:
    first = document * _PASSAGES
    transaction.execute("DELETE FROM passage WHERE rowid BETWEEN ? AND ?", (first, first + _PASSAGES - 1))


def _rank(hits: Sequence[_Hit], query: Query, weights: Mapping[str, float]) -> dict[int, float]:
    """The score of each document, of its best passage: bm25 and its best sentence, each scaled to the best of all.

    Without the scale a query of many words would be won by pages that hold many of them, each in another sentence.
    """
    sentences = [coverage(hit.text, query, weights, context=f"{hit.title}\n{hit.headings}") for hit in hits]
    best_passage = max((hit.relevance for hit in hits), default=0.0)
    best_sentence = max(sentences, default=0.0)
    scores: dict[int, float] = {}
    for hit, sentence in zip(hits, sentences, strict=True):
        score = _scaled(hit.relevance, best_passage) + _SENTENCE_SHARE * _scaled(sentence, best_sentence)
        scores[hit.document] = max(scores.get(hit.document, 0.0), score)
    return scores


def _scaled(value: float, best: float) -> float:
    return value / best if best > 0 else 0.0


def _canonical(url: str) -> str:
    """An address as this module writes it, whatever of it came percent-encoded."""
    scheme, _, rest = url.partition("://")
    name, _, path = rest.partition("/")
    return f"{scheme.lower()}://{quote(unquote(name), safe='')}/{quote(unquote(path), safe='/')}"


def _nothing_readable(paths: Sequence[Path], warnings: Sequence[str]) -> ConfigError:
    named = ", ".join(str(path) for path in paths)
    reason = f" ({'; '.join(warnings[:3])})" if warnings else ""
    return ConfigError(
        f"nothing under {named or 'no path'} can be read{reason}",
        hint=f"--docs takes files and folders with {', '.join(sorted(s[1:] for s in SUFFIXES))}",
    )
