"""Whether installed files are still what they were: all of each is hashed anew. Fetches, mends and deletes nothing.

What was recorded, what the catalogue names and what lies there are three; each verdict says which of them changed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localfusion.catalog.hashing import sha256_of
from localfusion.catalog.installed import Installed, InstalledFile, pulled_path
from localfusion.catalog.wanted import Wanted, files_of
from localfusion.gguf_header import part_paths

State = Literal["ok", "missing", "replaced", "damaged", "catalogue_changed", "unknown", "unreadable"]
"""`replaced`: another content under another length or time. `damaged`: another content that nobody wrote. `unknown`:
nothing was recorded and the catalogue names no hash."""

WRONG: frozenset[State] = frozenset({"missing", "replaced", "damaged", "catalogue_changed", "unreadable"})

SAID: Mapping[State, str] = {
    "ok": "as it was verified",
    "missing": "the file is gone",
    "replaced": "the file was replaced: its content, and its length or time, are others than when it was verified",
    "damaged": "the file is damaged: its content changed while its length and time did not",
    "catalogue_changed": "models.yaml changed: the file is as it was verified, and models.yaml names another",
    "unknown": "nothing was recorded of it, and models.yaml names no hash",
    "unreadable": "the file cannot be read",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A file to look at: what was recorded of it, and the digits of its hash that the catalogue names."""

    path: Path
    recorded: InstalledFile | None
    promised: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a file; `sha256` is what it has now, "" where it cannot be read."""

    subject: Subject
    state: State
    sha256: str = ""


def subjects(
    home: Path, installed: Installed, models: Sequence[Wanted], *, paths: Mapping[str, Path], is_all: bool
) -> tuple[Subject, ...]:
    """The files of these models that are here or were; with `is_all` every recorded file beside them.

    `paths` are the files of models that are not the hub's, of which only those count that were recorded.
    """
    found: dict[Path, Subject] = {}
    for model in models:
        for number, file in enumerate(files_of(model.hub)):
            promised = model.hub.sha256 or "" if number == 0 else ""
            hub = model.hub.model_copy(update={"file": file})
            known = [one for one in installed.files() if (one.repo, one.file) == (hub.repo, file)]
            recorded = {one.path: one for one in known}
            place = pulled_path(home, hub)
            for path in [*recorded, *([place] if place.exists() and place not in recorded else [])]:
                others = found[path].models if path in found else ()
                found[path] = Subject(path, recorded.get(path), promised, (*others, model.name))
    for name, first in paths.items():
        for path in part_paths(first):
            if (own := installed.known(path)) is not None:
                before = found.get(path, Subject(path, own))
                found[path] = Subject(path, own, before.promised, (*before.models, name))
    if is_all:
        found |= {file.path: Subject(file.path, file) for file in installed.files() if file.path not in found}
    return tuple(found.values())


def verify(
    these: Iterable[Subject], installed: Installed, *, on_bytes: Callable[[Subject, int], None] = lambda *_: None
) -> list[Verdict]:
    """Hash every file; a file that is what it was under another time is noted as verified now."""
    return [_verdict(subject, installed, on_bytes) for subject in these]


def state_of(subject: Subject, sha256: str, *, is_unchanged: bool) -> State:
    """What a hash says, where the file can be read. `is_unchanged`: it has the length and time that were recorded."""
    is_promised = sha256.startswith(subject.promised)
    if subject.recorded is None:
        if not subject.promised:
            return "unknown"
        return "ok" if is_promised else "catalogue_changed"
    if sha256 != subject.recorded.sha256:
        return "damaged" if is_unchanged else "replaced"
    return "ok" if is_promised else "catalogue_changed"


def _verdict(subject: Subject, installed: Installed, on_bytes: Callable[[Subject, int], None]) -> Verdict:
    recorded = subject.recorded
    if not subject.path.exists():
        return Verdict(subject, "missing")
    is_unchanged = recorded is not None and recorded.is_unchanged()
    try:
        sha256 = sha256_of(subject.path, on_bytes=lambda n_bytes: on_bytes(subject, n_bytes))
    except OSError:
        return Verdict(subject, "unreadable")
    state = state_of(subject, sha256, is_unchanged=is_unchanged)
    if state == "ok" and recorded is not None:
        file, repo, revision = recorded.file, recorded.repo, recorded.revision
        installed.record(subject.path, sha256=sha256, repo=repo, file=file, revision=revision)
    return Verdict(subject, state, sha256)
