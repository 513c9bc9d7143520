"""The body of an answer: decompressed as it comes, never beyond a limit, and which kind of text it is.

Raises Unreadable with a reason that the model is told. What the text says is found out by `page_reader`.
"""

import re
import zlib

from localfusion.search.blocks import Unreadable
from localfusion.search.media_types import kind_of

ACCEPTED = "text/html, application/xhtml+xml, application/pdf, text/markdown, text/plain;q=0.9, */*;q=0.1"
ACCEPTED_ENCODINGS = "gzip, deflate"

_READ_AS = {
    "text/html": "text/html",
    "application/xhtml+xml": "application/xhtml+xml",
    "text/plain": "text/plain",
    "text/markdown": "text/markdown",
    "text/x-markdown": "text/markdown",
    "application/pdf": "application/pdf",
    "application/x-pdf": "application/pdf",
}
"""Media type as servers write it -> as the reader is told."""

_SAYS_NOTHING = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-download"})
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE | re.ASCII)

_GZIP = b"\x1f\x8b"
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "zlib": zlib.MAX_WBITS, "raw": -zlib.MAX_WBITS}
_ENCODINGS = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_MAX_MEMBERS = 64
_PDF_WITHIN = 1024
_HTML_WITHIN = 512
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|meta|h1|p|div)\b", re.IGNORECASE)


class Body:
    """The bytes of one body. Feed it what arrives, then close it."""

    def __init__(self, encoding: str, *, max_raw_bytes: int, max_bytes: int) -> None:
        """`encoding` is the answer's Content-Encoding; the limits are on what arrives and on what comes out of it."""
        known = _ENCODINGS.get(encoding.strip().lower())
        if known is None:
            raise Unreadable("it is compressed in a way that was not asked for")
        self._encoding = known
        self._max_raw_bytes = max_raw_bytes
        self._max_bytes = max_bytes
        self._raw_bytes = 0
        self._content = bytearray()
        self._held = b""
        self._stream = zlib.decompressobj()
        self._is_open = False
        self._members = 0

    def expect(self, raw_bytes: int) -> None:
        """Refuse right away what is said to be too large."""
        if raw_bytes > self._max_raw_bytes:
            raise _too_large(self._max_raw_bytes)

    def feed(self, chunk: bytes) -> None:
        """Take in what arrived."""
        self._raw_bytes += len(chunk)
        self.expect(self._raw_bytes)
        if not self._encoding:
            self._keep(chunk)
            return
        try:
            self._inflate(self._held + chunk)
        except zlib.error as error:
            raise Unreadable("its compressed content is damaged") from error

    def close(self) -> bytes:
        """The whole body, decompressed."""
        if self._held or self._is_open:
            raise Unreadable("its compressed content is cut short")
        return bytes(self._content)

    def _inflate(self, rest: bytes) -> None:
        self._held = b""
        while rest:
            if not self._is_open:
                if self._members and not (self._encoding == "gzip" and _GZIP.startswith(rest[:2])):
                    return  # what stands behind the end is no part of it
                if len(rest) < 2:
                    self._held = rest
                    return
                self._stream, self._is_open = zlib.decompressobj(_WINDOWS[self._kind(rest)]), True
            self._keep(self._stream.decompress(rest, self._max_bytes - len(self._content) + 1))
            rest = self._stream.unused_data
            if self._stream.eof:
                self._end_member()

    def _kind(self, start: bytes) -> str:
        """Which of its formats a stream is in: "deflate" means zlib's, and many a server sends it raw."""
        if self._encoding == "gzip":
            return "gzip"
        return "zlib" if start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0 else "raw"

    def _end_member(self) -> None:
        self._is_open = False
        self._members += 1
        if self._members >= _MAX_MEMBERS:
            raise Unreadable("it is compressed in too many parts")

    def _keep(self, content: bytes) -> None:
        if len(self._content) + len(content) > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._content += content


def media_type(content_type: str) -> str | None:
    """As what a body is to be read, by its Content-Type; None where that says nothing and `sniff` must."""
    named = re.split(r"[;,]", content_type, maxsplit=1)[0].strip().lower()
    if named in _SAYS_NOTHING:
        return None
    if named not in _READ_AS:
        raise Unreadable(f"it is {kind_of(named)}, and only {_READ}")
    return _READ_AS[named]


_READ = "pages, plain texts and PDFs are read"


def sniff(content: bytes) -> str:
    """As what a body is to be read, by its beginning."""
    if b"%PDF-" in content[:_PDF_WITHIN]:
        return "application/pdf"
    start = content[:_HTML_WITHIN].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<") and _HTML.search(start):
        return "text/html"
    if b"\0" in content and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable(f"it is binary of an unknown type, and only {_READ}")
    return "text/plain"


def charset(content_type: str) -> str | None:
    """The charset that a Content-Type names."""
    found = _CHARSET.search(content_type)
    return found[1].lower() if found else None


def _too_large(max_bytes: int) -> Unreadable:
    shown = f"{max_bytes / 2**20:.0f} MiB" if max_bytes >= 2**20 else f"{max_bytes} bytes"
    return Unreadable(f"it is larger than {shown}")
