"""Batches are shared fairly: nobody who writes waits for a prompt, no place in a batch is wasted."""

from hypothesis import given
from hypothesis import strategies as st

from localfusion.engine.batch import TILE, plan_batch, share_out

COUNTS = st.lists(st.integers(1, 2000), max_size=6)


def test_a_lone_prompt_takes_whole_batches() -> None:
    assert plan_batch([], [1000], n_batch=512) == ([], [512])


def test_writers_come_first_and_prompts_get_a_part() -> None:
    assert plan_batch([1, 1], [1000, 1000], n_batch=512) == ([1, 1], [129, 0])
    assert plan_batch([1], [1000], n_batch=64) == ([1], [63])


def test_one_prompt_has_the_batch_and_others_only_where_they_fit_in_whole() -> None:
    assert plan_batch([], [1000, 30, 1000], n_batch=512) == ([], [512, 0, 0])
    assert plan_batch([], [300, 500, 100, 112], n_batch=512) == ([], [300, 0, 100, 112])


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
    if reading:  # whoever's turn it is goes on
        room = n_batch - sum(taken_writing)
        assert taken_reading[0] >= min(reading[0], room, TILE if writing else n_batch)
        assert all(t in (0, w) for t, w in zip(taken_reading[1:], reading[1:], strict=True))


@given(wants=COUNTS, budget=st.integers(0, 1000))
def test_shares_differ_only_by_one_where_more_is_wanted(wants: list[int], budget: int) -> None:
    shares = share_out(wants, budget)
    hungry = [share for share, want in zip(shares, wants, strict=True) if share < want]
    assert not hungry or max(shares) - min(hungry) <= 1
