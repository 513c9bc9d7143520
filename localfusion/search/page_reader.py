"""The bytes of a fetched page as readable text, with what it links to and what is odd about it. Fetches nothing."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from localfusion.analysis import Link
from localfusion.search.blocks import Unreadable
from localfusion.search.readers import read

_SUFFIXES = {"text/html": ".html", "application/xhtml+xml": ".html", "application/pdf": ".pdf", "text/plain": ".txt"}


@dataclass(frozen=True, slots=True)
class ReadPage:
    """What a reader sees of a page; `links` are absolute, in its order, each once; `warnings` are for the user."""

    title: str
    text: str
    links: tuple[Link, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_page(content: bytes, *, media_type: str, charset: str | None, url: str) -> ReadPage:
    """The page at `url`; `charset` is what the server named. Raises Unreadable with a reason that the model is told."""
    del charset
    suffix = _SUFFIXES.get(media_type)
    if suffix is None:
        raise Unreadable(f"it is {media_type}, which is not read; pages, texts and PDFs are")
    found = read(Path(f"{url.rstrip('/').rpartition('/')[2] or 'page'}{suffix}"), content)
    return ReadPage(found.title, found.text)
