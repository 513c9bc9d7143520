"""Plain text and Markdown as blocks. Takes text, not files: which bytes are text is decided in `readers`."""

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from localfusion.search.blocks import Block, Readable, first_heading, is_heading, join_wrapped, readable
from localfusion.search.html_reader import read_html_page, visible_blocks
from localfusion.search.nesting import BLOCKS
from localfusion.search.visible_page import FoundLink

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*\n", re.DOTALL)
_UNDERLINE = re.compile(r"([=\-~_*#])\1{2,}$")
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_NEVER_CLOSED = ("br", "hr")
_PLACEHOLDERS = ("title", "button")
_MAX_WIDTH = 200


def read_plain(text: str) -> Readable:
    """Plain text: paragraphs parted by blank lines, wrapped lines joined, short lone lines as headings."""
    lines = [line.strip() for line in text.splitlines()]
    width = max((len(line) for line in lines if len(line) <= _MAX_WIDTH), default=0)
    blocks: list[Block] = []
    for paragraph in _paragraphs(lines):
        if len(paragraph) == 1 and is_heading(paragraph[0]):
            blocks.append(Block(paragraph[0], 2 if blocks else 1))
        elif len(paragraph) > 1 and _UNDERLINE.match(paragraph[1]):
            blocks.append(Block(paragraph[0], 1 if paragraph[1][0] == "=" else 2))
            blocks += [Block(joined) for joined in join_wrapped(paragraph[2:], width=width)]
        else:
            blocks += [Block(joined) for joined in join_wrapped(paragraph, width=width)]
    return readable(first_heading(blocks), blocks)


def read_markdown(text: str) -> Readable:
    """Markdown (CommonMark and tables) without its marks; front matter, comments and hidden HTML are left out."""
    tokens = _MARKDOWN.parse(_FRONT_MATTER.sub("", text))
    found = visible_blocks(_without_placeholders("".join(_html(tokens))))
    return replace(readable(first_heading(found.blocks), found.blocks), hidden=found.hidden)


def markdown_links(text: str) -> tuple[FoundLink, ...]:
    """The visible links of a Markdown text, those of its HTML included."""
    return read_html_page(MarkdownIt("commonmark").render(_FRONT_MATTER.sub("", text))).links


def _paragraphs(lines: list[str]) -> list[list[str]]:
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line:
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    return [paragraph for paragraph in paragraphs if paragraph]


def _html(tokens: Sequence[Token]) -> Iterator[str]:
    """The pieces of a page that shows each row of a table and each line of code as one block."""
    for before, token in pairwise([Token("", "", 0), *tokens]):
        match token.type:
            case "html_block":
                yield f"{token.content}<br>"
            case "fence" | "code_block":
                yield from (f"<pre>{html.escape(line)}</pre>" for line in token.content.splitlines())
            case "inline" if before.tag in ("td", "th"):
                yield html.escape(" ".join(block.text for block in visible_blocks(_inline(token)).blocks))
            case "inline":
                yield _inline(token)
            case "td_open" | "th_open":
                yield " | " if before.type != "tr_open" else ""
            case "td_close" | "th_close":
                yield ""
            case _:
                yield f"</{token.tag}>" if token.nesting < 0 else f"<{token.tag}>"


def _inline(token: Token) -> str:
    """The HTML of a run of text. A tag that nothing closes within the run is a word in angle brackets, no element."""
    pieces: list[str] = []
    closed: Counter[str] = Counter()
    for child in reversed(token.children or ()):
        match child.type:
            case "html_inline":
                pieces.append(_tag(child.content, closed))
            case "softbreak":
                pieces.append(" ")
            case "hardbreak":
                pieces.append("<br>")
            case _:
                pieces.append(html.escape(child.content))
    return "".join(reversed(pieces))


def _tag(tag: str, closed: Counter[str]) -> str:
    """A tag as it counts where `closed` holds how many elements of a name end behind it; it is kept up to date."""
    match = _TAG.match(tag)
    if not match:
        return ""
    name = match.group(2).lower()
    if match.group(1):
        closed[name] += 1
    elif closed[name]:
        closed[name] -= 1
    elif name not in _NEVER_CLOSED:
        return " " if name in BLOCKS else ""
    return tag


def _without_placeholders(page: str) -> str:
    """`page` without the bare tags on lines of their own that stand for something and are never closed."""
    for name in _PLACEHOLDERS:
        last = max((match.end() for match in re.finditer(f"</{name}", page, re.IGNORECASE)), default=0)
        page = page[:last] + re.sub(f"<{name}>", "", page[last:], flags=re.IGNORECASE)
    return page
