"""The process that reads files and pages of unknown origin. Started by `extractor_client`; it decides nothing else.

It may be ended at any moment, by its parent, by the system or by a file; nothing that it holds is missed. A thread
reads requests, so that the end of the parent (the pipe closes) ends this process at once; where a library holds the
interpreter, an alarm does. It has no network.
"""

import hashlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from localfusion import machine
from localfusion.offline import close_network
from localfusion.search.blocks import Unreadable, check_length
from localfusion.search.extractor_protocol import (
    NO_MEMORY,
    Begin,
    FileRead,
    Frame,
    Limits,
    ReadFetched,
    ReadFiles,
    Request,
    file_frame,
    page_frame,
    read_frame,
    to_request,
    write_frame,
)
from localfusion.search.file_times import changed_ns
from localfusion.search.page_reader import read_page
from localfusion.search.passages import cut_passages
from localfusion.search.readers import MAX_FILE_BYTES, read

ReadFile = Callable[[Path, Limits], FileRead]

_ALARM_SLACK_S = 5


def read_file(path: Path, limits: Limits) -> FileRead:
    """A file as it is now, cut into passages; what is wrong with it is its `problem`."""
    try:
        with _open(path) as stream:
            seen = os.fstat(stream.fileno())
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return FileRead(-1, 0, "", f"it cannot be opened ({error.strerror})")
    except Unreadable as error:
        return FileRead(-1, 0, "", error.message)
    if len(content) > MAX_FILE_BYTES:
        return FileRead(seen.st_size, changed_ns(seen), "", f"it is larger than {MAX_FILE_BYTES // 2**20} MiB")
    digest = hashlib.sha256(content).hexdigest()
    try:
        found = read(path, content)
        check_length(len(found.text), at_most=limits.max_characters)
        pieces = cut_passages(found.blocks)
    except Unreadable as error:
        return FileRead(seen.st_size, changed_ns(seen), digest, error.message)
    return FileRead(seen.st_size, changed_ns(seen), digest, None, found.title, found.text, pieces)


def _open(path: Path) -> BinaryIO:
    """The file at `path`; Unreadable for what is none, which opening could wait for without end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Unreadable("it is no file")
    return path.open("rb")


def _answer_fetched(request: ReadFetched, limits: Limits) -> Frame:
    try:
        page = read_page(request.content, media_type=request.media_type, charset=request.charset, url=request.url)
        check_length(len(page.text), at_most=limits.max_characters)
    except Unreadable as error:
        return page_frame(error.message)
    return page_frame(page)


def _answers(request: Request, limits: Limits, read_one: ReadFile) -> Iterator[Callable[[], Frame]]:
    """The replies to a request, each still to be made."""
    match request:
        case ReadFiles(paths):
            yield from (partial(_answer_path, path, limits, read_one) for path in paths)
        case ReadFetched():
            yield partial(_answer_fetched, request, limits)
        case Begin():
            raise ValueError("a process begins once")


def _answer_path(path: Path, limits: Limits, read_one: ReadFile) -> Frame:
    return file_frame(read_one(path, limits))


def _listen(stream: BinaryIO, requests: SimpleQueue[Request]) -> None:
    """Queue requests until the parent closes the pipe, then end this process."""
    try:
        while (frame := read_frame(stream)) is not None:
            requests.put(to_request(frame))
    finally:
        os._exit(0)


def _open_pipes() -> tuple[SimpleQueue[Request], BinaryIO]:
    """Take stdin and stdout for the protocol, so that nothing that a library prints is a reply."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    stream = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_listen, args=(stream, requests), daemon=True).start()
    return requests, replies


def _be_silent() -> None:
    """From now on nobody listens to what libraries print."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _set_alarm(seconds: float) -> None:
    """End this process in so many seconds, where the system can; 0 takes it back."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def main(read_one: ReadFile = read_file) -> None:
    """The process: the first request is Begin."""
    close_network()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _open_pipes()
    begin = requests.get()
    if not isinstance(begin, Begin):
        raise ValueError("the first request is Begin")
    limits = begin.limits
    machine.confine(limits.memory_bytes)
    write_frame(replies, ())
    _be_silent()
    try:
        while True:
            for answer in _answers(requests.get(), limits, read_one):
                _set_alarm(limits.clock_s + _ALARM_SLACK_S)
                frame = answer()
                _set_alarm(0)
                write_frame(replies, frame)
    except MemoryError:
        os._exit(NO_MEMORY)


if __name__ == "__main__":
    main()
