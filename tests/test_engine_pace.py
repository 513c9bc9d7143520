"""The fastest way is found, kept, and left again when another has become faster."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from localfusion.engine.pace import LATEST_PROBE, Pace, thread_counts


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
    assert others <= 12 + len(speeds)


def test_the_first_way_comes_first_and_the_others_soon_after() -> None:
    pace = Pace(["a", "b", "c"])
    assert pace.choose() == "a"
    assert sum(steps(Pace(["a", "b", "c"]), {"a": 3, "b": 2, "c": 1}, 6).values()) == 6
    assert set(steps(pace, {"a": 3, "b": 2, "c": 1}, 6)) == {"a", "b", "c"}


def test_a_way_that_becomes_faster_is_found_again() -> None:
    pace = Pace(["a", "b"])
    steps(pace, {"a": 2, "b": 1}, 5000)
    taken = steps(pace, {"a": 2, "b": 90}, 3 * LATEST_PROBE)
    assert taken["b"] > taken["a"]


def test_a_single_bad_step_does_not_turn_the_choice_for_long() -> None:
    pace = Pace(["a", "b"])
    steps(pace, {"a": 2, "b": 1}, 100)
    pace.note("a", tokens=1, seconds=100)
    assert steps(pace, {"a": 2, "b": 1}, 500)["a"] > 450


def test_which_numbers_of_threads_are_tried() -> None:
    assert [thread_counts(n) for n in (1, 2, 3, 4, 8)] == [(1,), (2, 1), (3, 2, 1), (4, 3, 2, 1), (8, 7, 4, 1)]
