"""Which generation starts next, and with how many threads each worker runs. Pure: nothing is started here.

The sum of threads over running workers never exceeds the cores. A generation more on a running worker costs no core;
another worker gets an even part of them, for which those that run give threads back between two of their steps; what
falls idle is shared out again. One that waits may be passed by generations on running workers `PATIENCE` times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from localfusion.messages import ModelSpec

PATIENCE = 8
"""How often a generation may be passed by later ones."""


@dataclass(frozen=True, slots=True)
class Running:
    """A worker that has something to do. While its threads are being changed, `n_threads` is the larger number."""

    n_threads: int
    is_changing: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """A generation that waits for cores; `passed` is how often later ones went first."""

    spec: ModelSpec
    passed: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """`running` in the order in which the workers started, `waiting` in the order of arrival."""

    cores: int
    running: Mapping[ModelSpec, Running]
    waiting: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """The generation at `position` starts, on a worker with so many threads."""

    position: int
    n_threads: int


@dataclass(frozen=True, slots=True)
class SetThreads:
    """A running worker goes on with another number of threads."""

    spec: ModelSpec
    n_threads: int


Action = Start | SetThreads


def plan(state: State) -> Action | None:
    """The next thing to do, if any can be done."""
    for position, turn in enumerate(state.waiting):
        if turn.spec in state.running:
            return Start(position, state.running[turn.spec].n_threads)
        if turn.passed >= PATIENCE:
            break
    first = next((place for place, turn in enumerate(state.waiting) if turn.spec not in state.running), None)
    parts = shares(state.cores, [*state.running, *dict.fromkeys(turn.spec for turn in state.waiting)])
    changed = _first_change(state, parts)
    if first is None:
        return changed
    part = parts.get(state.waiting[first].spec, 0)
    if part and part <= state.cores - _in_use(state):
        return Start(first, part)
    return changed if changed is not None and changed.n_threads < state.running[changed.spec].n_threads else None


def shares(cores: int, specs: Sequence[ModelSpec]) -> dict[ModelSpec, int]:
    """Even parts of the cores for the first of `specs`, at least one each and none above its own bound."""
    found: dict[ModelSpec, int] = {}
    specs = list(dict.fromkeys(specs))[:cores]
    for n_done, spec in enumerate(sorted(specs, key=lambda spec: most_threads(spec, cores))):
        even = (cores - sum(found.values())) // (len(specs) - n_done)
        found[spec] = min(even, most_threads(spec, cores))
    return found


def most_threads(spec: ModelSpec, cores: int) -> int:
    """How many threads a worker may have: all cores where its settings leave it to the scheduler."""
    return cores if spec.n_threads == "auto" else min(cores, spec.n_threads)


def _in_use(state: State) -> int:
    return sum(running.n_threads for running in state.running.values())


def _first_change(state: State, parts: Mapping[ModelSpec, int]) -> SetThreads | None:
    """Threads are taken back before they are given: a worker gets more only where they are free."""
    free = state.cores - _in_use(state)
    wanted: dict[Literal["less", "more"], SetThreads] = {}
    for spec, running in state.running.items():
        part = parts.get(spec, running.n_threads)
        if running.is_changing or part == running.n_threads:
            continue
        if part < running.n_threads:
            wanted.setdefault("less", SetThreads(spec, part))
        elif part - running.n_threads <= free:
            wanted.setdefault("more", SetThreads(spec, part))
    return wanted.get("less") or wanted.get("more")
