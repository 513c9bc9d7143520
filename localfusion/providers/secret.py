"""A provider's key as a value that shows itself nowhere, and texts freed of it. Finds no key."""

import re

SHARED_CHARACTERS = 6
"""A word that has so many characters of the key in a row is left out of what a provider said."""
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
        line = " ".join("..." if self._is_in(word) else word for word in words)
        line = _LIKE_A_KEY.sub("...", line)
        return line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]}..."

    def _is_in(self, word: str) -> bool:
        size = min(SHARED_CHARACTERS, len(self._text))
        starts = range(len(self._text) - size + 1) if size else range(0)
        return any(self._text[start : start + size] in word for start in starts)
