"""What a reader makes of a fetched page, and the protocol of those who read: in a thread, or in a process apart."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from localfusion.analysis import Link


@dataclass(frozen=True, slots=True)
class ReadPage:
    """What a reader sees of a page; `links` are absolute, in its order, each once; `warnings` are for the user.

    `author`, `published` and `site` are what the page says about itself without showing it: no part of `text`, so that
    they cannot be quoted, and "" where it says nothing.
    """

    title: str
    text: str
    links: tuple[Link, ...] = ()
    warnings: tuple[str, ...] = ()
    author: str = ""
    published: str = ""
    site: str = ""

    @property
    def byline(self) -> str:
        """Who says it, where and when, as far as the page tells."""
        return ", ".join(dict.fromkeys(part for part in (self.author, self.site, self.published) if part))

    @property
    def sha256(self) -> str:
        """Of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class PageReader(Protocol):
    """Makes text of the bytes of a page; raises Unreadable with a reason."""

    async def __call__(self, content: bytes, *, media_type: str, charset: str | None, url: str) -> ReadPage: ...
