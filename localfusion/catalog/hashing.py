"""The hash of a file, read once through. What it is compared with is the caller's."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from localfusion.errors import ConfigError

OnBytes = Callable[[int], None]
"""Told how many bytes were read since it was last told."""

PIECE_BYTES = 4 << 20


def sha256_of(path: Path, *, on_bytes: OnBytes = lambda _: None) -> str:
    """All of a file as 64 hex digits; raises ConfigError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                on_bytes(len(piece))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name a file that you may read") from error
    return digest.hexdigest()
