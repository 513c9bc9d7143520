"""EPUB books as blocks: the chapters in the order of reading, each by the HTML reader. Nothing is fetched or run."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from posixpath import dirname, join, normpath
from urllib.parse import unquote

from lxml import etree

from localfusion.search.archive import NOT_SOUND, open_archive, parse_xml
from localfusion.search.blocks import Readable, Unreadable, first_heading, readable
from localfusion.search.html_reader import visible_blocks

_KIND = "an EPUB"
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGES = frozenset({"application/xhtml+xml", "text/html"})


@dataclass(frozen=True, slots=True)
class _Book:
    """The package document: `chapters` are entries of the archive in the order of reading, each once."""

    title: str
    chapters: tuple[str, ...]


def read_epub(content: bytes, decode: Callable[[bytes], str]) -> Readable:
    """The title and every chapter, its bytes read by `decode`. Raises Unreadable for a damaged or locked book."""
    with open_archive(content, kind=_KIND) as archive:
        try:
            book = _book(archive)
            locked = _locked(archive)
            if locked.intersection(book.chapters):
                raise Unreadable("it is encrypted")
            there = set(archive.namelist())
            chapters = (decode(archive.read(name)) for name in book.chapters if name in there)
            blocks = [block for chapter in chapters for block in visible_blocks(chapter).blocks]
        except NOT_SOUND as error:
            raise Unreadable(f"it is damaged or not {_KIND}") from error
    return readable(book.title or first_heading(blocks), blocks)


def _book(archive: zipfile.ZipFile) -> _Book:
    container = parse_xml(archive.read(_CONTAINER))
    path = next((element.get("full-path", "") for element in container.iter("{*}rootfile")), "")
    package = parse_xml(archive.read(path))
    titles = ("".join(map(str, element.itertext())) for element in package.iter("{*}title"))
    items = {item.get("id"): item for item in package.iter("{*}item")}
    read = (items.get(reference.get("idref")) for reference in package.iter("{*}itemref"))
    chapters = (_entry(path, item.get("href", "")) for item in read if item is not None and _is_page(item))
    return _Book(next(titles, ""), tuple(dict.fromkeys(chapters)))


def _is_page(item: etree._Element) -> bool:
    return item.get("media-type") in _PAGES and "nav" not in item.get("properties", "").split()


def _entry(package: str, href: str) -> str:
    """The name in the archive that a relative address in the package document means; it leads to no other place."""
    return normpath(join(dirname(package), unquote(href.partition("#")[0])))


def _locked(archive: zipfile.ZipFile) -> frozenset[str]:
    """The entries that are encrypted; fonts often are, and do not matter."""
    if _ENCRYPTION not in archive.namelist():
        return frozenset()
    root = parse_xml(archive.read(_ENCRYPTION))
    return frozenset(normpath(unquote(reference.get("URI", ""))) for reference in root.iter("{*}CipherReference"))
