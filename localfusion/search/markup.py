"""HTML cut into tags and texts as browsers cut it, once through and in linear time. Builds no tree, knows no styles."""

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from localfusion.search.blocks import word_set

RAW = word_set("script style xmp iframe noembed noframes noscript textarea title")
"""Elements that hold text and no elements: nothing but their own end tag ends them."""
_REFERENCES_IN = ("textarea", "title")
_ALWAYS_KEPT = word_set("style class id hidden aria-hidden href open color bgcolor text size popover")
_MAX_ATTRIBUTES = 64
_NAME = re.compile(r"<(/?)([a-zA-Z][^ \t\n\r\f/>]*)")
_MARKUP = re.compile(r"<[a-zA-Z!?/]")
_ATTRIBUTE = re.compile(
    r"[ \t\n\r\f/]*(=?[^ \t\n\r\f/>=]+|=)"
    r"(?:[ \t\n\r\f]*(=)[ \t\n\r\f]*(?:\"([^\"]*)\"|'([^']*)'|([^ \t\n\r\f>\"'][^ \t\n\r\f>]*)?))?"
)
_END = re.compile(r"[ \t\n\r\f/]*>")
_COMMENT = re.compile(r"<!--(?:-?>|(.*?)(?:--!?>|\Z))", re.DOTALL)
_NUMBER = re.compile(r"&#([0-9]{8,})")


@dataclass(frozen=True, slots=True)
class Tag:
    """A start tag or (`ends`) an end tag; `closed` is one that was written as <tag/>. Names are in lower case."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    ends: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Comment:
    """What no browser shows: a comment, a declaration or a CDATA section."""

    text: str


Token = Tag | Comment | str


def tokens(page: str, *, raw: frozenset[str] = RAW) -> Iterator[Token]:
    """The tags, comments and texts of a page in order; a tag that is never finished ends the page, as in browsers."""
    at = 0
    has_cdata_end = True
    while at < len(page):
        found = _MARKUP.search(page, at)
        start = found.start() if found else len(page)
        if start != at:
            yield resolved(page[at:start])
        if name := _NAME.match(page, start):
            tag, at = _tag(page, name)
            if tag is None:
                return
            yield tag
            if tag.name in raw and not tag.ends:
                text, at = _raw_text(page, tag.name, at)
                yield text
        elif found:
            is_cdata = has_cdata_end and page.startswith("<![CDATA[", start)
            has_cdata_end = has_cdata_end and (not is_cdata or page.find("]]>", start) >= 0)
            comment, at = _comment(page, start, closes="]]>" if is_cdata and has_cdata_end else ">")
            yield comment
        else:
            return


def resolved(text: str) -> str:
    """`text` with its character references resolved; a number of any length is one."""
    if "&" not in text:
        return text
    return html.unescape(_NUMBER.sub(lambda found: f"&#{found[1].lstrip('0')[:8] or '0'}", text))


def _tag(page: str, name: re.Match[str]) -> tuple[Tag | None, int]:
    """The tag whose name was found and where it ends; None for one that does not end."""
    at = name.end()
    if page.startswith(">", at):
        return _plain_tag(name[2].lower(), ends=bool(name[1])), at + 1
    attributes: dict[str, str] = {}
    while found := _ATTRIBUTE.match(page, at):
        at = found.end()
        if found[2] and page[at : at + 1] in ('"', "'") and page[at - 1] not in "\"'":
            return None, len(page)  # a quotation mark that nothing closes
        key = found[1].lower()
        if key not in attributes and (len(attributes) < _MAX_ATTRIBUTES or key in _ALWAYS_KEPT):
            attributes[key] = resolved(found[3] or found[4] or found[5] or "")
    end = _END.match(page, at)
    if end is None:
        return None, len(page)
    ends = bool(name[1])
    return Tag(name[2].lower(), attributes, ends=ends, closed=page[end.end() - 2] == "/"), end.end()


@lru_cache(maxsize=512)
def _plain_tag(name: str, *, ends: bool) -> Tag:
    return Tag(name, ends=ends)


def _raw_text(page: str, name: str, at: int) -> tuple[str, int]:
    end = _end_of(name).search(page, at)
    stop = end.start() if end else len(page)
    text = page[at:stop]
    return (resolved(text) if name in _REFERENCES_IN else text), stop


@lru_cache(maxsize=32)
def _end_of(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}(?=[ \t\n\r\f/>])", re.IGNORECASE)


def _comment(page: str, start: int, *, closes: str) -> tuple[Comment, int]:
    if found := _COMMENT.match(page, start):
        return Comment(found[1] or ""), found.end()
    end = page.find(closes, start)
    stop = end if end >= 0 else len(page)
    return Comment(page[start + 2 : stop]), stop + len(closes)
