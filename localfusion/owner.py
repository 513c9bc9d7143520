"""Which operating-system process works on a run, and whether it is still there. It starts and ends none."""

import os
from dataclasses import dataclass

import psutil

_SAME_START_S = 1.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A process of this machine; `started` (seconds since 1970) tells it from a later one with the same pid."""

    pid: int
    started: float


def this_process() -> Owner:
    """The process that runs this code."""
    return Owner(os.getpid(), psutil.Process().create_time())


def is_alive(owner: Owner) -> bool:
    """Whether that very process still runs; one that ended and was not yet collected does not."""
    try:
        found = psutil.Process(owner.pid)
        same = abs(found.create_time() - owner.started) < _SAME_START_S
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
