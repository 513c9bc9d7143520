"""Makes vectors of texts with one loaded file: one `step` embeds one batch of one request. What they mean is not known.

No pipe and no process here, as in `loop`. Requests take turns, so that a query waits for one batch of passages at most.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localfusion.engine.llama import DecodeError, EmbeddingContext, Weights
from localfusion.engine.protocol import FLOATS, Embed, Embedded, Failed, Reply
from localfusion.messages import ModelInfo, ModelSpec


class NoNumbers(Exception):
    """A vector with infinities in it, or with what is no number."""


@dataclass(slots=True)
class Waiting:
    """A request, and how many of its texts are done."""

    id: int
    texts: tuple[str, ...]
    n_done: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """The next texts of a request as tokens; `n_cut` of them were longer."""

    texts: list[list[int]]
    n_cut: int


class Embedder:
    """A loaded file and the requests over it."""

    def __init__(self, spec: ModelSpec) -> None:
        weights = Weights(
            spec.path,
            n_gpu_layers=spec.n_gpu_layers,
            device=spec.device,
            use_mmap=bool(spec.use_mmap),
            use_extra_bufts=spec.use_extra_bufts,
        )
        self.vocabulary = weights.vocabulary
        self._weights = weights
        self._spec = spec
        self._context = EmbeddingContext(weights, spec)
        self._waiting: deque[Waiting] = deque()
        facts = weights.facts
        self.info = ModelInfo(
            description=facts.description,
            n_ctx=self._context.n_ctx,
            n_ctx_train=facts.n_ctx_train,
            n_vocab=self.vocabulary.n_tokens,
            n_params=facts.n_params,
            size_bytes=facts.size_bytes,
            special_tokens={},
            tool_syntax=None,
        )

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def submit(self, command: Embed) -> None:
        """Queue a request behind the others."""
        self._waiting.append(Waiting(command.id, command.texts))

    def cancel(self, id: int) -> None:
        """Do no more of a request; nothing where it has ended already."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting.id != id)

    def set_threads(self, n_threads: int) -> None:
        """Use so many threads from the next batch on; nothing where the spec's own number shapes the result."""
        if not self._spec.deterministic:
            self._context.set_threads(n_threads)

    def step(self) -> list[Reply]:
        """Embed the next batch of the request whose turn it is."""
        if not self._waiting:
            return []
        waiting = self._waiting.popleft()
        batch = self._next_batch(waiting)
        try:
            vectors = self._embed(batch.texts)
        except DecodeError as error:
            return [Failed(waiting.id, "llama.cpp could not evaluate the text", f"{error}; a smaller n_batch may help")]
        except NoNumbers:
            hint = "its file is damaged, or its numbers overflow; fetch it again"
            return [Failed(waiting.id, "a vector holds what is no number", hint)]
        waiting.n_done += len(batch.texts)
        if waiting.n_done < len(waiting.texts):
            self._waiting.append(waiting)
        return [Embedded(waiting.id, vectors.astype(FLOATS).tobytes(), self._context.n_embd, batch.n_cut)]

    def _next_batch(self, waiting: Waiting) -> Batch:
        """As many texts, in order, as the context takes at once."""
        texts: list[list[int]] = []
        n_cut, room = 0, self._context.n_ctx
        for text in waiting.texts[waiting.n_done : waiting.n_done + self._context.n_texts]:
            ids = self.vocabulary.tokenize(text, parse_special=False, add_special=True)
            is_cut = len(ids) > self._context.n_ctx
            ids = self._cut(ids) if is_cut else ids
            if len(ids) > room:
                break
            texts.append(ids)
            room -= len(ids)
            n_cut += is_cut
        return Batch(texts, n_cut)

    def _cut(self, ids: list[int]) -> list[int]:
        """The beginning that fits, and the mark that ends every text: a vector may be that of the last token."""
        end = ids[-1:] if ids[-1] in self.vocabulary.control else []
        return ids[: self._context.n_ctx - len(end)] + end

    def _embed(self, texts: list[list[int]]) -> NDArray[np.float32]:
        """A row of length 1 for each text, zeros where it has no token; raises DecodeError or NoNumbers."""
        vectors = np.zeros((len(texts), self._context.n_embd), np.float32)
        filled = [index for index, ids in enumerate(texts) if ids]
        if filled:
            vectors[filled] = self._context.pooled([texts[index] for index in filled])
        if not np.isfinite(vectors).all():
            raise NoNumbers
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, 1)
        return vectors
