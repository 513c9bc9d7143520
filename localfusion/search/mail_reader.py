"""An email message (.eml) as blocks: who wrote to whom, when and what. Attachments are named, not read."""

import email
from collections.abc import Callable, Iterator
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message

from localfusion.search.blocks import Block, Readable, Unreadable, readable, squeeze
from localfusion.search.html_reader import visible_blocks
from localfusion.search.text_reader import read_plain

_HEADERS = ("From", "To", "Cc", "Date")
_SIGNS = ("From", "Date", "Subject", "Received", "Message-ID", "MIME-Version")
"""A message has at least two of these."""

Decode = Callable[[bytes], str]
"""The text of bytes whose charset nobody names."""


def read_eml(content: bytes, decode: Decode) -> Readable:
    """The subject as a heading, the headers that matter, the text, the names of what is attached. Raises Unreadable."""
    message = email.message_from_bytes(content)
    if sum(name in message for name in _SIGNS) < 2:
        raise Unreadable("it is damaged or not an email message")
    subject = _header(message, "Subject")
    headers = ((name, _header(message, name)) for name in _HEADERS)
    blocks = [Block(subject, 1), *(Block(f"{name}: {words}") for name, words in headers if words)]
    parts = list(_parts(message))
    blocks += _body([part for part in parts if not _is_attached(part)], decode)
    blocks += [Block(f"Attachment: {_file_name(part)}") for part in parts if _is_attached(part)]
    return readable(subject, blocks)


def _parts(message: Message) -> Iterator[Message]:
    """The parts of a message in order; another message within it is one part."""
    payload = message.get_payload()
    if message.get_content_maintype() == "multipart" and isinstance(payload, list):
        for part in payload:
            if isinstance(part, Message):
                yield from _parts(part)
    else:
        yield message


def _is_attached(part: Message) -> bool:
    return part.get_content_disposition() == "attachment" or part.get_content_maintype() != "text"


def _file_name(part: Message) -> str:
    try:
        name = part.get_filename() or ""
    except (ValueError, LookupError, TypeError):  # how a name is encoded is as free as what it says
        name = ""
    return squeeze(_words(name)) or part.get_content_type()


def _body(parts: list[Message], decode: Decode) -> Iterator[Block]:
    """Plain text where there is any, else HTML as it is seen; lines that look like headings are none."""
    plain = [part for part in parts if part.get_content_subtype() == "plain"]
    for part in plain:
        yield from (Block(block.text) for block in read_plain(_text(part, decode)).blocks)
    if not plain:
        for part in parts:
            yield from visible_blocks(_text(part, decode)).blocks


def _text(part: Message, decode: Decode) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    try:
        return content.decode(part.get_content_charset() or "utf-8")
    except (UnicodeError, LookupError):
        return decode(content)


def _header(message: Message, name: str) -> str:
    return _words(str(message.get(name, "")))


def _words(header: str) -> str:
    """A header with its encoded words as text; as it stands where they cannot be read."""
    try:
        return squeeze(str(make_header(decode_header(header))))
    except (MessageError, UnicodeError, LookupError, ValueError):
        return squeeze(header)
