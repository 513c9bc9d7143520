"""Zip files that are documents: opened without harm, since what is in them is bounded before anything is expanded.

Nothing is written to disk, so the names of entries are only names.
"""

import io
import zipfile
import zlib

from lxml import etree

from localfusion.search.blocks import Unreadable

MAX_ENTRIES = 20_000
MAX_EXPANDED_BYTES = 256 * 2**20
MAX_DEPTH = 200
"""How deeply elements may stand in each other; libxml2 itself stops a little further down."""

NOT_SOUND = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError),
    *(LookupError, ValueError, TypeError, AttributeError, AssertionError, etree.LxmlError),
)
"""What libraries raise where a document is not built as they expect; few have an error of their own for that."""

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How Office files begin that are no zip: those before 2007, and any that is encrypted."""
_ENCRYPTED = ("EncryptedPackage".encode("utf-16-le"), "EncryptedSummary".encode("utf-16-le"))
_IS_ENCRYPTED_FLAG = 1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_archive(content: bytes, *, kind: str) -> None:
    """Refuse what is no zip file or grows too much; `kind` is what it should be, as in "a Word document"."""
    open_archive(content, kind=kind).close()


def open_archive(content: bytes, *, kind: str) -> zipfile.ZipFile:
    """A zip file whose entries can all be read into memory. Raises Unreadable."""
    if is_encrypted_office(content):
        raise Unreadable("it is encrypted")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except NOT_SOUND as error:
        raise Unreadable(f"it is damaged or not {kind}") from error
    entries = archive.infolist()
    if any(entry.flag_bits & _IS_ENCRYPTED_FLAG for entry in entries):
        raise Unreadable("it is encrypted")
    if any(entry.compress_type not in _METHODS for entry in entries):
        raise Unreadable("it is compressed in a way that is not read")
    if len(entries) > MAX_ENTRIES:
        raise Unreadable(f"it holds more than {MAX_ENTRIES} files")
    # No entry yields more than it says here: zipfile stops there.
    if sum(entry.file_size for entry in entries) > MAX_EXPANDED_BYTES:
        raise Unreadable(f"it is larger than {MAX_EXPANDED_BYTES // 2**20} MiB once expanded")
    return archive


def is_encrypted_office(content: bytes) -> bool:
    """Whether it is an Office file, of any time, that a password protects from being read."""
    return content.startswith(_OLE) and any(name in content for name in _ENCRYPTED)


def parse_xml(content: bytes) -> etree._Element:
    """The root of a document. No entity is expanded, no other file is read. Raises etree.LxmlError."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    return etree.fromstring(content, parser)
