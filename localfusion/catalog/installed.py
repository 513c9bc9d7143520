"""Where the files of the model hub lie on this machine, and what was found out of them when they were verified.

What is missing is fetched elsewhere, and nothing is hashed here.
"""

import re
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from localfusion.config import HubEntry
from localfusion.database import Database, Migration
from localfusion.errors import ConfigError
from localfusion.gguf_header import part_names, part_paths

MODELS_FOLDER = "models"
"""Of the home: what was pulled, as `owner/name/file`. What is there under that name is whole and was checked."""
FILE_NAME = "models.sqlite3"

PathOf = Callable[[HubEntry | Path], Path]
"""Where a file of the hub is, or would be once it is pulled; a path of the user's own is itself."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

MIGRATIONS: tuple[Migration, ...] = (
    (
        """CREATE TABLE file (
            path TEXT PRIMARY KEY, repo TEXT NOT NULL, file TEXT NOT NULL, revision TEXT NOT NULL, sha256 TEXT NOT NULL,
            n_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, verified REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX file_of_repo ON file (repo, file)",
    ),
)


class AnotherFile(ConfigError):
    """What is here under a name of the hub is not what the catalogue names now; `models pull` fetches that."""


def is_commit(revision: str) -> bool:
    """Whether a revision names one commit, behind which nothing changes."""
    return _COMMIT.fullmatch(revision) is not None


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

    def is_promised(self, hub: HubEntry) -> bool:
        """Whether it is what the catalogue means, as far as that says: by hash, by length, else by commit."""
        if not hub.sha256 and is_commit(hub.revision) and self.revision not in ("", hub.revision):
            return False
        return self.sha256.startswith(hub.sha256 or "") and hub.size_bytes in (None, self.n_bytes)


class Installed:
    """The verified files of a home, ours and those of other programs' stores; each part of a split GGUF for itself."""

    def __init__(self, home: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        """Open `models.sqlite3` under `home`; None knows nothing and keeps nothing."""
        self._home = home
        self._database = Database(None if home is None else home / FILE_NAME, MIGRATIONS)
        self._clock = clock

    def path_of(self, place: HubEntry | Path) -> Path:
        """Where a file of the hub is, or would be once it is pulled; a path of the user's own is itself.

        Raises ConfigError where it, or a part of it, is not what was verified, and AnotherFile where the catalogue
        names another file than the one that is here.
        """
        if isinstance(place, Path):
            own = [file for path in part_paths(place) if (file := self.known(path)) is not None]
            _check_unchanged(own, "if you replaced it, take the model out with `models remove` and add it again")
            return place
        found = self.promised(place)
        if found is None and (other := self.find(place.repo, place.file)) is not None:
            raise AnotherFile(f"{other.path} is not the file that models.yaml names", hint="localfusion models pull")
        if found is None:
            return nothing_pulled(place) if self._home is None else pulled_path(self._home, place)
        _check_unchanged(filter(None, self._parts(found)), "fetch it again if you did not change it")
        return found.path

    def find(self, repo: str, file: str) -> InstalledFile | None:
        """A verified file that is there, one of ours before those of others."""
        return next(iter(self._found(repo, file)), None)

    def promised(self, hub: HubEntry) -> InstalledFile | None:
        """The file that the catalogue means, where it is there; one that was changed only where there is no other."""
        found = [file for file in self._found(hub.repo, hub.file) if file.is_promised(hub)]
        return next(iter(sorted(found, key=lambda file: not file.is_unchanged())), None)

    def present(self, hub: HubEntry) -> InstalledFile | None:
        """The (first) file that the catalogue means, where all parts of it are there as they were verified."""
        first = self.promised(hub)
        if first is None:
            return None
        return first if all(part is not None and part.is_unchanged() for part in self._parts(first)) else None

    def is_ours(self, path: Path) -> bool:
        """Whether a file lies in our own folder, whatever links lead there, and may be deleted."""
        if self._home is None:
            return False
        return path.parent.resolve().is_relative_to((self._home / MODELS_FOLDER).resolve())

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

    def _found(self, repo: str, file: str) -> list[InstalledFile]:
        """The verified files of a name that are there, ours first."""
        query = f"SELECT {_COLUMNS} FROM file WHERE repo = ? AND file = ? ORDER BY path"
        found = [one for one in self._database.rows(_file, query, (repo, file)) if is_there(one.path)]
        return sorted(found, key=lambda one: not self.is_ours(one.path))

    def _parts(self, first: InstalledFile) -> list[InstalledFile | None]:
        """What is known of each file of a model, which lie beside each other."""
        return [self.known(first.path.with_name(name)) for name in part_names(first.path.name)]


def is_there(path: Path) -> bool:
    """Whether a file is there for this user; one in a folder that may not be entered is not."""
    try:
        return path.exists()
    except OSError:
        return False


def nothing_pulled(place: HubEntry | Path) -> Path:
    """A machine on which nothing was pulled."""
    return place if isinstance(place, Path) else Path("not-pulled") / place.repo / place.file


def locate(home: Path) -> PathOf:
    """`Installed.path_of` of a home that need not be there: looks and closes, and makes nothing."""

    def path_of(place: HubEntry | Path) -> Path:
        if not (home / FILE_NAME).is_file():
            return place if isinstance(place, Path) else pulled_path(home, place)
        with closing(Installed(home)) as installed:
            return installed.path_of(place)

    return path_of


def pulled_path(home: Path, hub: HubEntry) -> Path:
    """Where a file of the hub lies once it is pulled."""
    return home / MODELS_FOLDER / hub.repo / hub.file


def _check_unchanged(files: Iterable[InstalledFile], else_do: str) -> None:
    """Raise ConfigError where a file that is there is not what was verified."""
    for file in files:
        if is_there(file.path) and not file.is_unchanged():
            raise ConfigError(
                f"{file.path} was changed since it was verified",
                hint=f"`localfusion models verify` looks at all of it; {else_do}",
            )


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
