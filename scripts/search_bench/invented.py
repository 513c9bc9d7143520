"""Invented documents: words as common as Zipf says, a few subjects to a document, prose and headings. They say nothing.

The most common words are English, so that they are left out of a question as such words are.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localfusion.search.languages import STOP_WORDS

N_WORDS = 150_000
N_SUBJECTS = 800
WORDS_OF_A_SUBJECT = 300
SUBJECT_SHARE = 0.3
WORDS_OF_A_DOCUMENT = 2000
"""About ten passages."""
FILES_OF_A_FOLDER = 100
_SENTENCE = (8, 24)
_SENTENCES_OF_A_PARAGRAPH = 6
_PARAGRAPHS_OF_A_SECTION = 3
_ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "g",
    "gl",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "sh",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
_ENDS = ["l", "n", "r", "s", "t", "m", "nd", "rk", "st"]


def write_documents(folder: Path, n_documents: int, *, seed: int = 0) -> Path:
    """`n_documents` Markdown files of `WORDS_OF_A_DOCUMENT` words, a hundred to a folder."""
    random = np.random.default_rng(seed)
    vocabulary = np.array(_vocabulary())
    subjects = random.integers(200, N_WORDS, size=(N_SUBJECTS, WORDS_OF_A_SUBJECT))
    for number in range(n_documents):
        inside = folder / f"part-{number // FILES_OF_A_FOLDER:04d}"
        if number % FILES_OF_A_FOLDER == 0:
            inside.mkdir(parents=True, exist_ok=True)
        words = vocabulary[_ranks(random, subjects)]
        (inside / f"{words[0]}-{number}.md").write_text(_document(random, words.tolist()), encoding="utf-8")
    return folder


def _ranks(random: np.random.Generator, subjects: NDArray[np.int64]) -> NDArray[np.int64]:
    """The words of a document by their ranks: most from all of the language, some from its two subjects."""
    ranks = _zipf(random, WORDS_OF_A_DOCUMENT, N_WORDS)
    own = subjects[random.integers(0, N_SUBJECTS, size=2)].ravel()
    chosen = own[_zipf(random, WORDS_OF_A_DOCUMENT, own.size)]
    return np.where(random.random(WORDS_OF_A_DOCUMENT) < SUBJECT_SHARE, chosen, ranks)


def _zipf(random: np.random.Generator, size: int, n_words: int) -> NDArray[np.int64]:
    """Ranks from 0, the second half as common as the first, the third a third."""
    drawn: NDArray[np.float64] = np.exp(random.random(size) * np.log(n_words + 1))
    return np.minimum(drawn.astype(np.int64) - 1, n_words - 1)


def _vocabulary() -> list[str]:
    """`N_WORDS` words, the common ones short; the first are English stop words."""
    syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    ended = [syllable + end for syllable in syllables for end in _ENDS]
    stop_words = sorted(word for word in STOP_WORDS["english"] if len(word) > 1)
    invented = (
        word
        for word in itertools.chain(ended, map("".join, itertools.product(syllables, ended)))
        if word not in STOP_WORDS["english"]
    )
    return [*stop_words, *itertools.islice(invented, N_WORDS - len(stop_words))]


def _document(random: np.random.Generator, words: list[str]) -> str:
    return "".join(_pieces(random, words))


def _pieces(random: np.random.Generator, words: list[str]) -> Iterator[str]:
    yield f"# {' '.join(words[:4]).capitalize()}\n\n"
    start = n_sentences = 0
    while start < len(words):
        length = int(random.integers(*_SENTENCE))
        if n_sentences % (_SENTENCES_OF_A_PARAGRAPH * _PARAGRAPHS_OF_A_SECTION) == 0:
            yield f"\n\n## {' '.join(words[start : start + 3]).capitalize()}\n\n"
        elif n_sentences % _SENTENCES_OF_A_PARAGRAPH == 0:
            yield "\n\n"
        yield f"{' '.join(words[start : start + length]).capitalize()}. "
        start += length
        n_sentences += 1
