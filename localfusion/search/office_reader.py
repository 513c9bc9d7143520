"""Word documents and PowerPoint presentations as blocks, in the order in which they are read.

Text only: no pictures, charts, comments, deleted or hidden text. What macros there are is neither run nor shown.
"""

import io
import re
from collections.abc import Iterator

import docx
import pptx
from docx.document import Document
from docx.opc.exceptions import OpcError
from docx.oxml.ns import qn
from lxml import etree
from pptx.exc import PythonPptxError
from pptx.presentation import Presentation
from pptx.shapes.autoshape import Shape
from pptx.shapes.base import BaseShape
from pptx.shapes.graphfrm import GraphicFrame
from pptx.shapes.group import GroupShape
from pptx.slide import Slide
from pptx.text.text import TextFrame

from localfusion.search.archive import NOT_SOUND, check_archive, parse_xml
from localfusion.search.blocks import Block, Readable, Unreadable, first_heading, readable, squeeze

_WORD = "a Word document"
_SLIDES = "a PowerPoint presentation"
_HEADING_STYLE = re.compile(r"heading ([1-6])$", re.IGNORECASE)
_UNSEEN = frozenset(map(qn, ("w:del", "w:moveFrom", "w:pPr", "w:rPr", "w:instrText"))) | {
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
}
_SPACES = frozenset(map(qn, ("w:tab", "w:br", "w:cr", "w:ptab")))
_WRITTEN_NOTES = frozenset((None, "normal"))
"""The types of notes that somebody wrote; the others are lines that part notes from the text."""


def read_docx(content: bytes) -> Readable:
    """Paragraphs, headings, lists, tables and then the notes of a Word document. Raises Unreadable."""
    check_archive(content, kind=_WORD)
    try:
        document = docx.Document(io.BytesIO(content))
        levels = _heading_levels(document)
        blocks = [*_word_blocks(document.element.body, levels), *_notes(document)]
        title = document.core_properties.title
    except (OpcError, *NOT_SOUND) as error:
        raise Unreadable(f"it is damaged or not {_WORD}") from error
    return readable(first_heading(blocks) or title, blocks)


def read_pptx(content: bytes) -> Readable:
    """Each slide's title, texts and tables, then what the speaker noted. Raises Unreadable."""
    check_archive(content, kind=_SLIDES)
    try:
        presentation = pptx.Presentation(io.BytesIO(content))
        blocks = list(_slide_blocks(presentation))
        title = presentation.core_properties.title
    except (PythonPptxError, *NOT_SOUND) as error:
        raise Unreadable(f"it is damaged or not {_SLIDES}") from error
    return readable(first_heading(blocks) or title, blocks)


def _heading_levels(document: Document) -> dict[str, int]:
    """Style -> level; the names of the styles that Word brings are English in every language."""
    levels = {"Title": 1}
    for style in document.styles:
        match = _HEADING_STYLE.match(style.name or "")
        if match:
            levels[style.style_id] = int(match.group(1))
    return levels


def _word_blocks(container: etree._Element, levels: dict[str, int]) -> Iterator[Block]:
    """The blocks of a body, a cell or a note, whatever wraps them."""
    for child in container:
        if child.tag == qn("w:p"):
            yield Block(_word_text(child), _level(child, levels))
        elif child.tag == qn("w:tr"):
            cells = (" ".join(block.text for block in _word_blocks(cell, {})) for cell in _cells(child))
            yield Block(" | ".join(map(squeeze, cells)))
        elif child.tag not in _UNSEEN:
            yield from _word_blocks(child, levels)


def _cells(row: etree._Element) -> Iterator[etree._Element]:
    """The cells right in a row; those of tables in its cells are theirs."""
    for child in row:
        if child.tag == qn("w:tc"):
            yield child
        elif child.tag not in _UNSEEN:
            yield from _cells(child)


def _level(paragraph: etree._Element, levels: dict[str, int]) -> int:
    style = paragraph.find(f"{qn('w:pPr')}/{qn('w:pStyle')}")
    return levels.get(style.get(qn("w:val"), ""), 0) if style is not None else 0


def _word_text(element: etree._Element) -> str:
    """The text that is seen of a paragraph or a part of one."""
    if element.tag == qn("w:t"):
        return element.text or ""
    if element.tag in _SPACES:
        return " "
    if element.tag == qn("w:noBreakHyphen"):
        return "-"
    if element.tag in _UNSEEN or _is_hidden(element):
        return ""
    return "".join(map(_word_text, element)) + (" " if element.tag == qn("w:p") else "")


def _is_hidden(element: etree._Element) -> bool:
    vanish = element.find(f"{qn('w:rPr')}/{qn('w:vanish')}") if element.tag == qn("w:r") else None
    return vanish is not None and vanish.get(qn("w:val"), "true") not in ("0", "false", "off")


def _notes(document: Document) -> Iterator[Block]:
    """Footnotes and endnotes, each as one block."""
    for relation in document.part.rels.values():
        kind = relation.reltype.rpartition("/")[2]
        if kind not in ("footnotes", "endnotes") or relation.is_external:
            continue
        for note in parse_xml(relation.target_part.blob):
            if note.get(qn("w:type")) in _WRITTEN_NOTES:
                yield Block(" ".join(block.text for block in _word_blocks(note, {})))


def _slide_blocks(presentation: Presentation) -> Iterator[Block]:
    for number, slide in enumerate(presentation.slides, start=1):
        title = slide.shapes.title
        words = squeeze(title.text_frame.text) if title is not None else ""
        yield Block(words or f"Slide {number}", 2 if number > 1 else 1)
        for shape in slide.shapes:
            if title is None or shape.shape_id != title.shape_id:
                yield from _shape_blocks(shape)
        yield from _speaker_notes(slide)


def _shape_blocks(shape: BaseShape) -> Iterator[Block]:
    match shape:
        case GroupShape():
            for inner in shape.shapes:
                yield from _shape_blocks(inner)
        case GraphicFrame() if shape.has_table:
            for row in shape.table.rows:
                yield Block(" | ".join(squeeze(cell.text) for cell in row.cells))
        case Shape():
            yield from _frame_blocks(shape.text_frame)


def _frame_blocks(frame: TextFrame) -> Iterator[Block]:
    yield from (Block(paragraph.text) for paragraph in frame.paragraphs)


def _speaker_notes(slide: Slide) -> Iterator[Block]:
    frame = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    if frame is not None:
        yield from _frame_blocks(frame)
