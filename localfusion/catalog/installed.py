"""Where the files of the model hub lie on this machine, and what was found out of them when they were verified.

What is missing is fetched elsewhere, and nothing is hashed here.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from localfusion.config import HubEntry
from localfusion.database import Database, Migration
from localfusion.errors import ConfigError
from localfusion.gguf_header import PART_NAME

MODELS_FOLDER = "models"
"""Of the home: what was pulled, as `owner/name/file`. What is there under that name is whole and was checked."""
FILE_NAME = "models.sqlite3"

PathOf = Callable[[HubEntry], Path]
"""Where a file of the hub is, or would be once it is pulled."""

MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE file (
            path TEXT PRIMARY KEY, repo TEXT NOT NULL, file TEXT NOT NULL, revision TEXT NOT NULL, sha256 TEXT NOT NULL,
            n_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, verified REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX file_of_repo ON file (repo, file)",
    ),
)


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """A file as it was when all of it was hashed.

    `revision` is the commit that it came from, "" where nobody knows; `repo` is "" for a file of no hub. `verified` is
    a time as `time.time` gives it.
    """

    path: Path
    repo: str
    file: str
    revision: str
    sha256: str
    n_bytes: int
    mtime_ns: int
    verified: float

    def is_unchanged(self) -> bool:
        """Whether the file still has the length and the time that it was verified with."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.n_bytes, self.mtime_ns)


class Installed:
    """The verified files of a home, ours and those of other programs' stores; each part of a split GGUF for itself."""

    def __init__(self, home: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        """Open `models.sqlite3` under `home`; None knows nothing and keeps nothing."""
        self._home = home
        self._database = Database(None if home is None else home / FILE_NAME, MIGRATIONS)
        self._clock = clock

    def path_of(self, hub: HubEntry) -> Path:
        """Where a file of the hub is, or would be once it is pulled.

        Raises ConfigError where it, or a part of it, is not what was verified.
        """
        found = self.find(hub.repo, hub.file)
        if found is None:
            return nothing_pulled(hub) if self._home is None else pulled_path(self._home, hub)
        for part in self._parts(found):
            if part.path.exists() and not part.is_unchanged():
                raise ConfigError(
                    f"{part.path} was changed since it was verified",
                    hint="`localfusion models verify` looks at all of it; fetch it again if you did not change it",
                )
        return found.path

    def find(self, repo: str, file: str) -> InstalledFile | None:
        """A verified file that is there, one of ours before those of others."""
        query = f"SELECT {_COLUMNS} FROM file WHERE repo = ? AND file = ? ORDER BY path"
        found = self._database.rows(_file, query, (repo, file))
        return next((one for one in sorted(found, key=self._is_elsewhere) if one.path.exists()), None)

    def is_ours(self, file: InstalledFile) -> bool:
        """Whether a file lies in our own folder, and may be deleted."""
        return self._home is not None and file.path.is_relative_to(self._home / MODELS_FOLDER)

    def known(self, path: Path) -> InstalledFile | None:
        """What was found out of the file at a path."""
        found = self._database.rows(_file, f"SELECT {_COLUMNS} FROM file WHERE path = ?", (str(path),))
        return found[0] if found else None

    def files(self) -> tuple[InstalledFile, ...]:
        """Every verified file, by path, whether it is still there or not."""
        return tuple(self._database.rows(_file, f"SELECT {_COLUMNS} FROM file ORDER BY path"))

    def record(self, path: Path, *, sha256: str, repo: str = "", file: str = "", revision: str = "") -> None:
        """Note that a file, all of which was just hashed, is this one of the hub."""
        status = path.stat()
        row = (str(path), repo, file, revision, sha256, status.st_size, status.st_mtime_ns, self._clock())
        with self._database.transaction(durable=True) as transaction:
            transaction.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def forget(self, path: Path) -> None:
        """Know nothing of the file at a path any more; the file stays."""
        with self._database.transaction(durable=True) as transaction:
            transaction.execute("DELETE FROM file WHERE path = ?", (str(path),))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _is_elsewhere(self, file: InstalledFile) -> bool:
        return not self.is_ours(file)

    def _parts(self, first: InstalledFile) -> list[InstalledFile]:
        if not PART_NAME.search(first.path.name):
            return [first]
        start = first.path.name.rpartition("-of-")[0].rpartition("-")[0]
        beside = [file for file in self.files() if file.path.parent == first.path.parent]
        return [file for file in beside if PART_NAME.search(file.path.name) and file.path.name.startswith(f"{start}-")]


def nothing_pulled(hub: HubEntry) -> Path:
    """A machine on which nothing was pulled."""
    return Path("not-pulled") / hub.repo / hub.file


def locate(home: Path) -> PathOf:
    """`Installed.path_of` of a home that need not be there: looks and closes, and makes nothing."""

    def path_of(hub: HubEntry) -> Path:
        if not (home / FILE_NAME).is_file():
            return pulled_path(home, hub)
        with closing(Installed(home)) as installed:
            return installed.path_of(hub)

    return path_of


def pulled_path(home: Path, hub: HubEntry) -> Path:
    """Where a file of the hub lies once it is pulled."""
    return home / MODELS_FOLDER / hub.repo / hub.file


_COLUMNS = "path, repo, file, revision, sha256, n_bytes, mtime_ns, verified"


def _file(
    path: str,
    repo: str,
    file: str,
    revision: str,
    sha256: str,
    n_bytes: int,
    mtime_ns: int,
    verified: float,
) -> InstalledFile:
    return InstalledFile(Path(path), repo, file, revision, sha256, n_bytes, mtime_ns, verified)
