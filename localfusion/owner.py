"""Which operating-system process works on a run, and whether it is still there. It starts and ends none."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAME_START_S = 1.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A process of this machine; `started` (seconds, of a clock of the system) tells it from a later one."""

    pid: int
    started: float


def this_process() -> Owner:
    """The process that runs this code."""
    return owner_of(os.getpid())


def owner_of(pid: int) -> Owner:
    """The process that has this number now; raises psutil.NoSuchProcess."""
    return Owner(pid, _started(pid))


def is_alive(owner: Owner) -> bool:
    """Whether that very process still runs; one that ended and was not yet collected does not."""
    try:
        same = abs(_started(owner.pid) - owner.started) < _SAME_START_S
        return same and psutil.Process(owner.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _started(pid: int) -> float:
    """When a process started: on Linux in seconds since boot, which setting the clock does not move (proc_pid_stat(5)).

    Elsewhere in seconds since 1970, as the system keeps it.
    """
    if sys.platform != "linux":
        return psutil.Process(pid).create_time()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")
