"""The vectors of passages in a file of their own: which passages have one, and which are nearest to a query's.

What a passage says stands elsewhere, under the same id. All vectors are of one model: with another one the file begins
anew. float32, compared with each (no approximate index): the ranking is that of `meaning.rank`, ties included.
An id may come to mean another text; the version that is kept with it says of which text a vector is.
"""

import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localfusion.database import Database, Migration, Transaction
from localfusion.search.meaning import Vectors, similarities

MIGRATIONS: tuple[Migration, ...] = (
    (
        "CREATE TABLE model (identity TEXT NOT NULL, n_dimensions INTEGER NOT NULL) STRICT",
        """CREATE TABLE embedded (
            number INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE, version INTEGER NOT NULL
        ) STRICT""",
    ),
)
"""`vector`, sqlite-vec's table, is made with the first vectors: only they say how many numbers a vector has.

Its rowids are the numbers of `embedded`, which stay small: where a search is limited to some rowids, sqlite-vec (0.1.9)
takes two that are 2**32 apart for the same.
"""

MOST_NEIGHBOURS = 4096
"""What sqlite-vec finds at once."""
_CHUNK = 256
"""Vectors in a blob of sqlite-vec's. SQLite walks through one to write in it: its 1024 cost many times as much."""
_ROUNDING = 1e-5
"""How far the square of its distance may be off where cosines are equal."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A passage by its id, and the cosine of its vector with the query's."""

    id: int
    similarity: float


@dataclass(frozen=True, slots=True)
class _Candidate:
    id: int
    distance: float
    vector: bytes


class VectorFile:
    """Vectors by the ids of passages, of one model; several processes may use the file."""

    def __init__(self, path: Path | None, *, model: str) -> None:
        """Open or create the file for a model's identity; None keeps it in memory. Raises what `Database` raises.

        Vectors of another model that were in it are gone.
        """
        self._model = model
        self._database = Database(path, MIGRATIONS, vectors=True)
        with self._database.transaction() as transaction:
            if not self._is_ours(transaction):
                _clear(transaction)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._database.close()

    def missing(self, versions: Mapping[int, int]) -> tuple[int, ...]:
        """Those of the passages that have no vector of this model and of this version of their text, by id."""
        stored = "SELECT id, version FROM embedded WHERE (SELECT identity FROM model) = ?"
        known = dict(self._database.rows(lambda id_, version: (id_, version), stored, (self._model,)))
        return tuple(sorted(id_ for id_, version in versions.items() if known.get(id_) != version))

    def put(self, versions: Mapping[int, int], vectors: Vectors) -> None:
        """Keep a vector (a row of length 1, or of zeros) for each passage, in place of an older one; all or none.

        One of zeros is kept in mind and never found. Where another process began the file anew for another model, it
        begins anew once more.
        """
        if not versions:
            return
        n_dimensions = vectors.shape[1]
        with self._database.transaction() as transaction:
            if not self._is_ours(transaction, n_dimensions):
                _clear(transaction)
                transaction.execute("INSERT INTO model VALUES (?, ?)", (self._model, n_dimensions))
                transaction.execute(
                    f"CREATE VIRTUAL TABLE vector USING vec0(vector float[{n_dimensions}], chunk_size = {_CHUNK})"
                )
            _delete(transaction, versions)
            for row, vector in zip(versions.items(), vectors.astype("<f4"), strict=True):
                number = transaction.execute("INSERT INTO embedded (id, version) VALUES (?, ?)", row)
                if vector.any():
                    stored = (number, vector.tobytes())
                    transaction.execute("INSERT INTO vector (rowid, vector) VALUES (?, ?)", stored)

    def keep_only(self, ids: Iterable[int]) -> None:
        """Drop the vectors of all other passages."""
        with self._database.transaction() as transaction:
            if self._is_ours(transaction):
                _keep_only(transaction, ids)

    def nearest(
        self, vector: NDArray[np.float32], k: int, *, within: AbstractSet[int] | None = None
    ) -> tuple[Neighbour, ...]:
        """The `k` passages (at most MOST_NEIGHBOURS) nearest to a vector, of `within` or of all, the nearest first.

        Of equally near ones the lower id comes first. Nothing is near to a vector of zeros.
        """
        if not vector.any() or k <= 0 or not self._is_ours(self._database, len(vector)):
            return ()
        k = min(k, MOST_NEIGHBOURS)
        if within is None:
            return self._nearest(vector, k)
        (n_embedded,) = self._database.rows(int, "SELECT count(*) FROM embedded")
        if len(within) >= n_embedded:  # a list of all ids takes as long as the search itself
            found = self._nearest(vector, k)
            if all(neighbour.id in within for neighbour in found):
                return found
        return self._nearest(vector, k, _listed(within))

    def _nearest(self, vector: NDArray[np.float32], k: int, listed: str | None = None) -> tuple[Neighbour, ...]:
        candidates = self._candidates(vector, k, listed)
        if not candidates:
            return ()
        stored = np.array([np.frombuffer(candidate.vector, "<f4") for candidate in candidates], np.float32)
        found = zip(candidates, similarities(vector, stored).tolist(), strict=True)
        ranked = sorted((Neighbour(candidate.id, similarity) for candidate, similarity in found), key=_by_nearness)
        return tuple(ranked[:k])

    def _is_ours(self, place: Database | Transaction, n_dimensions: int | None = None) -> bool:
        """Whether the vectors in the file are of this model, and as long as these."""
        found = place.rows(lambda identity, n: (identity, n), "SELECT identity, n_dimensions FROM model")
        return bool(found) and found[0][0] == self._model and n_dimensions in (None, found[0][1])

    def _candidates(self, vector: NDArray[np.float32], k: int, listed: str | None) -> list[_Candidate]:
        """The `k` nearest and all that are as near as the last of them: sqlite-vec takes any of equals, in any order.

        Another process may begin the file anew at any moment, so the query itself asks whose the vectors are.
        """
        wanted = vector / np.linalg.norm(vector.astype(np.float64))
        numbers = "SELECT number FROM embedded WHERE id IN (SELECT value FROM json_each(?))"
        scope = "" if listed is None else f" AND vector.rowid IN ({numbers})"
        query = (
            "SELECT id, distance, vector FROM vector CROSS JOIN embedded ON number = vector.rowid"
            f" WHERE vector MATCH ? AND k = ?{scope} AND (SELECT identity FROM model) = ? ORDER BY distance"
        )
        values = (self._model,) if listed is None else (listed, self._model)
        n = min(k + 1, MOST_NEIGHBOURS)
        while True:
            found = self._database.rows(_Candidate, query, (wanted.astype("<f4").tobytes(), n, *values))
            is_all = len(found) < n or n == MOST_NEIGHBOURS
            if is_all or found[-1].distance ** 2 > found[k - 1].distance ** 2 + _ROUNDING:
                return found
            n = min(4 * n, MOST_NEIGHBOURS)


def keep_only(path: Path, ids: Iterable[int]) -> None:
    """Drop the vectors of all other passages from a file, from the disk too, whichever model they are of.

    Nothing where there is no file. Raises what `Database` raises.
    """
    if not path.exists():
        return
    database = Database(path, MIGRATIONS, vectors=True)
    try:
        with database.transaction(durable=True) as transaction:
            _keep_only(transaction, ids)
        database.empty_log()
    finally:
        database.close()


def _by_nearness(neighbour: Neighbour) -> tuple[float, int]:
    return -neighbour.similarity, neighbour.id


def _clear(transaction: Transaction) -> None:
    """Begin anew."""
    for statement in ("DROP TABLE IF EXISTS vector", "DELETE FROM embedded", "DELETE FROM model"):
        transaction.execute(statement)


def _keep_only(transaction: Transaction, ids: Iterable[int]) -> None:
    kept = set(ids)
    known = transaction.rows(int, "SELECT id FROM embedded")
    gone = [id_ for id_ in known if id_ not in kept]
    if gone:
        _delete(transaction, gone)


def _delete(transaction: Transaction, ids: Iterable[int]) -> None:
    rows = [(id_,) for id_ in ids]  # sqlite-vec writes zeros over what it deletes
    transaction.execute_many("DELETE FROM vector WHERE rowid = (SELECT number FROM embedded WHERE id = ?)", rows)
    transaction.execute_many("DELETE FROM embedded WHERE id = ?", rows)


def _listed(ids: Iterable[int]) -> str:
    return json.dumps(list(ids))
