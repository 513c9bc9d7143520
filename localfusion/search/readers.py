"""A file as readable text: which reader by its suffix, which charset, and what is refused and why.

One file at a time; which files there are is decided in `documents`.
"""

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from charset_normalizer import from_bytes

from localfusion.search.blocks import Readable, Unreadable
from localfusion.search.epub_reader import read_epub
from localfusion.search.html_reader import read_html
from localfusion.search.mail_reader import read_eml
from localfusion.search.office_reader import read_docx, read_pptx
from localfusion.search.pdf_reader import read_pdf
from localfusion.search.rst_reader import read_rst
from localfusion.search.table_reader import read_csv, read_spreadsheet, read_tsv
from localfusion.search.text_reader import read_markdown, read_plain

MAX_FILE_BYTES = 64 * 2**20

_TEXT_READERS: Mapping[str, Callable[[str], Readable]] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".txt": read_plain,
    ".text": read_plain,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".rst": read_rst,
    ".csv": read_csv,
    ".tsv": read_tsv,
}
_READERS: Mapping[str, Callable[[bytes], Readable]] = {
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".pptx": read_pptx,
    ".xlsx": read_spreadsheet,
    ".xlsm": read_spreadsheet,
    ".xlsb": read_spreadsheet,
    ".xls": read_spreadsheet,
    ".ods": read_spreadsheet,
    ".epub": lambda content: read_epub(content, decode),
    ".eml": lambda content: read_eml(content, decode),
}
SUFFIXES = frozenset(_TEXT_READERS) | frozenset(_READERS)
"""What a folder is searched for; a file that is named itself may have any suffix and is then plain text."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]{2,40})", re.IGNORECASE)
_ASCII = b"<meta charset='\\u0041'> +AGE-"
"""Read otherwise by the codecs that are no charset of a page, such as UTF-7, UTF-16 and Python's escapes."""
_MIN_GUESSABLE_BYTES = 200


def read(path: Path, content: bytes) -> Readable:
    """The readable content of a file; its title is the file's name where it gives none. Raises Unreadable."""
    suffix = path.suffix.lower()
    try:
        found = _read(suffix, content)
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    if not found.blocks:
        raise Unreadable("there is no text in it" + (" (a scan?)" if suffix == ".pdf" else ""))
    return found if found.title else replace(found, title=title_of(path))


def _read(suffix: str, content: bytes) -> Readable:
    read_bytes = _READERS.get(suffix)
    return read_bytes(content) if read_bytes else _TEXT_READERS.get(suffix, read_plain)(decode(content))


def title_of(path: Path) -> str:
    """A file's name as words."""
    return " ".join(re.split(r"[\s_-]+", path.stem)).strip() or path.name


def decode(content: bytes) -> str:
    """The text of bytes by mark, as UTF-8, as declared, then by guess; Unreadable for what is not text."""
    for bom, encoding in _BOMS:
        if content.startswith(bom):
            return content.decode(encoding, "replace")
    if b"\0" in content:
        raise Unreadable("it is not text")
    for encoding in _encodings(content):
        try:
            return content.decode(encoding)
        except (UnicodeError, LookupError):
            continue
    return content.decode("latin-1")


def _encodings(content: bytes) -> Iterator[str]:
    """What the bytes may be encoded in, the likeliest first; a guess takes time, so it is made when it is asked for."""
    yield "utf-8"
    yield from _declared(content)
    yield from _guessed(content)
    yield "cp1252"


def _declared(content: bytes) -> tuple[str, ...]:
    match = _DECLARED.search(content[:2048])
    encoding = match.group(1).decode("ascii") if match else ""
    return (encoding,) if _reads_ascii(encoding) else ()


def _reads_ascii(encoding: str) -> bool:
    try:
        return _ASCII.decode(encoding) == _ASCII.decode("ascii")
    except (UnicodeError, LookupError):
        return False


def _guessed(content: bytes) -> tuple[str, ...]:
    """A guess needs some text to be better than the most common encoding."""
    if len(content) < _MIN_GUESSABLE_BYTES:
        return ()
    best = from_bytes(content[: 2**16]).best()
    return (best.encoding,) if best is not None else ()
