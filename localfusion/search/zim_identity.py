"""What tells one ZIM archive from another: the uuid in its header. Opens no archive with libzim."""

from pathlib import Path
from struct import Struct

from localfusion.errors import ConfigError

_HEADER = Struct("<I4x16s")
_MAGIC = 72173914


def zim_uuid(path: Path) -> str:
    """The archive's uuid in hex. Raises ConfigError where the file is no ZIM archive or cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(_HEADER.size)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name a ZIM archive") from error
    if len(raw) < _HEADER.size or _HEADER.unpack(raw)[0] != _MAGIC:
        raise ConfigError(f"{path} is no ZIM archive", hint="name files that end in .zim")
    uuid: bytes = _HEADER.unpack(raw)[1]
    return uuid.hex()
