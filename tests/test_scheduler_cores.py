"""Which generation starts next and with how many threads: the plan as a pure function, and what holds over all runs."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.messages import ModelSpec
from localfusion.scheduler.cores import PATIENCE, Action, Running, SetThreads, Start, State, Turn, plan, shares


def spec(name: str) -> ModelSpec:
    return ModelSpec(name, Path(f"/{name}.gguf"))


A, B, C = spec("a"), spec("b"), spec("c")
ONE = ModelSpec("one", Path("/one.gguf"), n_threads=1)


def turns(*specs: ModelSpec) -> tuple[Turn, ...]:
    return tuple(Turn(one) for one in specs)


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (State(2, {}, ()), None),
        (State(2, {}, turns(A)), Start(0, 2)),
        (State(2, {}, turns(A, B)), Start(0, 1)),
        (State(4, {}, turns(A, A, B)), Start(0, 2)),
        (State(1, {}, turns(A, B)), Start(0, 1)),
        (State(8, {}, turns(replace(A, n_threads=3))), Start(0, 3)),
        (State(2, {}, turns(replace(A, n_threads=3))), Start(0, 2)),
        # a generation more on a running worker costs nothing
        (State(2, {A: Running(1), B: Running(1)}, turns(C, A)), Start(1, 1)),
        # one that was passed too often is not passed again
        (State(2, {A: Running(1), B: Running(1)}, (Turn(C, passed=PATIENCE), Turn(A))), None),
        # threads are taken back for a newcomer, once, and it starts when they are there
        (State(2, {A: Running(2)}, turns(B)), SetThreads(A, 1)),
        (State(2, {A: Running(2, is_changing=True)}, turns(B)), None),
        (State(2, {A: Running(1)}, turns(B)), Start(0, 1)),
        (State(4, {A: Running(4)}, turns(ONE)), SetThreads(A, 3)),
        # what became free is given to those that run
        (State(2, {A: Running(1)}, ()), SetThreads(A, 2)),
        (State(8, {A: Running(2), B: Running(3)}, ()), SetThreads(A, 4)),
        (State(8, {A: Running(4), B: Running(3)}, ()), SetThreads(B, 4)),
        (State(8, {A: Running(4), B: Running(4)}, ()), None),
        (State(8, {ONE: Running(1)}, ()), None),
        (State(2, {A: Running(1, is_changing=True)}, ()), None),
        # nobody gets less than one core
        (State(2, {A: Running(1), B: Running(1)}, turns(C)), None),
    ],
)
def test_plan(state: State, action: Action | None) -> None:
    assert plan(state) == action


bounds = st.one_of(st.just("auto"), st.integers(1, 5))


@given(st.integers(1, 32), st.lists(bounds, min_size=1, max_size=9))
def test_shares_are_even_and_leave_no_core_idle_that_somebody_could_use(cores: int, most: list[int | str]) -> None:
    specs = [replace(spec(f"{n}"), n_threads="auto" if bound == "auto" else int(bound)) for n, bound in enumerate(most)]
    parts = shares(cores, specs)
    assert set(parts) == set(specs[:cores])
    assert sum(parts.values()) <= cores
    assert min(parts.values()) >= 1
    hungry = [one for one, part in parts.items() if one.n_threads == "auto" or part < one.n_threads]
    if hungry:
        assert sum(parts.values()) == cores
        assert max(parts.values()) - min(parts[one] for one in hungry) <= 1


class Run:
    """Generations as the plan lets them start, ending at any moment, with changes of threads that take their time."""

    def __init__(self, cores: int, random: Random) -> None:
        self.cores, self.random = cores, random
        self.running: dict[ModelSpec, Running] = {}
        self.changes: dict[ModelSpec, int] = {}
        self.turns: Counter[ModelSpec] = Counter()
        self.waiting: list[Turn] = []
        self.served = 0

    def settle(self) -> None:
        while (action := plan(State(self.cores, self.running, tuple(self.waiting)))) is not None:
            match action:
                case Start(position, n_threads):
                    self.start(position, n_threads)
                case SetThreads(changed, n_threads):
                    assert not self.running[changed].is_changing
                    most = max(n_threads, self.running[changed].n_threads)
                    self.running[changed] = Running(most, is_changing=True)
                    self.changes[changed] = n_threads
            assert sum(one.n_threads for one in self.running.values()) <= self.cores
            assert max((turn.passed for turn in self.waiting), default=0) <= PATIENCE

    def start(self, position: int, n_threads: int) -> None:
        turn = self.waiting.pop(position)
        self.waiting[:position] = [replace(other, passed=other.passed + 1) for other in self.waiting[:position]]
        self.running.setdefault(turn.spec, Running(n_threads))
        self.turns[turn.spec] += 1
        self.served += 1

    def end_something(self) -> None:
        if self.changes and self.random.random() < 0.5:
            done = self.random.choice(list(self.changes))
            self.running[done] = Running(self.changes.pop(done))
        elif self.running:
            ended = self.random.choice(list(self.running))
            self.turns[ended] -= 1
            if not self.turns[ended]:
                del self.running[ended]
                self.changes.pop(ended, None)
        else:
            assert not self.waiting, "nothing runs and nothing may start"


@given(
    st.integers(1, 8),
    st.lists(st.sampled_from([*map(spec, "abcde"), ONE]), max_size=24),
    st.integers(0, 2**32),
)
def test_cores_are_never_used_twice_and_everybody_gets_a_turn(cores: int, arrivals: list[ModelSpec], seed: int) -> None:
    random = Random(seed)
    run, to_come = Run(cores, random), list(arrivals)
    while to_come or run.waiting or run.running:
        n_new = random.randint(0, min(3, len(to_come)))
        run.waiting += [Turn(to_come.pop(0)) for _ in range(n_new)]
        run.settle()
        run.end_something()
        run.settle()
    assert run.served == len(arrivals)
