"""Holds generated tokens to a grammar with llguidance: masks, forced tokens, the end.

The one module where llguidance is imported. Grammars arrive as text (Lark, or a JSON schema if they start
with "{"); what they say is the caller's business. Thinking is not constrained: a Constraint begins after it.
What takes long, the tables of a vocabulary (once) and the compilation of a grammar, is done on a thread of
its own, while the prompt is being read: a Constraint can be made at once and is waited for when it is used.
"""

import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from localfusion.engine.llama import Vocabulary
from localfusion.engine.sampling import Mask

OWN_LIMITS = LLParserLimits(initial_lexer_fuel=50_000_000, step_lexer_fuel=5_000_000)
"""Room for quotations out of some 200 000 characters of sources; llguidance's own limits end at 20 000."""

CALLERS_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, max_lexer_states=50_000, max_grammar_size=20_000
)
"""Room for what a caller may ask for: some 20 ms of a mask, some 100 MB of states. See `schema_limits` too."""

SLICES = [r'[^"\\\x00-\x1F\x7F\u201c\u201d]+']
"""Tokens that are looked at once for all: those that may stand anywhere in prose and in a JSON string.

What our grammars leave free excludes quotation marks, so llguidance's own slices would never fit; each takes memory.
"""


_PLACE = re.compile(r"\s*at (?P<line>\d+)\(\d+\): ")
"""How llguidance says where a grammar is wrong."""


class GrammarError(Exception):
    """llguidance refused the grammar or gave up on it; the message is a sentence that ends in its own words, `reason`.

    `line` is the line of the grammar that it refused, where it names one.
    """

    def __init__(self, message: str, complaint: str) -> None:
        at = _PLACE.match(complaint)
        self.line = int(at["line"]) if at else None
        first, *others = complaint[at.end() if at else 0 :].strip().split("\n")
        self.reason = f"{first} {others[-1].strip()}" if first.endswith(":") and others else first
        super().__init__(f"{message}: {self.reason}")


def build_tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """llguidance's view of a vocabulary (about half a second at 152k tokens: build it once a worker).

    Control tokens and ends are never text, whatever their pieces say: to llguidance a leading 0xff says so.
    Raises GrammarError for a vocabulary without tokens for single bytes, as encoders have.
    """
    ends = sorted(vocabulary.eog, key=lambda token: (token != vocabulary.eos, token)) or [vocabulary.eos]
    pieces = vocabulary.all_bytes()
    for token in vocabulary.special_tokens().values():
        pieces[token] = b"\xff" + pieces[token]
    make = LLTokenizer.from_llamacpp  # type: ignore[attr-defined]
    try:
        tokenizer: LLTokenizer = make(
            tokens=pieces,
            vocab_ptr=vocabulary.pointer,
            tokenize_fptr=vocabulary.tokenize_address,
            eos_token=ends,
            slices=SLICES,
        )
    except ValueError as error:
        raise GrammarError("no grammar can be followed with this vocabulary", str(error)) from error
    return tokenizer


class Grammars:
    """Constraints over one vocabulary. The tables are made when the first is asked for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")

    @cached_property
    def tokenizer(self) -> LLTokenizer:
        """The tables; made where they are first used, which is on the thread unless a test asks."""
        return build_tokenizer(self._vocabulary)

    def constraint(self, grammar: str, *, is_callers: bool = False) -> "Constraint":
        """A text under this grammar, compiled meanwhile; one that is not valid is found out at its first use.

        `is_callers`: there are schemas in it that a caller wrote, who gets less room than our own grammars have.
        """
        limits = CALLERS_LIMITS if is_callers else OWN_LIMITS
        return Constraint(self._thread.submit(lambda: compile_grammar(self.tokenizer, grammar, limits)))


def compile_grammar(tokenizer: LLTokenizer, grammar: str, limits: LLParserLimits = OWN_LIMITS) -> LLMatcher:
    """The matcher at the start of its text; raises GrammarError."""
    if grammar.lstrip().startswith("{"):
        try:
            source = LLMatcher.grammar_from_json_schema(grammar, defaults={"whitespace_flexible": False})
        except ValueError as error:
            raise GrammarError("the grammar is not valid", str(error)) from error
    else:
        source = LLMatcher.grammar_from_lark(grammar)
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
    if matcher.is_error():
        raise GrammarError("the grammar is not valid", matcher.get_error())
    return matcher


class Constraint:
    """One text that is being written under one grammar. Any use may raise GrammarError, the first may wait."""

    def __init__(self, compiled: Future[LLMatcher]) -> None:
        self._compiled = compiled

    def give_up(self) -> None:
        """Nobody will write under it: what has not begun to be compiled is not."""
        self._compiled.cancel()

    @property
    def is_ready(self) -> bool:
        """The first use will not wait."""
        return self._compiled.done()

    def wait(self, seconds: float) -> None:
        """Give its compilation so much time, or less if it ends sooner."""
        wait([self._compiled], seconds)

    @cached_property
    def _matcher(self) -> LLMatcher:
        return self._compiled.result()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError("the grammar cannot be followed", self._matcher.get_error())

    @property
    def is_stopped(self) -> bool:
        """Nothing but the end may follow."""
        return self._matcher.is_stopped()

    def allowed(self) -> Mask:
        """Which tokens may come next; ends of generation where the text is complete."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return Mask(packed)

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
