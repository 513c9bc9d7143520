"""What the layers above need of a loaded model, wherever it runs: a worker process here, an actor, an endpoint.

Protocols only; `client` holds the implementation for this machine.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from localfusion.messages import Completion, Delta, GenerateRequest, Message, ModelInfo, Progress, ToolSpec


class Model(Protocol):
    """A loaded model that may be used."""

    @property
    def info(self) -> ModelInfo: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        """Write; the last item is the Completion. Closing the generator cancels. Raises ModelError."""
        ...

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """The length of each text in tokens."""
        ...

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """The length in tokens of the prompt that the chat template makes of a conversation. Raises ModelError."""
        ...


class Resident(Model, Protocol):
    """A loaded model as the scheduler has it: with its threads and its end."""

    async def set_threads(self, n_threads: int) -> None:
        """Use this many threads from the next decode on."""
        ...

    async def close(self) -> None:
        """End the worker; what still runs on it fails with WorkerDied."""
        ...
