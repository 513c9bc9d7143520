"""An embedding model as search wants it: leased from the scheduler for each request, and no memory is held between.

What vectors are for, and what to do without them, is the caller's business.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localfusion.engine.footprint import embedding_window
from localfusion.engine.prefixes import Prefixes, prefixes_of
from localfusion.errors import ModelError, ModelLoadError
from localfusion.gguf_header import Header, part_paths, read_header
from localfusion.messages import ModelSpec, TextKind
from localfusion.scheduler.leases import Scheduler

FINGERPRINT_BYTES = 4 << 20
"""Of each file, from its beginning and from its end: the header with the vocabulary, and some weights."""
JOIN_LIMIT_S = 5.0
"""How long a model that is loaded is waited for: others may be waiting for the memory of whoever asks."""


@dataclass(slots=True)
class LeasedEmbedder:
    """A model of the scheduler that makes vectors; made by `embedder_of`. `n_cut` counts texts that were cut so far.

    Unless it `waits`, a request fails at once where there is no memory for the model: whoever holds the lease of
    another model must not wait for memory, or both may wait for ever.
    """

    spec: ModelSpec
    identity: str
    scheduler: Scheduler
    waits: bool = False
    n_cut: int = field(default=0, init=False)

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> NDArray[np.float32]:
        """A row of length 1 for each text, zeros for one without a token. Raises ModelError."""
        async with AsyncExitStack() as stack:
            try:
                if not self.waits and not await self.scheduler.preload(self.spec):
                    raise self._no_room()
                async with asyncio.timeout(None if self.waits else JOIN_LIMIT_S):
                    lease = await stack.enter_async_context(self.scheduler.lease(self.spec))
            except TimeoutError as error:
                raise self._no_room() from error
            found = await lease.model.embed(texts, kind=kind)
        self.n_cut += found.n_cut
        return found.vectors

    def _no_room(self) -> ModelError:
        return ModelError(self.spec.name, f"there is no memory for {self.spec.name} at the moment")


def embedder_of(scheduler: Scheduler, spec: ModelSpec, *, waits: bool = False) -> LeasedEmbedder:
    """An embedding model by its file. Reads some MiB of it; raises ModelLoadError where it cannot be read."""
    spec = replace(spec, embeddings=True)
    header = read_header(spec.path, model=spec.name)
    try:
        identity = _identity(spec, header)
    except OSError as error:
        message = f"the file of the model {spec.name} cannot be read: {spec.path}: {error.strerror}"
        raise ModelLoadError(spec.name, message, hint="name a GGUF file that you may read") from error
    return LeasedEmbedder(spec, identity, scheduler, waits)


def _identity(spec: ModelSpec, header: Header) -> str:
    """What vectors depend on: the weights, how much of a text is read, and what stands in front of it.

    A copy of the file elsewhere is the same model.
    """
    n_ctx_train = header.metadata.get(f"{header.metadata['general.architecture']}.context_length", 0)
    window = embedding_window(n_ctx_train, spec) if isinstance(n_ctx_train, int) else 0
    prefixes: Prefixes = prefixes_of(header.metadata, spec.path)
    digest = blake2b(repr((window, prefixes)).encode(), digest_size=16)
    for part in part_paths(spec.path):
        _add_file(digest, part)
    return digest.hexdigest()


def _add_file(digest: blake2b, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest.update(f"|{size}|".encode())
        digest.update(file.read(FINGERPRINT_BYTES))
        file.seek(max(0, size - FINGERPRINT_BYTES))
        digest.update(file.read(FINGERPRINT_BYTES))
