"""What the replies need to know of an order: what is repeated, and how much is to be told. Makes no orders."""

from collections.abc import Mapping
from typing import Protocol

from localfusion.messages import Json
from localfusion.outer import TurnRequest


class Asked(Protocol):
    """A request as it was understood; `echo` are the fields that a response repeats.

    `hides_thinking`: the reply has no reasoning of its own.
    """

    @property
    def turn(self) -> TurnRequest: ...

    @property
    def n(self) -> int: ...

    @property
    def includes_usage(self) -> bool: ...

    @property
    def is_background(self) -> bool: ...

    @property
    def is_stored(self) -> bool: ...

    @property
    def echo(self) -> Mapping[str, Json]: ...

    @property
    def hides_thinking(self) -> bool: ...
