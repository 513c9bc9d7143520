"""A process that reads files and breaks down over those whose names say so. Run as the real one is."""

import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from localfusion.errors import WebError
from localfusion.search.extractor import main, read_file
from localfusion.search.extractor_protocol import FileRead, Limits

COMMAND = (sys.executable, "-m", "tests.breaking_extractor")


_KEPT: list[bytes] = []
"""What is never given back."""


def read_or_break(path: Path, limits: Limits) -> FileRead:
    """What the file's name asks for, else what is in it."""
    match path.stem:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "raise":
            raise KeyError(path.name)
        case "loop":
            while True:
                pass
        case "sleep":
            time.sleep(3600)
        case "eat":
            return _eat()
        case "close":
            os.closerange(3, 100)
            time.sleep(3600)
        case "end":
            os._exit(0)
    return _dial() if path.stem == "dial" else _answer(path.stem, read_file(path, limits), limits)


def _answer(name: str, found: FileRead, limits: Limits) -> FileRead:
    """What was found, with a lie, or with the number of this process as its title."""
    if name == "grow":
        _KEPT.append(b"1" * (limits.memory_bytes // 3))
    if name == "lie":
        return replace(found, content_sha256="not a digest")
    if name == "shout":
        return replace(found, text="a" * (13 * limits.max_characters + 2**20))
    return replace(found, title=f"{os.getpid()}")


def _dial() -> FileRead:
    try:
        socket.create_connection(("192.0.2.1", 80), 1).close()
    except WebError as error:
        return FileRead(0, 0, "", error.message)
    return FileRead(0, 0, "", "it was let out")


def _eat() -> FileRead:
    eaten = [bytearray(2**24)]
    while True:
        eaten.append(bytearray(2**24))


if __name__ == "__main__":
    main(read_or_break)
