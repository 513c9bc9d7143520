"""Writes a bundle: a manifest that is known before, then the files, read once and hashed once more on the way.

What goes in is decided in `selection`. A file that is not what was verified ends it, and nothing is left.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import zstandard

from localfusion.catalog.bundle.layout import END, header, padding
from localfusion.catalog.bundle.manifest import (
    DIGEST_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    README_NAME,
    SIGNATURE_NAME,
    WHEELS_FOLDER,
    Manifest,
    Member,
    digest_line,
    to_bytes,
)
from localfusion.catalog.bundle.selection import MemberFile
from localfusion.catalog.copying import CutShort, OnBytes, Write, advise_sequential, copy, tell_nobody, write_all
from localfusion.catalog.hashing import sha256_of
from localfusion.catalog.room import check_room
from localfusion.errors import ConfigError, LocalFusionError

_LEVEL = 10


@dataclass(frozen=True, slots=True)
class Head:
    """What stands in front of the files."""

    readme: bytes
    manifest: bytes
    signature: bytes | None = None

    def to_bytes(self) -> bytes:
        parts = [(README_NAME, self.readme), (MANIFEST_NAME, self.manifest), (DIGEST_NAME, digest_line(self.manifest))]
        if self.signature is not None:
            parts.append((SIGNATURE_NAME, self.signature))
        return b"".join(header(name, len(content)) + content + padding(len(content)) for name, content in parts)


def readme(file_name: str, preset: str, wheels: str, *, extras: Sequence[str] = ()) -> bytes:
    """How the bundle is used, in a room that has nothing yet; `wheels` says what they are for, "" where none are in."""
    package = shlex.quote(f"localfusion[{','.join(extras)}]" if extras else "localfusion")
    unpacked, file = "localfusion-bundle", shlex.quote(file_name)
    install = (
        f"1. Install localfusion ({wheels}): mkdir {unpacked} && tar xf {file} -C {unpacked} wheels &&"
        f" pip install --no-index --find-links {unpacked}/wheels {package}\n"
        if wheels
        else "1. Install localfusion; its wheels are not in this bundle (localfusion models bundle --wheels).\n"
    )
    return (
        f"{install}2. Load the models: localfusion models load {file}\n"
        f'3. Ask: localfusion ask --offline --preset {preset} "..."\n'
    ).encode()


def readme_member(text: bytes) -> Member:
    """The member that the readme is."""
    return Member(name=README_NAME, role="readme", n_bytes=len(text), sha256=sha256(text).hexdigest())


def wheel_file(path: Path) -> MemberFile:
    """A wheel as a member. Raises OSError."""
    member = Member(
        name=f"{WHEELS_FOLDER}{path.name}", role="wheel", n_bytes=path.stat().st_size, sha256=sha256_of(path)
    )
    return MemberFile(member, path)


def index_file(lines: Iterable[bytes], path: Path) -> MemberFile:
    """The lines of an index, packed into a file at `path`, as a member. Raises OSError."""
    unpacked_bytes = 0
    with path.open("wb") as out, zstandard.ZstdCompressor(level=_LEVEL, threads=-1).stream_writer(out) as packer:
        for line in lines:
            packer.write(line)
            unpacked_bytes += len(line)
    member = Member(
        name=INDEX_NAME,
        role="index",
        n_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        packed="zstd",
        unpacked_bytes=unpacked_bytes,
    )
    return MemberFile(member, path)


def write_bundle(
    target: Path,
    manifest: Manifest,
    readme_text: bytes,
    files: Sequence[MemberFile],
    *,
    signature: bytes | None = None,
    on_bytes: OnBytes = tell_nobody,
) -> None:
    """Write all of a bundle or nothing. `files` are the manifest's members in order, without the readme.

    Raises ConfigError where a file is not what its member says, or `target` cannot be written.
    """
    head_bytes = Head(readme_text, to_bytes(manifest), signature).to_bytes()
    need_bytes = len(head_bytes) + sum(_length(file.member) for file in files) + len(END)
    check_place(target)
    check_room(target.parent, need_bytes, hint="free some space, or name a file on another disk")
    draft = target.with_name(f".bundle.{os.getpid()}.tmp")
    try:
        with draft.open("wb", buffering=0) as out:
            write_all(out.write, memoryview(head_bytes))
            for file in files:
                _append(out.write, file, on_bytes)
            write_all(out.write, memoryview(END))
            os.fsync(out.fileno())
        draft.replace(target)
    except OSError as error:
        raise LocalFusionError(
            f"{target} cannot be written: {error.strerror}", hint="free some space, or name another file"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _append(write: Write, file: MemberFile, on_bytes: OnBytes) -> None:
    member = file.member
    write_all(write, memoryview(header(member.name, member.n_bytes)))
    try:
        with file.path.open("rb", buffering=0) as source:
            advise_sequential(source.fileno())
            found = copy(source.readinto, write, member.n_bytes, on_bytes=on_bytes)
            is_whole = not source.read(1)
    except CutShort:
        is_whole, found = False, ""
    if not is_whole or found != member.sha256:
        raise ConfigError(
            f"{file.path} is not what was verified",
            hint="`localfusion models verify` looks at all of it; fetch it again if you did not change it",
        )
    write_all(write, memoryview(padding(member.n_bytes)))


def _length(member: Member) -> int:
    return len(header(member.name, member.n_bytes)) + member.n_bytes + len(padding(member.n_bytes))


def check_place(target: Path) -> None:
    """Raise ConfigError where no file can be written."""
    try:
        if not target.parent.is_dir():
            raise ConfigError(f"the folder {target.parent} is not there", hint="create it, or name another file")
        if target.exists() and not target.is_file():
            raise ConfigError(f"{target} is no file", hint="name another file")
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}", hint="name another file") from error
