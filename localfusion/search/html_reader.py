"""HTML as blocks: what a reader would see, without hidden elements; the main text by trafilatura. Fetches nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

import trafilatura

from localfusion.search.blocks import Block, Readable, first_heading, readable, squeeze
from localfusion.search.visible_page import FoundLink, VisiblePage
from localfusion.search.walls import Parts

_SMALL_PAGE_WORDS = 300
"""Pages shorter than this are taken whole: there is too little of them to tell the main text from the rest."""
_ENOUGH = 0.6
"""The share of a page's visible words that its main text must hold; below, the page is taken whole."""
_NEARLY_NOTHING = 25
_MUCH_HIDDEN = 100
_MANY_TIMES = 8
"""A page of fewer words than the first, where styles hide so many times as many, shows it all once a script has run."""
_LARGEST_EXTRACTED = 1_500_000
_MOST_EXTRACTED = 100_000
_DEEPEST_EXTRACTED = 200
"""A page with more characters, pieces or depth is taken whole: its main text is not looked for."""


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """All that was found in a page; `metadata` is what it says about itself without showing it, by name.

    `parts` tell a page that a script fills or that asks for something; `is_whole` is False where only its beginning
    was read.
    """

    readable: Readable
    shown_title: str
    links: tuple[FoundLink, ...]
    base: str
    metadata: Mapping[str, str]
    parts: Parts
    is_whole: bool


def read_html(html: str) -> Readable:
    """The title and the main text of a page; all that is visible of a small page, or where too little is left."""
    return read_html_page(html).readable


def read_html_page(html: str) -> HtmlPage:
    """All that can be found in a page; what stands in <noscript> where it shows nothing else. Raises Unreadable."""
    page = VisiblePage(html)
    if not page.blocks:
        page = VisiblePage(html, with_asides=True)
    if _words(page.blocks) < _NEARLY_NOTHING and len(page.hidden) > _MUCH_HIDDEN:
        page = _unless_styled_away(page, html)
    if is_for_others := not page.blocks:
        page = VisiblePage(html, with_noscript=True)
    title = first_heading(page.blocks) or page.title
    found = readable(title, page.blocks if _words(page.blocks) < _SMALL_PAGE_WORDS else _main_blocks(page))
    return HtmlPage(
        replace(found, hidden=page.hidden),
        squeeze(page.title),
        tuple(page.links),
        page.base or "",
        page.metadata,
        Parts(page.n_scripts, frozenset(page.ids), frozenset(page.controls), is_for_others),
        page.is_whole,
    )


def _unless_styled_away(page: VisiblePage, html: str) -> VisiblePage:
    """The page with what its styles hide, where that is nearly all of it; else the page as it was."""
    whole = VisiblePage(html, is_doubted=True)
    is_more = _words(whole.blocks) > max(_MANY_TIMES * _words(page.blocks), _NEARLY_NOTHING)
    return whole if is_more else page


def visible_blocks(html: str) -> Readable:
    """Every visible block of a page or of a piece of one, menus and the like included."""
    page = VisiblePage(html, with_asides=True, is_piece=True)
    return Readable("", tuple(page.blocks), page.hidden)


def _main_blocks(page: VisiblePage) -> list[Block]:
    """The main text by trafilatura, or all blocks where it finds too little, or where the page is beyond it."""
    if page.depth > _DEEPEST_EXTRACTED or page.n_pieces > _MOST_EXTRACTED or len(page.html) > _LARGEST_EXTRACTED:
        return page.blocks
    extracted = trafilatura.extract(
        page.html, output_format="xml", favor_recall=True, include_comments=False, include_tables=True
    )
    main = _from_xml(extracted) if extracted else []
    if _words(main) < _ENOUGH * _words(page.blocks):
        return page.blocks
    heading = first_heading(page.blocks)
    is_missing = heading and all(squeeze(block.text) != heading for block in main)
    return [Block(heading, 1), *main] if is_missing else main


def _from_xml(text: str) -> list[Block]:
    """The blocks of trafilatura's XML: headings, paragraphs, list items and table rows."""
    blocks: list[Block] = []
    main = ET.fromstring(text).find("main")
    for element in main.iter() if main is not None else ():
        whole = "".join(element.itertext())
        if element.tag == "head":
            level = element.get("rend", "h2")[-1:]
            blocks.append(Block(whole, int(level) if level.isdigit() else 2))
        elif element.tag == "row":
            blocks.append(Block(" | ".join(squeeze("".join(cell.itertext())) for cell in element)))
        elif element.tag in ("p", "item", "quote", "code") and not _inside(element, blocks):
            blocks += [Block(line) for line in _lines(element)]
    return blocks


def _inside(element: ET.Element, blocks: Sequence[Block]) -> bool:
    """Whether the block before holds this element already (a paragraph within an item or a cell)."""
    text = squeeze("".join(element.itertext()))
    return bool(blocks) and text in squeeze(blocks[-1].text)


def _lines(element: ET.Element) -> list[str]:
    """The text of an element, broken where it has a line break."""
    lines = [element.text or ""]
    for child in element:
        if child.tag == "lb":
            lines.append("")
        else:
            lines[-1] += "".join(child.itertext())
        lines[-1] += child.tail or ""
    return lines


def _words(blocks: Sequence[Block]) -> int:
    return sum(len(block.text.split()) for block in blocks)
