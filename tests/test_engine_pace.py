"""The fastest way is found, kept, and left again when another has become faster."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.engine.pace import FIRST_TRIES, LARGE_STEP, LATEST_PROBE, Pace, ThreadPace, thread_counts


def steps(pace: Pace[str], speeds: dict[str, float], n: int) -> Counter[str]:
    """How often each way is taken in so many steps of these speeds, in tokens a second."""
    taken: Counter[str] = Counter()
    for _ in range(n):
        way = pace.choose()
        taken[way] += 1
        pace.note(way, tokens=1, seconds=1 / speeds[way])
    return taken


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=4, unique=True), st.integers(100, 3000))
def test_nearly_every_step_is_taken_the_fastest_way(found: list[float], n: int) -> None:
    speeds = {f"{number}": speed for number, speed in enumerate(found)}
    taken = steps(Pace(list(speeds)), speeds, n)
    assert sum(taken.values()) == n
    assert set(taken) == set(speeds)
    others = n - taken[max(speeds, key=lambda way: speeds[way])]
    assert others <= 12 + FIRST_TRIES * len(speeds)


def test_each_way_is_tried_at_the_beginning_unless_a_try_is_dear() -> None:
    speeds = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert steps(Pace(["a", "b", "c"]), speeds, 9) == {"a": 3, "b": 3, "c": 3}
    careful = Pace(["a", "b", "c"], first_tries=0)
    assert steps(careful, speeds, 15) == {"a": 15}
    assert set(steps(careful, speeds, 50)) == {"a", "b", "c"}


def test_the_first_step_of_a_way_finds_cold_caches_and_does_not_count() -> None:
    pace = Pace(["a", "b"])
    for way, seconds in (("a", 9.0), ("a", 1.0), ("a", 1.0), ("b", 2.0), ("b", 2.0), ("b", 2.0)):
        assert pace.choose() == way
        pace.note(way, tokens=1, seconds=seconds)
    assert pace.choose() == "a"


def test_a_way_that_becomes_faster_is_found_again() -> None:
    pace = Pace(["a", "b"])
    steps(pace, {"a": 2, "b": 1}, 5000)
    taken = steps(pace, {"a": 2, "b": 90}, 3 * LATEST_PROBE)
    assert taken["b"] > taken["a"]


def test_a_way_that_becomes_slow_is_left_at_once() -> None:
    pace = Pace(["a", "b"])
    steps(pace, {"a": 3, "b": 2}, 500)
    assert steps(pace, {"a": 0.1, "b": 2}, 200)["a"] < 12


def test_a_single_bad_step_does_not_turn_the_choice_for_long() -> None:
    pace = Pace(["a", "b"])
    steps(pace, {"a": 2, "b": 1}, 100)
    pace.note("a", tokens=1, seconds=100)
    assert steps(pace, {"a": 2, "b": 1}, 500)["a"] > 450


def test_which_numbers_of_threads_are_tried() -> None:
    assert [thread_counts(n) for n in (1, 2, 3, 4, 8)] == [(1,), (2, 1), (3, 2, 1), (4, 3, 2, 1), (8, 7, 4, 1)]


@pytest.mark.parametrize(("n_tokens", "best"), [(1, 1), (4, 2), (LARGE_STEP, 1), (500, 2)])
def test_steps_of_each_size_have_threads_of_their_own(n_tokens: int, best: int) -> None:
    pace = ThreadPace()
    taken: Counter[int] = Counter()
    for _ in range(300):
        n_threads = pace.choose(n_tokens, most=2)
        assert pace.choose(7, most=1) == 1
        taken[n_threads] += 1
        pace.note(n_tokens, most=2, n_threads=n_threads, seconds=1.0 if n_threads == best else 2.0)
    assert taken[best] > 270
