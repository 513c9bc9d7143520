"""How large a bench of bundles is, and where its files are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Setting:
    """`folder` is on the disk that is measured; None is that of temporary files. `say` tells of progress."""

    quick: bool
    say: Callable[[str], None]
    folder: Path | None = None

    @property
    def n_files(self) -> int:
        return 3

    @property
    def file_bytes(self) -> int:
        return (2 if self.quick else 350) * 10**6

    @property
    def n_rounds(self) -> int:
        return 1 if self.quick else 3
