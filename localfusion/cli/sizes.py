"""Sizes, rates and times for people."""


def count_text(n: int, what: str) -> str:
    """How many there are of something whose plural ends in s."""
    return f"{n} {what if n == 1 else f'{what}s'}"


def size_text(n_bytes: float) -> str:
    """A size, in the largest of KiB, MiB and GiB that it has one of."""
    if n_bytes >= 2**30:
        return f"{n_bytes / 2**30:.1f} GiB"
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:.0f} KiB"


def duration_text(seconds: float) -> str:
    """A time, in the unit that a person would name."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
