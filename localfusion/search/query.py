"""What is looked for, out of a free text: its words, their terms by language, its pairs and its names.

Pure; where the terms stand is the index's business, how well a text answers is decided in `sentences`.
"""

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

from localfusion.search.languages import DEFAULT, STOP_WORDS, guess
from localfusion.search.tokens import terms, written_words

_MAX_CHARACTERS = 4096
_MAX_WORDS = 256
"""What is read of a text: a longer one asks for no more."""


@dataclass(frozen=True, slots=True)
class Query:
    """Distinct `words` as written, their distinct `stems` in `language`, and pairs of stems that stand side by side.

    `names` are the stems of words that are capitalised: who or what the query is about.
    """

    words: tuple[str, ...]
    stems: tuple[str, ...]
    pairs: frozenset[tuple[str, str]] = frozenset()
    names: frozenset[str] = frozenset()
    language: str = DEFAULT


def parse_query(text: str, language: str = DEFAULT) -> Query:
    """The query for texts of one language."""
    return parse_queries(text, [language])[language]


def parse_queries(text: str, languages: Collection[str]) -> dict[str, Query]:
    """The query for texts of each language. Stop words are left out, of the language that the query is written in.

    All words count where only stop words are there, none where no word is.
    """
    written = written_words(unicodedata.normalize("NFC", text[:_MAX_CHARACTERS]))[:_MAX_WORDS]
    stop_words = STOP_WORDS[guess(text, languages)]
    kept = [word for word in written if word.casefold() not in stop_words] or written
    return {language: _query(written, kept, language) for language in languages}


def _query(written: list[str], kept: list[str], language: str) -> Query:
    distinct: dict[str, str] = {}
    for word in kept:
        distinct.setdefault(word.lower(), word)
    stems = dict.fromkeys(stem for word in kept for stem in terms(word, language))
    beside = pairwise(terms(" ".join(written), language))
    return Query(
        words=tuple(distinct.values()),
        stems=tuple(stems),
        pairs=frozenset((a, b) for a, b in beside if a in stems and b in stems),
        names=frozenset(stem for word in kept if word[0].isupper() for stem in terms(word, language)),
        language=language,
    )
