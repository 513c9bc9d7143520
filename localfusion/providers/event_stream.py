"""Bytes of a reply as the data of its events (server-sent events). Bounded in all it keeps; the data is not read."""

from collections.abc import Iterator

MAX_EVENT_BYTES = 1 << 20
"""No event of a chat has a thousandth of this."""


class TooLarge(ValueError):
    """The stream, or one event of it, is larger than any answer."""


class EventReader:
    """Pieces of bytes in, whole events out; nothing is given of an event that never ends."""

    def __init__(self, *, max_bytes: int) -> None:
        self._left = max_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._n_data = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> Iterator[str]:
        """The data of each event that `piece` completes. Raises TooLarge."""
        self._left -= len(piece)
        if self._left < 0:
            raise TooLarge
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._after_cr = piece.endswith(b"\r")
        lines = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines[:-1]:
            whole = bytes(self._line) + line
            self._line.clear()
            yield from self._take(whole)
        self._line += lines[-1]
        if len(self._line) + self._n_data > MAX_EVENT_BYTES:
            raise TooLarge

    def finish(self) -> Iterator[str]:
        """What a last line without its end completes: many servers end without the empty line that should follow."""
        yield from self._take(bytes(self._line))
        self._line.clear()
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[str]:
        if not line:
            if self._data:
                yield b"\n".join(self._data).decode("utf-8", "replace")
            self._data, self._n_data = [], 0
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._n_data += len(value)
            if self._n_data > MAX_EVENT_BYTES:
                raise TooLarge
