"""What the operating system says about this machine and its processes, behind one door; nothing is decided here."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def usable_cores() -> int:
    """Physical cores that this process may run on, at least 1; hyper-threads of one core do not count twice."""
    process = psutil.Process()
    affinity = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    logical = psutil.cpu_count(logical=True) or 1
    allowed = len(affinity) if affinity else logical
    physical = psutil.cpu_count(logical=False) or logical
    return max(1, min(physical, allowed))


def started(pid: int) -> float:
    """When a process started, in seconds of a clock that setting the time does not move.

    On Linux since boot (proc_pid_stat(5)), elsewhere since 1970 as the system keeps it. Raises
    psutil.NoSuchProcess, psutil.AccessDenied.
    """
    if sys.platform != "linux":
        return psutil.Process(pid).create_time()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except PermissionError as error:
        raise psutil.AccessDenied(pid) from error
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def boot() -> str:
    """What tells this boot of the machine from every other; empty where the system has no name for it."""
    if sys.platform != "linux":
        return ""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@contextmanager
def limited_memory(n_bytes: int) -> Iterator[None]:
    """On Linux: MemoryError once this process takes `n_bytes` more of address space; elsewhere there is no bound."""
    if sys.platform != "linux":
        yield
        return
    process = psutil.Process()
    soft, hard = process.rlimit(psutil.RLIMIT_AS)
    limits = [limit for limit in (soft, hard) if limit != psutil.RLIM_INFINITY]
    process.rlimit(psutil.RLIMIT_AS, (min([*limits, process.memory_info().vms + n_bytes]), hard))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_AS, (soft, hard))
