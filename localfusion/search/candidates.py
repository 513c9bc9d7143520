"""Which passages may answer a query: found by its rarest words, so that common ones cost nothing.

The index of terms knows which passages have a term, and no more. Scoring every passage that has one of a query's words
takes as long as its most common word has passages; here a bounded number is looked at, and `ranking` scores these.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from localfusion.database import Database
from localfusion.search.document_tables import PASSAGES, SALIENT

_MAX_ROWS = 2000
"""Passages that are looked at of one query, by the words that are not common."""
_ENOUGH = 100
"""Passages that are scored exactly."""
_SALIENT_BONUS = 0.6
"""What being about a word adds to having it, as bm25 would say of a word that stands there four times."""
_MAX_FREQUENCIES = 1 << 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """A word of a query: its `forms` in the languages there are, how many passages have one, and its idf."""

    forms: tuple[str, ...]
    n_passages: int
    weight: float

    @property
    def expression(self) -> str:
        """What the index is asked for it."""
        return match_any(self.forms)

    @property
    def salient(self) -> str:
        """The same for the passages that are about it."""
        return match_any(SALIENT + form for form in self.forms)


def match_any(words: Iterable[str]) -> str:
    """A query of the index for any of the words; as each is quoted, none can be read as query syntax."""
    return " OR ".join('"' + word.replace('"', '""') + '"' for word in words)


class Candidates:
    """The passages of one run, found by terms; `places` are the terms of all that is in it, none where all is.

    `documents` are the ids of all that is in it where its places lead to others too.
    """

    def __init__(
        self, database: Database, places: Sequence[str], n_passages: int, documents: Collection[int] | None = None
    ) -> None:
        self._database = database
        self._within = f" AND ({match_any(places)})" if places else ""
        self._matching = "FROM term WHERE term MATCH ?"
        self._listed: tuple[str, ...] = ()
        if documents is not None:
            self._matching += f" AND rowid / {PASSAGES} IN (SELECT value FROM json_each(?))"
            self._listed = (json.dumps(sorted(documents)),)
        self._n_passages = n_passages
        self._known: dict[tuple[str, ...], int] = {}
        self._state = (0, 0)

    def wanted(self, forms: Sequence[tuple[str, ...]]) -> list[Wanted]:
        """The words that any passage has, the rarest first."""
        self._forget_when_changed()
        counts = {word: self._count(word) for word in forms}
        found = [Wanted(word, count, self._idf(count)) for word, count in counts.items() if count]
        return sorted(found, key=lambda word: (word.n_passages, word.forms))

    def gather(self, words: Sequence[Wanted], admits: Callable[[int], bool]) -> list[int]:
        """The ids of at most `_ENOUGH` passages, by what they have of `words` (in the order of `wanted`)."""
        n_rare = _n_rare(words)
        rare, common = words[:n_rare], words[n_rare:]
        pool: dict[int, float] = {}
        for word in rare:
            self._add(pool, word.expression, word.weight)
        if len(pool) > _ENOUGH:
            self._tell_apart(pool, rare, common)
        elif common:
            self._fill(pool, common)
        best_first = sorted(pool, key=pool.__getitem__, reverse=True)
        return list(islice(filter(admits, best_first), _ENOUGH))

    def _tell_apart(self, pool: dict[int, float], rare: Sequence[Wanted], common: Sequence[Wanted]) -> None:
        """Add what the passages found have of the common words, and whether they are about the rare ones."""
        found = " OR ".join(word.expression for word in rare)
        for word in rare:
            self._add(pool, word.salient, _SALIENT_BONUS * word.weight)
        for word in common:
            self._add(pool, f"({found}) AND ({word.expression})", word.weight)

    def _fill(self, pool: dict[int, float], common: Sequence[Wanted]) -> None:
        """Add passages that have several of the common words, from all of them down to the rarest one alone."""
        for n_words in range(len(common), 0, -1):
            together = " AND ".join(f"({word.expression})" for word in common[:n_words])
            about = " OR ".join(word.salient for word in common[:n_words])
            weight = sum(word.weight for word in common[:n_words])
            fresh: dict[int, float] = {}
            self._add(fresh, f"({together}) AND ({about})", weight * (1 + _SALIENT_BONUS))
            self._add(fresh, f"({together})", weight)
            for id_, score in fresh.items():
                pool[id_] = max(pool.get(id_, 0.0), score)
            if len(pool) >= _ENOUGH:
                return

    def _add(self, pool: dict[int, float], expression: str, weight: float) -> None:
        query = f"SELECT rowid {self._matching} LIMIT {_MAX_ROWS}"
        for id_ in self._database.rows(int, query, (f"({expression}){self._within}", *self._listed)):
            pool[id_] = pool.get(id_, 0.0) + weight

    def _count(self, forms: tuple[str, ...]) -> int:
        count = self._known.get(forms)
        if count is None:
            if len(self._known) >= _MAX_FREQUENCIES:
                self._known.clear()
            count = self._known[forms] = self._counted(forms)
        return count

    def _counted(self, forms: tuple[str, ...]) -> int:
        if self._within:
            expression = f"({match_any(forms)}){self._within}"
            return self._database.rows(int, f"SELECT count(*) {self._matching}", (expression, *self._listed))[0]
        query = f"SELECT doc FROM frequency WHERE term IN ({', '.join('?' * len(forms))})"
        return sum(self._database.rows(int, query, forms))

    def _idf(self, count: int) -> float:
        return math.log(1 + (max(self._n_passages - count, 0) + 0.5) / (count + 0.5))

    def _forget_when_changed(self) -> None:
        """Counts are kept until anything is written, by this process or another."""
        state = self._database.rows(
            lambda a, b: (a, b), "SELECT total_changes(), data_version FROM pragma_data_version"
        )
        if state[0] != self._state:
            self._known.clear()
            self._state = state[0]


def _n_rare(words: Sequence[Wanted]) -> int:
    """How many of the words, the rarest first, have no more than `_MAX_ROWS` passages together."""
    total = 0
    for position, word in enumerate(words):
        total += word.n_passages
        if total > _MAX_ROWS:
            return position
    return len(words)
