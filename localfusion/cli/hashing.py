"""How far the hashing of large files is, on a terminal: a bar with rate and time left, and nothing elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from localfusion.catalog.hashing import OnBytes
from localfusion.cli.terminal import printable


@contextmanager
def hashing(what: str, n_bytes: int) -> Iterator[OnBytes]:
    """A bar for `n_bytes` that are read; the value is told how many more were."""
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}", markup=False)
    with Progress(text, *columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"reading {printable(what)}", total=n_bytes)
        yield lambda n_read: progress.advance(task, n_read)
