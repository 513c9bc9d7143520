"""Figures and the rows that yield them: carried out one after another, printed as they are known, kept for --json."""

import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

S = TypeVar("S", bound="Progress")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `is_limit`: what is wanted is the most that it may be."""

    name: str
    value: float
    unit: str
    against: str | None = None
    wanted: float | None = None
    is_limit: bool = False

    @property
    def ok(self) -> bool | None:
        if self.wanted is None:
            return None
        return self.value <= self.wanted if self.is_limit else self.value >= self.wanted


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that could not be measured to its end, and why."""

    name: str
    error: str


Row = Callable[[S], Iterable[Figure]]
"""Yields its figures as they become known, a ratio before the values that it is of."""


class Progress(Protocol):
    """What every setting of a bench can do."""

    @property
    def say(self) -> Callable[[str], None]:
        """Tells of progress."""
        ...


def measure(rows: Mapping[str, Row[S]], setting: S) -> Iterator[Figure | FailedRow]:
    """The figures of all rows; a row that fails is said so in its place and costs no other."""
    for name, row in rows.items():
        setting.say(name)
        try:
            yield from row(setting)
        except Exception as error:  # noqa: BLE001  whatever a row meets, the others are still measured
            traceback.print_exc(file=sys.stderr)
            yield FailedRow(name, f"{type(error).__name__}: {error}")


def line(found: Figure | FailedRow) -> str:
    """One line of the table."""
    if isinstance(found, FailedRow):
        return f"    failed   {found.name}: {found.error}"
    wanted = ""
    if found.wanted is not None:
        wanted = f"{'at most' if found.is_limit else 'at least'} {found.wanted:g} {'ok' if found.ok else 'SHORT'}"
    against = f" against {found.against}" if found.against else ""
    return f"{found.value:10.3f} {found.unit:7s} {wanted:19s} {found.name}{against}"


def write_json(path: Path, found: Iterable[Figure | FailedRow]) -> None:
    """The figures in the form that every bench writes; a row that failed has no value."""
    path.write_text(json.dumps([_entry(one) for one in found], indent=2) + "\n", encoding="utf-8")


def _entry(found: Figure | FailedRow) -> dict[str, str | float | bool | None]:
    if isinstance(found, FailedRow):
        return {
            "name": found.name,
            "value": None,
            "unit": "",
            "against": found.error,
            "wanted": None,
            "ok": False,
        }
    return {
        "name": found.name,
        "value": round(found.value, 4),
        "unit": found.unit,
        "against": found.against,
        "wanted": found.wanted,
        "ok": found.ok,
    }
