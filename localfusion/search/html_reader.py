"""HTML as blocks: what a reader would see, without hidden elements; the main text by trafilatura. Fetches nothing."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from xml.etree import ElementTree as ET

import trafilatura

from localfusion.search.blocks import Block, Readable, first_heading, readable, smuggled, squeeze, word_set
from localfusion.search.colours import BLACK
from localfusion.search.declarations import declarations, merged, plain
from localfusion.search.embedded_sheets import embedded_sheets, names_other_sheets
from localfusion.search.looks import Look, Sight
from localfusion.search.markup import RAW, Comment, Tag, Token, tokens
from localfusion.search.nesting import BLOCKS, HEADINGS, VOID, Nesting
from localfusion.search.stylesheets import StyleSheet
from localfusion.search.suspicion import speaks_to_a_model

_UNSEEN = word_set(
    "script style template noscript svg math iframe object canvas audio video select datalist button textarea rp "
    "applet noframes noembed"
)
_NO_TEXT = word_set("script style")
_AROUND = word_set("nav footer aside dialog menu")
_UNSTYLED = word_set("html body")
_SHOWN_IN = word_set("summary dt")
"""A button in one of these, or in a heading, opens what stands below it; its text is a heading."""
_READ_ALOUD = ("alt", "title", "aria-label", "placeholder", "value", "content", "aria-description")
_KEPT_ATTRIBUTES = ("class", "id", "href", "role", "itemprop", "lang", "colspan", "rowspan")
_LONGEST_ATTRIBUTE = 300
_SMALL_PAGE_WORDS = 300
"""Pages shorter than this are taken whole: there is too little of them to tell the main text from the rest."""
_ENOUGH = 0.6
"""The share of a page's visible words that its main text must hold; below, the page is taken whole."""
_MOST_TOKENS = 300_000
_MOST_HIDDEN = 200_000
_LARGEST_EXTRACTED = 1_500_000
_MOST_EXTRACTED = 100_000
_DEEPEST_EXTRACTED = 200
"""A page with more to it is taken whole: its main text is not looked for."""
_MOST_LINKS = 2000
_MOST_IDS = 400
_METADATA = ("og:title", "og:site_name", "author", "article:author", "article:published_time", "date")
_WITHOUT_SCRIPTS = (".no-js", ".nojs", ".no_js")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}$")


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A visible link: its address as it is written, its words, and whether it is part of a menu or the like."""

    href: str
    text: str
    is_aside: bool


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """All that was found in a page; `metadata` is what it says about itself without showing it, by name.

    `n_scripts` and `ids` tell a page that a script fills; `is_whole` is False where only its beginning was read.
    """

    readable: Readable
    shown_title: str
    links: tuple[FoundLink, ...]
    base: str
    metadata: Mapping[str, str]
    n_scripts: int
    ids: frozenset[str]
    is_whole: bool


def read_html(html: str) -> Readable:
    """The title and the main text of a page; all that is visible of a small page, or where too little is left."""
    return read_html_page(html).readable


def read_html_page(html: str) -> HtmlPage:
    """All that can be found in a page; what stands in <noscript> where it shows nothing else. Raises Unreadable."""
    page = _Visible(html)
    if not page.blocks:
        page = _Visible(html, with_asides=True)
    if not page.blocks:
        page = _Visible(html, with_noscript=True)
    title = first_heading(page.blocks) or page.title
    found = readable(title, page.blocks if _words(page.blocks) < _SMALL_PAGE_WORDS else _main_blocks(page))
    return HtmlPage(
        replace(found, hidden=page.hidden),
        squeeze(page.title),
        tuple(page.links),
        page.base or "",
        page.metadata,
        page.n_scripts,
        frozenset(page.ids),
        page.is_whole,
    )


def visible_blocks(html: str) -> Readable:
    """Every visible block of a page or of a piece of one, menus and the like included."""
    page = _Visible(html, with_asides=True, is_piece=True)
    return Readable("", tuple(page.blocks), page.hidden)


def _main_blocks(page: "_Visible") -> list[Block]:
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


@dataclass(frozen=True, slots=True)
class _Element:
    """An open element, and what holds for all that stands in it: `aside` is the head or a menu, `level` a heading's."""

    tag: str = ""
    keys: tuple[str, ...] = ()
    look: Look = field(default_factory=Look)
    sight: Sight = Sight.SHOWN
    says_nothing: bool = False
    aside: bool = False
    level: int = 0


@dataclass(slots=True)
class _OpenLink:
    """A link that is read just now."""

    href: str
    is_aside: bool
    pieces: list[str] = field(default_factory=list)
    has_image: bool = False


@dataclass(frozen=True, slots=True)
class _Doubtful:
    """A text that a reader may not see, and where it stands in the line (-1: in none) and in the page."""

    text: str
    in_line: int
    in_page: int


class _Visible:
    """One pass over a page: `html` is the page without hidden elements, `blocks` what is visible outside of menus.

    An element or a comment that is never closed holds all that follows, as in browsers.
    """

    def __init__(
        self, html: str, *, with_asides: bool = False, is_piece: bool = False, with_noscript: bool = False
    ) -> None:
        self._with_asides = with_asides
        self._unseen = _UNSEEN - {"noscript"} if with_noscript else _UNSEEN
        raw = RAW - {"noscript"} if with_noscript else RAW
        self.title = ""
        self.base: str | None = None
        self.blocks: list[Block] = []
        self.links: list[FoundLink] = []
        self.metadata: dict[str, str] = {}
        self.ids: set[str] = set()
        self.n_scripts = self.depth = 0
        self.is_whole = True
        self._sheet = StyleSheet(embedded_sheets(html))
        self._has_all_sheets = not names_other_sheets(html)
        self._styles: dict[str, dict[str, str]] = {}
        self._open = [_Element(look=Look(colour=BLACK if self._has_all_sheets else None, is_sure=self._has_all_sheets))]
        self._nesting = Nesting(across_paragraphs=is_piece)
        self._around: dict[str, int] = {}
        self._before: set[str] = set()
        self._kept: list[str] = []
        self._line: list[str] = []
        self._hidden: list[str] = []
        self._n_hidden = 0
        self._doubtful: list[_Doubtful] = []
        self._link: _OpenLink | None = None
        self._read(tokens(html, raw=raw))
        self.html = "".join(self._kept)
        self.n_pieces = len(self._kept)
        self.hidden = "\n".join(self._hidden)

    def _read(self, found: Iterator[Token]) -> None:
        for n_tokens, token in enumerate(found):
            if isinstance(token, str):
                self._text(token)
            elif isinstance(token, Comment):
                self._hide(token.text)
            elif token.ends:
                self._end(token.name)
            else:
                self._start(token)
            if n_tokens > _MOST_TOKENS:
                self.is_whole = False
                break
        self._close(len(self._open) - 1)
        self._break()

    def _start(self, tag: Tag) -> None:
        self._close(self._nesting.ended_by_start(tag.name))
        if tag.name in BLOCKS:
            self._break()
        element = self._inner(tag)
        self._note(tag, element)
        if tag.name in VOID or (tag.closed and (self._nesting.is_foreign or tag.name in ("svg", "math"))):
            if element.sight < Sight.HIDDEN:
                self._kept.append(_written(tag))
            return
        self._open.append(element)
        self._nesting.push(tag.name)
        for key in element.keys:
            self._around[key] = self._around.get(key, 0) + 1
        self.depth = max(self.depth, len(self._open))
        if element.look.gone < Sight.HIDDEN:
            self._kept.append(_written(tag))

    def _end(self, name: str) -> None:
        if name == "br":
            self._break()
        self._close(self._nesting.ended_by_end(name))

    def _close(self, n_elements: int) -> None:
        for _ in range(n_elements):
            element = self._open[-1]
            if element.tag in BLOCKS:
                self._break()
            if element.tag == "a":
                self._close_link()
            self._open.pop()
            self._nesting.pop()
            self._leave(element)
            if element.look.gone < Sight.HIDDEN:
                self._kept.append(f"</{_plain_name(element.tag)}>")

    def _leave(self, element: _Element) -> None:
        for key in element.keys:
            if self._around[key] == 1:
                del self._around[key]
            else:
                self._around[key] -= 1

    def _inner(self, tag: Tag) -> _Element:
        """The element that a start tag opens in the innermost one."""
        around = self._open[-1]
        keys = _keys(tag)
        look = self._look(tag, keys, around)
        self._before.update(keys)
        return _Element(
            tag.name,
            keys,
            look,
            around.sight if look is around.look else look.sight,
            says_nothing=around.says_nothing or tag.name in _NO_TEXT,
            aside=around.aside or tag.name == "head" or tag.name in _AROUND,
            level=HEADINGS.get(tag.name, around.level),
        )

    def _look(self, tag: Tag, keys: tuple[str, ...], around: _Element) -> Look:
        says = self._sheet.declared(keys, tag.attributes, around=self._around, before=self._before)
        if hints := _presentational(tag):
            says = merged(hints, says)
        variables = self._sheet.variables
        if style := tag.attributes.get("style"):
            own = self._styles.get(style)
            if own is None:
                own = self._styles[style] = declarations(style)
            says = merged(says, own)
            variables = {**variables, **own} if "--" in style else variables
        look = (
            around.look.within(plain(says, variables), is_sure_of_sheets=self._has_all_sheets) if says else around.look
        )
        if tag.name in ("a", "mark") and "color" not in says:
            look = replace(look, colour=None)
        if tag.name in _UNSTYLED:
            return look.shown()
        return look.hidden() if self._is_hidden(tag, around) else look

    def _is_hidden(self, tag: Tag, around: _Element) -> bool:
        """Whether an element is not shown, whatever its style."""
        if tag.name in self._unseen:
            return tag.name != "button" or not (around.level or around.tag in _SHOWN_IN)
        attributes = tag.attributes
        return (
            (tag.name == "dialog" and "open" not in attributes)
            or "hidden" in attributes
            or "popover" in attributes
            or attributes.get("aria-hidden", "").lower() == "true"
        )

    def _note(self, tag: Tag, element: _Element) -> None:
        """Take from a start tag what is not text."""
        attributes = tag.attributes
        for name in _READ_ALOUD:
            if name in attributes:
                self._hide(attributes[name])
        if "id" in attributes and len(self.ids) < _MOST_IDS:
            self.ids.add(attributes["id"])
        match tag.name:
            case "base" if self.base is None:
                self.base = attributes.get("href")
            case "meta":
                self._note_metadata(attributes)
            case "script":
                self.n_scripts += 1
            case "a" if "href" in attributes and element.sight < Sight.HIDDEN:
                self._link = _OpenLink(attributes["href"], element.aside)
            case "img" | "svg" | "picture" if self._link is not None:
                self._link.has_image = True

    def _note_metadata(self, attributes: Mapping[str, str]) -> None:
        name = (attributes.get("property") or attributes.get("name") or "").lower()
        if name in _METADATA:
            self.metadata.setdefault(name, attributes.get("content", "")[:_LONGEST_ATTRIBUTE])

    def _text(self, text: str) -> None:
        if not text.isspace():
            self._close(self._nesting.ended_by_text())
        around = self._open[-1]
        if around.says_nothing:
            return
        sight = around.sight
        if sight == Sight.HIDDEN:
            self._hide(text)
            return
        if not text.isascii():
            self._hide(smuggled(text))
        self._kept.append(escape(text, quote=False))
        if around.tag == "title":
            self.title = self.title or text
            return
        in_line = self._with_asides or not around.aside
        if sight == Sight.DOUBTFUL:
            self._doubtful.append(_Doubtful(text, len(self._line) if in_line else -1, len(self._kept) - 1))
        if in_line:
            self._line.append(text)
        if self._link is not None:
            self._link.pieces.append(text)

    def _hide(self, text: str) -> None:
        """Keep of a hidden text what may say that the page is an attack."""
        if self._n_hidden < _MOST_HIDDEN and text and not text.isspace():
            self._hidden.append(text[: _MOST_HIDDEN - self._n_hidden])
            self._n_hidden += len(text)

    def _break(self) -> None:
        if self._doubtful:
            self._settle()
        if not self._line:
            return
        text = squeeze("".join(self._line))
        self._line = []
        if text:
            self.blocks.append(Block(text, self._open[-1].level))

    def _settle(self) -> None:
        """Text that a reader may not see is left out where it is meant for a model."""
        if speaks_to_a_model(squeeze("".join(one.text for one in self._doubtful))):
            for one in self._doubtful:
                self._hide(one.text)
                self._kept[one.in_page] = ""
                if one.in_line >= 0:
                    self._line[one.in_line] = ""
        self._doubtful = []

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is None or len(self.links) >= _MOST_LINKS:
            return
        text = squeeze("".join(link.pieces))
        if self._doubtful and speaks_to_a_model(text):
            return
        if text or link.has_image:
            self.links.append(FoundLink(link.href, text, link.is_aside))


def _keys(tag: Tag) -> tuple[str, ...]:
    """What rules of style know an element by. A page that runs scripts is not without them."""
    attributes = tag.attributes
    classes = [f".{name}" for name in dict.fromkeys(attributes.get("class", "").split())]
    if tag.name in _UNSTYLED:
        classes = [name for name in classes if name not in _WITHOUT_SCRIPTS]
    own_id = attributes.get("id")
    return (tag.name, *classes, f"#{own_id}") if own_id else (tag.name, *classes)


def _presentational(tag: Tag) -> dict[str, str]:
    """What the attributes that style sheets have replaced say."""
    attributes = tag.attributes
    found: dict[str, str] = {}
    ink = attributes.get("color") if tag.name == "font" else attributes.get("text") if tag.name == "body" else None
    if ink:
        found |= declarations(f"color:{ink}")
    if "bgcolor" in attributes:
        found |= declarations(f"background-color:{attributes['bgcolor']}")
    if "background" in attributes:
        found["background-image"] = "some"
    return found


def _written(tag: Tag) -> str:
    """A start tag with the attributes that tell the main text from the rest."""
    attributes = "".join(
        f' {name}="{escape(tag.attributes[name][:_LONGEST_ATTRIBUTE])}"'
        for name in _KEPT_ATTRIBUTES
        if name in tag.attributes
    )
    return f"<{_plain_name(tag.name)}{attributes}>"


def _plain_name(name: str) -> str:
    return name if _NAME.match(name) else "span"


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
