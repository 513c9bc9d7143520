"""Files of the hub become models of this machine: planned, fetched, hashed, and only then put where models lie.

What is fetched lies under `.pulling` until all of it was hashed, and stays there when it is cut off or killed, so that
the next pull goes on from there. Who may read a file is the hub's to say (`hub`); which names mean which files is
`wanted`'s.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from localfusion.catalog.hashing import sha256_of
from localfusion.catalog.hub import Hub, HubFile
from localfusion.catalog.installed import MODELS_FOLDER, Installed, is_commit, pulled_path
from localfusion.catalog.room import check_room
from localfusion.catalog.side_by_side import side_by_side
from localfusion.catalog.wanted import Wanted, files_of, one_for_each_place
from localfusion.config import HubEntry
from localfusion.errors import ConfigError, HubError, LocalFusionError, ModelLoadError
from localfusion.gguf_header import MAGIC, read_header

PULLING_FOLDER = ".pulling"
"""Below the models: what is not whole yet, as `sha256 of the first file/sha256.part`."""
OWNER_NAME = "model"
"""Beside the parts: the name on the hub of what they are parts of, for whoever wants them away."""
AT_ONCE = 3
RESERVE_BYTES = 1 << 30
"""Of a disk that is left to other programs."""
HASHED_AT_A_TIME = 1 << 20
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

OnBytes = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Fetch:
    """A model that is not here: its files as the hub describes them, and how many bytes an earlier pull has left."""

    model: Wanted
    files: tuple[HubFile, ...]
    kept_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self.files)

    @property
    def left_bytes(self) -> int:
        return max(0, self.n_bytes - self.kept_bytes)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull will do: models to fetch, those that are here already, and names of which nothing can be said."""

    fetches: tuple[Fetch, ...] = ()
    present: tuple[tuple[Wanted, Path], ...] = ()
    failures: tuple[tuple[str, LocalFusionError], ...] = ()

    @property
    def left_bytes(self) -> int:
        return sum(fetch.left_bytes for fetch in self.fetches)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how far a pull is: the model, bytes that were here and came, all bytes; and that another is at it.

    Called from several threads.
    """

    on_bytes: Callable[[str, int, int, int], None] = lambda *_: None
    on_wait: Callable[[str], None] = lambda _: None


def plan(home: Path, models: Iterable[Wanted], installed: Installed, hub: Callable[[], Hub]) -> Plan:
    """Look at what is here and ask the hub for the rest; `hub` is called only where something is missing.

    Raises ConfigError where nothing may be asked of a network, and where two models want different files in one place.
    """
    one_each = one_for_each_place(models)
    here = {model.name: path for model in one_each if (path := present(installed, model.hub)) is not None}
    missing = [model for model in one_each if model.name not in here]
    jobs = [partial(_look, home, model, hub()) for model in missing]
    found = side_by_side(jobs, n_at_once=2 * AT_ONCE)
    return Plan(
        tuple(one for one in found if isinstance(one, Fetch)),
        tuple((model, here[model.name]) for model in one_each if model.name in here),
        tuple((m.name, one) for m, one in zip(missing, found, strict=True) if isinstance(one, LocalFusionError)),
    )


def check_plan(plan: Plan, place: Path) -> None:
    """Raise LocalFusionError where the disk has no room for all that is to come, with a reserve."""
    if plan.fetches:
        hint = "free some space (1 GiB is kept free), name fewer models, or set LOCALFUSION_HOME to another disk"
        check_room(place, plan.left_bytes + RESERVE_BYTES, hint=hint)


def present(installed: Installed, hub: HubEntry) -> Path | None:
    """The model where all of its files are here as they were verified, and are what the catalogue names."""
    found = installed.present(hub)
    return None if found is None else found.path


def check_promise(hub: HubEntry, file: HubFile) -> None:
    """Raise ConfigError where the hub has another file than the catalogue names, saying which of them changed.

    HubError where neither names a hash, so that nothing could be checked.
    """
    said = []
    if hub.sha256 and file.sha256 and not file.sha256.startswith(hub.sha256):
        said.append(f"sha256 {hub.sha256[:12]} in models.yaml, {file.sha256[:12]} on the hub")
    if hub.size_bytes and hub.size_bytes != file.n_bytes:
        said.append(f"{hub.size_bytes} bytes in models.yaml, {file.n_bytes} on the hub")
    if said and is_commit(hub.revision):
        raise ConfigError(
            f"models.yaml is wrong about {file.repo}/{file.file} at {hub.revision[:12]}: {'; '.join(said)}",
            hint="a commit does not change: correct `sha256` and `size_bytes` of the model",
        )
    if said:
        raise ConfigError(
            f"{file.repo}/{file.file} was changed on the hub: {'; '.join(said)}",
            hint="pin `revision` to a commit of the file you mean, or correct `sha256` and `size_bytes` in models.yaml",
        )
    if not file.sha256 and len(hub.sha256 or "") < 64:
        hint = "give all 64 digits as `sha256` in models.yaml, or use another HF_ENDPOINT"
        raise HubError(file.repo, f"the hub names no sha256 of {file.repo}/{file.file} to check it by", hint=hint)


def pull(
    home: Path, fetches: Sequence[Fetch], installed: Installed, hub: Hub, watch: Watch
) -> list[Path | LocalFusionError]:
    """Fetch models, a few at once: where each lies now, or why it does not, in their order."""
    jobs = [partial(_pull, home, fetch, installed, hub, watch) for fetch in fetches]
    return side_by_side(jobs, n_at_once=AT_ONCE)


def unfinished(home: Path, hub: HubEntry) -> tuple[Path, ...]:
    """The folders in which pulls of a model that were cut off have left something."""
    folders = (path for path in sorted((home / MODELS_FOLDER / PULLING_FOLDER).glob("*")) if path.is_dir())
    return tuple(folder for folder in folders if _is_of(folder, hub))


def unfinished_bytes(folder: Path) -> int:
    """What lies in such a folder."""
    return sum(_size(path) for path in folder.rglob("*") if path.is_file())


def remove_unfinished(folder: Path) -> int:
    """Delete what a pull has left; returns the bytes of it. Raises ConfigError while a pull is at it."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError("it is being pulled just now", hint="wait for that pull, or interrupt it") from error
    try:
        n_bytes = unfinished_bytes(folder)
        shutil.rmtree(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be removed: {error.strerror}", hint="remove it by hand") from error
    finally:
        lock.release()
    return n_bytes


def _is_of(folder: Path, hub: HubEntry) -> bool:
    if hub.sha256 and folder.name.startswith(hub.sha256):
        return True
    try:
        return (folder / OWNER_NAME).read_text(encoding="utf-8") == f"{hub.repo}/{hub.file}"
    except (OSError, UnicodeDecodeError):
        return False


def _look(home: Path, model: Wanted, hub: Hub) -> Fetch:
    first = hub.look(model.hub.repo, model.hub.file, model.hub.revision)
    check_promise(model.hub, first)
    others = [hub.look(first.repo, file, first.commit) for file in files_of(model.hub)[1:]]
    for file in others:
        check_promise(HubEntry(repo=file.repo, file=file.file, revision=first.commit), file)
    fetch = Fetch(model, (first, *others))
    kept = [_size(_part(home, fetch, file)) or _size(_staged(home, fetch, file)) for file in fetch.files]
    return Fetch(model, fetch.files, sum(kept))


def _pull(home: Path, fetch: Fetch, installed: Installed, hub: Hub, watch: Watch) -> Path:
    folder = _folder(home, fetch)
    with _disk_errors(home):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(folder, lambda: watch.on_wait(fetch.model.name)):
            path = present(installed, fetch.model.hub) or _adopted(home, fetch, installed)
            if path is None:
                (folder / OWNER_NAME).write_text(f"{fetch.model.hub.repo}/{fetch.model.hub.file}", encoding="utf-8")
                _fetch(home, fetch, hub, watch)
                path = _put_in_place(home, fetch, installed)
            shutil.rmtree(folder, ignore_errors=True)
            return path


def _fetch(home: Path, fetch: Fetch, hub: Hub, watch: Watch) -> None:
    """All files of a model, hashed and with a header, under `.pulling`."""
    n_kept = n_new = 0

    def on_bytes(kept: int, new: int) -> None:
        nonlocal n_kept, n_new
        n_kept, n_new = n_kept + kept, n_new + new
        watch.on_bytes(fetch.model.name, n_kept, n_new, fetch.n_bytes)

    for file in fetch.files:
        if _staged(home, fetch, file).exists():
            _staged(home, fetch, file).replace(_part(home, fetch, file))
    for file in fetch.files:
        _fetch_file(file, _sha256(fetch, file), _part(home, fetch, file), hub, on_bytes)
    for file in fetch.files:
        staged = _staged(home, fetch, file)
        staged.parent.mkdir(parents=True, exist_ok=True)
        _part(home, fetch, file).replace(staged)
    try:
        read_header(_staged(home, fetch, fetch.files[0]), model=fetch.model.name)
    except ModelLoadError as error:
        shutil.rmtree(_folder(home, fetch), ignore_errors=True)
        hint = "the hub itself has no GGUF under this name; choose another file"
        raise HubError(fetch.model.hub.repo, error.message, hint=hint) from error


def _fetch_file(file: HubFile, sha256: str, part: Path, hub: Hub, on_bytes: OnBytes) -> None:
    """The rest of a file behind what is there of it; raises HubError where all of it is not what the hub says."""
    digest, at = hashlib.sha256(), 0
    with part.open("a+b") as out:
        if out.tell() > file.n_bytes:
            out.truncate(0)
        out.seek(0)
        while piece := out.read(HASHED_AT_A_TIME):
            digest.update(piece)
            at += len(piece)
            on_bytes(len(piece), 0)
        for piece in hub.read(file, at):
            if at == 0 and not piece.startswith(MAGIC[: len(piece)]):
                raise HubError(file.repo, f"what comes for {file.repo}/{file.file} is not a GGUF", hint=_NOT_A_GGUF)
            out.write(piece)
            digest.update(piece)
            at += len(piece)
            on_bytes(0, len(piece))
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != sha256:
        part.unlink()
        raise HubError(
            file.repo,
            f"what came for {file.repo}/{file.file} is not what the hub names: sha256 {digest.hexdigest()[:12]} came,"
            f" {sha256[:12]} is named; the download is wrong, not the hub or models.yaml",
            hint="it was thrown away: pull again, on another network if that does not help",
        )


_NOT_A_GGUF = "a proxy or a login page of this network may answer for the hub; look at the file in a browser"


def _put_in_place(home: Path, fetch: Fetch, installed: Installed) -> Path:
    """Every file where models lie, the first one last: where it is, all are."""
    first = _place(home, fetch, fetch.files[0])
    if len(fetch.files) > 1 and first.exists():  # parts of two revisions must not stand side by side
        first.unlink()
    for file in reversed(fetch.files):
        place = _place(home, fetch, file)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _staged(home, fetch, file).replace(place)
        _sync_folder(place.parent)
    _record(home, fetch, installed)
    return first


def _adopted(home: Path, fetch: Fetch, installed: Installed) -> Path | None:
    """The model where all of its files are in place and only the note is missing: a pull was killed just then."""
    for file in fetch.files:
        place = _place(home, fetch, file)
        if _size(place) != file.n_bytes or sha256_of(place) != _sha256(fetch, file):
            return None
    _record(home, fetch, installed)
    return _place(home, fetch, fetch.files[0])


def _record(home: Path, fetch: Fetch, installed: Installed) -> None:
    for file in reversed(fetch.files):
        place, sha256 = _place(home, fetch, file), _sha256(fetch, file)
        installed.record(place, sha256=sha256, repo=file.repo, file=file.file, revision=file.commit)


def _sha256(fetch: Fetch, file: HubFile) -> str:
    """What a file must have: `check_promise` saw to it that one of the two names it."""
    return file.sha256 or fetch.model.hub.sha256 or ""


def _folder(home: Path, fetch: Fetch) -> Path:
    return home / MODELS_FOLDER / PULLING_FOLDER / _sha256(fetch, fetch.files[0])


def _part(home: Path, fetch: Fetch, file: HubFile) -> Path:
    return _folder(home, fetch) / f"{_sha256(fetch, file)}.part"


def _staged(home: Path, fetch: Fetch, file: HubFile) -> Path:
    """Where a file waits for the others under its own name, hashed."""
    return _folder(home, fetch) / "whole" / Path(file.file).name


def _place(home: Path, fetch: Fetch, file: HubFile) -> Path:
    return pulled_path(home, fetch.model.hub.model_copy(update={"file": file.file}))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sync_folder(folder: Path) -> None:
    """Let a renaming outlive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _alone(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Be the only one, of all processes, who fetches what is in a folder."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire(poll_interval=0.2)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # who was here before may have taken it away
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise LocalFusionError(
                f"the disk of {home} is full, or takes no file of this size: {error.strerror}",
                hint="free some space and pull again: it goes on from there; or set LOCALFUSION_HOME to another disk",
            ) from error
        raise LocalFusionError(
            f"{error.filename or home} cannot be used: {error.strerror}",
            hint="check the permissions and the disk, or set LOCALFUSION_HOME to another folder",
        ) from error
