"""The parent's side of a process that reads files: start it, ask it, end it. Blocks.

Which files it reads is decided elsewhere. Whatever a file does to the process ends in `Broken`, which says why.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import IO, BinaryIO, TypeVar, cast

from localfusion import machine
from localfusion.errors import LocalFusionError
from localfusion.search.child_environment import child_environment
from localfusion.search.extractor_protocol import (
    NO_MEMORY,
    Begin,
    Frame,
    Limits,
    Malformed,
    Request,
    read_frame,
    request_frame,
    write_frame,
)

T = TypeVar("T")

COMMAND = (sys.executable, "-P", "-m", "localfusion.search.extractor")
"""What is started to read files; tests start one that breaks down when they want."""

_TICK_S = 0.1
_START = Limits(time_s=60.0)
"""What the process may take to start: nothing of it is a file's fault."""
_END_LIMIT_S = 2.0
_GROWN_SHARE = 4
_KILLED = -9
"""How a process ends that is killed (SIGKILL)."""
_LAST_WORDS_BYTES = 1 << 14


class Broken(Exception):
    """The process is of no use any more; `problem` says what the file did to it, as a clause.

    `by_others`: it was killed, and not over a limit, which may be no fault of the file.
    """

    def __init__(self, problem: str, *, by_others: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.by_others = by_others


class ReaderProcess:
    """One process that reads files. Used by one thread; `kill` alone may be called by any."""

    def __init__(self, limits: Limits, command: Sequence[str] = COMMAND) -> None:
        """Start it, without waiting until it is there. Raises LocalFusionError where the system has no room for it."""
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=child_environment())
        except OSError as error:
            message = f"the process that reads files cannot be started: {error.strerror}"
            raise LocalFusionError(message, hint="free some memory, or raise the limits (ulimit)") from error
        self._process = process
        self._requests, self._replies, self._stderr = map(_there, (process.stdin, process.stdout, process.stderr))
        self._limits = limits
        self._allowed = _START
        self._first_rss = 0
        self._waiting_since: float | None = None
        self._problem = ""
        self._closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, daemon=True)
        self._watchdog.start()

    def begin(self) -> None:
        """Wait until it is there. Raises LocalFusionError with its last words where it does not come up."""
        try:
            self.send(Begin(self._limits))
            self.reply(bool)
        except Broken as error:
            message = f"files cannot be read: {error.problem}"
            raise LocalFusionError(message, hint=self._last_words() or "install localfusion anew") from error
        self._first_rss, _ = machine.use_of(self._process.pid)
        self._allowed = self._limits

    def send(self, request: Request) -> None:
        """Hand over a request; where the process has ended it is lost, and `reply`, which has to follow, says so."""
        self._waiting_since = monotonic()
        with suppress(OSError):
            write_frame(self._requests, request_frame(request))

    def reply(self, read: Callable[[Frame], T]) -> T:
        """The next reply as `read` understands it. Raises Broken, and then this process is to be closed."""
        limits = self._limits
        self._waiting_since = monotonic()
        try:
            frame = read_frame(self._replies, max_parts=limits.max_reply_parts, max_bytes=limits.max_reply_bytes)
            if frame is not None:
                return read(frame)
        except Malformed as error:
            raise Broken(f"the process that read it wrote what makes no sense ({error})") from error
        finally:
            self._waiting_since = None
        code = self._exit_code()
        by_others = not self._problem and code == _KILLED
        raise Broken(self._problem or _how_it_ended(code, self._allowed), by_others=by_others)

    def has_grown(self) -> bool:
        """Whether what it read before has left so little room that it had better be replaced."""
        rss, _ = machine.use_of(self._process.pid)
        return rss - self._first_rss > self._limits.memory_bytes // _GROWN_SHARE

    def kill(self) -> None:
        """End the process now; whoever waits for a reply learns that it is Broken."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait until it is gone; safe to call twice."""
        self._closed.set()
        self.kill()
        self._process.wait()
        self._watchdog.join()
        for stream in (self._requests, self._replies, self._stderr):
            with suppress(OSError):  # what was not written yet is lost
                stream.close()

    def _exit_code(self) -> int:
        """How the process ended; one that closed its pipe and lives on is ended."""
        try:
            return self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def _last_words(self) -> str:
        """The last line that the process printed before it ended."""
        lines = self._stderr.read(_LAST_WORDS_BYTES).decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _watch(self) -> None:
        """End the process as soon as a file takes more than it may."""
        file_since, used_before_s = None, 0.0
        while not self._closed.wait(_TICK_S):
            since = self._waiting_since
            rss, used_s = machine.use_of(self._process.pid)
            if since is None or since != file_since:
                file_since, used_before_s = since, used_s
                continue
            if self._first_rss and rss - self._first_rss > self._allowed.memory_bytes:
                self._problem = _how_it_ended(NO_MEMORY, self._allowed)
            elif used_s - used_before_s > self._allowed.time_s or monotonic() - since > self._allowed.clock_s:
                self._problem = f"reading it takes longer than {self._allowed.time_s:g} s"
            if self._problem:
                self.kill()
                return


def _there(stream: IO[bytes] | None) -> BinaryIO:
    assert stream is not None
    return cast(BinaryIO, stream)


def _how_it_ended(code: int, limits: Limits) -> str:
    if code == NO_MEMORY:
        return f"reading it takes more than {limits.memory_bytes // 2**20} MiB of memory"
    return f"the process that read it broke down ({_signal_name(-code) if code < 0 else f'exit {code}'})"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
