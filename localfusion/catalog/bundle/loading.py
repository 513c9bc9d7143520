"""Takes the files of a bundle into a home: all of them are read, hashed and staged before the first is put in place.

A load that was cut goes on, inside a file too: what it staged is hashed again and kept. What the bundle says of
models.yaml, and the documents that it carries, are given to those who keep them.
"""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from localfusion.catalog.bundle.manifest import README_NAME, Manifest, Member
from localfusion.catalog.bundle.reading import AGAIN, BundleStream, Front
from localfusion.catalog.copying import OnBytes, tell_nobody
from localfusion.catalog.gguf_files import check_gguf
from localfusion.catalog.hashing import sha256_of
from localfusion.catalog.installed import MODELS_FOLDER, Installed
from localfusion.catalog.room import check_room
from localfusion.config import Contents
from localfusion.database import Database
from localfusion.errors import ConfigError, LocalFusionError
from localfusion.gguf_header import PART_NAME

LOADING_FOLDER = ".loading"
"""Below the folder of models: what is not yet known to be whole, in a folder for each manifest."""
_LOCK_FILE = "loading.sqlite3"
_LOCK_S = 2.0
_FIRST_PART = "-00001-of-"
_MAX_LINE_BYTES = 2**28
_MAX_WINDOW_BYTES = 2**27


@dataclass(frozen=True, slots=True)
class Placed:
    """A model's file of the bundle: where it is staged, and where it will lie, or lies already (`is_kept`)."""

    member: Member
    staged: Path
    target: Path
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Staged:
    """Everything of a bundle, whole and verified, beside the store and not yet in it."""

    models: tuple[Placed, ...]
    index: Path | None


@contextmanager
def staged(
    stream: BundleStream, front: Front, home: Path, installed: Installed, *, on_bytes: OnBytes = tell_nobody
) -> Iterator[Staged]:
    """Verify and stage all files of a bundle; at the end of the block all that was ever staged is deleted.

    One load at a time is done in a home. Raises ConfigError for a bundle that is refused, of which nothing is left;
    LocalFusionError where the disk fails or another load is at work, and then what was staged waits for the next.
    """
    folder = home / MODELS_FOLDER / LOADING_FOLDER / front.digest
    with _alone(home):
        try:
            yield _stage(stream, front.manifest, folder, home, installed, on_bytes)
        except ConfigError:
            _remove(folder)
            raise
        except OSError as error:
            raise LocalFusionError(
                f"the bundle cannot be loaded: {error.strerror}: {error.filename or home}",
                hint="check the disk, then load it again: it goes on with what is there",
            ) from error
        shutil.rmtree(folder.parent, ignore_errors=True)  # what loads of other bundles left there, too


def publish(found: Staged, installed: Installed) -> None:
    """Put the staged files in place, each by a rename, and record them."""
    for placed in found.models:
        if not placed.is_kept:
            placed.target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _flush(placed.staged)
            placed.staged.replace(placed.target)
        known = installed.known(placed.target)
        if known is None or not known.is_unchanged() or known.sha256 != placed.member.sha256:
            facts = placed.member.model
            repo, file, revision = (facts.repo, facts.file, facts.revision) if facts else ("", "", "")
            installed.record(placed.target, sha256=placed.member.sha256, repo=repo, file=file, revision=revision)


def contents_on(home: Path, manifest: Manifest) -> Contents:
    """What the bundle says of models.yaml, with the paths that its files have in a home."""
    models = {
        name: entry if entry.path is None else entry.model_copy(update={"path": str(home / MODELS_FOLDER / entry.path)})
        for name, entry in manifest.models.models.items()
    }
    return manifest.models.model_copy(update={"models": models})


def index_lines(file: Path, member: Member) -> Iterator[bytes]:
    """The lines of a packed index whose hash was checked; no more is unpacked than its member says."""
    left = member.unpacked_bytes or 0
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with file.open("rb") as packed, unpacker.stream_reader(packed) as raw, io.BufferedReader(raw) as lines:
            while line := lines.readline(min(left, _MAX_LINE_BYTES) + 1):
                left -= len(line)
                if left < 0 or len(line) > _MAX_LINE_BYTES:
                    raise _wrong_index("it is larger than the manifest says")
                yield line
    except zstandard.ZstdError as error:
        raise _wrong_index("it cannot be unpacked") from error
    if left:
        raise _wrong_index("it is smaller than the manifest says")


def _wrong_index(problem: str) -> ConfigError:
    return ConfigError(f"the index of the bundle is refused: {problem}", hint=AGAIN)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One load at a time: the lock is SQLite's, which every system has and which ends with its process."""
    with closing(Database(home / _LOCK_FILE, (), timeout_s=_LOCK_S)) as lock, lock.transaction():
        yield


def _stage(
    stream: BundleStream, manifest: Manifest, folder: Path, home: Path, installed: Installed, on_bytes: OnBytes
) -> Staged:
    models = {
        member.name: _placed(member, manifest.named_by(member), folder, home, installed)
        for member in manifest.of_role("model")
    }
    kept = {name for name, placed in models.items() if placed.is_kept}
    _check_space(manifest, kept, folder, home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for member in manifest.members:
        if member.name == README_NAME:
            continue
        if member.role == "wheel" or member.name in kept:
            stream.copy_member(member, on_bytes=on_bytes)
        else:
            _stage_one(stream, member, folder / member.name, on_bytes)
    stream.expect_end()
    _check_headers(models)
    index = next((folder / member.name for member in manifest.of_role("index")), None)
    return Staged(tuple(models.values()), index)


def _placed(member: Member, model: str, folder: Path, home: Path, installed: Installed) -> Placed:
    """Where a model's file lies, or will. Raises ConfigError where another file is there."""
    facts = member.model
    target = home / member.name
    if not os.path.lexists(target):
        other = installed.find(facts.repo, facts.file) if facts is not None and facts.repo else None
        is_part = PART_NAME.search(target.name) is not None
        if other is not None and not is_part and other.sha256 == member.sha256 and other.is_unchanged():
            return Placed(member, folder / member.name, other.path, is_kept=True)
        return Placed(member, folder / member.name, target, is_kept=False)
    known = installed.known(target)
    sha256 = known.sha256 if known is not None and known.is_unchanged() else _sha256(target)
    if sha256 != member.sha256:
        raise ConfigError(
            f"the file of {model}, {target}, is there already and is another file than the bundle's",
            hint=f"localfusion models remove {model} removes it, if it is not needed",
        )
    return Placed(member, folder / member.name, target, is_kept=True)


def _sha256(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""


def _stage_one(stream: BundleStream, member: Member, file: Path, on_bytes: OnBytes) -> None:
    if file.is_file() and not file.is_symlink() and sha256_of(file) == member.sha256:
        stream.skip_member(member, on_bytes=on_bytes)
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    draft = _draft_of(file)
    if not _go_on(stream, member, draft, on_bytes):
        draft.unlink(missing_ok=True)
        with draft.open("wb", buffering=0) as out:
            stream.copy_member(member, out.write, on_bytes=on_bytes)
    draft.replace(file)


def _go_on(stream: BundleStream, member: Member, draft: Path, on_bytes: OnBytes) -> bool:
    """Write the rest of a member behind what a load that was cut left of it; False where that is of no use."""
    if not stream.is_seekable or not 0 < _n_kept(draft.parent / Path(member.name).name) <= member.n_bytes:
        return False
    with draft.open("r+b", buffering=0) as begun:
        return stream.resume_member(member, begun, on_bytes=on_bytes)


def _draft_of(file: Path) -> Path:
    """Where a file is written until it is whole; a load that is cut leaves it there for the next."""
    return file.with_name(f".{file.name[:200]}.part")


def _n_kept(file: Path) -> int:
    draft = _draft_of(file)
    return draft.stat().st_size if draft.is_file() and not draft.is_symlink() else 0


def _check_headers(models: dict[str, Placed]) -> None:
    """Look at each model's header where it is staged; what is kept is linked there, so that parts are side by side."""
    for placed in models.values():
        if placed.is_kept:
            placed.staged.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            placed.staged.unlink(missing_ok=True)
            placed.staged.symlink_to(placed.target)
    for name, placed in models.items():
        part = PART_NAME.search(name)
        if part is None or part[0].startswith(_FIRST_PART):
            check_gguf(placed.staged, model=placed.target.name)
        elif f"{name[: part.start()]}-00001{part[0][len('-00001') :]}" not in models:
            raise ConfigError(f"the bundle holds {name} and not the first part", hint=AGAIN)


def _check_space(manifest: Manifest, kept: set[str], folder: Path, home: Path) -> None:
    need_bytes = 0
    for member in manifest.members:
        if member.role in ("model", "index") and member.name not in kept and not (folder / member.name).exists():
            need_bytes += max(0, member.n_bytes - _n_kept(folder / member.name)) + 2 * (member.unpacked_bytes or 0)
    check_room(home, need_bytes, hint="free some space, or set LOCALFUSION_HOME to another disk")


def _flush(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _remove(folder: Path) -> None:
    """What was staged, and the folder above it where nothing else is staged."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.rmdir()
    except OSError:
        return
