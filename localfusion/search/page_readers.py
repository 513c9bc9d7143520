"""Fetched pages read in processes of their own, which are kept for the next page. Judges no page."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

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
                found = await _in_thread(seat, _Reading(ReadFetched(content, media_type, charset, url)))
            finally:
                self._free.append(seat)
        if isinstance(found, str):
            raise Unreadable(found)
        return found

    async def close(self) -> None:
        """End the processes; a page that is being read is Unreadable. Safe to call twice."""
        await asyncio.gather(*(asyncio.to_thread(seat.close) for seat in self._seats))


@dataclass(slots=True, eq=False)
class _Reading:
    """One page to be read, and whether it is still wanted: what gives it up touches no other."""

    request: ReadFetched
    is_given_up: bool = False


class _Seat:
    """Room for one process. One thread reads in it at a time, any other may give up what is read."""

    def __init__(self, limits: Limits, command: Sequence[str]) -> None:
        self._limits = limits
        self._command = command
        self._reader: ReaderProcess | None = None
        self._reading: _Reading | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._in_use = threading.Lock()

    def read(self, reading: _Reading) -> ReadPage | str:
        """The page, or why it cannot be read. Where somebody else ended the process it is tried once more."""
        with self._in_use:
            with self._lock:
                self._reading = reading
            try:
                found = self._read(reading)
                if isinstance(found, Broken) and found.by_others and not (reading.is_given_up or self._is_closed):
                    found = self._read(reading)
                return found.problem if isinstance(found, Broken) else found
            finally:
                with self._lock:
                    self._reading = None
                if reading.is_given_up:
                    self._end()

    def give_up(self, reading: _Reading) -> None:
        """End the process if it reads this, so that `read` returns."""
        with self._lock:
            reading.is_given_up = True
            if self._reading is reading and self._reader is not None:
                self._reader.kill()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._reader is not None:
                self._reader.kill()
        with self._in_use:
            self._end()

    def _read(self, reading: _Reading) -> ReadPage | str | Broken:
        reader = self._reader or self._start(reading)
        reader.send(reading.request)
        try:
            found = reader.reply(to_page)
        except Broken as broken:
            self._end()
            return broken
        if reader.has_grown():
            self._end()
        return found

    def _start(self, reading: _Reading) -> ReaderProcess:
        with self._lock:
            reader = self._reader = ReaderProcess(self._limits, self._command)
            if reading.is_given_up or self._is_closed:
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


async def _in_thread(seat: _Seat, reading: _Reading) -> ReadPage | str:
    """`seat.read` without blocking the event loop; a cancelled task leaves no thread behind in it."""
    answer = asyncio.ensure_future(asyncio.to_thread(seat.read, reading))
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        seat.give_up(reading)
        await asyncio.gather(answer, return_exceptions=True)
        raise
