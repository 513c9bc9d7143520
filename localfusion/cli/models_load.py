"""`localfusion models load`: a bundle that was carried here, verified as a whole and then taken into the home."""

import io
import shlex
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from localfusion.catalog.bundle.clashes import changed_names, check_unchanged, note_name, stranded
from localfusion.catalog.bundle.loading import Staged, contents_on, index_lines, publish, staged
from localfusion.catalog.bundle.manifest import INDEX_NAME, CarriedIndex, Manifest, ZimReference
from localfusion.catalog.bundle.reading import BundleStream, Front, read_front
from localfusion.catalog.bundle.signature import TRUSTED_KEYS, trusted_keys
from localfusion.catalog.copying import advise_sequential
from localfusion.catalog.installed import Installed
from localfusion.cli.byte_progress import byte_progress
from localfusion.cli.options import check_paths, text_argument
from localfusion.cli.sizes import count_text, size_text
from localfusion.cli.terminal import printable
from localfusion.config import (
    Contents,
    ModelsFile,
    Surroundings,
    YamlValue,
    check_note,
    load_models,
    make_home,
    note,
    note_path,
)
from localfusion.errors import ConfigError
from localfusion.search.carried import CARRIED_FOLDER, from_lines
from localfusion.search.documents import DocumentIndex
from localfusion.search.zim_identity import zim_uuid
from localfusion.session import DOCUMENTS_FILE


@click.command("load")
@click.argument("file")
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="FILE",
    help=f"Public keys of ssh; the bundle must be signed by one. Repeatable.  [default: HOME/{TRUSTED_KEYS}]",
)
@click.option("--replace", is_flag=True, help="Let the bundle give names that are known here another meaning.")
@click.option("--zim", multiple=True, metavar="FILE", help="ZIM archive that goes with the bundle. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Show what the bundle holds, and load nothing.")
def load(*, file: str, trusted: tuple[str, ...], replace: bool, zim: tuple[str, ...], dry_run: bool) -> None:
    """Take in a bundle that was carried here, once all of it is verified.

    FILE is read front to back; `-` is stdin. Nothing is put in place before every byte was checked against the
    manifest, and the manifest against its signature where keys are trusted here. A load that was interrupted goes on.
    ZIM archives that the bundle goes with are looked for beside FILE, too.

    \b
    Examples:
      localfusion models load room.tar
      localfusion models load room.tar --trust alice.pub
      localfusion models load --dry-run room.tar
    """
    surroundings = Surroundings.of_this_process()
    home, file = make_home(surroundings), text_argument(file, "name of the bundle", hint="name a file, or - for stdin")
    archives = check_paths(zim, "--zim")
    with _open(file) as raw:
        stream = BundleStream(raw, "the bundle from stdin" if file == "-" else file)
        front = read_front(stream, trusted_keys(home, check_paths(trusted, "--trust")))
        for remark in front.remarks:
            click.echo(f"warning: {remark}", err=True)
        if dry_run:
            _show(front.manifest)
        else:
            take_in(stream, front, surroundings, home, may_replace=replace)
            beside = () if file == "-" else (Path(file).absolute().parent,)
            _tell_of_archives(front.manifest, archives, beside)


def take_in(
    stream: BundleStream, front: Front, surroundings: Surroundings, home: Path, *, may_replace: bool = False
) -> None:
    """All that may be refused is looked at first: names, files, documents. Then they are put in place, in that order.

    What fails after that is the disk; loading the bundle again goes on from there.
    """
    manifest = front.manifest
    contents = contents_on(home, manifest)
    noted = contents.model_dump(mode="json", exclude_defaults=True)
    before = load_models(surroundings)
    total_bytes = sum(member.n_bytes for member in manifest.members)
    with closing(Installed(home)) as installed:
        changed = changed_names(before, manifest, contents, installed)
        check_unchanged(changed, may_replace=may_replace)
        after = _whole_with(surroundings, manifest, noted)
        with (
            byte_progress("loading", total_bytes) as on_bytes,
            staged(stream, front, home, installed, on_bytes=on_bytes) as found,
        ):
            _check_documents(found, manifest, home)
            publish(found, installed)
            note(surroundings, note_name(manifest.preset), noted)
            root = _carry(found, manifest, home)
        left = stranded(before, after, installed, home)
    _tell(found, manifest, root)
    _tell_of_names(changed, after, contents, left)
    click.echo(f'ask with: localfusion ask --offline --preset {printable(manifest.preset)} "..."', err=True)


def _whole_with(surroundings: Surroundings, manifest: Manifest, noted: dict[str, YamlValue]) -> ModelsFile:
    """All that is known of models once the bundle is noted. Raises ConfigError where that does not agree."""
    name = note_name(manifest.preset)
    text = check_note(surroundings, name, noted)
    try:
        return load_models(surroundings, instead={note_path(surroundings, name): text})
    except ConfigError as error:
        hint = "it is a model of the bundle that was loaded before: change that file first"
        raise ConfigError(f"with this bundle your models file would be wrong: {error.message}", hint=hint) from error


def _tell(found: Staged, manifest: Manifest, root: Path | None) -> None:
    n_kept = sum(placed.is_kept for placed in found.models)
    kept = f", {n_kept} of them here already" if n_kept else ""
    said = f"{count_text(len(found.models), 'file')} of models loaded{kept}"
    click.echo(said if found.models else "its models come with localfusion", err=True)
    if root is not None:
        click.echo(f"{printable(str(root))}: the text of {_documents(manifest)} carried here", err=True)


def _tell_of_names(changed: tuple[str, ...], after: ModelsFile, contents: Contents, left: tuple[Path, ...]) -> None:
    """What --replace did, where the user's own file wins all the same, and which files nothing leads to any more."""
    for text in changed:
        click.echo(f"replaced: {printable(text)}", err=True)
    own = [name for name, preset in contents.presets.items() if after.presets.get(name) != preset]
    own += [name for name, model in contents.models.items() if after.models.get(name) != model]
    for name in own:
        click.echo(f"note: your own models file says what {printable(name)} is, and that holds", err=True)
    for path in left:
        size = size_text(path.stat().st_size)
        click.echo(f"note: no model has {printable(str(path))} ({size}) any more: delete it if you do not", err=True)


def _tell_of_archives(manifest: Manifest, named: tuple[Path, ...], beside: tuple[Path, ...]) -> None:
    """Which ZIM archives that the bundle goes with are here."""
    for archive in manifest.zim:
        places = [path for path in named if path.name == archive.name]
        if Path(archive.name).name == archive.name:
            places += [folder / archive.name for folder in beside if (folder / archive.name).is_file()]
        click.echo(printable(_state_of(archive, places)), err=True)


def _state_of(archive: ZimReference, places: list[Path]) -> str:
    found = next((path for path in places if _uuid(path) == archive.uuid), None)
    if found is not None:
        return f"{archive.name} is here: name it with --zim {shlex.quote(str(found))}"
    if places:
        return f"warning: {places[0]} is another archive than the one that the bundle goes with"
    return f"note: {archive.name} goes with the bundle and is not in it"


def _uuid(path: Path) -> str:
    """An archive's own, "" for a file that is none."""
    try:
        return zim_uuid(path)
    except ConfigError:
        return ""


def _check_documents(found: Staged, manifest: Manifest, home: Path) -> None:
    """Read the documents of a bundle once through; raises ConfigError where they are none."""
    if found.index is None or manifest.index is None:
        return
    (member,), said = manifest.of_role("index"), manifest.index
    lines = index_lines(found.index, member)
    for _ in from_lines(lines, _carried_root(said, home), is_file=said.is_file, n_documents=said.n_documents):
        pass


def _carry(found: Staged, manifest: Manifest, home: Path) -> Path | None:
    """Keep the documents of a bundle, in place of those of the same source; where they are carried to, if any are."""
    if found.index is None or manifest.index is None:
        return None
    (member,), said = manifest.of_role("index"), manifest.index
    root = _carried_root(said, home)
    with closing(DocumentIndex(home / DOCUMENTS_FILE)) as documents:
        lines = index_lines(found.index, member)
        documents.carry(lines, root, is_file=said.is_file, n_documents=said.n_documents)
    return root


def _carried_root(index: CarriedIndex, home: Path) -> Path:
    """Where documents are carried to: under their folder's own name, which those of another source may have, too."""
    return home / CARRIED_FOLDER / index.source / _file_name(index.name)


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
    return count_text(n_documents, "document")


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
