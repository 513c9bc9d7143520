"""What the operating system says about this machine, behind one door; nothing is decided here."""

import psutil


def usable_cores() -> int:
    """Physical cores that this process may run on, at least 1; hyper-threads of one core do not count twice."""
    process = psutil.Process()
    affinity = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    logical = psutil.cpu_count(logical=True) or 1
    allowed = len(affinity) if affinity else logical
    physical = psutil.cpu_count(logical=False) or logical
    return max(1, min(physical, allowed))
