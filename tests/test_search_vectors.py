"""The file of vectors: its ranking against numpy's over all of them, what it keeps, and several who use it at once."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from localfusion.errors import LocalFusionError
from localfusion.search.meaning import Vectors, rank, similarities
from localfusion.search.vectors import MOST_NEIGHBOURS, Neighbour, VectorFile, keep_only

N_DIMENSIONS = 4


@contextmanager
def opened(path: Path | None = None, *, model: str = "m") -> Iterator[VectorFile]:
    file = VectorFile(path, model=model)
    try:
        yield file
    finally:
        file.close()


def versions(ids: Iterable[int], version: int = 1) -> dict[int, int]:
    """Passages whose texts all have one version."""
    return dict.fromkeys(ids, version)


def unit(vectors: NDArray[np.float64]) -> Vectors:
    """Rows of length 1; those of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return rows


def noise(n: int, n_dimensions: int = N_DIMENSIONS, *, seed: int = 0) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((n, n_dimensions)))


def brute(query: NDArray[np.float32], ids: list[int], vectors: Vectors) -> list[Neighbour]:
    """All that are no zeros, by numpy alone."""
    order = sorted(range(len(ids)), key=lambda row: ids[row])
    kept = [row for row in order if vectors[row].any()]
    if not kept:
        return []
    ranked, found = rank(query, vectors[kept]), similarities(query, vectors[kept])
    return [Neighbour(ids[kept[place]], float(found[place])) for place in ranked]


NUMBERS = st.sampled_from([-1.0, 0.0, 0.5, 1.0])
"""Few, so that many vectors are equal, opposite or of zeros, and many cosines are the same."""
IDS = st.one_of(st.integers(0, 9).map(lambda n: n << 32), st.integers(0, 1 << 45))
ROW = st.lists(NUMBERS, min_size=N_DIMENSIONS, max_size=N_DIMENSIONS)


@settings(deadline=None, max_examples=300)
@given(
    rows=st.dictionaries(IDS, ROW, max_size=40),
    query=ROW,
    k=st.integers(0, 50),
    picked=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_the_ranking_is_numpys_ties_included(
    rows: dict[int, list[float]], query: list[float], k: int, picked: list[bool]
) -> None:
    ids, vector = list(rows), unit(np.array([query]))[0]
    vectors = unit(np.array(list(rows.values())).reshape(-1, N_DIMENSIONS))
    expected = brute(vector, ids, vectors) if vector.any() else []
    some = {id_ for id_, is_picked in zip(ids, picked, strict=False) if is_picked}
    with opened() as file:
        file.put(versions(ids), vectors)
        assert list(file.nearest(vector, k)) == expected[:k]
        within = [neighbour for neighbour in expected if neighbour.id in some]
        assert list(file.nearest(vector, k, within=some | {-1})) == within[:k]


def test_the_ranking_is_numpys_among_thousands() -> None:
    """Several chunks of sqlite-vec, the ids in no order, every tenth vector twice, some deleted and put again."""
    random = np.random.default_rng(1)
    vectors = noise(5000, 32)
    vectors[::10] = vectors[1::10]
    ids = [int(id_) for id_ in random.permutation(5000) * 7]
    with opened() as file:
        for start in range(0, 5000, 500):
            file.put(versions(ids[start : start + 500]), vectors[start : start + 500])
        file.keep_only([*ids[:1000], *ids[2000:]])
        file.put(versions(ids[1500:2500]), vectors[1500:2500])
        kept = [*range(1000), *range(1500, 5000)]
        for query in noise(5, 32, seed=2):
            expected = brute(query, [ids[row] for row in kept], vectors[kept])
            for k in (1, 10, 60, 3000):
                assert list(file.nearest(query, k)) == expected[:k]


def test_as_many_equals_as_there_may_be_are_told_apart_by_id() -> None:
    ids = [int(id_) for id_ in np.random.default_rng(1).permutation(3000)]
    with opened() as file:
        file.put(versions(ids), np.tile(noise(1), (3000, 1)))
        assert [neighbour.id for neighbour in file.nearest(noise(1)[0], 5)] == [0, 1, 2, 3, 4]
        assert len(file.nearest(noise(1)[0], 100_000)) == 3000
        file.put(versions(range(5000, 10_000)), noise(5000))
        assert len(file.nearest(noise(1)[0], 100_000)) == MOST_NEIGHBOURS


def test_what_is_missing_is_known(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite3"
    with opened(path) as file:
        assert file.missing(versions([3, 1, 2, 3])) == (1, 2, 3)
        assert file.nearest(noise(1)[0], 5) == ()
        file.keep_only([2])
        file.put(versions([]), noise(0))
        file.put(versions([1, 3]), np.array([[0, 0, 0, 0], [1, 0, 0, 0]], np.float32))
        assert file.missing(versions([1, 2, 3, 4])) == (2, 4)
        assert file.missing(versions([])) == ()
    with opened(path) as file:
        assert file.missing(versions([1, 2, 3, 4])) == (2, 4)
        assert [neighbour.id for neighbour in file.nearest(noise(1)[0], 5)] == [3], "no zeros"
        assert file.nearest(np.zeros(4, np.float32), 5) == ()
        file.put(versions([3]), np.array([[0, 1, 0, 0]], np.float32))
        assert file.nearest(np.array([0, 2, 0, 0], np.float32), 5) == (Neighbour(3, 1.0),)
        file.keep_only([1])
        assert file.missing(versions([1, 3])) == (3,)
        assert file.nearest(noise(1)[0], 5) == ()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_text_that_changed_is_missing_until_it_is_embedded_anew() -> None:
    with opened() as file:
        file.put({1: 10, 2: 20, 3: 30}, noise(3))
        assert file.missing({1: 10, 2: 21, 3: 30}) == (2,)
        file.put({2: 21}, noise(1, seed=9))
        assert file.missing({1: 10, 2: 21, 3: 30}) == ()
        assert file.nearest(noise(1, seed=9)[0], 1) == (Neighbour(2, 1.0),)
        file.keep_only([3, 4])
        assert file.missing({1: 10, 2: 21, 3: 30}) == (1, 2)
        assert [neighbour.id for neighbour in file.nearest(noise(1)[0], 9)] == [3]


def test_what_is_forgotten_is_gone_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite3"
    vectors = noise(600, 16)
    keep_only(path, [])
    assert not path.exists()
    with opened(path) as file:
        file.put(versions(range(600)), vectors)
    keep_only(path, range(500))
    with opened(path) as file:
        assert file.missing(versions(range(600))) == tuple(range(500, 600))
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert any(vector.tobytes() in raw for vector in vectors[:500])
    assert not any(vector.tobytes() in raw for vector in vectors[500:])
    keep_only(path, [])
    keep_only(path, [])


def test_another_model_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite3"
    with opened(path) as file:
        file.put(versions([1, 2]), noise(2))
    with opened(path, model="other") as other:
        assert other.missing(versions([1, 2])) == (1, 2)
        other.put(versions([2]), noise(1, 7))
        assert [neighbour.id for neighbour in other.nearest(noise(1, 7)[0], 5)] == [2]
    with opened(path, model="other") as other:
        assert other.missing(versions([1, 2])) == (1,)


def test_processes_with_different_models_never_mix_vectors(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite3"
    with opened(path) as first:
        first.put(versions([1]), noise(1))
        with opened(path, model="other") as second:
            second.put(versions([2]), noise(1))
            assert first.missing(versions([1, 2])) == (1, 2)
            assert first.nearest(noise(1)[0], 5) == ()
            first.keep_only([])
            assert second.missing(versions([2])) == ()
            first.put(versions([1]), noise(1))
            assert second.missing(versions([2])) == (2,)
            assert second.nearest(noise(1)[0], 5) == ()
            assert [neighbour.id for neighbour in first.nearest(noise(1)[0], 5)] == [1]


def test_a_put_that_fails_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "vectors.sqlite3") as file:
        file.put(versions([1]), noise(1))
        with pytest.raises(ValueError, match="zip"):
            file.put(versions([2, 3]), noise(1))
        assert file.missing(versions([1, 2, 3])) == (2, 3)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite3"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(LocalFusionError, match="is not a database"):
        VectorFile(path, model="m")
