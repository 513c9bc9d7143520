"""What is loaded, joined, let go and refused: the plan as a pure function, and what holds over all runs."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.messages import ModelSpec
from localfusion.scheduler.memory import (
    PATIENCE,
    Action,
    Evict,
    Holding,
    Join,
    Load,
    Refuse,
    State,
    Wish,
    has_room_for,
    plan,
)


def spec(name: str) -> ModelSpec:
    return ModelSpec(name, Path(f"/{name}.gguf"))


A, B, C, D = map(spec, "abcd")


def state(
    *wishes: Wish, budget: int = 10, available: int = 99, holdings: tuple[Holding, ...] = (), held: tuple[str, ...] = ()
) -> State:
    return State(budget, available, holdings, wishes, held)


@pytest.mark.parametrize(
    ("given", "action"),
    [
        (state(), None),
        (state(Wish(A, 10)), Load(0)),
        (state(Wish(A, 11)), Refuse(0, 10)),
        (state(Wish(A, 8), available=7), Refuse(0, 7)),
        (state(Wish(A, 11), Wish(B, 3)), Refuse(0, 10)),
        (state(Wish(A, 5), holdings=(Holding(A, 5, leases=1),)), Join(0)),
        (state(Wish(A, 5), holdings=(Holding(A, 5),)), Join(0)),
        (state(Wish(A, 5), holdings=(Holding(A, 5, is_leaving=True),)), None),
        # a leased model is never touched, an idle one only where it makes room
        (state(Wish(A, 5), holdings=(Holding(B, 6, leases=1),)), None),
        (state(Wish(A, 5), holdings=(Holding(B, 6),)), Evict(B)),
        (state(Wish(A, 8), holdings=(Holding(B, 2), Holding(C, 6, leases=1))), None),
        (state(Wish(A, 4), holdings=(Holding(B, 6),)), Load(0)),
        (state(Wish(A, 5), available=4, holdings=(Holding(B, 1),)), Evict(B)),
        (state(Wish(A, 5), available=3, holdings=(Holding(B, 1),)), Refuse(0, 4)),
        (state(Wish(A, 5), available=3, holdings=(Holding(B, 1), Holding(C, 1, leases=1))), None),
        # loads under way will take what the system still counts as free
        (state(Wish(A, 5), budget=20, available=9, holdings=(Holding(B, 5, leases=1, is_loading=True),)), None),
        (state(Wish(A, 5), budget=20, available=9, holdings=(Holding(B, 5, leases=1),)), Load(0)),
        # the one that was used last stays, and of those that must go the largest goes first
        (state(Wish(A, 5), holdings=(Holding(B, 5, last_used=2), Holding(C, 5, last_used=1))), Evict(C)),
        (
            state(
                Wish(A, 6),
                holdings=(Holding(B, 2, last_used=1), Holding(C, 5, last_used=2), Holding(D, 3, last_used=3)),
            ),
            Evict(C),
        ),
        # what is being closed is waited for and nothing more is closed
        (state(Wish(A, 5), holdings=(Holding(B, 5, is_leaving=True), Holding(C, 5))), None),
        # later wishes may pass, but not for ever
        (state(Wish(A, 8), Wish(B, 2), holdings=(Holding(C, 6, leases=1),)), Load(1)),
        (state(Wish(A, 8, passed=PATIENCE), Wish(B, 2), holdings=(Holding(C, 6, leases=1),)), None),
        (state(Wish(A, 8, passed=PATIENCE), Wish(C, 6), holdings=(Holding(C, 6, leases=1),)), None),
        # the run that holds least comes first
        (state(Wish(A, 8, run="x"), Wish(B, 8, run="y"), held=("x",)), Load(1)),
        (state(Wish(A, 8, run="x"), Wish(B, 8, run="y"), held=("x", "y")), Load(0)),
        (state(Wish(A, 8, run="x", passed=PATIENCE), Wish(B, 8, run="y"), held=("x",)), Load(0)),
    ],
)
def test_plan(given: State, action: Action | None) -> None:
    assert plan(given) == action


def test_a_model_that_nobody_waits_for_takes_only_memory_that_is_free() -> None:
    assert has_room_for(state(), 10)
    assert not has_room_for(state(), 11)
    assert not has_room_for(state(available=5), 6)
    assert not has_room_for(state(holdings=(Holding(A, 5),)), 6)
    assert not has_room_for(state(Wish(B, 1)), 1)


class Run:
    """Memory as the plan has it carried out, with leases that end and models that are closed at any moment."""

    def __init__(self, budget: int, sizes: dict[ModelSpec, int], random: Random) -> None:
        self.budget, self.sizes, self.random = budget, sizes, random
        self.holdings: dict[ModelSpec, Holding] = {}
        self.wishes: list[Wish] = []
        self.leases: list[Wish] = []
        self.met = self.refused = self.clock = 0

    def settle(self) -> None:
        while (action := plan(self.state())) is not None:
            match action:
                case Join(position) | Load(position):
                    self.grant(position)
                case Evict(evicted):
                    assert self.holdings[evicted].is_idle
                    self.holdings[evicted] = replace(self.holdings[evicted], is_leaving=True)
                case Refuse(position):
                    assert self.wishes.pop(position).n_bytes > self.budget
                    self.refused += 1
            assert sum(holding.n_bytes for holding in self.holdings.values()) <= self.budget
            assert max((wish.passed for wish in self.wishes), default=0) <= PATIENCE + len(self.wishes)

    def state(self) -> State:
        held = tuple(lease.run for lease in self.leases)
        return State(self.budget, self.budget, tuple(self.holdings.values()), tuple(self.wishes), held)

    def grant(self, position: int) -> None:
        wish = self.wishes.pop(position)
        self.wishes[:position] = [replace(other, passed=other.passed + 1) for other in self.wishes[:position]]
        holding = self.holdings.get(wish.spec, Holding(wish.spec, wish.n_bytes))
        self.holdings[wish.spec] = replace(holding, leases=holding.leases + 1)
        self.leases.append(wish)
        self.met += 1

    def end_something(self) -> None:
        leaving = [one for one in self.holdings.values() if one.is_leaving]
        if leaving and (not self.leases or self.random.random() < 0.5):
            del self.holdings[self.random.choice(leaving).spec]
        elif self.leases:
            ended = self.leases.pop(self.random.randrange(len(self.leases)))
            self.clock += 1
            holding = self.holdings[ended.spec]
            self.holdings[ended.spec] = replace(holding, leases=holding.leases - 1, last_used=self.clock)
        else:
            assert not self.wishes, "nothing is held and a wish that fits is not met"


@given(
    st.integers(1, 20),
    st.lists(st.integers(1, 24), min_size=5, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("xyz")), max_size=30),
    st.integers(0, 2**32),
)
def test_the_budget_holds_and_every_wish_that_fits_is_met(
    budget: int, sizes: list[int], asked: list[tuple[int, str]], seed: int
) -> None:
    random = Random(seed)
    specs = list(map(spec, "abcde"))
    run = Run(budget, dict(zip(specs, sizes, strict=True)), random)
    to_come = [Wish(specs[index], sizes[index], run=name) for index, name in asked]
    fitting = sum(wish.n_bytes <= budget for wish in to_come)
    while to_come or run.wishes or run.leases:
        for _ in range(random.randint(0, 3)):
            if to_come:
                run.wishes.append(to_come.pop(0))
        run.settle()
        run.end_something()
        run.settle()
    assert (run.met, run.refused) == (fitting, len(asked) - fitting)
