"""`localfusion docs`: the folders and files that are indexed ahead, listed, refreshed and forgotten."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from localfusion.cli.options import check_paths, is_text
from localfusion.cli.sizes import count_text, size_text
from localfusion.cli.sources import embedding_of
from localfusion.cli.terminal import printable, tail
from localfusion.config import Surroundings, load_settings, make_home
from localfusion.errors import ConfigError, LocalFusionError
from localfusion.messages import Json, ModelSpec, SourcesSpec
from localfusion.search.documents import Added, DocumentIndex, OnProgress, Root
from localfusion.search.opening import VECTORS_FILE
from localfusion.search.vectors import keep_only
from localfusion.session import DOCUMENTS_FILE, open_session

_NAME_WIDTH = 40
_paths = click.argument("paths", metavar="PATH...", nargs=-1, required=True)


@click.group()
def docs() -> None:
    """Index folders and files ahead, list, refresh and forget them.

    What is added here is searched by an `ask` that names no sources, and read only once.

    \b
    Examples:
      localfusion docs add ~/notes report.pdf
      localfusion docs list
      localfusion docs remove ~/notes
    """


@docs.command("add")
@_paths
def add_command(*, paths: tuple[str, ...]) -> None:
    """Read folders and files into the index, and keep their names for `docs refresh`.

    Ctrl-C loses nothing: what was read is kept, and the next `docs add` goes on from there.

    \b
    Examples:
      localfusion docs add ~/notes
      localfusion docs add report.pdf minutes.docx
    """
    wanted = check_paths(paths, "docs add")
    embedding = _embedding()
    with _open_index() as index:
        with _progress() as on_progress:
            added = index.add(wanted, on_progress=on_progress)
        index.register(wanted, is_read=True)
    _tell(added)
    _embed(wanted, embedding)


@docs.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead.")
def list_command(*, as_json: bool) -> None:
    """List what was added: files that can be read, their size, and when they were last looked at.

    What a bundle carried here, without the files themselves, is listed as carried.

    \b
    Examples:
      localfusion docs list
      localfusion docs list --json
    """
    with _open_index() as index:
        roots = index.roots()
    if as_json:
        click.echo(json.dumps([_entry(root) for root in roots], ensure_ascii=False, indent=2))
    elif not roots:
        click.echo("no documents were added", err=True)
    for root in () if as_json else roots:
        click.echo(_line(root))


@docs.command("refresh")
@click.argument("paths", metavar="[PATH...]", nargs=-1)
def refresh_command(*, paths: tuple[str, ...]) -> None:
    """Read what is new or changed under everything that was added, or under PATHs, and forget what is gone.

    \b
    Examples:
      localfusion docs refresh
      localfusion docs refresh ~/notes
    """
    embedding = _embedding()
    with _open_index() as index, _progress() as on_progress:
        added = index.refresh(check_paths(paths, "docs refresh"), on_progress=on_progress)
        roots = tuple(root.path for root in index.roots() if root.is_there)
    _tell(added)
    if added.source.urls:
        _embed(roots, embedding)


@docs.command("remove")
@_paths
def remove_command(*, paths: tuple[str, ...]) -> None:
    """Forget folders and files: their names, their text and their words are deleted from the index's file.

    The files themselves stay. What another added folder holds too is kept.

    \b
    Examples:
      localfusion docs remove ~/notes
    """
    unclear = [path for path in paths if not path or not is_text(path)]
    if unclear:
        raise ConfigError(
            f"{unclear[0]!a} names no file or folder", hint="`localfusion docs list` shows what was added"
        )
    with _open_index() as index:
        try:
            for path in paths:
                click.echo(f"{printable(path)}: {count_text(index.unregister(Path(path)), 'file')} forgotten", err=True)
        finally:
            _forget_vectors(index)


def _forget_vectors(index: DocumentIndex) -> None:
    """Drop the vectors of what the index no longer has; a file of them that cannot be used is a warning."""
    try:
        keep_only(make_home(Surroundings.of_this_process()) / VECTORS_FILE, index.passage_ids())
    except LocalFusionError as error:
        click.echo(f"warning: vectors were not forgotten: {printable(error.message)}", err=True)


def _embedding() -> ModelSpec | None:
    """The embedding model that config.yaml names; asked for first, so that a mistake there costs no reading."""
    surroundings = Surroundings.of_this_process()
    return embedding_of(load_settings(surroundings), surroundings)


def _embed(paths: tuple[Path, ...], embedding: ModelSpec | None) -> None:
    """Make the vectors of new passages, where there is a model for that."""
    surroundings = Surroundings.of_this_process()
    if embedding is None or not paths:
        return

    async def prepare(on_progress: OnProgress) -> tuple[str, ...]:
        async with open_session(surroundings) as session:
            return await session.prepare(SourcesSpec(docs=paths, embedding=embedding), on_progress=on_progress)

    with _progress() as on_progress:
        warnings = asyncio.run(prepare(on_progress))
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)


@contextmanager
def _open_index() -> Iterator[DocumentIndex]:
    home = make_home(Surroundings.of_this_process())
    with closing(DocumentIndex(home / DOCUMENTS_FILE)) as index:
        yield index


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A bar on stderr while files are read, where that is a terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        yield _mover(bar)


def _mover(bar: Progress) -> Callable[[int, int, str], None]:
    task = bar.add_task("", total=None)

    def move(done: int, every: int, name: str) -> None:
        bar.update(task, completed=done, total=every, description=tail(name, _NAME_WIDTH))

    return move


def _tell(added: Added) -> None:
    for warning in added.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    parts = [f"{count_text(added.read, 'file')} read", f"{added.unchanged} unchanged"]
    click.echo(", ".join([*parts, *([f"{added.removed} forgotten"] if added.removed else [])]), err=True)


def _line(root: Root) -> str:
    when = "never"
    if root.refreshed is not None:
        when = f"{datetime.fromtimestamp(root.refreshed, UTC).astimezone():%Y-%m-%d %H:%M}"
    unreadable = f", {root.n_unreadable} cannot be read" if root.n_unreadable else ""
    seen = "carried here" if root.is_carried else "last looked at"
    size = f"{count_text(root.n_files, 'file')}, {size_text(root.n_bytes)}"
    return f"{printable(str(root.path))}: {size}{unreadable}, {seen} {when}"


def _entry(root: Root) -> Json:
    refreshed = None if root.refreshed is None else datetime.fromtimestamp(root.refreshed, UTC).isoformat()
    return {
        "path": str(root.path),
        "files": root.n_files,
        "bytes": root.n_bytes,
        "unreadable": root.n_unreadable,
        "refreshed": refreshed,
        "carried": root.is_carried,
    }
