"""What the control groups of this process leave it (cgroups(7), versions 1 and 2), read from /proc and /sys.

Every group from the process's own up to the outermost limits it; the tightest counts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

UNLIMITED_BYTES = 1 << 60
"""Version 1 writes a huge number where there is no limit."""

PAGE_CACHE = ("inactive_file", "active_file")
"""Pages of files, which go where memory is needed: those read once and those in use, as MemAvailable counts them."""


def cpu_cores(root: Path = Path("/")) -> float | None:
    """How many cores' time the process may use; None where no group limits it."""
    found = [_quota(folder) for folder in _folders(root, "cpu")]
    return min((cores for cores in found if cores is not None), default=None)


def free_bytes(root: Path = Path("/")) -> int | None:
    """How much more memory the process's groups may take, page cache that can go not counted; None: no limit."""
    found = [_free(folder) for folder in _folders(root, "memory")]
    return min((free for free in found if free is not None), default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that hold this process for a controller, innermost first."""
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        bases = [mount] if not controllers else [mount / controllers, mount / controller]
        base = next((base for base in bases if base.is_dir()), None)
        if base is None:
            continue
        own = base / path.lstrip("/")
        if not own.is_dir() or ".." in path:  # a container sees the path of its host
            own = base
        while own != base:
            yield own
            own = own.parent
        yield base


def _quota(folder: Path) -> float | None:
    quota, period = "max", "1"
    for line in _lines(folder / "cpu.max"):
        quota, period = line.split()
    for line in _lines(folder / "cpu.cfs_quota_us"):
        quota = line
        period = next(iter(_lines(folder / "cpu.cfs_period_us")), "100000")
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _free(folder: Path) -> int | None:
    for limit_file, used_file, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        for limit in _lines(folder / limit_file):
            if limit == "max" or int(limit) >= UNLIMITED_BYTES:
                continue
            used = int(next(iter(_lines(folder / used_file)), "0"))
            statistics = _statistics(folder)
            cache = sum(statistics.get(f"{prefix}{name}", 0) for name in PAGE_CACHE)
            return max(0, int(limit) - max(0, used - cache))
    return None


def _statistics(folder: Path) -> Mapping[str, int]:
    pairs = (line.split() for line in _lines(folder / "memory.stat"))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return []
