"""Sampling follows llama.cpp's definitions; where llama.cpp has the step, it is the judge."""

import ctypes
from collections.abc import Callable, Sequence

import llama_cpp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from localfusion.engine.sampling import LogitsError, Mask, Sampler, apply_penalty, distribution, top_k
from localfusion.messages import GREEDY, Sampling

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)


def logits_of(seed: int, n_vocab: int = 50) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n_vocab) * 3).astype(np.float32)


def mask_of(tokens: Sequence[int], n_vocab: int = 50) -> Mask:
    bits = np.zeros(-(-n_vocab // 32) * 32, np.uint8)
    bits[list(tokens)] = 1
    return Mask(np.packbits(bits, bitorder="little"))


def test_greedy_takes_the_lowest_of_equals() -> None:
    assert Sampler(GREEDY).choose(np.array([0.0, 2.0, 2.0], np.float32)) == 1


NAN, INF = float("nan"), float("inf")
COLD = Sampling(temperature=1e-320)


@pytest.mark.parametrize("sampling", [GREEDY, PLAIN, Sampling(), Sampling(repeat_penalty=1.1), COLD])
@pytest.mark.parametrize(
    ("logits", "tokens"),
    [
        ([NAN, NAN, NAN], None),
        ([0.0, NAN, 1.0], None),
        ([0.0, INF, 1.0], None),
        ([-INF, -INF, -INF], None),
        ([NAN, NAN, NAN], [1]),
        ([0.0, INF, 1.0], [0, 1]),
        ([0.0, -INF, -INF], [1, 2]),
    ],
)
def test_logits_of_which_none_is_the_highest(sampling: Sampling, logits: list[float], tokens: list[int] | None) -> None:
    for times in (1, 100):  # with few tokens admitted, and with many
        row = np.array(logits * times, np.float32)
        ids = None if tokens is None else mask_of([t + 3 * n for n in range(times) for t in tokens], len(row))
        sampler = Sampler(sampling)
        sampler.accept([0, 1])
        with pytest.raises(LogitsError):
            sampler.choose(row, ids)


def test_a_token_that_cannot_be_and_a_temperature_next_to_nothing_are_sound() -> None:
    row = np.array([-INF, 1.0, 3.0, 2.0], np.float32)
    assert Sampler(COLD).choose(row) == Sampler(GREEDY).choose(row) == 2
    assert {Sampler(Sampling(temperature=9.0, seed=seed)).choose(row) for seed in range(60)} == {1, 2, 3}
    assert Sampler(Sampling()).choose(row, mask_of([0, 3], 4)) == 3


def test_mask_comes_first() -> None:
    allowed = mask_of([0])
    assert Sampler(GREEDY).choose(np.array([0.0, 2.0, 2.0], np.float32), allowed) == 0
    hot = Sampler(Sampling(temperature=5.0, seed=1))
    assert {hot.choose(np.zeros(3, np.float32), allowed) for _ in range(20)} == {0}


@given(
    seed=st.integers(0, 1000),
    n_vocab=st.integers(1, 3000),
    share=st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.7, 2.0]),
        top_k=st.integers(0, 60),
        top_p=st.floats(0.0, 1.0),
        min_p=st.floats(0.0, 1.0),
        repeat_penalty=st.sampled_from([1.0, 1.2]),
        seed=st.integers(0, 3),
    ),
)
def test_a_mask_is_as_if_the_others_had_no_chance(seed: int, n_vocab: int, share: float, sampling: Sampling) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(-30, 30, n_vocab).astype(np.float32)
    admitted = np.flatnonzero(random.random(n_vocab) < share)
    if not len(admitted):
        admitted = np.array([n_vocab - 1])
    mask = mask_of(admitted.tolist(), n_vocab)
    assert mask.ids().tolist() == admitted.tolist()
    assert [token for token in range(n_vocab) if token in mask] == admitted.tolist()
    masked, plain = Sampler(sampling), Sampler(sampling)
    for sampler in (masked, plain):
        sampler.accept(range(0, n_vocab, 3))
    alone = np.where(np.isin(np.arange(n_vocab), admitted), logits, np.float32(-np.inf))
    assert [masked.choose(logits, mask) for _ in range(5)] == [plain.choose(alone) for _ in range(5)]


def test_an_empty_mask_admits_nothing() -> None:
    assert not mask_of([]).any()
    assert mask_of([49]).any()


@given(st.integers(0, 1000), st.integers(1, 2000), st.integers(1, 300), st.integers(1, 40))
def test_top_k_is_the_head_of_the_sorted_whole(seed: int, n_vocab: int, k: int, n_levels: int) -> None:
    logits = np.random.default_rng(seed).integers(0, n_levels, n_vocab).astype(np.float32)
    logits[seed % n_vocab] = -np.inf
    whole = sorted(range(n_vocab), key=lambda token: (-logits[token], token))
    finite = [token for token in whole if token != seed % n_vocab]
    assert top_k(logits, k).tolist() == finite[:k]


def test_seed_decides() -> None:
    logits = logits_of(0)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(logits) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def by_llama(
    logits: NDArray[np.float32], make: Callable[[], object], *, accept: tuple[int, ...] = ()
) -> dict[int, float]:
    """What llama.cpp's own sampler leaves of the candidates: logit by id."""
    n = len(logits)
    candidates = (llama_cpp.llama_token_data * n)(
        *[llama_cpp.llama_token_data(i, float(logits[i]), 0.0) for i in range(n)]
    )
    array = llama_cpp.llama_token_data_array(candidates, n, -1, False)
    sampler = make()
    for token in accept:
        llama_cpp.llama_sampler_accept(sampler, token)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    left = {int(str(array.data[i].id)): float(array.data[i].logit) for i in range(array.size)}
    llama_cpp.llama_sampler_free(sampler)
    return left


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("value", [0.05, 0.3, 0.9])
def test_top_p_and_min_p_keep_what_llama_keeps(seed: int, value: float) -> None:
    logits = logits_of(seed)
    ids, _ = distribution(logits, Sampling(1.0, top_k=0, top_p=value, min_p=0.0))
    assert set(ids.tolist()) == set(by_llama(logits, lambda: llama_cpp.llama_sampler_init_top_p(value, 1)))
    ids, _ = distribution(logits, Sampling(1.0, top_k=0, top_p=1.0, min_p=value))
    assert set(ids.tolist()) == set(by_llama(logits, lambda: llama_cpp.llama_sampler_init_min_p(value, 1)))


@pytest.mark.parametrize("seed", range(5))
def test_top_k_keeps_what_llama_keeps(seed: int) -> None:
    logits = logits_of(seed)
    ids, probabilities = distribution(logits, Sampling(1.0, top_k=7, top_p=1.0, min_p=0.0))
    assert set(ids.tolist()) == set(by_llama(logits, lambda: llama_cpp.llama_sampler_init_top_k(7)))
    assert probabilities.sum() == pytest.approx(1.0)
    assert sorted(probabilities, reverse=True) == list(probabilities)


def test_penalty_is_llamas() -> None:
    logits, recent = logits_of(3), (1, 2, 2, 40)
    theirs = by_llama(
        logits, lambda: llama_cpp.llama_sampler_init_penalties(len(logits), 64, 1.3, 0.0, 0.0), accept=recent
    )
    ours = apply_penalty(logits, recent, 1.3)
    assert [theirs[i] for i in range(len(logits))] == pytest.approx(ours.tolist())


@given(
    seed=st.integers(0, 1000),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0.01, 3.0),
        top_k=st.integers(0, 60),
        top_p=st.floats(0.0, 1.0),
        min_p=st.floats(0.0, 1.0),
    ),
)
def test_something_is_always_left(seed: int, sampling: Sampling) -> None:
    logits = logits_of(seed)
    logits[: seed % 49] = -np.inf
    ids, probabilities = distribution(logits, sampling)
    assert len(ids) == len(probabilities) >= 1
    assert probabilities.sum() == pytest.approx(1.0)
    assert np.isfinite(logits[ids]).all()


def test_frequencies_follow_probabilities() -> None:
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    sampler = Sampler(PLAIN)
    counts = np.bincount([sampler.choose(logits) for _ in range(3000)], minlength=3) / 3000
    assert counts.tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.04)
