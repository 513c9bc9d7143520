"""The only door to the model hub: what it can be asked, and the client that asks, imported when it is needed.

The client is huggingface_hub, which reads its variables while it is imported and ends the program over nonsense in
them: a command that needs no hub must not notice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Protocol

from localfusion.config import check_hub_variables
from localfusion.errors import ConfigError, HubError
from localfusion.offline import is_closed


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub describes it: the commit that is meant, its length, and its hash ("" where none is named)."""

    repo: str
    file: str
    commit: str
    n_bytes: int
    sha256: str


class HubUnreachable(HubError):
    """Nobody answers under the hub's address: no network, a wrong address, or a wall in between."""


class Hub(Protocol):
    """Files of the hub. Any thread may use it."""

    def look(self, repo: str, file: str, revision: str) -> HubFile:
        """What the hub says of a file; raises HubError."""
        ...

    def read(self, file: HubFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes of a file from `start` to before `stop`, as they come. Raises HubError."""
        ...


def open_hub(*, offline: bool = False) -> Hub:
    """The hub of this process's environment; raises ConfigError where nothing may be asked of a network."""
    if offline or is_closed():
        raise ConfigError("nothing is fetched offline", hint="leave out --offline, and `offline` of config.yaml")
    client: Hub = with_client("localfusion.catalog.hub_client").open_client()
    return client


def with_client(name: str) -> ModuleType:
    """A module of the catalogue that imports huggingface_hub. Raises ConfigError where that could not be imported."""
    check_hub_variables()
    return import_module(name)
