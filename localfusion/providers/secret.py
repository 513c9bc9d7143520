"""A provider's key as a value that shows itself nowhere, and texts freed of it. Finds no key."""

import re
from unicodedata import normalize

SHARED_CHARACTERS = 6
"""Words that have so many letters and digits of the key in a row are left out of what a provider said."""
MAX_CHARACTERS = 200

_LIKE_A_KEY = re.compile(r"\b(?:sk|pk|gsk|key|xai|AIza)[-_]?[A-Za-z0-9*._-]{8,}", re.IGNORECASE)


class Secret:
    """A key, "" for none; only `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret(...)"

    def reveal(self) -> str:
        """The key itself, for the one header that carries it."""
        return self._text

    def scrubbed(self, text: str) -> str:
        """A provider's text as one short line, without the key, parts of it, or anything that looks like one."""
        words = [word for word in text[: 50 * MAX_CHARACTERS].split() if word.isprintable()]
        hidden = self._parts_in(words)
        line = " ".join("..." if index in hidden else word for index, word in enumerate(words))
        line = _LIKE_A_KEY.sub("...", line)
        return line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]}..."

    def _parts_in(self, words: list[str]) -> set[int]:
        """Which words have a part of the key, however it is spaced, pointed or capitalized."""
        key = _bare(self._text)
        size = min(SHARED_CHARACTERS, len(key))
        parts = {key[start : start + size] for start in range(len(key) - size + 1)} if size else set()
        letters = [(letter, index) for index, word in enumerate(words) for letter in _bare(word)]
        text = "".join(letter for letter, _ in letters)
        starts = [start for start in range(len(text)) if text[start : start + size] in parts]
        return {index for start in starts for _, index in letters[start : start + size]}


def _bare(text: str) -> str:
    """The letters and digits of a text that a key may have, all small."""
    return "".join(char for char in normalize("NFKC", text).lower() if char.isascii() and char.isalnum())
