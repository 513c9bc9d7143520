"""The process that reads one ZIM archive with libzim, from one thread. `zim` starts it; it decides nothing.

libzim looks at sizes and offsets when it opens a file, but damage further in may end the process that reads it: so
this one, which has no network and little memory. A request is a line of JSON; a reply is one too, then the `size`
bytes that it names. A thread reads the requests, so that the end of the parent (the pipe closes) ends this process
at once.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from libzim.reader import Archive, Entry
from libzim.search import Query, Searcher
from libzim.suggestion import SuggestionSearcher

from localfusion import machine
from localfusion.offline import close_network

MAX_REDIRECTS = 10
MEMORY_BYTES = 2**30
"""What an archive may take besides its own bytes, which libzim maps."""
MAX_CHECKED_BYTES = 64 * 2**20
"""Archives up to this size have their checksum looked at when they are opened; of larger ones it would take minutes."""

Reply = dict[str, object]
Find = Callable[[str, int], tuple[int, Iterable[str]]]
"""A query and a limit to how many entries match, about, and the paths of the first of them."""


def open_archive(path: Path) -> Archive:
    """Raises RuntimeError for a file that is no whole archive."""
    archive = Archive(path)
    if archive.filesize <= MAX_CHECKED_BYTES and archive.has_checksum and not archive.check():
        raise RuntimeError("its checksum is wrong")
    return archive


def search(archive: Archive, words: list[str], limit: int) -> Reply:
    """The best paths, for all words first, then without those that most entries have.

    libzim finds only what has every word; so a word that no entry has is left out.
    """
    find = _full_text(archive) if archive.has_fulltext_index else _titles(archive)
    matches = {word: find(word, 0)[0] for word in words}
    kept = sorted((word for word in words if matches[word]), key=lambda word: matches[word])
    paths: dict[str, None] = {}
    for n_words in range(len(kept), 0, -1):
        paths |= dict.fromkeys(find(" ".join(kept[:n_words]), limit)[1])
        if len(paths) >= limit:
            break
    return {"paths": list(paths)[:limit], "matches": matches, "total": archive.article_count}


def read(archive: Archive, path: str, max_bytes: int) -> tuple[Reply, bytes]:
    """An entry, the archive's main one for an empty path; redirects are followed."""
    try:
        if not path and not archive.has_main_entry:
            raise KeyError(path)
        entry = archive.get_entry_by_path(path) if path else archive.main_entry
    except (KeyError, UnicodeEncodeError):
        return {"problem": "missing"}, b""
    target = _target(entry)
    if target is None:
        return {"problem": "redirects"}, b""
    item = target.get_item()
    if item.size > max_bytes:
        return {"problem": "large"}, b""
    return {"path": item.path, "title": item.title, "media_type": item.mimetype}, bytes(item.content)


def _full_text(archive: Archive) -> Find:
    def find(query: str, limit: int) -> tuple[int, Iterable[str]]:
        found = Searcher(archive).search(Query().set_query(query))
        return found.getEstimatedMatches(), found.getResults(0, limit)

    return find


def _titles(archive: Archive) -> Find:
    def find(query: str, limit: int) -> tuple[int, Iterable[str]]:
        found = SuggestionSearcher(archive).suggest(query)
        return found.getEstimatedMatches(), found.getResults(0, limit)

    return find


def _target(entry: Entry) -> Entry | None:
    """Where redirects lead from an entry, or None where they go on and on."""
    for _ in range(MAX_REDIRECTS):
        if not entry.is_redirect:
            return entry
        entry = entry.get_redirect_entry()
    return None


def answer(archive: Archive, request: dict[str, str | int | list[str]]) -> tuple[Reply, bytes]:
    """Carry out one request. What libzim finds wrong is a reply."""
    try:
        match request:
            case {"words": list(words), "limit": int(limit)}:
                return search(archive, words, limit), b""
            case {"path": str(path), "max_bytes": int(max_bytes)}:
                return read(archive, path, max_bytes)
            case _:
                return {"problem": "not a request"}, b""
    except (RuntimeError, LookupError, ValueError, OSError, MemoryError) as error:
        return {"problem": "damaged", "reason": str(error)}, b""


def main() -> None:
    """Open the archive that the first argument names, say how that went, then answer until the pipe closes."""
    close_network()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever C code prints
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    try:
        path = Path(sys.argv[1])
        machine.confine(MEMORY_BYTES, mapped_bytes=path.stat().st_size)
        archive = open_archive(path)
        opened: Reply = {"full_text": archive.has_fulltext_index}
    except (RuntimeError, LookupError, ValueError, OSError, MemoryError) as error:
        _send(replies, {"problem": "damaged", "reason": str(error)})
        return
    _send(replies, opened)
    while True:
        _send(replies, *answer(archive, json.loads(requests.get())))


def _listen(stream: BinaryIO, requests: SimpleQueue[bytes]) -> None:
    for line in stream:
        requests.put(line)
    os._exit(0)


def _send(replies: BinaryIO, reply: Reply, body: bytes = b"") -> None:
    replies.write(json.dumps({**reply, "size": len(body)}).encode() + b"\n" + body)
    replies.flush()


if __name__ == "__main__":
    main()
