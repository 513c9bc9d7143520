"""Where in a page its own style sheets stand, and whether it names others, which are not fetched. Parses no style."""

import re
from base64 import b64decode
from collections.abc import Iterator
from urllib.parse import unquote

from localfusion.search.blocks import Unreadable
from localfusion.search.markup import Tag, tokens
from localfusion.search.media import media_matches

TOO_MANY = "its styles are too many to tell what it shows"
_OPENS = re.compile(
    r"<(!--|link(?=[\s/])|(?:style|script|noscript|template|title|textarea|xmp|iframe|noembed|noframes)(?=[\s/>]))",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(r"<link\b[^>]{0,500}?(?:stylesheet|as=[\"']?style)|@import\b", re.IGNORECASE)
_IMPORTED = re.compile(r"@import\s+(?:url\(\s*)?(?:\"(data:[^\"]*)\"|'(data:[^']*)'|(data:[^\s\"')]*))", re.IGNORECASE)
_DATA_SHEET = re.compile(r"<link[^>]{1,300}?data:", re.IGNORECASE)
_LONGEST_TAG = 2000
_LONGEST_LINK = 100_000
"""Of a sheet in an address."""
_MOST_LINKED = 50
_MOST_CHARACTERS = 4_000_000


def embedded_sheets(html: str) -> Iterator[str]:
    """The text of each <style> that counts on a screen, in order; none that a comment or a script holds.

    Raises Unreadable where there is no end of them.
    """
    lower = html.lower() if len(html.lower()) == len(html) else html
    at = n_linked = 0
    room = _MOST_CHARACTERS
    while found := _OPENS.search(html, at):
        name = found[1].lower()
        if name == "link":
            if _DATA_SHEET.match(html, found.start()):
                n_linked += 1
                yield from _linked(html[found.start() : found.start() + _LONGEST_LINK])
            if n_linked > _MOST_LINKED:
                raise Unreadable(TOO_MANY)
            at = found.end()
            continue
        end = lower.find("-->" if name == "!--" else f"</{name}", found.end())
        stop = end if end >= 0 else len(html)
        if name == "style":
            tag = next(tokens(html[found.start() : min(stop, found.start() + _LONGEST_TAG)]), None)
            if isinstance(tag, Tag) and _counts(tag):
                sheet = html[html.find(">", found.end()) + 1 : stop]
                room -= len(sheet)
                if room < 0:
                    raise Unreadable(TOO_MANY)
                yield from (_in_address("".join(one)) for one in _IMPORTED.findall(sheet[:_LONGEST_LINK]))
                yield sheet
        at = stop + 1


def _linked(html: str) -> Iterator[str]:
    """The sheet that a <link> holds in its address."""
    tag = next(tokens(html), None)
    if isinstance(tag, Tag) and "stylesheet" in tag.attributes.get("rel", "").lower().split() and _counts(tag):
        address = tag.attributes.get("href", "").strip()
        if address[:5].lower() == "data:":
            yield _in_address(address)


def _in_address(address: str) -> str:
    """What a `data:` address holds; "" where it is damaged."""
    about, _, content = address.partition(",")
    if not about.rstrip().lower().endswith(";base64"):
        return unquote(content)
    try:
        return b64decode(unquote(content)).decode("utf-8", "replace")
    except ValueError:
        return ""


def names_other_sheets(html: str) -> bool:
    """Whether the page's look depends on sheets that do not stand in it."""
    return _ELSEWHERE.search(html) is not None


def _counts(tag: Tag) -> bool:
    kind = tag.attributes.get("type", "").lower()
    return kind in ("", "text/css") and media_matches(tag.attributes.get("media", ""))
