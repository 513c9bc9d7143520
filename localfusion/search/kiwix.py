"""A kiwix-serve server that the user named: its search and its articles. Archives on disk are read in `zim`.

The interface is that of kiwix-tools 3.3 (libkiwix 11) and later: `/catalog/v2/entries`, `/search?format=xml`, and
articles under `/BOOK/`, which later versions have under `/content/BOOK/`. Addresses are those of the server, so rules
about domains hold for them.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote, urljoin, urlsplit
from xml.etree import ElementTree as ET

from localfusion.analysis import Page
from localfusion.domains import Domains
from localfusion.errors import NotHere, WebError
from localfusion.search.blocks import Unreadable
from localfusion.search.fusion import fuse
from localfusion.search.named_server import Answer, NamedServer
from localfusion.search.query import parse_query
from localfusion.search.read_page import PageReader
from localfusion.search.source import Fetched, Found, Search
from localfusion.search.web_results import Row, canonical, suspicions, web_results

MORE = 2
"""So many times the results that are asked for are looked at, so that those that may not be shown leave enough."""
MOST_RESULTS = 140
"""The most that a server hands out at once."""
MOST_NAMES_CHARACTERS = 3500
"""Of an address, so much may name archives; servers take some 4 000 characters in all."""
AT_ONCE = 4
"""So many requests of one search are under way at a time."""

_FETCH_FOUND = "fetch an address that a search returned"
_NO_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});)")
_DECLARES = re.compile(r"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class _Book:
    """An archive that the server has, by the name that searches know; its articles are below `path`.

    A search goes over one language.
    """

    name: str
    language: str
    path: str


class KiwixServer:
    """All archives of one server as a `Source`."""

    def __init__(
        self,
        address: str,
        *,
        read: PageReader,
        timeout_s: float = 10.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`address` is where the server's start page is, `read` makes text of articles.

        Raises ConfigError for no such address.
        """
        self._server = NamedServer(address, kind="kiwix", timeout_s=timeout_s)
        self._read_page = read
        self._now = now
        self._books: tuple[_Book, ...] = ()

    @property
    def name(self) -> str:
        """What results and warnings call it."""
        return "kiwix"

    async def search(self, search: Search) -> Found:
        """What the full-text indexes find: for all words of the query, else for its names, else for its longest word.

        Archives of one language are searched together, as many as fit an address; what fails is one warning.
        """
        books = await self._known_books()
        if not books:
            return Found(warnings=(f"kiwix: {self._server} has no archives",))
        batches = [batch for language in _languages(books) for batch in _batches(books, language)]
        found = Found()
        for pattern in _patterns(search.query):
            found = await self._search(pattern, batches, search)
            if found.results:
                break
        return found

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """The text of an article. Raises NotHere for an address that is not below one of the server's archives."""
        if not self._server.holds(url) or not await self._is_article(url):
            raise NotHere(url, f"kiwix has only articles of {self._server.base}", hint=_FETCH_FOUND)
        if not domains.admit(url):
            raise WebError(url, f"{url} may not be fetched: its domain is not allowed", hint="fetch another address")
        answer = await self._server.get(canonical(url) or url)
        if answer.status == 404:
            raise WebError(url, f"there is no article {url}", hint=_FETCH_FOUND)
        if answer.status != 200:
            raise WebError(url, f"{self._server} failed with status {answer.status}", hint="try another address")
        if not domains.admit(answer.url):
            raise WebError(url, f"{url} leads to where the domain is not allowed", hint="fetch another address")
        return await self._read_article(answer, url)

    async def _is_article(self, url: str) -> bool:
        path = urlsplit(url).path
        if path.startswith(f"{urlsplit(self._server.base).path}/content/"):
            return True
        return any(path.startswith(f"{book.path}/") for book in await self._known_books())

    async def _known_books(self) -> tuple[_Book, ...]:
        """The catalog, which is read once, and once more where a search fails."""
        self._books = self._books or await self._read_catalog()
        return self._books

    async def _read_article(self, answer: Answer, asked: str) -> Fetched:
        try:
            read = await self._read_page(
                answer.body, media_type=answer.media_type, charset=answer.charset, url=answer.url
            )
        except Unreadable as error:
            raise WebError(asked, f"{asked} cannot be read: {error.message}") from error
        time = self._now().isoformat(timespec="seconds")
        page = Page(answer.url, read.title, read.text, read.sha256, time, read.byline)
        return Fetched(page, read.links, read.warnings)

    async def _read_catalog(self) -> tuple[_Book, ...]:
        answer = await self._server.get(f"{self._server.base}/catalog/v2/entries", (("count", "-1"),))
        books = (_book(entry) for entry in self._xml(answer).iterfind("{*}entry"))
        return tuple(dict.fromkeys(book for book in books if book.name))

    async def _search(self, pattern: str, batches: Sequence[Sequence[str]], search: Search) -> Found:
        places = asyncio.Semaphore(AT_ONCE)
        answers = await asyncio.gather(*(self._ask(pattern, books, search, places) for books in batches))
        failures = [answer for answer in answers if isinstance(answer, WebError)]
        found = [answer for answer in answers if not isinstance(answer, WebError)]
        if not found:
            self._books = ()  # the server may have other archives by now
            raise failures[0]
        rows: dict[str, Row] = {}
        for answer in found:
            rows = {row.url: row for row in answer} | rows
        fused = (rows[url] for url, _ in fuse([[row.url for row in answer] for answer in found]))
        warnings = _told(failures, [books for books, one in zip(batches, answers, strict=True) if one in failures])
        results = web_results(fused, search, source=self.name)
        return Found(results, (*warnings, *suspicions(results)))

    async def _ask(
        self, pattern: str, books: Iterable[str], search: Search, places: asyncio.Semaphore
    ) -> list[Row] | WebError:
        """What some archives of one language have, or why nothing came."""
        async with places:
            try:
                return await self._search_books(pattern, books, search)
            except WebError as error:
                return error

    async def _search_books(self, pattern: str, books: Iterable[str], search: Search) -> list[Row]:
        """The results in archives of one language; only those that lie on this server."""
        length = min(MORE * search.max_results, MOST_RESULTS)
        parameters = (("pattern", pattern), ("format", "xml"), ("pageLength", str(length)))
        answer = await self._server.get(
            f"{self._server.base}/search", (*parameters, *(("books.name", book) for book in books))
        )
        rows = (_row(item, self._server.base) for item in self._xml(answer).iterfind("{*}channel/{*}item"))
        return [row for row in rows if row is not None and self._server.holds(row.url)]

    def _xml(self, answer: Answer) -> ET.Element:
        """The answer as XML that declares nothing. Bare ampersands, which some versions write, are mended."""
        if answer.status != 200:
            raise WebError(answer.url, f"{self._server} failed with status {answer.status}", hint="try later")
        text = answer.body.decode("utf-8", "replace")
        try:
            if _DECLARES.search(text):
                raise ET.ParseError("it declares a document type")
            return ET.fromstring(_NO_ENTITY.sub("&amp;", _NOT_IN_XML.sub(" ", text)))
        except ET.ParseError as error:
            raise WebError(
                answer.url,
                f"{self._server} answered with something that is not its XML",
                hint="name a kiwix-serve of version 3.3 or later, with the path it serves under",
            ) from error


def _book(entry: ET.Element) -> _Book:
    pages = (link.get("href", "") for link in entry.iterfind("{*}link") if link.get("type") == "text/html")
    path = next(pages, "").rstrip("/")
    return _Book(unquote(path.rpartition("/")[2]), (entry.findtext("{*}language") or "").strip(), path)


def _languages(books: Iterable[_Book]) -> list[str]:
    return list(dict.fromkeys(book.language for book in books))


def _batches(books: Iterable[_Book], language: str) -> Iterator[list[str]]:
    """The names of the archives in a language, so many at a time as one address may name."""
    batch: list[str] = []
    length = 0
    for name in (book.name for book in books if book.language == language):
        added = len(quote(name, safe="")) + len("&books.name=")
        if added > MOST_NAMES_CHARACTERS:
            continue
        if length + added > MOST_NAMES_CHARACTERS:
            yield batch
            batch, length = [], 0
        batch.append(name)
        length += added
    if batch:
        yield batch


def _told(failures: Sequence[WebError], books: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """One warning, however many requests failed."""
    n_books = sum(map(len, books))
    return (f"kiwix: {n_books} of its archives gave nothing: {failures[0].message}",) if failures else ()


def _row(item: ET.Element, base: str) -> Row | None:
    """An item of the results; None where its link is no address."""
    link = _text(item, "link").strip().replace("?", "%3F")  # some versions leave it as it is in an article's path
    try:
        url = urljoin(f"{base}/", link)
    except ValueError:
        return None
    return Row(canonical(url) or url, _text(item, "title"), _text(item, "description"))


def _text(item: ET.Element, tag: str) -> str:
    """All text of a part of an item: in a snippet the words that match stand in elements of their own."""
    part = item.find(f"{{*}}{tag}")
    return "" if part is None else "".join(part.itertext())


def _patterns(query: str) -> list[str]:
    """What is looked for, one after the other until something is found: the index wants every word of a pattern."""
    words = parse_query(query).words
    fewer = [word for word in words if word[0].isupper()] or [max(words, key=len, default="")]
    return list(dict.fromkeys(pattern for pattern in (" ".join(words), " ".join(fewer)) if pattern))
