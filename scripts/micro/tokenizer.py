"""The micro panel's tokenizer: byte-level BPE whose merges are put together by hand and by a small learner.

Three things are decided here and nowhere else. A word splits the same way with and without the space before
it, because the merge with the space has the lowest rank. Numbers are cut into groups of at most two
digits. Punctuation never merges with its neighbours. The pre-tokenizer is GPT-2's, which llama.cpp knows by
the name "gpt-2".
"""

import random
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from scripts.micro import names
from scripts.micro.lexicon import whole_words

CONTROL = (
    "<|end|>", "<|user|>", "<|turn|>", "<|call|>", "<|arg|>", "<|results|>", "<|answers|>", "<|write|>", "<|pad|>",
)  # fmt: skip
END, PAD = "<|end|>", "<|pad|>"
NAME_MERGES = 420
PUNCTUATION = "“”’—–‘…£°é"
SPACED_PUNCTUATION = '[“("&-{'
SPACE = "Ġ"


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + index) for index, byte in enumerate(hidden)}


LETTERS = _byte_letters()


def as_letters(text: str) -> str:
    """The text as GPT-2 writes its bytes."""
    return "".join(LETTERS[byte] for byte in text.encode())


def split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encode one word: the merge of the lowest rank first."""
    pieces = list(word)
    while len(pieces) > 1:
        found = [(ranks[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not found:
            break
        _, at = min(found)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def _learn_name_merges(count: int) -> list[tuple[str, str]]:
    """The most frequent pairs in invented names, as byte-pair encoding learns them."""
    rng = random.Random(1)
    words = [list(names.word(rng)) for _ in range(6000)]
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [word[at] + word[at + 1]]
                at += 1
    return merges


def _add_word(word: str, ranks: dict[tuple[str, str], int]) -> None:
    """Append the merges that make `word` one token, from left to right."""
    pieces = split(word, ranks)
    while len(pieces) > 1:
        ranks[(pieces[0], pieces[1])] = len(ranks)
        pieces = split(word, ranks)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens in the order of their ids (control tokens last) and the merges in the order of their ranks."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    @property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: index for index, token in enumerate(self.tokens)}


@cache
def vocabulary() -> Vocabulary:
    """Build the vocabulary; the same on every machine."""
    ranks: dict[tuple[str, str], int] = {}
    for pair in _learn_name_merges(NAME_MERGES):
        ranks[pair] = len(ranks)
    for text in PUNCTUATION:
        _add_word(as_letters(text), ranks)
    for number in range(100):
        ranks[(str(number // 10), str(number % 10))] = len(ranks)
    for text in whole_words():
        _add_word(text, ranks)
    inner = ["".join(pair) for pair in ranks]
    single = [chr(code) for code in range(ord("0"), ord("z") + 1) if chr(code).isalnum()]
    spaced = [*single, *(piece for piece in inner if piece.isascii() and piece.isalnum())]
    spaced += [as_letters(text) for text in SPACED_PUNCTUATION]
    for piece in spaced:
        ranks.setdefault((SPACE, piece), len(ranks))
    merged = ["".join(pair) for pair in ranks]
    tokens = [*(LETTERS[byte] for byte in range(256)), *merged]
    return Vocabulary(tuple(dict.fromkeys(tokens)) + CONTROL, tuple(ranks))


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer as the `tokenizers` package runs it."""
    vocab = vocabulary()
    ids = vocab.ids
    built = Tokenizer(models.BPE(vocab=ids, merges=list(vocab.merges)))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    return built


def encode(text: str) -> list[int]:
    """The ids of a text, control tokens included where their text stands."""
    ids: list[int] = tokenizer().encode(text, add_special_tokens=False).ids
    return ids


def decode(ids: list[int]) -> str:
    """The text of ids, control tokens spelt out."""
    text: str = tokenizer().decode(ids, skip_special_tokens=False)
    return text
