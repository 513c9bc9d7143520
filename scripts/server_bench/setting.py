"""How large a bench of the server is, and where its peer is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """`litellm` is the peer's executable, None where there is none. `say` tells of progress."""

    quick: bool
    say: Callable[[str], None]
    litellm: Path | None = None

    def pick(self, quick: T, full: T) -> T:
        """One of two sizes."""
        return quick if self.quick else full
