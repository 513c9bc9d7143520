"""Holds generated tokens to a grammar with llguidance: masks, forced tokens, the end.

The one module where llguidance is imported. Grammars arrive as text (Lark, or a JSON schema if they start
with "{"); what they say is the caller's business. Thinking is not constrained: a Constraint begins after it.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from localfusion.engine.llama import Vocabulary


class GrammarError(Exception):
    """llguidance refused the grammar or gave up on it; the message is its own."""


def build_tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """llguidance's view of a vocabulary (1 to 2 s at 152k tokens: build it once a worker)."""
    ends = sorted(vocabulary.eog) or [vocabulary.eos]
    ends.sort(key=lambda token: token != vocabulary.eos)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # llguidance still calls llama_token_get_attr
        return lltokenizer_from_vocab(vocabulary.pointer, eos_token=ends)


class Constraint:
    """One text that is being written under one grammar."""

    def __init__(self, tokenizer: LLTokenizer, grammar: str) -> None:
        if grammar.lstrip().startswith("{"):
            try:
                compiled = LLMatcher.grammar_from_json_schema(grammar, defaults={"whitespace_flexible": False})
            except ValueError as error:
                raise GrammarError(str(error)) from error
        else:
            compiled = LLMatcher.grammar_from_lark(grammar)
        self._matcher = LLMatcher(tokenizer, compiled, log_level=0)
        self._n_vocab = tokenizer.vocab_size
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(self._matcher.get_error().strip().split("\n")[0])

    @property
    def is_stopped(self) -> bool:
        """Nothing but the end may follow."""
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens (n_vocab) may come next; ends of generation where the text is complete."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return np.unpackbits(packed, count=self._n_vocab, bitorder="little").view(np.bool_)

    def n_possible(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, could come next."""
        return self._matcher.validate_tokens(list(tokens))

    def consume(self, tokens: Sequence[int]) -> None:
        """Move on by tokens that were chosen or forced."""
        if not self._matcher.consume_tokens(list(tokens)):
            self._check()

    def take_forced(self) -> list[int]:
        """The tokens that can only come next, already consumed; they need not be sampled."""
        forced = self._matcher.compute_ff_tokens()
        if forced:
            self.consume(forced)
        return forced
