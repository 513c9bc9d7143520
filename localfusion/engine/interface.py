"""What the layers above need of a loaded model, wherever it runs: a worker process here, an actor, an endpoint.

Protocols and the values that cross them; `client` holds the implementation for this machine.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localfusion.messages import Completion, Delta, GenerateRequest, Message, ModelInfo, Progress, TextKind, ToolSpec


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A row of length 1 for each text, or of zeros for one without any token; float32 (n, d).

    `n_cut` texts were longer than the window, and only their beginnings were read.
    """

    vectors: NDArray[np.float32]
    n_cut: int = 0


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

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Embeddings:
        """The vectors of texts, where the model was loaded with `embeddings`. Raises ModelError."""
        ...


class Resident(Model, Protocol):
    """A loaded model as the scheduler has it: with its threads and its end."""

    async def set_threads(self, n_threads: int) -> None:
        """Use this many threads from the next decode on."""
        ...

    def is_current(self) -> bool:
        """Whether what was loaded is still what would be loaded now."""
        ...

    async def close(self) -> None:
        """End the worker; what still runs on it fails with WorkerDied."""
        ...
