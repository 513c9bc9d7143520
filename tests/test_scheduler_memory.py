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
VRAM = {"x": 10, "y": 4}


def state(
    *wishes: Wish, budget: int = 10, available: int = 99, holdings: tuple[Holding, ...] = (), held: tuple[str, ...] = ()
) -> State:
    return State(budget, available, holdings, wishes, held, VRAM)


def on(spec: ModelSpec, device: str) -> ModelSpec:
    return replace(spec, device=device)


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
        # a GPU has memory of its own, apart from the machine's and from other GPUs
        (state(Wish(on(A, "x"), 1, 10)), Load(0)),
        (state(Wish(on(A, "x"), 1, 11)), Refuse(0, 10, "x")),
        (state(Wish(on(A, "z"), 1, 1)), Refuse(0, 0, "z")),
        (state(Wish(on(A, "x"), 1, 5), holdings=(Holding(on(B, "x"), 1, 6, leases=1),)), None),
        (state(Wish(on(A, "x"), 1, 5), holdings=(Holding(on(B, "x"), 1, 6),)), Evict(on(B, "x"))),
        (state(Wish(on(A, "x"), 1, 5), holdings=(Holding(on(B, "y"), 1, 4, leases=1),)), Load(0)),
        (state(Wish(on(A, "x"), 1, 5), holdings=(Holding(on(B, "x"), 1, 6, is_leaving=True),)), None),
        # what gives nothing where memory is short stays; where both are short, both become free
        (
            state(
                Wish(on(A, "x"), 1, 5), holdings=(Holding(B, 5, last_used=1), Holding(on(C, "x"), 1, 6, last_used=2))
            ),
            Evict(on(C, "x")),
        ),
        (
            state(
                Wish(on(A, "x"), 6, 5), holdings=(Holding(B, 5, last_used=1), Holding(on(C, "x"), 1, 6, last_used=2))
            ),
            Evict(on(C, "x")),
        ),
        (
            state(Wish(on(A, "x"), 6, 5), holdings=(Holding(B, 5), Holding(on(C, "x"), 1, 6, is_leaving=True))),
            Evict(B),
        ),
        (state(Wish(on(A, "x"), 6, 5), holdings=(Holding(B, 5), Holding(on(C, "x"), 1, 6, leases=1))), None),
        # the run that holds least comes first
        (state(Wish(A, 8, run="x"), Wish(B, 8, run="y"), held=("x",)), Load(1)),
        (state(Wish(A, 8, run="x"), Wish(B, 8, run="y"), held=("x", "y")), Load(0)),
        (state(Wish(A, 8, run="x", passed=PATIENCE), Wish(B, 8, run="y"), held=("x",)), Load(0)),
    ],
)
def test_plan(given: State, action: Action | None) -> None:
    assert plan(given) == action


def test_a_model_that_nobody_waits_for_takes_only_memory_that_is_free() -> None:
    assert has_room_for(state(), Wish(B, 10))
    assert not has_room_for(state(), Wish(B, 11))
    assert not has_room_for(state(available=5), Wish(B, 6))
    assert not has_room_for(state(holdings=(Holding(A, 5),)), Wish(B, 6))
    assert not has_room_for(state(Wish(B, 1)), Wish(B, 1))
    assert has_room_for(state(), Wish(on(B, "y"), 10, 4))
    assert not has_room_for(state(), Wish(on(B, "y"), 10, 5))
    assert not has_room_for(state(holdings=(Holding(on(A, "x"), 0, 6),)), Wish(on(B, "x"), 1, 5))


class Run:
    """Memory as the plan has it carried out, with leases that end and models that are closed at any moment."""

    def __init__(self, budget: int, random: Random) -> None:
        self.budget, self.random = budget, random
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
                    assert not fits(self.wishes.pop(position), self.budget)
                    self.refused += 1
            assert sum(holding.n_bytes for holding in self.holdings.values()) <= self.budget
            for device, n_bytes in VRAM.items():
                assert sum(one.vram_bytes for one in self.holdings.values() if one.spec.device == device) <= n_bytes
            assert max((wish.passed for wish in self.wishes), default=0) <= PATIENCE + len(self.wishes)

    def state(self) -> State:
        held = tuple(lease.run for lease in self.leases)
        return State(self.budget, self.budget, tuple(self.holdings.values()), tuple(self.wishes), held, VRAM)

    def grant(self, position: int) -> None:
        wish = self.wishes.pop(position)
        self.wishes[:position] = [replace(other, passed=other.passed + 1) for other in self.wishes[:position]]
        holding = self.holdings.get(wish.spec, Holding(wish.spec, wish.n_bytes, wish.vram_bytes))
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


def fits(wish: Wish, budget: int) -> bool:
    return wish.n_bytes <= budget and wish.vram_bytes <= VRAM.get(wish.spec.device, 0)


def sized(name: str, size: tuple[int, int, str]) -> Wish:
    """A wish for a model of this size, on this device."""
    n_bytes, vram_bytes, device = size
    return Wish(on(spec(name), device), n_bytes, vram_bytes if device else 0)


@given(
    st.integers(1, 20),
    st.lists(
        st.tuples(st.integers(1, 24), st.integers(0, 12), st.sampled_from(["", "x", "y"])), min_size=5, max_size=5
    ),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("xyz")), max_size=30),
    st.integers(0, 2**32),
)
def test_no_budget_is_exceeded_and_every_wish_that_fits_is_met(
    budget: int, sizes: list[tuple[int, int, str]], asked: list[tuple[int, str]], seed: int
) -> None:
    random = Random(seed)
    models = [sized(name, size) for name, size in zip("abcde", sizes, strict=True)]
    run = Run(budget, random)
    to_come = [replace(models[index], run=name) for index, name in asked]
    fitting = sum(fits(wish, budget) for wish in to_come)
    while to_come or run.wishes or run.leases:
        for _ in range(random.randint(0, 3)):
            if to_come:
                run.wishes.append(to_come.pop(0))
        run.settle()
        run.end_something()
        run.settle()
    assert (run.met, run.refused) == (fitting, len(asked) - fitting)
