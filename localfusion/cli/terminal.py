"""Text that a terminal may be given. Whatever a model, a document or a file name says, it moves no cursor."""

import json
import re

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_UNPRINTABLE_IN_TEXT = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)


def printable(text: str) -> str:
    """One line without control characters; what is left out becomes a space."""
    return _UNPRINTABLE.sub(" ", text).strip()


def printable_text(text: str) -> str:
    """Text whose line breaks and tabs are kept and whose other control characters are dropped."""
    return _UNPRINTABLE_IN_TEXT.sub("", text)


def json_text(value: object) -> str:
    """JSON values as text for people and programs; control characters are escaped, where JSON would leave them too."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return _UNPRINTABLE_IN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def tail(text: str, width: int) -> str:
    """The end of a text on one line of at most `width` characters, marked where it was cut."""
    line = printable(text[-4 * width :])
    return line if len(line) <= width else "…" + line[-(width - 1) :]


def head(text: str, width: int) -> str:
    """The start of a text on one line of at most `width` characters, marked where it was cut."""
    line = printable(text[: 4 * width])
    return line if len(line) <= width else line[: width - 1] + "…"
