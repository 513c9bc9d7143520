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
_CONTROLS = dict.fromkeys((*range(9), *range(14, 28), 127), " ")
_JOINERS = "\u200c\u200d"  # part of words in some scripts, and of emoji
_NEVER_SEEN = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\U0001d159\U00016fe4" + "".join(
    map(chr, range(0xE0000, 0xE0080))
)
"""Fillers and the like that count as letters or marks; and the block of tags, whatever of it is assigned."""
_BLANK = "\u2800"  # a space of Braille
_SEEN_FORMATS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
_SELECTOR = "[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
_USELESS = re.compile(
    f"{_SELECTOR}{{2,}}"
    f"|(?<![\u00a9\u00ae\u1800-\u18af\u203c-\U0003ffff0-9#*]){_SELECTOR}"
    f"|(?<![\u0600-\u1dff\u2190-\U0003ffff])[{_JOINERS}]"
)
"""Selectors of variants in a run, or behind what has no variants; joiners in scripts that have no use for them."""
_TAGS = re.compile("[\U000e0020-\U000e007e]{3,}")
_TAG_LETTERS = {0xE0000 + code: code for code in range(32, 127)}
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
    """The readable content of a file; `title` is "" where the file gives none, `hidden` what it hides from readers."""

    title: str
    blocks: tuple[Block, ...]
    hidden: str = ""

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
    if not text.isascii():
        text = unicodedata.normalize("NFC", without_invisible(text))
    elif not text.isprintable():
        text = text.translate(_CONTROLS)
    return " ".join(text.split())


def without_invisible(text: str) -> str:
    """`text` without the characters that nobody sees; those that part words without being seen become a space.

    Joiners, selectors of variants and the like stay where the character before has a use for them.
    """
    odd = {ord(character): _shown(character) for character in set(text) if not _is_plain(character)}
    text = text.translate(odd) if odd else text
    return _USELESS.sub("", text)


def smuggled(text: str) -> str:
    """The words that `text` holds in the invisible letters of the block of tags."""
    return " ".join(run.translate(_TAG_LETTERS) for run in _TAGS.findall(text))


def _is_plain(character: str) -> bool:
    if character in _NEVER_SEEN or character == _BLANK:
        return False
    return character.isprintable() or character.isspace() or character in _JOINERS or character in _SEEN_FORMATS


def _shown(character: str) -> str:
    return "" if character in _NEVER_SEEN or unicodedata.category(character) == "Cf" else " "


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
    joined: list[list[str]] = []
    for index, line in enumerate(lines):
        if index and _is_wrapped(lines[index - 1], line, width):
            _glue(joined[-1], line)
        else:
            joined.append([line])
    return ["".join(pieces) for pieces in joined]


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


def _glue(pieces: list[str], following: str) -> None:
    """Add a line to the pieces of the one that it goes on from."""
    line = pieces[-1]
    if line.endswith("-") and len(line) > 1 and line[-2].isalpha() and following[0].islower():
        pieces[-1] = line[:-1]
        pieces.append(following)
    else:
        pieces.append(f" {following}")
