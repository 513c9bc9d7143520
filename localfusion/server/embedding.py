"""Texts as vectors, for whoever asks: by the model of `search.embedding`, or one that models.yaml marks for that."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

import numpy as np

from localfusion.catalog import PathOf, embedding_of
from localfusion.config import ModelsFile
from localfusion.errors import ConfigError, InvalidRequest
from localfusion.messages import ModelSpec
from localfusion.scheduler import Scheduler
from localfusion.wire.listings import EmbeddingItem, EmbeddingList, EmbeddingUsage

Encoding = Literal["float", "base64"]


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding models of a server; `configured` is that of `search.embedding`."""

    scheduler: Scheduler
    models: ModelsFile
    path_of: PathOf
    configured: ModelSpec | None = None

    def names(self) -> tuple[str, ...]:
        """What a request may name, as far as its file is here."""
        named = [name for name in self.models.names_of_models() if self.models.is_embedding(name)]
        here = [name for name in named if self._try_spec(name) is not None]
        return tuple(dict.fromkeys([*([self.configured.name] if self.configured else []), *here]))

    async def vectors(
        self, name: str, texts: Sequence[str], *, encoding: Encoding, dimensions: int | None = None
    ) -> EmbeddingList:
        """The vectors of the texts. Raises InvalidRequest for a model that is none, and ModelError.

        Texts are embedded as passages, whatever they are for: a request does not say.
        """
        spec = replace(self._spec(name), embeddings=True)
        async with self.scheduler.lease(spec) as lease:
            found = await lease.model.embed(texts, kind="passage")
            n_tokens = sum(await lease.model.count_tokens(texts))
        width = int(found.vectors.shape[1])
        if dimensions not in (None, width):
            raise InvalidRequest(f"vectors of {name} have {width} dimensions", param="dimensions")
        rows = [np.asarray(row, dtype="<f4") for row in found.vectors]
        items = [
            EmbeddingItem(index=index, embedding=_encoded(row.tobytes()) if encoding == "base64" else row.tolist())
            for index, row in enumerate(rows)
        ]
        return EmbeddingList(
            data=items, model=name, usage=EmbeddingUsage(prompt_tokens=n_tokens, total_tokens=n_tokens)
        )

    def _spec(self, name: str) -> ModelSpec:
        if self.configured is not None and name == self.configured.name:
            return self.configured
        if not self.models.is_embedding(name):
            names = self.names()
            near = get_close_matches(name, names, n=3, cutoff=0.5) or names
            hint = f"name {' or '.join(near)}" if near else "name one as `search.embedding` in config.yaml"
            raise InvalidRequest(f"{name!r} is no embedding model", param="model", code="invalid_model", hint=hint)
        try:
            return embedding_of(self.models, name, path_of=self.path_of)
        except ConfigError as error:
            hint = "`localfusion doctor` and `localfusion models list` say why, on the machine of the server"
            raise InvalidRequest(
                f"{name} cannot be used now", param="model", code="invalid_model", hint=hint
            ) from error

    def _try_spec(self, name: str) -> ModelSpec | None:
        try:
            return self._spec(name)
        except InvalidRequest:
            return None


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
