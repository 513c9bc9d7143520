"""A file as readable text: which reader by its suffix, which charset, and what is refused and why.

One file at a time; which files there are is decided in `documents`.
"""

import codecs
import re
from collections.abc import Callable, Mapping
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

TEXT_READERS: Mapping[str, Callable[[str], Readable]] = {
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
BINARY_READERS: Mapping[str, Callable[[bytes], Readable]] = {
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

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]{2,40})", re.IGNORECASE)
_XML_DECLARED = re.compile(rb"<\?xml[^>]{0,80}encoding\s*=\s*[\"']([\w-]{2,40})", re.IGNORECASE)
_UTF_16 = re.compile(r"utf-?16(?:-?[lb]e)?$", re.IGNORECASE)
_MEANT = {
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "iso_8859-1", "l1", "ascii", "us-ascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "gb_2312-80", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "ksc5601", "windows-949"), "cp949"),
    **dict.fromkeys(("iso-8859-9", "latin5"), "cp1254"),
    "iso-8859-11": "cp874",
    "tis-620": "cp874",
    "iso-8859-8-i": "iso-8859-8",
    "big5": "big5hkscs",
    "x-x-big5": "big5hkscs",
    "unicode-1-1-utf-8": "utf-8",
    "x-mac-roman": "mac-roman",
    "x-cp1252": "cp1252",
}
_RIGHT_FOR_EACH_WRONG = 20
"""Sound characters of UTF-8 for each broken one, else the bytes are no UTF-8."""
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
    read_bytes = BINARY_READERS.get(suffix)
    return read_bytes(content) if read_bytes else TEXT_READERS.get(suffix, read_plain)(decode(content))


def title_of(path: Path) -> str:
    """A file's name as words."""
    return " ".join(re.split(r"[\s_-]+", path.stem)).strip() or path.name


def decode(content: bytes, *, named: str | None = None) -> str:
    """The text of bytes by mark, by the charset that a server `named`, as declared, then by guess.

    A charset that is wrong or that nobody knows is passed over; sound UTF-8 is not taken for a charset that has a
    letter for each byte. Raises Unreadable for what is not text.
    """
    for bom, encoding in _BOMS:
        if content.startswith(bom):
            return content.decode(encoding, "replace")
    if named and b"\0" in content and (text := _try_utf_16(content, named)) is not None:
        return text
    if b"\0" in content:
        raise Unreadable("it is not text")
    charsets = [known for name in (named or "", _declared(content)) if (known := _try_charset(name))]
    for encoding in (*filter(_can_be_wrong, charsets), "utf-8", *charsets):
        if (text := _try_decode(content, encoding)) is not None:
            return text
    for encoding in (*_guessed(content), "cp1252"):
        try:
            return content.decode(encoding)
        except (UnicodeError, LookupError):
            continue
    return content.decode("latin-1")


def _try_utf_16(content: bytes, named: str) -> str | None:
    """The text where a server names UTF-16, which every other charset would be taken for broken."""
    if not _UTF_16.match(named):
        return None
    text = content.decode("utf-16-be" if named.lower().endswith("be") else "utf-16-le", "replace")
    return None if "\0" in text else text


def _try_decode(content: bytes, encoding: str) -> str | None:
    """The text, a few broken bytes of UTF-8 shown as such; None where `encoding` is not the right one."""
    try:
        return content.decode(encoding)
    except UnicodeError:
        if codecs.lookup(encoding).name != "utf-8":
            return None
    text = content.decode("utf-8", "replace")
    n_right = sum(not character.isascii() for character in text) - (n_wrong := text.count("\ufffd"))
    return text if n_wrong * _RIGHT_FOR_EACH_WRONG <= n_right else None


def _declared(content: bytes) -> str:
    match = _DECLARED.search(content[:2048]) or _XML_DECLARED.match(content[:200])
    return match.group(1).decode("ascii") if match else ""


def _try_charset(name: str) -> str | None:
    """The codec that a page means by a name; None for one that no page can have. Browsers' own readings come first."""
    name = name.strip().strip("\"'").lower()
    name = _MEANT.get(name, name)
    try:
        return name if _ASCII.decode(name) == _ASCII.decode("ascii") else None
    except (UnicodeError, LookupError, ValueError):
        return None


def _can_be_wrong(encoding: str) -> bool:
    """Whether decoding can show that it is another charset: not so for those that have a letter for each byte."""
    try:
        return bool("中".encode(encoding))
    except UnicodeError:
        return False


def _guessed(content: bytes) -> tuple[str, ...]:
    """A guess needs some text to be better than the most common encoding."""
    if len(content) < _MIN_GUESSABLE_BYTES:
        return ()
    best = from_bytes(content[: 2**16]).best()
    return (best.encoding,) if best is not None else ()
