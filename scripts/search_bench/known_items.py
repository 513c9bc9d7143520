"""Queries whose answer is known: words that stand together in one passage, as someone would remember them. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from localfusion.search.languages import STOP_WORDS
from localfusion.search.tokens import written_words

QUESTIONS = (
    "What do the sources say about {0} and {1}, and how is it with {2}?",
    "Why is the {0} of {1} said to be more than {2}?",
    "How can I find out which {0} was there before the {1} of {2} and {3}?",
    "Is there anything about {0}, {1} or {2}?",
)
_MIN_WORDS, _MAX_WORDS = 3, 6
_NEAR = 40
"""Words that someone has read in one go, and remembers some of."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A passage as every index of the bench is given it; `document` is what a search is to find."""

    document: str
    title: str
    headings: str
    text: str


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A document, a few words out of one passage of it, and a whole question with such words."""

    document: str
    words: str
    question: str


def draw(passages: Sequence[Stored], n_items: int, *, seed: int = 1) -> list[KnownItem]:
    """Items out of random passages."""
    chance = random.Random(seed)
    items: list[KnownItem] = []
    while len(items) < n_items:
        passage = chance.choice(passages)
        read = written_words(passage.text.lower())
        start = chance.randrange(max(1, len(read) - _NEAR))
        words = [word for word in dict.fromkeys(read[start : start + _NEAR]) if _is_content(word)]
        if len(words) >= _MAX_WORDS:
            wanted = chance.sample(words, chance.randint(_MIN_WORDS, _MAX_WORDS))
            question = chance.choice(QUESTIONS).format(*chance.sample(words, 4))
            items.append(KnownItem(passage.document, " ".join(wanted), question))
    return items


def _is_content(word: str) -> bool:
    return word not in STOP_WORDS["english"] and len(word) > 2
