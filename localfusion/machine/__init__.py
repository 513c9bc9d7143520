"""What the operating system says about this machine and its processes, behind one door; nothing is decided here."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from localfusion.machine import cgroup

_LAST = 10
"""How nice a process is that gives way to all others, but not to nothing at all."""


def usable_cores() -> int:
    """Physical cores that this process may keep busy, at least 1, by its affinity and its control groups.

    Hyper-threads of one core count once; a share of a core that a quota leaves over does not count.
    """
    process = psutil.Process()
    affinity = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    logical = psutil.cpu_count(logical=True) or 1
    physical = psutil.cpu_count(logical=False) or logical
    allowed = physical_cores(affinity) if affinity else physical
    quota = cgroup.cpu_cores() if sys.platform == "linux" else None
    return max(1, min(physical, allowed, *([] if quota is None else [int(quota)])))


def physical_cores(processors: Iterable[int], root: Path = Path("/")) -> int:
    """How many cores these logical processors are of; each counts as one where the system does not say."""
    cores: set[str] = set()
    for processor in processors:
        siblings = root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        try:
            cores.add(siblings.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(f"{processor}")
    return len(cores)


def processor_features(root: Path = Path("/")) -> frozenset[str]:
    """What the processor can do, by Linux's names ("avx2"); empty where the system does not say."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(next((words.split() for name, _, words in lines if name.strip() == "flags"), []))


def total_bytes() -> int:
    """Memory of the machine."""
    return psutil.virtual_memory().total


def available_bytes() -> int:
    """Memory that programs can still take without swapping: what the system says, or less by a control group."""
    free = cgroup.free_bytes() if sys.platform == "linux" else None
    available = psutil.virtual_memory().available
    return available if free is None else min(available, free)


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


def confine(n_bytes: int, *, mapped_bytes: int = 0) -> None:
    """Bind this process for good: it goes last on the cores; on Linux it takes at most `n_bytes` more.

    Files that it maps to read them take `mapped_bytes` on top. There it writes to no file either, and leaves no core.
    """
    process = psutil.Process()
    if sys.platform == "win32":
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        process.nice(max(_LAST, process.nice()))
    if sys.platform == "linux":
        used = process.memory_info()
        most = {
            psutil.RLIMIT_AS: used.vms + n_bytes + mapped_bytes,
            psutil.RLIMIT_DATA: used.data + n_bytes,
            psutil.RLIMIT_FSIZE: 0,
            psutil.RLIMIT_CORE: 0,
        }
        for resource, limit in most.items():
            known = [bound for bound in process.rlimit(resource) if bound != psutil.RLIM_INFINITY]
            process.rlimit(resource, (min([limit, *known]),) * 2)


def allow_open_files(wanted: int) -> int:
    """Let this process open so many files and connections, as far as it may; returns how many it may now."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):
        return wanted
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    if soft == psutil.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == psutil.RLIM_INFINITY else min(wanted, hard)
    process.rlimit(psutil.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def use_of(pid: int) -> tuple[int, float]:
    """The resident memory of a process in bytes, and the seconds that it had a core; zeros where it is gone."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    except psutil.Error:
        return 0, 0.0
