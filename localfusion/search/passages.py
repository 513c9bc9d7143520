"""A document cut into passages of about 200 words, never inside a sentence. Pure; the index stores what comes out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from localfusion.search.blocks import Block
from localfusion.search.sentences import sentence_spans

TARGET_WORDS = 200


@dataclass(frozen=True, slots=True)
class Piece:
    """One passage: the headings above its text, outermost first, and paragraphs parted by newlines."""

    headings: str
    text: str


def cut_passages(blocks: Iterable[Block], *, target_words: int = TARGET_WORDS) -> tuple[Piece, ...]:
    """The passages of a document in order; a heading begins a new one when the last is half full.

    A document of nothing but headings is one passage of these.
    """
    blocks = tuple(blocks)
    pieces = tuple(_Cutter(target_words).cut(blocks))
    return pieces or tuple(Piece("", "\n".join(block.text for block in blocks)) for _ in blocks[:1])


class _Cutter:
    def __init__(self, target_words: int) -> None:
        self._target = target_words
        self._path: list[Block] = []
        self._headings: dict[str, None] = {}
        self._lines: list[str] = []
        self._words = 0

    def cut(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        for block in blocks:
            if block.level:
                if 2 * self._words >= self._target:
                    yield from self._flush()
                if not self._words:
                    self._headings = {}
                self._path = [b for b in self._path if b.level < block.level] + [block]
                self._headings.update(dict.fromkeys(b.text for b in self._path))
            else:
                yield from self._add(block.text)
        yield from self._flush()

    def _add(self, paragraph: str) -> Iterator[Piece]:
        """Add a paragraph, by sentences where it is too long for one passage: runs of it as it stands."""
        first: int | None = None
        last = 0
        for start, end in sentence_spans(paragraph):
            words = len(paragraph[start:end].split())
            if self._words and self._words + words > self._target:
                if first is not None:
                    self._lines.append(paragraph[first:last])
                yield from self._flush()
                first = None
            first = start if first is None else first
            last = end
            self._words += words
        if first is not None:
            self._lines.append(paragraph[first:last])

    def _flush(self) -> Iterator[Piece]:
        text = "\n".join(self._lines)
        if text:
            yield Piece(" > ".join(self._headings), text)
            self._headings = dict.fromkeys(b.text for b in self._path)
        self._lines = []
        self._words = 0
