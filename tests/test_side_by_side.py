"""Jobs side by side: outcomes in order, a few at a time, errors that are named as values."""

import threading
from functools import partial

import pytest

from localfusion.catalog.side_by_side import side_by_side
from localfusion.errors import LocalFusionError


def test_outcomes_are_in_the_order_of_the_jobs_and_errors_are_among_them() -> None:
    def job(number: int) -> int:
        if number == 3:
            raise LocalFusionError("three")
        return number * number

    found = side_by_side([partial(job, number) for number in range(6)], n_at_once=4)
    assert [one if isinstance(one, int) else one.message for one in found] == [0, 1, 4, "three", 16, 25]
    assert side_by_side([], n_at_once=4) == []


def test_no_more_than_that_many_at_once() -> None:
    barrier = threading.Barrier(3)  # lets three pass together: fewer at once would never end
    running: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def job() -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        barrier.wait(timeout=60)
        with lock:
            running.pop()

    side_by_side([job] * 9, n_at_once=3)
    assert max(most) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_of_ours_is_not_waited_for() -> None:
    def job() -> int:
        raise ZeroDivisionError

    with pytest.raises(RuntimeError, match="cannot name"):
        side_by_side([job], n_at_once=1)
    for thread in threading.enumerate():
        if thread.name.endswith("(work)"):
            thread.join()
