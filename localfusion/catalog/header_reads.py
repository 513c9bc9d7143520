"""The headers of models that are not here: read from the hub by ranges and kept, each in a sparse file of full size.

Such a stub stands in for the model where something is predicted of it. It is no model: its weights are a hole, it lies
under a folder of its own that no run looks into, and nothing of it was hashed.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from localfusion.catalog.hub import Hub, HubFile
from localfusion.catalog.installed import is_commit
from localfusion.catalog.wanted import Wanted, files_of
from localfusion.config import HubEntry
from localfusion.errors import HubError, LocalFusionError, ModelLoadError
from localfusion.gguf_header import header_length

HEADERS_FOLDER = "headers"
"""Of the home: stubs, as `owner/name/commit/file`."""
FIRST_BYTES = 256 << 10
"""Read at first; then as much again as is there, until the header is whole."""
MOST_HEADER_BYTES = 64 << 20
"""The longest that is known, of 262 000 tokens and their merges, has 16 MB."""
BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Stub:
    """The header of a model in a sparse file of its size; of a split one, the first of them.

    `n_bytes` is what all files of the model have, `n_read` what was read for this just now, in `seconds` of transfer.
    """

    path: Path
    n_bytes: int
    n_read: int = 0
    seconds: float = 0.0


def kept_stub(home: Path, hub: HubEntry) -> Stub | None:
    """What was kept of a model earlier: of its commit where it is pinned, else of the commit that was read last."""
    folder = home / HEADERS_FOLDER / hub.repo
    commits = [folder / hub.revision] if is_commit(hub.revision) else _newest_first(folder, hub.file)
    return next((stub for commit in commits if (stub := _stub_in(commit, hub)) is not None), None)


def stubs_of(home: Path, hub: HubEntry) -> tuple[Path, ...]:
    """Every file that was kept of a model's headers, whatever the commit."""
    folder = home / HEADERS_FOLDER / hub.repo
    return tuple(path for commit in folder.glob("*") for file in files_of(hub) if (path := commit / file).is_file())


def read_stub(
    home: Path, model: Wanted, hub: Hub, *, clock: Callable[[], float] = time.monotonic
) -> tuple[Stub, tuple[HubFile, ...]]:
    """The headers of all files of a model, those kept earlier not read again, and what the hub says of the files.

    Raises HubError; ModelLoadError for what is no GGUF.
    """
    first = hub.look(model.hub.repo, model.hub.file, model.hub.revision)
    others = [hub.look(model.hub.repo, file, first.commit) for file in files_of(model.hub)[1:]]
    files = (first, *others)
    commit = home / HEADERS_FOLDER / model.hub.repo / first.commit
    kept = _stub_in(commit, model.hub)
    if kept is not None and kept.n_bytes == sum(file.n_bytes for file in files):
        return kept, files
    n_read, started = 0, clock()
    seconds = 0.0
    for file in (*others, first):  # the first one last: where it is, all of them are
        started = clock()
        start = _read_header(hub, file, model=model.name)
        seconds += clock() - started
        n_read += len(start)
        _keep(commit / file.file, start, file)
    return Stub(commit / first.file, sum(file.n_bytes for file in files), n_read, seconds), files


def _read_header(hub: Hub, file: HubFile, *, model: str) -> bytes:
    """The beginning of a file up to where its header is whole."""
    start, wanted = b"", FIRST_BYTES
    while True:
        start += b"".join(hub.read(file, len(start), wanted))
        if header_length(start, file_bytes=file.n_bytes, model=model) is not None:
            return start
        if wanted >= MOST_HEADER_BYTES:
            raise ModelLoadError(
                model,
                f"the header of {file.repo}/{file.file} does not end within {MOST_HEADER_BYTES >> 20} MiB",
                hint="choose another file: no model has such a header",
            )
        wanted *= 2


def _keep(path: Path, start: bytes, file: HubFile) -> None:
    """Write a stub, whole or not at all; raises LocalFusionError where the disk does not take it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            part.write_bytes(start)
            os.truncate(part, file.n_bytes)
            taken = getattr(part.stat(), "st_blocks", 0) * BLOCK_BYTES
            if taken > 2 * len(start) + (1 << 20):
                raise HubError(
                    file.repo,
                    f"the disk of {path.parent} keeps no sparse files, so nothing is predicted of {file.file}",
                    hint="set LOCALFUSION_HOME to another disk, or fetch the model",
                )
            part.replace(path)
    except OSError as error:
        hint = "free some space, or set LOCALFUSION_HOME to another disk"
        raise LocalFusionError(f"the header of {file.file} cannot be kept: {error.strerror}", hint=hint) from error


def _stub_in(commit: Path, hub: HubEntry) -> Stub | None:
    paths = [commit / file for file in files_of(hub)]
    try:
        return Stub(paths[0], sum(path.stat().st_size for path in paths))
    except OSError:
        return None


def _newest_first(folder: Path, file: str) -> list[Path]:
    """The folders of commits in which a file is, that which was read last first."""
    found = [commit for commit in folder.glob("*") if (commit / file).is_file()]
    return sorted(found, key=lambda commit: (commit / file).stat().st_mtime_ns, reverse=True)
