"""Fetched pages read in processes of their own, which are kept for the next page. Judges no page."""

import asyncio
import threading
from collections.abc import Sequence

from localfusion.errors import LocalFusionError
from localfusion.search.blocks import Unreadable
from localfusion.search.extractor_client import COMMAND, Broken, ReaderProcess
from localfusion.search.extractor_protocol import DEFAULT, Limits, ReadFetched, to_page
from localfusion.search.read_page import ReadPage

_N_PROCESSES = 2
"""How many pages are read at once; others wait."""


class PageReaders:
    """Reads pages as `read_page` does, where a hostile one does no harm. Used in one event loop, and to be closed."""

    def __init__(self, limits: Limits = DEFAULT, command: Sequence[str] = COMMAND) -> None:
        """Nothing is started before the first page."""
        self._seats = [_Seat(limits, command) for _ in range(_N_PROCESSES)]
        self._free = list(self._seats)
        self._places = asyncio.Semaphore(_N_PROCESSES)

    async def read(self, content: bytes, *, media_type: str, charset: str | None, url: str) -> ReadPage:
        """The page at `url`, as `read_page` reads it. Raises Unreadable, also for a page that breaks its reader.

        Raises LocalFusionError where no process can be started. Cancelling the task ends the process.
        """
        async with self._places:
            seat = self._free.pop()
            try:
                found = await _in_thread(seat, ReadFetched(content, media_type, charset, url))
            finally:
                self._free.append(seat)
        if isinstance(found, str):
            raise Unreadable(found)
        return found

    async def close(self) -> None:
        """End the processes; a page that is being read is Unreadable. Safe to call twice."""
        await asyncio.gather(*(asyncio.to_thread(seat.close) for seat in self._seats))


class _Seat:
    """Room for one process. One thread reads in it at a time, any other may give up what is read."""

    def __init__(self, limits: Limits, command: Sequence[str]) -> None:
        self._limits = limits
        self._command = command
        self._reader: ReaderProcess | None = None
        self._is_given_up = False
        self._lock = threading.Lock()
        self._in_use = threading.Lock()

    def read(self, request: ReadFetched) -> ReadPage | str:
        """The page, or why it cannot be read."""
        with self._in_use:
            try:
                reader = self._reader or self._start()
                reader.send(request)
                found = reader.reply(to_page)
                if reader.has_grown():
                    self._end()
            except Broken as broken:
                self._end()
                return broken.problem
            finally:
                self._is_given_up = False
            return found

    def give_up(self) -> None:
        """End the process, so that `read` returns."""
        with self._lock:
            self._is_given_up = True
            if self._reader is not None:
                self._reader.kill()

    def close(self) -> None:
        self.give_up()
        with self._in_use:
            self._is_given_up = True
            self._end()

    def _start(self) -> ReaderProcess:
        with self._lock:
            reader = self._reader = ReaderProcess(self._limits, self._command)
            if self._is_given_up:
                reader.kill()
        try:
            reader.begin()
        except LocalFusionError:
            self._end()
            raise
        return reader

    def _end(self) -> None:
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


async def _in_thread(seat: _Seat, request: ReadFetched) -> ReadPage | str:
    """`seat.read` without blocking the event loop; a cancelled task leaves no thread behind in it."""
    reading = asyncio.ensure_future(asyncio.to_thread(seat.read, request))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        seat.give_up()
        await asyncio.gather(reading, return_exceptions=True)
        raise
