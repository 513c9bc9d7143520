"""The hash of a file, read once through. What it is compared with is the caller's."""

import errno
from pathlib import Path

from localfusion.catalog.copying import CutShort, OnBytes, advise_sequential, copy, keep_nothing, tell_nobody
from localfusion.errors import ConfigError


def sha256_of(path: Path, *, on_bytes: OnBytes = tell_nobody) -> str:
    """All of a file as 64 hex digits. Raises OSError, also where it becomes shorter meanwhile."""
    try:
        with path.open("rb", buffering=0) as file:
            advise_sequential(file.fileno())
            return copy(file.readinto, keep_nothing, path.stat().st_size, on_bytes=on_bytes)
    except CutShort as error:
        raise OSError(errno.EIO, "it was cut short while it was read", str(path)) from error


def sha256_of_named(path: Path, *, on_bytes: OnBytes = tell_nobody) -> str:
    """The same of a file that the user named: raises ConfigError where it cannot be read."""
    try:
        return sha256_of(path, on_bytes=on_bytes)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name a file that you may read") from error
