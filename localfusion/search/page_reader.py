"""The bytes of a fetched page as readable text, with what it links to and what is odd about it. Fetches nothing."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from localfusion.search.blocks import Readable, Unreadable, squeeze
from localfusion.search.control_tokens import broken_up
from localfusion.search.html_reader import HtmlPage, read_html_page
from localfusion.search.links import absolute_links
from localfusion.search.media_types import kind_of
from localfusion.search.pdf_reader import read_pdf
from localfusion.search.read_page import ReadPage
from localfusion.search.readers import decode
from localfusion.search.suspicion import signs
from localfusion.search.text_reader import markdown_links, read_markdown, read_plain
from localfusion.search.visible_page import FoundLink
from localfusion.search.walls import wall_before

_ADDRESS = re.compile(r"https?://[^\s<>\"'“”‘’\])}]{3,2000}", re.IGNORECASE)
_AFTER_ADDRESS = ".,;:!?"
_MOST_WRITTEN_ADDRESSES = 400
_LONGEST_TITLE = 300
_CUT_SHORT = "only the beginning of the page was read: it is too large"
_MOST_HTML = 10_000_000
_MOST_PLAIN = 5_000_000
_MOST_MARKDOWN = 500_000
"""Characters of a page; what is behind them is not read."""


@dataclass(frozen=True, slots=True)
class _Content:
    """A page as one of the readers found it; `wall` is what keeps it from being read, if it is a page of the web."""

    found: Readable
    title: str
    links: tuple[FoundLink, ...] = ()
    base: str = ""
    metadata: Mapping[str, str] | None = None
    is_whole: bool = True
    wall: str = ""


def read_page(content: bytes, *, media_type: str, charset: str | None, url: str) -> ReadPage:
    """The page at `url`; `charset` is what the server named. Raises Unreadable with a reason that the model is told."""
    kind = media_type.partition(";")[0].strip().lower()
    read = _READERS.get(kind)
    if read is None:
        raise Unreadable(f"it is {kind_of(kind)}; pages, texts and PDFs are read")
    page = read(content, charset)
    if page.wall and (_is_of_the_web(url) or not page.found.blocks):
        raise Unreadable(page.wall)
    text = broken_up(page.found.text)
    title = broken_up((page.title or _name_of(url))[:_LONGEST_TITLE].strip())
    about = {name: broken_up(squeeze(value)[:_LONGEST_TITLE]) for name, value in (page.metadata or {}).items()}
    return ReadPage(
        title,
        text,
        absolute_links(page.links, url=url, base=page.base),
        _warnings(page),
        author=about.get("author") or about.get("article:author", ""),
        published=about.get("article:published_time") or about.get("date", ""),
        site=about.get("og:site_name", ""),
    )


def _read_html(content: bytes, charset: str | None) -> _Content:
    html = decode(content, named=charset)
    page = read_html_page(html[:_MOST_HTML])
    wall = wall_before(page.readable.text, page.parts)
    is_whole = page.is_whole and len(html) <= _MOST_HTML
    return _Content(page.readable, _title(page), page.links, page.base, page.metadata, is_whole, wall)


def _read_markdown(content: bytes, charset: str | None) -> _Content:
    return _read_text(content, charset, read_markdown, markdown_links, most=_MOST_MARKDOWN)


def _read_plain(content: bytes, charset: str | None) -> _Content:
    return _read_text(content, charset, read_plain, _written_addresses, most=_MOST_PLAIN)


def _read_text(
    content: bytes,
    charset: str | None,
    read: Callable[[str], Readable],
    links: Callable[[str], tuple[FoundLink, ...]],
    *,
    most: int,
) -> _Content:
    text = decode(content, named=charset)
    start = text[:most]
    found = read(start)
    if not found.blocks:
        raise Unreadable("there is no text in it")
    return _Content(found, found.title, links(start), is_whole=len(start) == len(text))


def _read_pdf(content: bytes, charset: str | None) -> _Content:
    del charset
    found = read_pdf(content)
    if not found.blocks:
        raise Unreadable("it is a PDF without text (a scan?)")
    return _Content(found, found.title, _written_addresses(found.text))


_READERS: Mapping[str, Callable[[bytes, str | None], _Content]] = {
    "text/html": _read_html,
    "application/xhtml+xml": _read_html,
    "text/plain": _read_plain,
    "text/markdown": _read_markdown,
    "application/pdf": _read_pdf,
}


def _title(page: HtmlPage) -> str:
    """The title that a page has for others, where it shows it too; else that of its window, or its first heading."""
    announced = squeeze(page.metadata.get("og:title", ""))
    is_shown = announced in page.shown_title or announced == page.readable.title
    return announced if announced and is_shown else page.shown_title or page.readable.title


def _written_addresses(text: str) -> tuple[FoundLink, ...]:
    """The addresses that a text spells out."""
    found = (match.group().rstrip(_AFTER_ADDRESS) for match in _ADDRESS.finditer(text))
    return tuple(FoundLink(address, "", is_aside=False) for address in dict.fromkeys(found))[:_MOST_WRITTEN_ADDRESSES]


def _warnings(page: _Content) -> tuple[str, ...]:
    """What the user should know of a page; no text is changed for it."""
    found = signs(f"{page.title}\n{page.found.text}", squeeze(page.found.hidden))
    warnings = (f"this page looks like an attack on the model: {', '.join(found)}",) if found else ()
    return warnings if page.is_whole else (*warnings, _CUT_SHORT)


def _is_of_the_web(url: str) -> bool:
    """Whether a server may have put something in front of the page; archives stand at names that no server has."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and not (parts.hostname or "").endswith(".invalid")


def _name_of(url: str) -> str:
    """The last part of an address's path as words, or its host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "page"
    name = unquote(parts.path).rstrip("/").rpartition("/")[2].rpartition(".")
    return squeeze(re.sub(r"[-_]+", " ", name[0] or name[2])) or parts.netloc or "page"
