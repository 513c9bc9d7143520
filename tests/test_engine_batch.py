"""Batches are shared fairly: nobody who writes waits for a prompt, no place in a batch is wasted."""

from hypothesis import given
from hypothesis import strategies as st

from localfusion.engine.batch import READING_MINIMUM, plan_batch, share_out

COUNTS = st.lists(st.integers(1, 2000), max_size=6)


def test_a_lone_prompt_takes_whole_batches() -> None:
    assert plan_batch([], [1000], n_batch=512) == ([], [512])


def test_writers_come_first_and_prompts_get_a_part() -> None:
    assert plan_batch([1, 1], [1000, 1000], n_batch=512) == ([1, 1], [64, 64])
    assert plan_batch([1], [1000], n_batch=64) == ([1], [63])


def test_small_wants_leave_room() -> None:
    assert share_out([10, 500, 500], 512) == [10, 251, 251]
    assert share_out([], 512) == []


@given(writing=COUNTS, reading=COUNTS, n_batch=st.integers(8, 512))
def test_bounds(writing: list[int], reading: list[int], n_batch: int) -> None:
    taken_writing, taken_reading = plan_batch(writing, reading, n_batch=n_batch)
    taken, wanted = [*taken_writing, *taken_reading], [*writing, *reading]
    assert len(taken) == len(wanted)
    assert all(0 <= t <= w for t, w in zip(taken, wanted, strict=True))
    assert sum(taken) <= n_batch
    assert all(taken_writing)
    if not writing:
        assert sum(taken) == min(n_batch, sum(wanted))
    elif reading and sum(taken_writing) < n_batch:
        assert sum(taken_reading) >= min(sum(reading), READING_MINIMUM, n_batch - sum(taken_writing))


@given(wants=COUNTS, budget=st.integers(0, 1000))
def test_shares_differ_only_by_one_where_more_is_wanted(wants: list[int], budget: int) -> None:
    shares = share_out(wants, budget)
    hungry = [share for share, want in zip(shares, wants, strict=True) if share < want]
    assert not hungry or max(shares) - min(hungry) <= 1
