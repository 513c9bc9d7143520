"""One text being written: from the logits of its last token to its next tokens, deltas and completion.

Joins sampling, constraint, thinking and stop strings for one request. Not here: evaluation and batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from localfusion.engine.chat import Prompt
from localfusion.engine.constrain import Constraint
from localfusion.engine.drafting import Lookup
from localfusion.engine.likelihood import ShownTokens, logprobs_of
from localfusion.engine.llama import Vocabulary
from localfusion.engine.sampling import Sampler
from localfusion.engine.sequences import Slot, common_prefix
from localfusion.engine.text import CharacterDecoder, StopMatcher
from localfusion.engine.thinking import Kind, ThinkingSplitter
from localfusion.messages import Completion, Delta, FinishReason, GenerateRequest, TokenLogprobs, Usage


@dataclass(frozen=True, slots=True)
class Writing:
    """What a generation needs beside its request: the rendered prompt, the grammar in force."""

    prompt: Prompt
    constraint: Constraint | None
    started: float


class Generation:
    """The life of one request in its slot. Tokens it chooses are appended to `slot.ids`, to be evaluated."""

    def __init__(
        self, id: int, *, request: GenerateRequest, slot: Slot, writing: Writing, vocabulary: Vocabulary, n_ctx: int
    ) -> None:
        self.id, self.request, self.slot = id, request, slot
        self.n_prompt, self.n_cached = len(slot.ids), slot.n_past
        self.finish_reason: FinishReason | None = None
        self.has_begun = False
        self.last_turn = 0
        self._writing, self._vocabulary = writing, vocabulary
        room = n_ctx - self.n_prompt
        self._n_max = room if request.max_tokens is None else min(request.max_tokens, room)
        self._sampler = Sampler(request.sampling)
        self._sampler.accept(slot.ids)
        self._constraint = writing.constraint
        tags = writing.prompt.tags if writing.prompt.inside or self._constraint is None else None
        self._splitter = ThinkingSplitter(tags, inside=writing.prompt.inside)
        self._characters = CharacterDecoder()
        self._stops = StopMatcher(request.stop, request.calls)
        self._shown = ShownTokens()
        budget = request.max_thinking_tokens
        self._max_thinking = self._n_max // 2 if budget is None else budget
        self._raw, self._n_thought = bytearray(), 0
        self._lookup = Lookup() if request.drafts else None
        self._texts: dict[Kind, list[str]] = {"content": [], "thinking": []}
        self._deltas: list[Delta] = []
        self._logprobs_told: list[TokenLogprobs] = []
        if self._n_max <= 0:
            self.finish_reason = "length"

    @property
    def n_written(self) -> int:
        """Tokens chosen or forced so far, thinking included."""
        return len(self.slot.ids) - self.n_prompt

    @property
    def is_reading(self) -> bool:
        """The prompt is not yet evaluated."""
        return self.slot.n_past < self.n_prompt

    @property
    def n_pending(self) -> int:
        """Tokens to evaluate before the next can be chosen."""
        return len(self.slot.ids) - self.slot.n_past

    @property
    def n_ready(self) -> int:
        """Those of them that may be evaluated at once: not beyond the slot's next stop."""
        return min(len(self.slot.ids), self.slot.next_stop) - self.slot.n_past

    def draft(self, n_max: int) -> list[int]:
        """A guess of what comes after all tokens of the slot, which the grammar admits; see `drafting`."""
        n_max = min(n_max, self._n_max - self.n_written - 1)
        if self._lookup is None or n_max < 1 or self._splitter.is_thinking:
            return []
        self._lookup.follow(self.slot.ids)
        guess = self._lookup.draft(n_max)
        return guess if self._constraint is None else guess[: self._constraint.n_possible(guess)]

    def advance_over(self, draft: Sequence[int], logits: Callable[[int], NDArray[np.float32]]) -> int:
        """Choose tokens as long as they are those of the draft, and one more; how many of the draft stand.

        `logits(n)` are those behind the first n tokens of the draft. May raise GrammarError.
        """
        n_same = 0
        while True:
            self.advance(logits(n_same))
            fresh = self.slot.ids[self.slot.n_past :]
            n_agreed = common_prefix(fresh, draft[n_same:])
            n_same += n_agreed
            self.slot.n_past += n_agreed
            if self.finish_reason is not None or n_agreed < len(fresh) or not fresh:
                break
        if self._lookup is not None and draft:
            self._lookup.learn(len(draft), n_same)
        return n_same

    @property
    def can_begin(self) -> bool:
        """`begin` will not wait for a grammar that is still being compiled."""
        return self._constraint is None or self._splitter.is_thinking or self._constraint.is_ready

    def wait(self, seconds: float) -> None:
        """Give the compilation of the grammar so much time."""
        if self._constraint is not None:
            self._constraint.wait(seconds)

    def begin(self) -> None:
        """Append what the grammar forces from the start, before any logits are there; may raise GrammarError."""
        self.has_begun = True
        if self._constraint is not None and not self._splitter.is_thinking and self.finish_reason is None:
            self._append_forced(self._constraint)

    def advance(self, logits: NDArray[np.float32]) -> None:
        """Choose the next token(s) from the logits (n_vocab) of the last one; may raise GrammarError."""
        if self._splitter.is_thinking:
            self._think(logits)
        else:
            self._write(logits)

    def _think(self, logits: NDArray[np.float32]) -> None:
        assert self._writing.prompt.tags is not None
        tags = self._writing.prompt.tags
        token = self._sampler.choose(logits)
        if self.n_written >= self._max_thinking or token in self._vocabulary.eog:
            self._append(self._vocabulary.tokenize(f"\n{tags.close}{tags.gap}", parse_special=True))
        else:
            self._append([token], self._logprobs(logits, token))
            if not self._splitter.is_thinking and self._constraint is not None:
                self._append(self._vocabulary.tokenize(tags.gap, parse_special=True))
        if not self._splitter.is_thinking:
            self.has_begun = False

    def _write(self, logits: NDArray[np.float32]) -> None:
        allowed = None if self._constraint is None else self._constraint.allowed()
        if allowed is not None and not allowed.any():
            self.finish("stop")
            return
        token = self._sampler.choose(logits, allowed)
        if token in self._vocabulary.eog:
            self.finish("stop")
            return
        self._append([token], self._logprobs(logits, token))
        if self._constraint is not None:
            self._constraint.consume([token])
            self._append_forced(self._constraint)

    def _append_forced(self, constraint: Constraint) -> None:
        if self.finish_reason is None and self.request.n_logprobs is None:
            self._append([token for token in constraint.take_forced() if token not in self._vocabulary.eog])
        if self.finish_reason is None and constraint.is_stopped:
            self.finish("stop")

    def _logprobs(self, logits: NDArray[np.float32], token: int) -> TokenLogprobs | None:
        """What was asked for of a token chosen from these logits."""
        n_top = self.request.n_logprobs
        return None if n_top is None else logprobs_of(logits, token, n_top=n_top, vocabulary=self._vocabulary)

    def _append(self, tokens: list[int], logprobs: TokenLogprobs | None = None) -> None:
        """Let tokens stand in the text, up to a stop string or the limit; `logprobs` are of one that was chosen alone.

        What a token that closes thinking says beyond that is not shown where a grammar rules the content.
        """
        for token in tokens:
            if self.finish_reason is not None:
                return
            piece = self._vocabulary.token_bytes(token)
            self.slot.ids.append(token)
            self._sampler.accept([token])
            self._raw += piece
            was_thinking, was_content = self._splitter.is_thinking, self._splitter.is_content
            self._n_thought += was_thinking
            texts = self._splitter.feed(self._characters.feed(piece))
            if was_thinking and self._constraint is not None:
                texts = [(kind, text) for kind, text in texts if kind == "thinking"]
            if logprobs is not None and self._splitter.is_content:
                content = "".join(text for kind, text in texts if kind == "content")
                self._shown.write(logprobs, content) if was_content else self._shown.begin(content, logprobs)
            for kind, text in texts:
                self._show(kind, text)
            if self._stops.is_stopped:
                self.finish("stop")
            elif self.n_written >= self._n_max:
                self.finish("length")

    def _show(self, kind: Kind, text: str) -> None:
        shown = self._stops.feed(text) if kind == "content" else text
        if shown:
            self._tell(kind, shown)

    def _tell(self, kind: Kind, text: str, *, is_last: bool = False) -> None:
        logprobs = self._shown.show(text, is_last=is_last) if kind == "content" else ()
        self._texts[kind].append(text)
        self._logprobs_told += logprobs
        self._deltas.append(Delta(kind, text, logprobs))

    def finish(self, reason: FinishReason) -> None:
        """Nothing more is chosen; what was held back is shown."""
        self.finish_reason = reason
        for kind, text in self._splitter.finish():
            self._show(kind, text)
        rest = self._stops.finish()
        self._tell("content", rest, is_last=True)

    def take_deltas(self) -> list[Delta]:
        """What was shown since the last call, neighbours of one kind joined."""
        deltas, self._deltas = self._deltas, []
        joined: list[Delta] = []
        for delta in deltas:
            if joined and joined[-1].kind == delta.kind:
                joined[-1] = Delta(delta.kind, joined[-1].text + delta.text, joined[-1].logprobs + delta.logprobs)
            elif delta.text or delta.logprobs:
                joined.append(delta)
        return joined

    def completion(self) -> Completion:
        """The result, once `finish_reason` is set."""
        assert self.finish_reason is not None
        usage = Usage(
            prompt_tokens=self.n_prompt,
            cached_tokens=self.n_cached,
            completion_tokens=self.n_written,
            reasoning_tokens=self._n_thought,
            seconds=monotonic() - self._writing.started,
        )
        content, thinking = "".join(self._texts["content"]), "".join(self._texts["thinking"])
        return Completion(
            content=content,
            thinking=thinking.strip(),
            finish_reason=self.finish_reason,
            usage=usage,
            logprobs=tuple(self._logprobs_told),
        )

    def kept_text(self) -> str | None:
        """What all ids of the slot say, or None where they end inside a character."""
        try:
            return self._writing.prompt.text + self._raw.decode()
        except UnicodeDecodeError:
            return None
