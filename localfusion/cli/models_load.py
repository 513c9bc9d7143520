"""`localfusion models load`: a bundle that was carried here, verified as a whole and then taken into the home."""

import io
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from localfusion.catalog.bundle.loading import Staged, contents_on, index_lines, publish, staged
from localfusion.catalog.bundle.manifest import INDEX_NAME, Manifest
from localfusion.catalog.bundle.reading import BundleStream, Front, read_front
from localfusion.catalog.bundle.signature import TRUSTED_KEYS, trusted_keys
from localfusion.catalog.copying import advise_sequential
from localfusion.catalog.installed import Installed
from localfusion.cli.byte_progress import byte_progress
from localfusion.cli.terminal import printable
from localfusion.config import Surroundings, check_note, make_home, note
from localfusion.errors import ConfigError
from localfusion.search.carried import CARRIED_FOLDER
from localfusion.search.documents import DocumentIndex
from localfusion.session import DOCUMENTS_FILE


@click.command("load")
@click.argument("file")
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Public keys of ssh; the bundle must be signed by one. Repeatable.  [default: HOME/{TRUSTED_KEYS}]",
)
@click.option("--dry-run", is_flag=True, help="Show what the bundle holds, and load nothing.")
def load(*, file: str, trusted: tuple[Path, ...], dry_run: bool) -> None:
    """Take in a bundle that was carried here, once all of it is verified.

    FILE is read front to back; `-` is stdin. Nothing is put in place before every byte was checked against the
    manifest, and the manifest against its signature where keys are trusted here. A load that was interrupted goes on.

    \b
    Examples:
      localfusion models load room.tar
      localfusion models load room.tar --trust alice.pub
      localfusion models load --dry-run room.tar
    """
    surroundings = Surroundings.of_this_process()
    home = make_home(surroundings)
    with _open(file) as raw:
        stream = BundleStream(raw, "the bundle from stdin" if file == "-" else file)
        front = read_front(stream, trusted_keys(home, trusted))
        for remark in front.remarks:
            click.echo(f"warning: {remark}", err=True)
        if dry_run:
            _show(front.manifest)
        else:
            take_in(stream, front, surroundings, home)


def take_in(stream: BundleStream, front: Front, surroundings: Surroundings, home: Path) -> None:
    """All that may be refused comes first: the slice of models.yaml, the files, the documents."""
    manifest = front.manifest
    name, contents = f"bundle-{_file_name(manifest.preset)}", contents_on(home, manifest)
    check_note(surroundings, name, contents)
    total_bytes = sum(member.n_bytes for member in manifest.members)
    with (
        closing(Installed(home)) as installed,
        byte_progress("loading", total_bytes) as on_bytes,
        staged(stream, front, home, installed, on_bytes=on_bytes) as found,
    ):
        root = _carry(found, manifest, home)
        publish(found, installed)
        note(surroundings, name, contents)
    n_kept = sum(placed.is_kept for placed in found.models)
    kept = f", {n_kept} of them here already" if n_kept else ""
    click.echo(f"{len(found.models)} files of models loaded{kept}", err=True)
    if root is not None:
        click.echo(f"{printable(str(root))}: the text of {_documents(manifest)} carried here", err=True)
    for archive in manifest.zim:
        click.echo(f"note: {printable(archive.name)} goes with the bundle and is not in it", err=True)
    click.echo(f'ask with: localfusion ask --offline --preset {printable(manifest.preset)} "..."', err=True)


def _carry(found: Staged, manifest: Manifest, home: Path) -> Path | None:
    """Keep the documents of a bundle; where they are carried to, None where there are none."""
    if found.index is None or manifest.index is None:
        return None
    (member,), said = manifest.of_role("index"), manifest.index
    root = home / CARRIED_FOLDER / _file_name(said.name)
    with closing(DocumentIndex(home / DOCUMENTS_FILE)) as documents:
        lines = index_lines(found.index, member)
        documents.carry(lines, root, is_file=said.is_file, n_documents=said.n_documents)
    return root


def _file_name(name: str) -> str:
    """A name out of a bundle as one component of a path."""
    plain = printable(name).replace("/", "_").replace("\\", "_").strip(". ")
    return plain or "documents"


def _show(manifest: Manifest) -> None:
    """What a bundle holds, to stdout."""
    by = printable(manifest.localfusion)
    click.echo(f"preset {printable(manifest.preset)}, made {manifest.created} by localfusion {by}")
    for member in manifest.members:
        licence = f", {member.model.licence}" if member.model and member.model.licence else ""
        said = f" ({_documents(manifest)})" if member.name == INDEX_NAME else ""
        click.echo(f"{member.n_bytes:>16,}  {member.role:6}  {member.name}{printable(licence)}{said}")
    for archive in manifest.zim:
        click.echo(f"{archive.n_bytes:>16,}  zim     {printable(archive.name)}, not in the bundle")


def _documents(manifest: Manifest) -> str:
    n_documents = 0 if manifest.index is None else manifest.index.n_documents
    return f"{n_documents} {'document' if n_documents == 1 else 'documents'}"


@contextmanager
def _open(file: str) -> Iterator[io.RawIOBase]:
    if file == "-":
        yield io.FileIO(sys.stdin.fileno(), closefd=False)
        return
    try:
        opened = io.FileIO(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", hint="name a bundle, or - for stdin") from error
    with opened:
        advise_sequential(opened.fileno())
        yield opened
