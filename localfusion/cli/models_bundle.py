"""`localfusion models bundle`: a preset, documents and wheels in one file, for a machine without a network."""

import tempfile
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from localfusion import __version__
from localfusion.catalog.bundle.making import index_file, readme, readme_member, wheel_file, write_bundle
from localfusion.catalog.bundle.manifest import FORMAT, CarriedIndex, Manifest, ZimReference
from localfusion.catalog.bundle.selection import MemberFile, Selection, select
from localfusion.catalog.bundle.signature import sign
from localfusion.catalog.bundle.wheels import gather_wheels, this_target
from localfusion.catalog.installed import Installed
from localfusion.cli.byte_progress import byte_progress
from localfusion.cli.known_models import known_models
from localfusion.cli.options import check_paths, models_option
from localfusion.cli.terminal import printable
from localfusion.config import Surroundings, make_home
from localfusion.errors import ConfigError
from localfusion.search.documents import DocumentIndex
from localfusion.search.zim_identity import zim_uuid
from localfusion.session import DOCUMENTS_FILE


@click.command("bundle")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--preset", required=True, metavar="NAME", help="The preset whose models are carried.")
@click.option("--docs", metavar="PATH", help="A folder or file of `docs add`, whose text is carried too.")
@click.option("--zim", multiple=True, metavar="FILE", help="ZIM archive that is carried by itself; named. Repeatable.")
@click.option("--wheels", is_flag=True, help="Put in the wheels that install localfusion on a machine like this one.")
@click.option("--sign", "key", type=click.Path(path_type=Path), metavar="KEY", help="Private key of ssh to sign with.")
@models_option
def bundle(
    *,
    file: Path,
    preset: str,
    docs: str | None,
    zim: tuple[str, ...],
    wheels: bool,
    key: Path | None,
    models: Path | None,
) -> None:
    """Write a preset's models into one file, to be carried elsewhere.

    Only verified files go in, and each is hashed once more on the way. FILE is a plain tar: its README.txt says how
    localfusion is installed from it, `localfusion models load` takes it in. Models of providers stay out.

    \b
    Examples:
      localfusion models bundle room.tar --preset general-budget
      localfusion models bundle room.tar --preset micro --docs ~/notes --wheels --sign ~/.ssh/id_ed25519
    """
    surroundings = Surroundings.of_this_process()
    home = make_home(surroundings)
    archives = tuple(_zim_reference(path) for path in check_paths(zim, "--zim"))
    with closing(Installed(home)) as installed, byte_progress("hashing", 0) as on_bytes:
        selection = select(known_models(surroundings, models), preset, installed, on_bytes=on_bytes)
    for remark in selection.remarks:
        click.echo(f"note: {printable(remark)}", err=True)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        index = None if docs is None else _index(home, Path(docs), Path(folder))
        wheel_paths = gather_wheels(Path(folder), extras=("zim",) if zim else ()) if wheels else ()
        files = (*selection.files, *((index[1],) if index else ()), *map(wheel_file, wheel_paths))
        _write(file, selection, files, index[0] if index else None, archives, key)


def _write(
    file: Path,
    selection: Selection,
    files: tuple[MemberFile, ...],
    index: CarriedIndex | None,
    archives: tuple[ZimReference, ...],
    key: Path | None,
) -> None:
    target = this_target() if any(found.member.role == "wheel" for found in files) else None
    text = readme(file.name, selection.preset, "" if target is None else f"{target.python}, {target.platform}")
    manifest = Manifest(
        format=FORMAT,
        localfusion=__version__,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        preset=selection.preset,
        models=selection.contents,
        index=index,
        zim=archives,
        wheels=target,
        members=(readme_member(text), *(found.member for found in files)),
    )
    signer = None if key is None else partial(sign, key=key)
    total_bytes = sum(member.n_bytes for member in manifest.members)
    with byte_progress("writing", total_bytes) as on_bytes:
        write_bundle(file, manifest, text, files, sign=signer, on_bytes=on_bytes)
    for archive in archives:
        click.echo(f"note: {printable(archive.name)} is named in the bundle and not in it: carry it too", err=True)
    said = "" if key is None else ", signed"
    click.echo(f"{printable(str(file))}: {len(files)} files, {total_bytes / 2**20:.1f} MiB{said}", err=True)


def _index(home: Path, path: Path, folder: Path) -> tuple[CarriedIndex, MemberFile]:
    """The documents that were added under a path, packed into a file in `folder`."""
    with closing(DocumentIndex(home / DOCUMENTS_FILE)) as documents:
        lines = [0]

        def counted(line: bytes) -> bytes:
            lines[0] += 1
            return line

        packed = index_file(map(counted, documents.carried_lines(path)), folder / "documents.jsonl.zst")
        is_file = documents.is_file(path)
    if not lines[0]:
        raise ConfigError(f"no document under {path} could be read", hint="`localfusion docs list` shows what can")
    name = path.resolve().name or "root"
    return CarriedIndex(name=name, n_documents=lines[0], is_file=is_file), packed


def _zim_reference(path: Path) -> ZimReference:
    return ZimReference(name=path.name, n_bytes=path.stat().st_size, uuid=zim_uuid(path))
