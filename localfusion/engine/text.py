"""Turns the bytes of tokens into text that may be shown: whole characters, nothing of a stop string.

Not here: thinking (thinking.py) and which tokens have text.
"""

import codecs

from localfusion.engine.thinking import overlap


class CharacterDecoder:
    """Bytes in, whole characters out; bytes that are no UTF-8 become U+FFFD, an unfinished end is dropped."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: bytes) -> str:
        """The characters that `piece` completes."""
        return self._decoder.decode(piece)


class StopMatcher:
    """Holds back text that may be the beginning of a stop string, and cuts at the first that is complete."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """What of the text so far can be shown; after a stop string nothing any more."""
        if self.is_stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held
