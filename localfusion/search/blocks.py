"""What a reader makes of a file: a title, headings and paragraphs; and the lines of plain text joined to them.

Nothing here opens a file or knows a format.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from localfusion.errors import LocalFusionError

_BULLET = re.compile(r"(?:[-*•–·]|\d{1,3}[.)])\s+")
_ENDS = re.compile(r"[.!?…:;,。\uff01\uff1f][\"'”’»)\]]*$")
_STOPPED = re.compile(r"[.!?…][\"'”’»)\]]*$")
_MIN_WRAP_WIDTH = 40
_HEADING_WIDTH = 80
_JOINERS = "\u200c\u200d"  # part of words in some scripts
_NEARLY_FULL = 0.85
_HEADING_SHARE = 0.6


MAX_CHARACTERS = 2**25
"""Of the text of one file: some 10 000 pages."""


class Unreadable(LocalFusionError):
    """A file that is skipped; the message says why, for a warning that names the file."""


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph (`level` 0) or a heading (1 to 6); the text has single spaces and no newline."""

    text: str
    level: int = 0


@dataclass(frozen=True, slots=True)
class Readable:
    """The readable content of a file; `title` is "" where the file gives none."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """The whole text, one block a line."""
        return "\n".join(block.text for block in self.blocks)


def check_length(n_characters: int, *, at_most: int = MAX_CHARACTERS) -> None:
    """Refuse a text that is longer than any that is read. Raises Unreadable."""
    if n_characters > at_most:
        raise Unreadable(f"it has more than {at_most} characters of text")


def word_set(words: str) -> frozenset[str]:
    """The words of a text that is nothing but a list."""
    return frozenset(words.split())


def readable(title: str, blocks: Iterable[Block]) -> Readable:
    """A `Readable` with white space normalised and empty blocks left out."""
    squeezed = (Block(squeeze(block.text), block.level) for block in blocks)
    return Readable(squeeze(title), tuple(block for block in squeezed if block.text))


def squeeze(text: str) -> str:
    """`text` in composed letters (NFC), with every run of white space as one space and nothing invisible in it."""
    words = " ".join(unicodedata.normalize("NFC", text).split())
    return words if words.isprintable() else " ".join("".join(map(_visible, words)).split())


def _visible(character: str) -> str:
    if character.isprintable() or character.isspace() or character in _JOINERS:
        return character
    return "" if unicodedata.category(character) == "Cf" else " "


def first_heading(blocks: Sequence[Block]) -> str:
    """The first heading of the highest level there is, or ""."""
    headings = [block for block in blocks if block.level]
    return min(headings, key=lambda block: block.level).text if headings else ""


def is_heading(line: str) -> bool:
    """Whether a line that stands alone reads as a heading: short, opens like one, ends without a stop."""
    return 0 < len(line) <= _HEADING_WIDTH and not _ENDS.search(line) and (line[0].isupper() or line[0].isdigit())


def join_wrapped(lines: Sequence[str], *, width: int) -> list[str]:
    """Paragraphs out of the lines of one: a line that was wrapped is joined to the next, any other break is kept.

    `width` is that of the longest line around. A word that was divided at a line's end is made whole.
    """
    joined: list[str] = []
    for index, line in enumerate(lines):
        if index and _is_wrapped(lines[index - 1], line, width):
            joined[-1] = _glue(joined[-1], line)
        else:
            joined.append(line)
    return joined


def _is_wrapped(line: str, following: str, width: int) -> bool:
    """A line was wrapped where the next goes on in lower case, or where its first word had no room."""
    if _BULLET.match(following) or (_STOPPED.search(line) and _is_short_heading(following, width)):
        return False
    if following[0].islower() or line.endswith("-"):
        return True
    room = len(line) + 1 + len(following.split(maxsplit=1)[0])
    return width >= _MIN_WRAP_WIDTH and (room > width or len(line) >= _NEARLY_FULL * width)


def _is_short_heading(line: str, width: int) -> bool:
    return is_heading(line) and len(line) < _HEADING_SHARE * width


def _glue(line: str, following: str) -> str:
    if line.endswith("-") and len(line) > 1 and line[-2].isalpha() and following[0].islower():
        return line[:-1] + following
    return f"{line} {following}"
