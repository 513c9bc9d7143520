"""Turns the bytes of tokens into text that may be shown: whole characters, nothing of a stop string.

Not here: thinking (thinking.py) and which tokens have text.
"""

import codecs

from localfusion.engine.thinking import overlap
from localfusion.messages import FunctionSyntax


class CharacterDecoder:
    """Bytes in, whole characters out; bytes that are no UTF-8 become U+FFFD, an unfinished end is dropped."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: bytes) -> str:
        """The characters that `piece` completes."""
        return self._decoder.decode(piece)


class StopMatcher:
    """Holds back text that may be the beginning of a stop string, and cuts at the first that is complete.

    From where text is a call on, `calls` being how one is written, nothing is held back or cut.
    """

    def __init__(self, stops: tuple[str, ...], calls: FunctionSyntax | None = None) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._calls = calls if self._stops else None
        self._held = self._before = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """What of the text so far can be shown; after a stop string nothing any more."""
        if self.is_stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if self._begins_call(text, min(found, default=None)):
            self._stops, self._calls, found = (), None, []
        if self._may_begin_call():
            return ""
        if found:
            self.is_stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _begins_call(self, text: str, stop: int | None) -> bool:
        """Whether a call has begun by now, before what is a stop string in the text that is held."""
        if self._calls is None:
            return False
        self._before += text
        mark = self._calls.mark
        if not self._calls.is_anywhere:
            return self._before.lstrip().startswith(mark)
        end = len(self._before) if stop is None else len(self._before) - len(self._held) + stop
        self._before, is_call = self._before[-len(mark) - len(self._held) :], mark in self._before[:end]
        return is_call

    def _may_begin_call(self) -> bool:
        """Whether all there is so far could be the beginning of a call that can only stand there."""
        if self._calls is None or self._calls.is_anywhere:
            return False
        is_open = self._calls.mark.startswith(self._before.lstrip())
        if not is_open:
            self._calls = None
        return is_open

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held
