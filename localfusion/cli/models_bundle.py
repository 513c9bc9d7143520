"""`localfusion models bundle`: a preset, documents and wheels in one file, for a machine without a network."""

import platform
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

import click

from localfusion import __version__
from localfusion.catalog.bundle.making import check_place, index_file, readme, readme_member, wheel_file, write_bundle
from localfusion.catalog.bundle.manifest import FORMAT, CarriedIndex, Manifest, ZimReference, to_bytes
from localfusion.catalog.bundle.selection import MemberFile, Selection, select
from localfusion.catalog.bundle.signature import sign
from localfusion.catalog.bundle.wheels import gather_wheels, this_target
from localfusion.catalog.installed import Installed
from localfusion.cli.byte_progress import byte_progress
from localfusion.cli.known_models import known_models
from localfusion.cli.options import check_paths, models_option, text_argument
from localfusion.cli.sizes import count_text, size_text
from localfusion.cli.terminal import printable
from localfusion.config import Surroundings, make_home
from localfusion.errors import ConfigError
from localfusion.search.documents import DocumentIndex
from localfusion.search.zim_identity import zim_uuid
from localfusion.session import DOCUMENTS_FILE

Sign = Callable[[bytes], bytes]


@click.command("bundle")
@click.argument("file")
@click.option("--preset", required=True, metavar="NAME", help="The preset whose models are carried.")
@click.option("--docs", metavar="PATH", help="A folder or file of `docs add`, whose text is carried too.")
@click.option("--zim", multiple=True, metavar="FILE", help="ZIM archive that is carried by itself; named. Repeatable.")
@click.option("--wheels", is_flag=True, help="Put in the wheels that install localfusion on a machine like this one.")
@click.option("--sign", "key", metavar="KEY", help="Private key of ssh to sign with.")
@models_option
def bundle(
    *,
    file: str,
    preset: str,
    docs: str | None,
    zim: tuple[str, ...],
    wheels: bool,
    key: str | None,
    models: Path | None,
) -> None:
    """Write a preset's models into one file, to be carried elsewhere.

    Only verified files go in, and each is hashed once more on the way. FILE is a plain tar: its README.txt says how
    localfusion is installed from it, `localfusion models load` takes it in. Models of providers stay out. A key is
    tried before anything else is done, so that ssh-keygen asks twice for a passphrase, unless an agent has the key.

    \b
    Examples:
      localfusion models bundle room.tar --preset general-budget
      localfusion models bundle room.tar --preset micro --docs ~/notes --wheels --sign ~/.ssh/id_ed25519
    """
    surroundings = Surroundings.of_this_process()
    target, signer = Path(text_argument(file, "name of the bundle", hint="name a file")), _signer(key)
    check_place(target)
    home = make_home(surroundings)
    archives = tuple(_zim_reference(path) for path in check_paths(zim, "--zim"))
    with closing(Installed(home)) as installed, byte_progress("hashing", 0) as on_bytes:
        selection = select(known_models(surroundings, models), preset, installed, on_bytes=on_bytes)
    for remark in selection.remarks:
        click.echo(f"note: {printable(remark)}", err=True)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        index = None if docs is None else _index(home, Path(docs), Path(folder))
        wheel_paths = gather_wheels(Path(folder), extras=_extras(archives)) if wheels else ()
        files = (*selection.files, *((index[1],) if index else ()), *map(wheel_file, wheel_paths))
        _write(target, selection, files, index[0] if index else None, archives, signer)


def _write(
    file: Path,
    selection: Selection,
    files: tuple[MemberFile, ...],
    index: CarriedIndex | None,
    archives: tuple[ZimReference, ...],
    signer: Sign | None,
) -> None:
    target = this_target() if any(found.member.role == "wheel" for found in files) else None
    wheels = "" if target is None else f"{target.python}, {target.platform}"
    text = readme(file.name, selection.preset, wheels, extras=_extras(archives))
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
    signature = None if signer is None else signer(to_bytes(manifest))
    total_bytes = sum(member.n_bytes for member in manifest.members)
    with byte_progress("writing", total_bytes) as on_bytes:
        write_bundle(file, manifest, text, files, signature=signature, on_bytes=on_bytes)
    for archive in archives:
        click.echo(f"note: {printable(archive.name)} is named in the bundle and not in it: carry it too", err=True)
    said = "" if signature is None else ", signed"
    click.echo(printable(f"{file}: {count_text(len(files), 'file')}, {size_text(total_bytes)}{said}"), err=True)


def _signer(key: str | None) -> Sign | None:
    """What signs with a key, which is tried: a wrong one is better known before gigabytes were read."""
    if key is None:
        return None
    signer = partial(sign, key=Path(text_argument(key, "name of the key", hint="name a private key of ssh")))
    signer(b"")
    return signer


def _extras(archives: tuple[ZimReference, ...]) -> tuple[str, ...]:
    return ("zim",) if archives else ()


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
    whole = path.resolve()
    source = sha256(f"{platform.node()}\n{whole}".encode()).hexdigest()[:16]
    return CarriedIndex(name=whole.name or "root", source=source, n_documents=lines[0], is_file=is_file), packed


def _zim_reference(path: Path) -> ZimReference:
    return ZimReference(name=path.name, n_bytes=path.stat().st_size, uuid=zim_uuid(path))
