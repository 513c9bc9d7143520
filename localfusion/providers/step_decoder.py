"""The answer inside a step's JSON, streamed out as it comes; whatever else a step is, is read when it is whole."""

import json
import re
from typing import Literal

_START = re.compile(r'\s*(?:```\w*\s*)?\{\s*(?:"step"\s*:\s*\{\s*)?"answer"\s*:\s*"')
_MAX_START = 256
_PLAIN = re.compile(r'[^"\\]+')
_FENCED = re.compile(r"\s*```\w*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_UNIT, _ESCAPE, _PAIR = 2, 6, 12
"""Characters of an escape, of one by number, and of two of these, which are one character together."""


class BadEscape(ValueError):
    """A backslash in a JSON string that stands before nothing it may stand before."""


class StepDecoder:
    """Pieces of a step's JSON in, pieces of its answer out.

    `kind` is "start" while that is not known, "plain" where it is no JSON at all, "answer" within one and "ended"
    behind it, "other" for any other JSON, of which nothing is shown.
    """

    def __init__(self) -> None:
        self.kind: Literal["start", "plain", "answer", "ended", "other"] = "start"
        self._held = ""

    @property
    def held(self) -> str:
        """What was not shown so far."""
        return self._held

    def feed(self, text: str) -> str:
        """What of the answer `text` completes. Raises BadEscape."""
        self._held += text
        if self.kind == "start":
            self._leave_start()
        if self.kind == "plain":
            shown, self._held = self._held, ""
            return shown
        return self._decoded() if self.kind == "answer" else ""

    def _leave_start(self) -> None:
        start = self._held.lstrip()
        if not start:
            return
        if start[0] not in "{`":
            self.kind = "plain"
        elif found := _START.match(self._held):
            self.kind, self._held = "answer", self._held[found.end() :]
        elif len(self._held) > _MAX_START:
            self.kind = "other"

    def _decoded(self) -> str:
        shown: list[str] = []
        at = 0
        while at < len(self._held):
            if self._held[at] == '"':
                self.kind = "ended"
                break
            if plain := _PLAIN.match(self._held, at):
                shown.append(plain.group())
                at = plain.end()
                continue
            length = self._escape_length(at)
            if length is None:
                break
            shown.append(_unescaped(self._held[at : at + length]))
            at += length
        self._held = self._held[at:]
        return "".join(shown)

    def _escape_length(self, at: int) -> int | None:
        """How long the escape at `at` is, None where the rest of it has not come."""
        left = len(self._held) - at
        if left < _UNIT:
            return None
        if self._held[at + 1] != "u":
            return _UNIT
        if left < _ESCAPE:
            return None
        if self._held[at + 2 : at + 4].lower() not in ("d8", "d9", "da", "db"):
            return _ESCAPE
        following = self._held[at + _ESCAPE : at + _PAIR]
        if len(following) < _ESCAPE and "\\u".startswith(following[:2]):
            return None
        is_low = following[:2] == "\\u" and following[2:4].lower() in ("dc", "dd", "de", "df")
        return _PAIR if is_low else _ESCAPE


def _unescaped(escape: str) -> str:
    try:
        text = str(json.loads(f'"{escape}"'))
    except ValueError as error:
        raise BadEscape from error
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def unfenced(text: str) -> str:
    """A text without the fence that it stands in as a whole, as models put around JSON."""
    fence = _FENCED.fullmatch(text)
    return fence.group(1).strip() if fence else text
