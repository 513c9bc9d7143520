"""Blocking jobs side by side, a few at a time: what waits for a network. Knows nothing of what they do."""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from localfusion.errors import LocalFusionError

T = TypeVar("T")

_POLL_S = 0.2
"""Where waiting without an end cannot be interrupted by Ctrl-C (Windows)."""


def side_by_side(jobs: Sequence[Callable[[], T]], *, n_at_once: int) -> list[T | LocalFusionError]:
    """What each job returned, or the error that it could name, in the order of the jobs.

    Anything else that a job raises is a mistake of ours, and RuntimeError here. The threads do not keep the process:
    whoever interrupts this leaves them behind, and what they write must be of use however they end.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, list[T | LocalFusionError]]] = queue.SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)

    def work() -> None:
        while not waiting.empty():
            with suppress(queue.Empty):
                number = waiting.get_nowait()
                outcome: list[T | LocalFusionError] = []
                try:
                    outcome.append(_outcome(jobs[number]))
                finally:
                    ended.put((number, outcome))

    for _ in range(min(n_at_once, len(jobs))):
        threading.Thread(target=work, daemon=True).start()
    found: dict[int, T | LocalFusionError] = {}
    while len(found) < len(jobs):
        with suppress(queue.Empty):
            number, outcome = ended.get(timeout=_POLL_S)
            if not outcome:
                raise RuntimeError("a job ended in an error that it cannot name; Python printed it")
            found[number] = outcome[0]
    return [found[number] for number in range(len(jobs))]


def _outcome(job: Callable[[], T]) -> T | LocalFusionError:
    try:
        return job()
    except LocalFusionError as error:
        return error
