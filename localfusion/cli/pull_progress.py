"""How far a pull is, on stderr: bars with rate and time left on a terminal, else a line now and then."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from localfusion.catalog.pulling import Fetch, Watch
from localfusion.cli.sizes import duration_text, size_text
from localfusion.cli.terminal import printable

LINE_EVERY_S = 10.0


@dataclass(slots=True)
class Meter:
    """The rate of one model: of what came, not of what was here already."""

    clock: Callable[[], float] = time.monotonic
    _began: float | None = None
    _last_line: float = field(default=float("-inf"))

    def text(self, kept: int, new: int, total: int) -> str:
        """How far it is; how fast and how much longer once that is known."""
        now = self.clock()
        if self._began is None and new:
            self._began = now
        done = f"{size_text(kept + new)} of {size_text(total)}"
        seconds = 0.0 if self._began is None else now - self._began
        if kept + new >= total:
            return f"{done}, checking"
        if not new or not seconds:
            return done
        left_s = (total - kept - new) / (new / seconds)
        return f"{done}, {size_text(new / seconds)}/s, {duration_text(left_s)} left"

    def is_line_due(self, *, is_last: bool) -> bool:
        """Whether another line is wanted now: the first, the last, and one now and then."""
        now = self.clock()
        if not is_last and now - self._last_line < LINE_EVERY_S:
            return False
        self._last_line = now
        return True


@contextmanager
def pull_progress(fetches: Sequence[Fetch]) -> Iterator[Watch]:
    """Show how far models are while the block runs; after it, whatever threads still say is not shown."""
    meters = {fetch.model.name: Meter() for fetch in fetches}
    if sys.stderr.isatty():
        with Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        ) as bars:
            yield _bars(bars, fetches, meters)
        return
    is_over = threading.Event()
    try:
        yield _plain(meters, is_over)
    finally:
        is_over.set()


def _bars(bars: Progress, fetches: Sequence[Fetch], meters: dict[str, Meter]) -> Watch:
    tasks: dict[str, TaskID] = {}
    for fetch in fetches:
        name = fetch.model.name
        tasks[name] = bars.add_task("waits for its turn", total=fetch.n_bytes, name=printable(name))

    def on_bytes(name: str, kept: int, new: int, total: int) -> None:
        bars.update(tasks[name], completed=kept + new, description=meters[name].text(kept, new, total))

    def on_wait(name: str) -> None:
        bars.update(tasks[name], description="another localfusion fetches it")

    return Watch(on_bytes, on_wait)


def _plain(meters: dict[str, Meter], is_over: threading.Event) -> Watch:
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            if not is_over.is_set():
                click.echo(printable(text), err=True)

    def on_bytes(name: str, kept: int, new: int, total: int) -> None:
        text = meters[name].text(kept, new, total)
        if meters[name].is_line_due(is_last=kept + new >= total):
            say(f"{name}: {text}")

    def on_wait(name: str) -> None:
        say(f"{name}: another localfusion fetches it; waiting")

    return Watch(on_bytes, on_wait)
