"""Whether a disk has room for what is to come. What to do where it has none is the caller's hint."""

import shutil
from pathlib import Path

from localfusion.errors import LocalFusionError


def check_room(folder: Path, need_bytes: int, *, hint: str) -> None:
    """Raise LocalFusionError where the disk of a folder, which need not be there yet, has fewer bytes free."""
    free_bytes = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
    if free_bytes < need_bytes:
        need, have = (f"{n_bytes / 2**20:.0f} MiB" for n_bytes in (need_bytes, free_bytes))
        raise LocalFusionError(f"{need} are needed on the disk of {folder}, and {have} are free", hint=hint)
