"""Bytes from one place to another, hashed on the way: one pass of reading, with the hash on a thread of its own.

What they are, and whether the hash is the right one, is not known here.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue

ReadInto = Callable[[memoryview], int | None]
"""Fills what it can of a buffer; 0 at the end."""
Write = Callable[[memoryview], int | None]
"""Writes what it can of a buffer, and returns how much that was."""
OnBytes = Callable[[int], None]
"""Is told how many bytes were copied since it was last told."""

BUFFER_BYTES = 2**20
_N_BUFFERS = 4


class CutShort(Exception):
    """The source ended before all bytes were there."""


def tell_nobody(_: int) -> None:
    """Progress that nobody looks at."""


def keep_nothing(buffer: memoryview) -> int:
    """Bytes that are only hashed."""
    return len(buffer)


def copy(read_into: ReadInto, write: Write, n_bytes: int, *, on_bytes: OnBytes = tell_nobody) -> str:
    """Copy just `n_bytes`; returns their sha256. Raises CutShort, and OSError of the two places."""
    digest = hashlib.sha256()
    free: SimpleQueue[memoryview] = SimpleQueue()
    for _ in range(_N_BUFFERS):
        free.put(memoryview(bytearray(min(BUFFER_BYTES, n_bytes))))

    def take_in(filled: memoryview, buffer: memoryview) -> None:
        digest.update(filled)
        free.put(buffer)

    with ThreadPoolExecutor(1) as hashing:
        left = n_bytes
        while left:
            buffer = free.get()
            filled = buffer[: min(left, len(buffer))]
            fill(read_into, filled)
            hashing.submit(take_in, filled, buffer)
            write_all(write, filled)
            left -= len(filled)
            on_bytes(len(filled))
    return digest.hexdigest()


def fill(read_into: ReadInto, buffer: memoryview) -> None:
    """Fill all of a buffer. Raises CutShort."""
    at = 0
    while at < len(buffer):
        n_bytes = read_into(buffer[at:])
        if not n_bytes:
            raise CutShort
        at += n_bytes


def write_all(write: Write, buffer: memoryview) -> None:
    """Write all of a buffer, however much the system takes at a time."""
    at = 0
    while at < len(buffer):
        at += write(buffer[at:]) or 0


def advise_sequential(descriptor: int) -> None:
    """Say that a file is read front to back, where the system listens."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # of a pipe
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
