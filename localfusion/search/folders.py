"""The files under given paths, and the addresses that they have in a run. Looks at names and times, opens no file."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from localfusion.errors import ConfigError
from localfusion.search.file_times import changed_ns
from localfusion.search.formats import SUFFIXES

_PATHS_HINT = "--docs takes files and folders"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file under one of the given paths: `path` has no symbolic link in it, `url` is its address in this run.

    `size` and `mtime_ns` are -1 where nothing can be found out about it.
    """

    path: str
    url: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class CarriedFile:
    """A file that was read on another machine: its path here, where nothing is, and what is known of it."""

    path: str
    size: int
    mtime_ns: int


NOTHING_CARRIED: Mapping[str, Sequence[CarriedFile]] = {}


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """`roots` are the given paths without symbolic links in them.

    `links` holds a root and a file for each file that is not below the root, but is led to by a link there.
    `empty` are roots that are folders without any file. `skipped` holds a sentence for each file or folder that cannot
    even be looked at.
    """

    roots: tuple[str, ...]
    files: tuple[FoundFile, ...]
    links: tuple[tuple[str, str], ...]
    empty: tuple[str, ...]
    skipped: tuple[str, ...]


def find_files(paths: Sequence[Path], carried: Mapping[str, Sequence[CarriedFile]] = NOTHING_CARRIED) -> FoundFiles:
    """The files under `paths` in a fixed order, each once, with the addresses that they have in this run.

    Hidden files and folders are left out, symbolic links are followed once. What is under the roots in `carried` is
    known and not on this machine. Raises ConfigError for another path that does not exist.
    """
    names: dict[Path, str] = {}
    found: dict[str, FoundFile] = {}
    links: list[tuple[str, str]] = []
    empty: list[str] = []
    skipped: list[str] = []
    roots = [Path(real_path(path)) if real_path(path) in carried else _existing(path) for path in paths]
    for root in roots:
        known = carried.get(str(root))
        folder = root if (root.is_dir() if known is None else _is_folder(root, known)) else root.parent
        name = names.setdefault(folder, _unique_name(folder.name or "root", names.values()))
        address = f"doc://{quote(os.fsencode(name), safe='')}"
        n_skipped = len(skipped)
        if known is not None:
            walk = _carried(known, folder, address)
        else:
            walk = _Walk(skipped).files(str(root), address) if folder == root else _named(root, address, skipped)
        here: dict[str, FoundFile] = {}
        for file in walk:
            here.setdefault(file.path, file)
        found |= {path: file for path, file in here.items() if path not in found}
        links += [(str(root), path) for path in here if not is_below(path, str(root))]
        if not here and len(skipped) == n_skipped:
            empty.append(str(root))
    return FoundFiles(tuple(map(str, roots)), tuple(found.values()), tuple(links), tuple(empty), tuple(skipped))


def real_path(path: Path) -> str:
    """`path` without symbolic links, whether anything is there or not."""
    # Path.resolve of Python 3.11 raises for a link that leads to itself.
    return os.path.realpath(path)


def is_there(path: Path) -> bool:
    """Whether anything that can be reached is at `path`."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def is_gone(path: str) -> bool:
    """Whether nothing is at `path`, for sure: what cannot be looked at may be there."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def is_below(path: str, root: str) -> bool:
    """Whether `path` is `root` or in it, both without symbolic links."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def canonical_address(url: str) -> str:
    """An address as this module writes it, whatever of it came percent-encoded."""
    scheme, _, rest = url.partition("://")
    name, _, path = rest.partition("/")
    return f"{scheme.lower()}://{quote(unquote(name), safe='')}/{quote(unquote(path), safe='/')}"


def _existing(path: Path) -> Path:
    """`path` without symbolic links. Raises ConfigError where nothing is there."""
    try:
        exists = path.exists()
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}", hint=_PATHS_HINT) from error
    if not exists:
        raise ConfigError(f"{path} does not exist", hint=_PATHS_HINT)
    return Path(real_path(path))


def _is_folder(root: Path, files: Sequence[CarriedFile]) -> bool:
    """Whether a carried root is a folder: one that is a file holds just itself."""
    return [file.path for file in files] != [str(root)]


def _carried(files: Sequence[CarriedFile], folder: Path, address: str) -> Iterator[FoundFile]:
    for file in files:
        below = Path(file.path).relative_to(folder)
        parts = "/".join(quote(part, safe="") for part in below.parts)
        yield FoundFile(file.path, f"{address}/{parts}", file.size, file.mtime_ns)


def _unique_name(name: str, taken: Iterable[str]) -> str:
    """`name`, or `name-2`, `name-3`: two folders of one name are told apart by the order they are given in."""
    taken = set(taken)
    return next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def _named(path: Path, address: str, skipped: list[str]) -> Iterator[FoundFile]:
    """A file that was given itself, whatever its suffix."""
    if _has_text_name(str(path), skipped):
        try:
            seen = path.stat()
            size, mtime_ns = seen.st_size, changed_ns(seen)
        except OSError:
            size, mtime_ns = -1, -1
        yield FoundFile(str(path), f"{address}/{quote(path.name, safe='')}", size, mtime_ns)


class _Walk:
    """One pass over a folder: what lies in it first, then what its links lead to; a folder is entered once."""

    def __init__(self, skipped: list[str]) -> None:
        self._skipped = skipped
        self._entered: set[str] = set()
        self._folders: list[tuple[str, str, str]] = []
        self._linked_folders: list[tuple[str, str, str]] = []
        self._linked_files: list[tuple[str, FoundFile]] = []

    def files(self, root: str, address: str) -> Iterator[FoundFile]:
        """The files with a suffix that can be read, those of one folder in order of their names, links last."""
        self._folders.append((root, root, address))
        while waiting := self._folders or self._linked_folders:
            shown, real, here = waiting.pop()
            if real not in self._entered:
                self._entered.add(real)
                yield from self._enter(shown, real, here)
        yield from (file for _, file in sorted(self._linked_files, key=lambda link: link[0]))

    def _enter(self, shown: str, real: str, address: str) -> Iterator[FoundFile]:
        try:
            with os.scandir(real) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            self._skipped.append(f"{shown} was skipped: it cannot be opened ({error.strerror})")
            return
        folders: list[tuple[str, str, str]] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            where = (f"{shown.rstrip(os.sep)}{os.sep}{entry.name}", entry.path)
            here = f"{address}/{quote(os.fsencode(entry.name), safe='')}"
            if entry.is_symlink():
                self._follow(where[0], entry, here)
            elif entry.is_dir(follow_symlinks=False):
                folders.append((*where, here))
            elif file := self._file(entry, entry.path, here):
                yield file
        self._folders += reversed(folders)

    def _follow(self, shown: str, link: os.DirEntry[str], address: str) -> None:
        try:
            if link.is_dir():
                self._linked_folders.insert(0, (shown, os.path.realpath(link.path), address))
            elif file := self._file(link, os.path.realpath(link.path), address):
                self._linked_files.append((shown, file))
        except OSError:  # it leads to itself
            return

    def _file(self, entry: os.DirEntry[str], real: str, address: str) -> FoundFile | None:
        if f".{entry.name.rpartition('.')[2]}".lower() not in SUFFIXES or not entry.is_file():
            return None
        if not _has_text_name(f"{entry.path}{real}", self._skipped, shown=entry.path):
            return None
        try:
            seen = entry.stat()
        except OSError:
            return FoundFile(real, address, -1, -1)
        return FoundFile(real, address, seen.st_size, changed_ns(seen))


def _has_text_name(name: str, skipped: list[str], *, shown: str = "") -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        skipped.append(f"{(shown or name)!a} was skipped: its name is not UTF-8")
        return False
    return True
