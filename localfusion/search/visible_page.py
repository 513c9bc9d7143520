"""One pass over HTML: its visible text as blocks, its links, what it hides, and the page without what is hidden.

Which of it is the main text is decided in `html_reader`, which elements are hidden in `styling`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from localfusion.search.blocks import Block, smuggled, squeeze, word_set
from localfusion.search.looks import Look, Sight
from localfusion.search.markup import RAW, Comment, Tag, Token, tokens
from localfusion.search.nesting import BLOCKS, HEADINGS, VOID, Nesting
from localfusion.search.styling import Styling, keys_of
from localfusion.search.suspicion import speaks_to_a_model

_NO_TEXT = word_set("script style")
_AROUND = word_set("nav footer aside dialog menu")
_OPENERS = word_set("summary dt")
"""A button in one of these, or in a heading, opens what stands below it; its text is a heading."""
_READ_ALOUD = ("alt", "title", "aria-label", "placeholder", "value", "content", "aria-description")
_KEPT_ATTRIBUTES = ("class", "id", "href", "role", "itemprop", "lang", "colspan", "rowspan")
_METADATA = ("og:title", "og:site_name", "author", "article:author", "article:published_time", "date")
_LONGEST_ATTRIBUTE = 300
_MOST_TOKENS = 300_000
_MOST_HIDDEN = 200_000
_MOST_LINKS = 2000
_MOST_IDS = 400
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}$")


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A visible link: its address as it is written, its words, and whether it is part of a menu or the like."""

    href: str
    text: str
    is_aside: bool


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
    """A link that is read just now; what it shows besides its words is a picture, or words that may not be seen."""

    href: str
    is_aside: bool
    pieces: list[str] = field(default_factory=list)
    shows_more: bool = False


@dataclass(frozen=True, slots=True)
class _Doubtful:
    """A text that a reader may not see, and where it stands in the line (-1: in none) and in the page."""

    text: str
    in_line: int
    in_page: int


class VisiblePage:
    """One pass over a page: `html` is the page without hidden elements, `blocks` what is visible outside of menus.

    An element or a comment that is never closed holds all that follows, as in browsers. Where it `is_doubted` that
    styles hide anything, what they hide is shown, unless it speaks to a model.
    """

    def __init__(
        self,
        html: str,
        *,
        with_asides: bool = False,
        is_piece: bool = False,
        with_noscript: bool = False,
        is_doubted: bool = False,
    ) -> None:
        self._with_asides = with_asides
        raw = RAW - {"noscript"} if with_noscript else RAW
        self.title = ""
        self.base: str | None = None
        self.blocks: list[Block] = []
        self.links: list[FoundLink] = []
        self.metadata: dict[str, str] = {}
        self.ids: set[str] = set()
        self.controls: set[str] = set()
        self.n_scripts = self.depth = 0
        self.is_whole = True
        self._styling = Styling(html, with_noscript=with_noscript, is_doubted=is_doubted)
        self._open = [_Element(look=self._styling.first_look)]
        self._nesting = Nesting(across_paragraphs=is_piece)
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
        self._styling.enter(element.keys)
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
            self._styling.leave(element.keys)
            if element.look.gone < Sight.HIDDEN:
                self._kept.append(f"</{_plain_name(element.tag)}>")

    def _inner(self, tag: Tag) -> _Element:
        """The element that a start tag opens in the innermost one."""
        around = self._open[-1]
        keys = keys_of(tag)
        is_opener = around.level > 0 or around.tag in _OPENERS
        look = self._styling.look(tag, keys, within=around.look, is_opener=is_opener)
        return _Element(
            tag.name,
            keys,
            look,
            around.sight if look is around.look else look.sight,
            says_nothing=around.says_nothing or tag.name in _NO_TEXT,
            aside=around.aside or tag.name == "head" or tag.name in _AROUND,
            level=HEADINGS.get(tag.name, around.level),
        )

    def _note(self, tag: Tag, element: _Element) -> None:
        """Take from a start tag what is not text."""
        attributes = tag.attributes
        for name in _READ_ALOUD:
            if name in attributes:
                self._hide(attributes[name])
        if "id" in attributes and len(self.ids) < _MOST_IDS:
            self.ids.add(attributes["id"])
        self._note_control(tag, is_aside=element.aside)
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
                self._link.shows_more = True

    def _note_control(self, tag: Tag, *, is_aside: bool) -> None:
        control = _control(tag)
        if control == "password" or (control and not is_aside):
            self.controls.add(control)

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
            self._link.shows_more |= sight == Sight.DOUBTFUL
            self._link.pieces += [text] if sight == Sight.SHOWN else []

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
        if text or link.shows_more:
            self.links.append(FoundLink(link.href, text, link.is_aside))


def _control(tag: Tag) -> str:
    """What a tag asks a reader for, "" for nothing: `password`, or by its own name; a search is none."""
    if tag.name == "input" and tag.attributes.get("type", "").lower() == "password":
        return "password"
    is_search = tag.attributes.get("role", "").lower() == "search"
    return tag.name if tag.name in ("form", "button", "iframe") and not is_search else ""


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
