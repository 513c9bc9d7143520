"""Files of the catalogue that other programs hold already: found by name and size, known by their hash, used in place.

Nothing of another program's store is ever written, moved or copied.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from localfusion.catalog.copying import OnBytes
from localfusion.catalog.gguf_files import check_gguf, expanded, real
from localfusion.catalog.hashing import sha256_of_named
from localfusion.catalog.installed import Installed, InstalledFile
from localfusion.catalog.stores import StoredFile, StoreName
from localfusion.config import HubEntry, ModelsFile
from localfusion.errors import ConfigError
from localfusion.gguf_header import PART_NAME, part_paths


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file of a store, all parts of it, that may be a model's; `named` are the files that entries name by path."""

    model: str
    hub: HubEntry
    parts: tuple[StoredFile, ...]
    named: frozenset[Path] = frozenset()

    @property
    def first(self) -> StoredFile:
        return self.parts[0]

    @property
    def n_bytes(self) -> int:
        return sum(part.n_bytes for part in self.parts)

    def name_on_hub(self, part: StoredFile) -> str:
        """How the hub calls the file that a part is."""
        file = self.hub.file
        return file if part is self.first else str(PurePosixPath(file).with_name(part.path.name))


@dataclass(frozen=True, slots=True)
class Used:
    """A model that is used where another program has it, or (`problem`) why it is not.

    `ours` are the same files under our own folder, which are not needed any more.
    """

    model: str
    store: StoreName
    path: Path
    n_bytes: int
    problem: str = ""
    ours: tuple[InstalledFile, ...] = ()


def candidates(models: ModelsFile, stored: Iterable[StoredFile]) -> Iterator[Candidate]:
    """What may be a model's by its name, or by the hash that its store has for it, and has the right size."""
    files = {file.path: file for file in stored}
    paths = [expanded(entry.path) for entry in models.models.values() if entry.path]
    named = frozenset(real(part) for path in paths for part in part_paths(path))
    for name, entry in models.models.items():
        seen: set[Path] = set()  # the hub's cache has a link for each revision to one file
        for path, file in files.items():
            if entry.hub is not None and _may_be(entry.hub, file) and path.resolve() not in seen:
                seen.add(path.resolve())
                parts = [files[part] for part in part_paths(path) if part in files]
                if len(parts) == _n_parts(path):
                    yield Candidate(name, entry.hub, tuple(parts), named)


def use_in_place(installed: Installed, candidate: Candidate, *, on_bytes: OnBytes = lambda _: None) -> Used:
    """Hash all of it, and record it where it is what the catalogue or its store says."""
    first = candidate.first
    used = Used(candidate.model, first.store, first.path, candidate.n_bytes)
    try:
        check_gguf(first.path, model=candidate.model)
        digests = [_digest(installed, part.path, on_bytes) for part in candidate.parts]
    except ConfigError as error:
        return _not_used(used, error.message)
    for part, digest in zip(candidate.parts, digests, strict=True):
        if problem := _problem(candidate.hub, part, digest, is_first=part is first):
            return _not_used(used, problem)
    for part, digest in zip(candidate.parts, digests, strict=True):
        file = candidate.name_on_hub(part)
        installed.record(part.path, sha256=digest, repo=candidate.hub.repo, file=file, revision=part.revision)
    return Used(used.model, used.store, used.path, used.n_bytes, ours=_ours(installed, candidate, digests))


def remove_ours(installed: Installed, used: Used) -> int:
    """Delete our copies of what is used elsewhere; returns the bytes that this freed."""
    return sum(delete(installed, file.path) for file in used.ours)


def delete(installed: Installed, path: Path) -> int:
    """Delete a file of ours and what is known of it, and the folders that this leaves empty; returns its bytes."""
    try:
        n_bytes = path.stat().st_size
        path.unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be removed: {error.strerror}", hint="remove it by hand") from error
    installed.forget(path)
    with suppress(OSError):  # a folder that holds something else stays
        path.parent.rmdir()
        path.parent.parent.rmdir()
    return n_bytes


def _may_be(hub: HubEntry, file: StoredFile) -> bool:
    if hub.size_bytes not in (None, file.n_bytes):
        return False
    if hub.sha256 and file.sha256:
        return file.sha256.startswith(hub.sha256)
    if file.tag:
        return file.repo == hub.repo and file.tag.casefold() in PurePosixPath(hub.file).name.casefold()
    return PurePosixPath(file.file).name == PurePosixPath(hub.file).name and bool(hub.sha256 or file.repo == hub.repo)


def _n_parts(path: Path) -> int:
    numbered = PART_NAME.search(path.name)
    return int(numbered[0].removesuffix(".gguf").rpartition("-")[2]) if numbered else 1


def _digest(installed: Installed, path: Path, on_bytes: OnBytes) -> str:
    """The hash of a file, which is not read again where it was hashed before and did not change."""
    known = installed.known(path)
    return known.sha256 if known and known.is_unchanged() else sha256_of_named(path, on_bytes=on_bytes)


def _problem(hub: HubEntry, part: StoredFile, digest: str, *, is_first: bool) -> str:
    """Why a file cannot be taken for the hub's; "" where it can."""
    if part.sha256 and digest != part.sha256:
        return f"it is damaged: {part.store} has it as sha256 {part.sha256[:8]}, and it is {digest[:8]}"
    if is_first and hub.sha256:
        return "" if digest.startswith(hub.sha256) else f"it is another file: sha256 {digest[:8]}, not {hub.sha256[:8]}"
    if part.sha256 and part.repo == hub.repo:
        return ""
    return "nothing says what its sha256 should be: give the model `sha256` in models.yaml"


def _not_used(used: Used, problem: str) -> Used:
    return Used(used.model, used.store, used.path, used.n_bytes, problem)


def _ours(installed: Installed, candidate: Candidate, digests: Sequence[str]) -> tuple[InstalledFile, ...]:
    """Our own files of the same name and content that no entry names by path; the very same file is no copy."""
    paths = [part.path for part in candidate.parts]
    names = {candidate.name_on_hub(part) for part in candidate.parts}
    return tuple(
        file
        for file in installed.files()
        if installed.is_ours(file.path)
        and file.sha256 in digests
        and file.repo == candidate.hub.repo
        and file.file in names
        and real(file.path) not in candidate.named
        and file.is_unchanged()
        and not any(file.path.samefile(path) for path in paths)
    )
