"""Blocking jobs side by side, a few at a time: what waits for a network. Knows nothing of what they do."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from localfusion.errors import LocalFusionError

T = TypeVar("T")

_POLL_S = 0.2
"""Where waiting without an end cannot be interrupted by Ctrl-C (Windows)."""


def side_by_side(jobs: Sequence[Callable[[], T]], *, n_at_once: int) -> list[T | LocalFusionError]:
    """What each job returned, or the error that it could name, in the order of the jobs.

    Anything else that a job raises is raised here. The threads do not keep the process: whoever interrupts this leaves
    them behind, and what they write must be of use however they end.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, T | BaseException]] = queue.SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)

    def work() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            ended.put((number, _outcome(jobs[number])))

    for _ in range(min(n_at_once, len(jobs))):
        threading.Thread(target=work, daemon=True).start()
    found: dict[int, T | LocalFusionError] = {}
    while len(found) < len(jobs):
        try:
            number, outcome = ended.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if isinstance(outcome, BaseException) and not isinstance(outcome, LocalFusionError):
            raise outcome
        found[number] = outcome
    return [found[number] for number in range(len(jobs))]


def _outcome(job: Callable[[], T]) -> T | BaseException:
    """What a job returned or raised; a thread has nobody else to raise it to."""
    outcome: list[T | BaseException] = []
    try:
        outcome.append(job())
    except BaseException as error:
        outcome.append(error)
        if not outcome:
            raise
    return outcome[0]
