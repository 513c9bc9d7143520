"""ZIM archives on disk as a search source, behind `zim://ARCHIVE/PATH` addresses; libzim runs in `zim_reader`.

Each archive has a process of its own: damage that the checks of libzim let through ends that process and not the run.
A kiwix-serve server is asked in `kiwix`.
"""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Self, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, Field, ValidationError

from localfusion.analysis import Link, Page
from localfusion.domains import Domains
from localfusion.errors import ConfigError, LocalFusionError, NotHere, WebError
from localfusion.search.blocks import Unreadable
from localfusion.search.child_environment import child_environment
from localfusion.search.fusion import fuse
from localfusion.search.query import Query, parse_query
from localfusion.search.read_page import PageReader, ReadPage
from localfusion.search.sentences import select
from localfusion.search.source import Fetched, Found, Search, SearchResult
from localfusion.search.tokens import terms

SOURCE_NAME = "zim"
TIMEOUT_S = 30.0
"""How long one search or read of one archive may take; then its process is ended, and started anew when needed."""
MAX_WORDS = 16
MAX_ARTICLE_BYTES = 16 * 2**20
MOST_SEARCHED = 200_000
"""Characters of an article in which the sentences that answer a query are looked for."""
MORE = 2
"""So many times the results that are asked for are looked for, as some of them may be unreadable or the same."""

_MODULE = "localfusion.search.zim_reader"
_INSTALL = "install it: pip install 'localfusion[zim]'"
_NAME_FILES = "name files that end in .zim"
_REPAIR = "download it again; zimcheck tells what is wrong with it"
_FETCH_FOUND = "fetch an address that a search returned"
_MAX_LINE_BYTES = 2**20
_HEADER = Struct("<I68xQ")
"""Of a header's 80 bytes: the magic number and where the checksum lies, which are the last 16 bytes of the file."""
_MAGIC = 72173914
_CHECKSUM_BYTES = 16
_INSIDE = "https://archive.invalid/"
"""Where articles stand while their links are read: relative links need an address of the web (RFC 2606)."""
_NO_ARTICLE = {
    "missing": "is not in that archive",
    "redirects": "leads from one entry to the next without end",
    "large": f"is larger than {MAX_ARTICLE_BYTES // 2**20} MiB",
}


class _Reply(BaseModel):
    """What every reply of a reader's process has; the archive may have made it say anything."""

    size: int = Field(ge=0, le=MAX_ARTICLE_BYTES)
    problem: str = ""
    reason: str = ""


class _Opened(_Reply):
    full_text: bool = False


class _Matching(_Reply):
    paths: list[str] = []
    matches: dict[str, int] = {}
    total: int = 0


class _Article(_Reply):
    path: str = ""
    title: str = ""
    media_type: str = ""


T = TypeVar("T", bound=_Reply)


class _Gone(LocalFusionError):
    """A reader's process ended or said what no reader says; the message tells how."""


class ZimArchives:
    """Some archives as one `Source`. To be closed, which ends their processes; or a `with` block does."""

    def __init__(
        self, paths: Sequence[Path], *, read: PageReader, timeout_s: float = TIMEOUT_S, python: str = sys.executable
    ) -> None:
        """Nothing is opened yet; `read` makes text of articles, `python` is what has libzim.

        Raises ConfigError for a file that is not there or no whole archive.
        """
        self._read_page = read
        self._readers: dict[str, _Reader] = {}
        for path in paths:
            _check_file(path)
            name = _unique_name(path.stem, self._readers)
            self._readers[name] = _Reader(name, path, timeout_s=timeout_s, python=python)

    def open(self) -> None:
        """Open the archives. Blocks for a moment; `close`, from any thread, ends that.

        Raises ConfigError for a file that is no whole archive, and where libzim is missing.
        """
        try:
            for reader in self._readers.values():
                reader.open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What results and warnings call it."""
        return SOURCE_NAME

    @property
    def archives(self) -> tuple[str, ...]:
        """The names that stand in addresses, in the order of the files."""
        return tuple(self._readers)

    def close(self) -> None:
        """End the processes; closing twice does nothing."""
        for reader in self._readers.values():
            reader.close()

    async def search(self, search: Search) -> Found:
        """The best articles of all archives, with the sentences that match; nothing for a query without words.

        An archive without a full-text index is searched by title, with a warning; one that fails is a warning, all
        of them a WebError.
        """
        query = parse_query(search.query)
        words = list(query.words[:MAX_WORDS])
        if not words:
            return Found()
        limit = MORE * search.max_results
        asked = [asyncio.to_thread(reader.search, words, limit) for reader in self._readers.values()]
        answers = dict(zip(self._readers, await asyncio.gather(*asked), strict=True))
        warnings = [answer for answer in answers.values() if isinstance(answer, str)]
        if warnings and len(warnings) == len(answers):
            raise WebError("zim://", "; ".join(warnings), hint=_REPAIR)
        warnings += [
            f"zim: {name} has no full-text index, only its titles were searched"
            for name, reader in self._readers.items()
            if not reader.full_text
        ]
        found = {name: answer for name, answer in answers.items() if not isinstance(answer, str)}
        ranked = fuse([[(name, path) for path in answer.paths] for name, answer in found.items()])
        read = await self._results(ranked, search, query, _weights(query, found.values()))
        return Found(read.results, (*warnings, *read.warnings))

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """An article's whole text; links within the archive are `zim://` addresses too, others as they are.

        An archive's name alone is its main page. Raises NotHere for an address that is of none of these archives.
        """
        del domains  # they are about the web
        scheme, _, rest = url.partition("#")[0].partition("://")
        name, _, path = rest.partition("/")
        reader = self._readers.get(unquote(name))
        if scheme.lower() != "zim" or reader is None:
            known = ", ".join(_address(archive, "") for archive in self._readers)
            raise NotHere(url, f"the archives have only what is below {known}", hint=_FETCH_FOUND)
        return await self._fetch(reader, unquote(path), url)

    async def _results(
        self,
        ranked: Iterable[tuple[tuple[str, str], float]],
        search: Search,
        query: Query,
        weights: Mapping[str, float],
    ) -> Found:
        """The first articles that can be read, each once, whatever path led to it; what is odd about them is said."""
        results: dict[str, SearchResult] = {}
        warnings: list[str] = []
        for (name, path), score in ranked:
            if len(results) >= search.max_results:
                break
            try:
                fetched = await self._fetch(self._readers[name], path, _address(name, path))
            except WebError:
                continue
            page = fetched.page
            if page.url not in results:
                passage = await asyncio.to_thread(
                    select, _beginning(page.text), query, weights, max_characters=search.max_characters
                )
                results[page.url] = SearchResult(page.url, page.title, passage, SOURCE_NAME, round(score, 6), page)
                warnings += [f"{page.url}: {warning}" for warning in fetched.warnings]
        return Found(tuple(results.values()), tuple(warnings))

    async def _fetch(self, reader: "_Reader", path: str, url: str) -> Fetched:
        request: dict[str, object] = {"path": path, "max_bytes": MAX_ARTICLE_BYTES}
        try:
            article, content = await asyncio.to_thread(reader.ask, _Article, request)
        except _Gone as error:
            raise WebError(url, f"{url} cannot be read: {error.message}", hint=_REPAIR) from error
        if article.problem:
            problem = _NO_ARTICLE.get(article.problem, "cannot be read: it is damaged")
            raise WebError(url, f"{url} {problem}", hint=_FETCH_FOUND)
        read = await self._read(article, content, url)
        page = Page(_address(reader.name, article.path), read.title or article.title, read.text, read.sha256)
        return Fetched(page, links_within(read.links, reader.name), read.warnings)

    async def _read(self, article: _Article, content: bytes, url: str) -> ReadPage:
        media_type = article.media_type.partition(";")[0].strip().lower()
        inside = _INSIDE + quote(article.path, safe="/")
        try:
            return await self._read_page(content, media_type=media_type, charset="utf-8", url=inside)
        except Unreadable as error:
            raise WebError(url, f"{url} cannot be read: {error.message}", hint="try another address") from error


class _Reader:
    """The process that reads one archive: started when it is needed, asked one thing at a time. Blocks."""

    def __init__(self, name: str, path: Path, *, timeout_s: float, python: str) -> None:
        """Nothing is started yet."""
        self.name = name
        self.full_text = False
        self._path = path
        self._timeout_s = timeout_s
        self._python = python
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def open(self) -> None:
        """Start the process, unless it is there, and wait until the archive is open. Raises ConfigError if not."""
        try:
            with self._lock:
                if self._process is None:
                    self._start()
        except _Gone as error:
            if not _has_libzim(self._python, self._timeout_s):
                message = "ZIM archives are read by the package libzim, which is missing"
                raise ConfigError(message, hint=_INSTALL) from error
            raise ConfigError(f"{self._path} cannot be opened: {error.message}", hint=_REPAIR) from error

    def search(self, words: Sequence[str], limit: int) -> _Matching | str:
        """What matches, or why the archive gave nothing."""
        try:
            found, _ = self.ask(_Matching, {"words": list(words), "limit": limit})
        except _Gone as error:
            return f"zim: {self.name} gave nothing: {error.message}"
        return f"zim: {self.name} gave nothing: it is damaged" if found.problem else found

    def ask(self, kind: type[T], request: Mapping[str, object]) -> tuple[T, bytes]:
        """The reply to a request and its bytes. Raises _Gone where the process ends instead, or cannot be started."""
        with self._lock:
            process = self._process or self._start()
            with suppress(BrokenPipeError):  # its end is seen when it is read
                assert process.stdin
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            return self._receive(process, kind)

    def close(self) -> None:
        """End the process, also one that is at work; none is started after."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        """A process that has the archive open."""
        if self._is_closed:
            raise _Gone("it is closed")
        command = [self._python, "-P", "-m", _MODULE, str(self._path.absolute())]
        pipe, nowhere, environment = subprocess.PIPE, subprocess.DEVNULL, child_environment()
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment)
        except OSError as error:
            raise _Gone(f"no process can be started ({error.strerror})") from error
        self._process = process
        opened, _ = self._receive(process, _Opened)
        if opened.problem:
            self._end()
            raise _Gone(opened.reason)
        self.full_text = opened.full_text
        return process

    def _receive(self, process: subprocess.Popen[bytes], kind: type[T]) -> tuple[T, bytes]:
        """The next reply, within the time there is."""
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(self._timeout_s, stop)
        timer.start()
        assert process.stdout
        try:
            reply = kind.model_validate_json(process.stdout.readline(_MAX_LINE_BYTES))
            body = process.stdout.read(reply.size)
        except ValidationError:
            reply, body = None, b""
        finally:
            timer.cancel()
        if reply is None or len(body) < reply.size:
            ended = self._end()
            raise _Gone(f"libzim did not answer within {self._timeout_s:g} s" if is_late.is_set() else ended)
        return reply, body

    def _end(self) -> str:
        """End the process, if it has not ended by itself; in words how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "it is closed"
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
        code = process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                assert stream
                stream.close()
        return f"libzim ended over it ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def links_within(links: Iterable[Link], archive: str) -> tuple[Link, ...]:
    """Links of an article that was read as if below `_INSIDE`: those that stay there as addresses of the archive."""
    found: dict[str, Link] = {}
    for link in links:
        url = link.url
        if url.startswith(_INSIDE):
            url = _address(archive, unquote(url.removeprefix(_INSIDE).partition("#")[0]))
        found.setdefault(url, Link(url, link.text))
    return tuple(found.values())


def _beginning(text: str) -> str:
    """So much of an article as is searched for sentences, to the end of a word."""
    if len(text) <= MOST_SEARCHED:
        return text
    words = text[:MOST_SEARCHED].rsplit(maxsplit=1)
    return words[0] if len(words) == 2 else text[:MOST_SEARCHED]


def _address(archive: str, path: str) -> str:
    return f"zim://{quote(archive, safe='')}/{quote(path, safe='/')}"


def _weights(query: Query, answers: Iterable[_Matching]) -> dict[str, float]:
    """How rare each word of the query is in the archives (idf)."""
    found = list(answers)
    total = sum(max(answer.total, 0) for answer in found)
    weights: dict[str, float] = {}
    for word in query.words[:MAX_WORDS]:
        having = min(sum(max(answer.matches.get(word, 0), 0) for answer in found), total)
        idf = math.log(1 + (total - having + 0.5) / (having + 0.5)) if having else 0.0
        weights |= {stem: max(idf, weights.get(stem, 0.0)) for stem in terms(word)}
    return weights


def _check_file(path: Path) -> None:
    """Whether the file is as long as its header says; the rest is libzim's to check, which wants names in UTF-8."""
    if not str(path).isascii() and os.fsencode(path).decode(errors="replace") != str(path):
        raise ConfigError(f"{str(path)!a} cannot be opened: its name is not UTF-8", hint="rename the file")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no file", hint=_NAME_FILES)
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}", hint=_NAME_FILES) from error
    if len(head) < _HEADER.size:
        raise ConfigError(f"{path} is no ZIM archive: it has {size} bytes", hint=_REPAIR)
    magic, checksum_at = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise ConfigError(f"{path} is no ZIM archive", hint=_NAME_FILES)
    if checksum_at + _CHECKSUM_BYTES != size:
        whole = checksum_at + _CHECKSUM_BYTES
        raise ConfigError(f"{path} is cut short or damaged: {size} bytes instead of {whole}", hint=_REPAIR)


def _has_libzim(python: str, timeout_s: float) -> bool:
    """Whether an interpreter can import what `zim_reader` does; one that does not say is taken to."""
    command = [python, "-P", "-c", "import libzim.reader, libzim.search, libzim.suggestion"]
    nowhere, environment = subprocess.DEVNULL, child_environment()
    try:
        tried = subprocess.run(
            command, stdin=nowhere, capture_output=True, check=False, timeout=timeout_s, env=environment
        )
    except subprocess.TimeoutExpired:
        return True
    return tried.returncode == 0


def _unique_name(name: str, taken: Mapping[str, object]) -> str:
    return next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
