"""PDF as blocks, by PDFium. Text that is seen only: no recognition of scanned pages, no tables, no forms."""

import re
import threading
from dataclasses import replace

import pypdfium2

from localfusion.search.blocks import (
    Block,
    Readable,
    Unreadable,
    check_length,
    first_heading,
    is_heading,
    join_wrapped,
    readable,
)
from localfusion.search.pdf_text import PageText, text_of

_LOCK = threading.Lock()
"""PDFium is not safe to use from two threads at once."""

_PAGE_NUMBER = re.compile(r"(?:page\s+)?\d{1,4}(?:\s*(?:/|of)\s*\d{1,4})?$", re.IGNORECASE)
_STOPPED = re.compile(r"[.!?…][\"'”’»)\]]*$")
_PASSWORD_NEEDED = 4  # FPDF_ERR_PASSWORD
MAX_PAGES = 20_000


def read_pdf(content: bytes) -> Readable:
    """The text of every page, wrapped lines joined. Raises Unreadable for a damaged or encrypted file."""
    with _LOCK:
        title, pages = _read_pages(content)
    blocks: list[Block] = []
    for page in pages:
        _append_page(blocks, page.shown)
    hidden = "\n".join(page.hidden for page in pages if page.hidden)
    return replace(readable(title or first_heading(blocks), blocks), hidden=hidden)


def _read_pages(content: bytes) -> tuple[str, list[PageText]]:
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        encrypted = error.err_code == _PASSWORD_NEEDED
        raise Unreadable("it is encrypted" if encrypted else "it is damaged or not a PDF") from error
    try:
        return _title(document), _page_texts(document)
    except pypdfium2.PdfiumError as error:
        raise Unreadable("a page of it is damaged") from error
    finally:
        document.close()


def _page_texts(document: pypdfium2.PdfDocument) -> list[PageText]:
    """The text of each page; no more is read than a file may have."""
    if len(document) > MAX_PAGES:
        raise Unreadable(f"it has more than {MAX_PAGES} pages")
    texts: list[PageText] = []
    n_characters = 0
    for page in document:
        texts.append(_page_text(page))
        n_characters += len(texts[-1].shown) + len(texts[-1].hidden)
        check_length(n_characters)
    return texts


def _title(document: pypdfium2.PdfDocument) -> str:
    try:
        return str(document.get_metadata_value("Title"))
    except UnicodeDecodeError:
        return ""


def _page_text(page: pypdfium2.PdfPage) -> PageText:
    try:
        return text_of(page)
    finally:
        page.close()


def _append_page(blocks: list[Block], page: str) -> None:
    """Add the blocks of a page; a sentence that goes on from the page before is made whole."""
    # PDFium writes U+0002 or U+FFFE for the hyphen of a divided word, and breaks the line behind it.
    text = re.sub("[\x02\ufffe]\\s*", "", page)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _PAGE_NUMBER.match(line)]
    width = max(map(len, lines), default=0)
    for position, paragraph in enumerate(join_wrapped(lines, width=width)):
        if position == 0 and blocks and _goes_on(blocks[-1], paragraph):
            blocks[-1] = Block(f"{blocks[-1].text} {paragraph}")
        elif is_heading(paragraph) and not _STOPPED.search(paragraph):
            blocks.append(Block(paragraph, 2 if blocks else 1))
        else:
            blocks.append(Block(paragraph))


def _goes_on(block: Block, following: str) -> bool:
    return not block.level and not _STOPPED.search(block.text) and following[0].islower()
