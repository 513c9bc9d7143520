"""Which operating-system process works on a run, and whether it is still there. It starts and ends none."""

import os
from dataclasses import dataclass

import psutil

from localfusion import machine

_SAME_START_S = 1.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A process of this machine; when it started, and in which boot, tell it from a later one with the same pid."""

    pid: int
    started: float
    boot: str


def this_process() -> Owner:
    """The process that runs this code."""
    return owner_of(os.getpid())


def owner_of(pid: int) -> Owner:
    """The process that has this number now; raises psutil.NoSuchProcess."""
    return Owner(pid, machine.started(pid), machine.boot())


def is_alive(owner: Owner) -> bool:
    """Whether that very process still runs; one that ended and was not yet collected does not."""
    if owner.boot != machine.boot():
        return False
    try:
        same = abs(machine.started(owner.pid) - owner.started) < _SAME_START_S
        return same and psutil.Process(owner.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
