"""The bytes of a bundle between its members: a plain POSIX tar (pax), all of which follows from names and sizes.

So a reader works out every byte that is no member's content and refuses any other; no header is ever interpreted.
"""

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
_MAX_NAME = 100
_MAX_SIZE = 8**11
"""The first size that has no room in a header's eleven octal digits."""
_SIZE_FIELD = slice(124, 135)


def header(name: str, n_bytes: int) -> bytes:
    """What stands before the content of a member: a header, and where name or size want it a pax header before."""
    extended = b""
    if len(name) > _MAX_NAME:
        extended += _record("path", name)
    if n_bytes >= _MAX_SIZE:
        extended += _record("size", str(n_bytes))
    own = _block(name[:_MAX_NAME], n_bytes if n_bytes < _MAX_SIZE else 0, b"0")
    if not extended:
        return own
    return _block("pax", len(extended), b"x") + extended + padding(len(extended)) + own


def padding(n_bytes: int) -> bytes:
    """What fills the last block of a content."""
    return bytes(-n_bytes % BLOCK_BYTES)


def size_in(block: bytes) -> int | None:
    """The size that a header block names, None where it is no number: for the few members that no manifest names."""
    digits = block[_SIZE_FIELD]
    return int(digits, 8) if len(digits) == 11 and all(digit in b"01234567" for digit in digits) else None


def _block(name: str, n_bytes: int, kind: bytes) -> bytes:
    fields = (
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0" * 2,
        f"{n_bytes:011o}\0".encode(),
        b"00000000000\0",
        b" " * 8,
        kind,
        bytes(100),
        b"ustar\00000",
        bytes(64),
        b"0000000\0" * 2,
        bytes(167),
    )
    block = b"".join(fields)
    return block[:148] + f"{sum(block):06o}\0 ".encode() + block[156:]


def _record(key: str, value: str) -> bytes:
    """A record of a pax header, whose length counts its own digits."""
    rest = f" {key}={value}\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return f"{length}{rest}".encode("ascii")
