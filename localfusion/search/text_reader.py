"""Plain text and Markdown as blocks. Takes text, not files: which bytes are text is decided in `readers`."""

import html
import re
from collections.abc import Sequence
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from localfusion.search.blocks import Block, Readable, first_heading, is_heading, join_wrapped, readable
from localfusion.search.html_reader import visible_blocks

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*\n", re.DOTALL)
_UNDERLINE = re.compile(r"([=\-~_*#])\1{2,}$")
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
    """Markdown (CommonMark and tables) without its marks; front matter and comments are left out."""
    tokens = MarkdownIt("commonmark").enable("table").parse(_FRONT_MATTER.sub("", text))
    blocks: list[Block] = []
    cells: list[str] | None = None
    for before, token in pairwise([Token("", "", 0), *tokens]):
        if token.type == "tr_open":
            cells = []
        elif token.type == "tr_close":
            blocks.append(Block(" | ".join(cells or ())))
            cells = None
        elif token.type == "inline" and cells is not None:
            cells.append(_inline(token))
        else:
            blocks += _markdown_blocks(token, level=int(before.tag[1]) if before.type == "heading_open" else 0)
    return readable(first_heading(blocks), blocks)


def _paragraphs(lines: list[str]) -> list[list[str]]:
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line:
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    return [paragraph for paragraph in paragraphs if paragraph]


def _markdown_blocks(token: Token, *, level: int) -> Sequence[Block]:
    """The blocks of a token outside of tables."""
    match token.type:
        case "inline":
            return [Block(line, level) for line in _inline(token).split("\n")]
        case "fence" | "code_block":
            return [Block(line) for line in token.content.splitlines()]
        case "html_block":
            return visible_blocks(token.content)
        case _:
            return ()


def _inline(token: Token) -> str:
    """The words of an inline token that a reader would see; a hard break stays a newline."""
    children = token.children or ()
    if any(child.type == "html_inline" for child in children):
        return "\n".join(block.text for block in visible_blocks("".join(map(_as_html, children))))
    pieces: list[str] = []
    for child in children:
        match child.type:
            case "softbreak":
                pieces.append(" ")
            case "hardbreak":
                pieces.append("\n")
            case "text" | "code_inline" | "image":
                pieces.append(child.content)
    return "".join(pieces)


def _as_html(child: Token) -> str:
    match child.type:
        case "html_inline":
            return child.content
        case "softbreak":
            return " "
        case "hardbreak":
            return "<br>"
        case _:
            return html.escape(child.content)
