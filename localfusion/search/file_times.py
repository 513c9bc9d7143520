"""When a file was last changed, as a number that the index can store. Opens no file."""

import os

_MOST = 2**63 - 1


def changed_ns(seen: os.stat_result) -> int:
    """The time of its last change in ns; -1 where that is beyond 64 bits, as a clock that went wrong leaves it."""
    return seen.st_mtime_ns if abs(seen.st_mtime_ns) <= _MOST else -1
