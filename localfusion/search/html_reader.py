"""HTML as blocks: what a reader would see, without hidden elements; the main text by trafilatura. Fetches nothing."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import trafilatura

from localfusion.search.blocks import Block, Readable, first_heading, readable, squeeze, word_set

_VOID = word_set("area base br col embed hr img input link meta param source track wbr")
_UNSEEN = word_set("script style template noscript svg math iframe object canvas audio video select button")
_AROUND = word_set("nav footer aside form dialog menu")
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = word_set(
    "address article aside blockquote body br caption center col colgroup dd details dialog dir div dl dt fieldset "
    "figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li listing main "
    "marquee menu nav ol optgroup option p plaintext pre search section summary table tbody td tfoot th thead tr ul xmp"
)
"""The elements that begin a new line; any other, known or not, stands within one."""
_CLOSES = {
    **dict.fromkeys(BLOCKS - {"br"}, word_set("p")),
    **dict.fromkeys(_HEADINGS, word_set("p h1 h2 h3 h4 h5 h6")),
    "li": word_set("p li"),
    "dt": word_set("p dt dd"),
    "dd": word_set("p dt dd"),
    "tr": word_set("p td th tr"),
    "td": word_set("p td th"),
    "th": word_set("p td th"),
    "option": word_set("option"),
}
"""The blocks that end where another begins, though nothing closes them."""
_COMMENT = re.compile(r"<!--(?:-?>|.*?(?:--!?>|\Z))", re.DOTALL)
_HIDING_STYLE = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))", re.IGNORECASE)
_SMALL_PAGE_WORDS = 300
"""Pages shorter than this are taken whole: there is too little of them to tell the main text from the rest."""
_ENOUGH = 0.6
"""The share of a page's visible words that its main text must hold; below, the page is taken whole."""


def read_html(html: str) -> Readable:
    """The title and the main text of a page; all that is visible of a small page, or where too little is left."""
    page = _Visible(html)
    title = first_heading(page.blocks) or page.title
    if _words(page.blocks) < _SMALL_PAGE_WORDS:
        return readable(title, page.blocks)
    extracted = trafilatura.extract(
        page.html, output_format="xml", favor_recall=True, include_comments=False, include_tables=True
    )
    main = _from_xml(extracted) if extracted else []
    blocks = main if _words(main) >= _ENOUGH * _words(page.blocks) else page.blocks
    return readable(title, blocks)


def visible_blocks(html: str) -> tuple[Block, ...]:
    """Every visible block of a page or of a piece of one, menus and the like included."""
    return tuple(_Visible(html, with_asides=True).blocks)


@dataclass(frozen=True, slots=True)
class _Element:
    """An open element, and what holds for all that stands in it: `aside` is the head or a menu, `level` a heading's.

    `block` is the innermost block or unseen element around, which may be this one.
    """

    tag: str = ""
    block: str = ""
    hidden: bool = False
    in_title: bool = False
    aside: bool = False
    level: int = 0

    def inner(self, tag: str, *, hides: bool) -> "_Element":
        """An element within this one."""
        return _Element(
            tag,
            block=tag if tag in BLOCKS or tag in _UNSEEN else self.block,
            hidden=self.hidden or hides,
            in_title=self.in_title or tag == "title",
            aside=self.aside or tag == "head" or tag in _AROUND,
            level=_HEADINGS.get(tag, self.level),
        )


class _Visible(HTMLParser):
    """One pass over a page: `html` is the page without hidden elements, `blocks` what is visible outside of menus.

    An element or a comment that is never closed holds all that follows, as in browsers.
    """

    def __init__(self, html: str, *, with_asides: bool = False) -> None:
        super().__init__(convert_charrefs=True)
        self._with_asides = with_asides
        self.title = ""
        self.blocks: list[Block] = []
        self._open = [_Element()]
        self._n_open: Counter[str] = Counter()
        self._kept: list[str] = []
        self._line: list[str] = []
        self.feed(html)
        self.close()
        self._break()
        self.html = "".join(self._kept)

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """`<![anything[` is a comment, as in browsers; Python's own parser gives up on a word that it does not know."""
        return self.parse_bogus_comment(i, report)

    def parse_comment(self, i: int, report: bool = True) -> int:
        """As browsers read comments; Python's own parser takes one that is never closed for text."""
        match = _COMMENT.match(self.rawdata, i)
        if match and report:
            self.handle_comment(match.group())
        return match.end() if match else len(self.rawdata)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        while self._open[-1].block in _CLOSES.get(tag, ()):
            self.handle_endtag(self._open[-1].block)
        if tag in BLOCKS:
            self._break()
        element = self._open[-1].inner(tag, hides=_is_hidden(tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(element)
            self._n_open[tag] += 1
        if not element.hidden:
            self._kept.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if not self._n_open[tag]:
            return
        if tag in BLOCKS:
            self._break()
        closed = ""
        while closed != tag:
            element = self._open.pop()
            closed = element.tag
            self._n_open[closed] -= 1
            if not element.hidden:
                self._kept.append(f"</{closed}>")

    def handle_data(self, data: str) -> None:
        around = self._open[-1]
        if around.hidden:
            return
        self._kept.append(escape(data, quote=False))
        if around.in_title:
            self.title += data
        elif self._with_asides or not around.aside:
            self._line.append(data)

    def _break(self) -> None:
        text = squeeze("".join(self._line))
        self._line = []
        if text:
            self.blocks.append(Block(text, self._open[-1].level))


def _is_hidden(tag: str, attributes: dict[str, str | None]) -> bool:
    return (
        tag in _UNSEEN
        or (tag == "dialog" and "open" not in attributes)
        or "hidden" in attributes
        or (attributes.get("aria-hidden") or "").lower() == "true"
        or bool(_HIDING_STYLE.search(attributes.get("style") or ""))
    )


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
