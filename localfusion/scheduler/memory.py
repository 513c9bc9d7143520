"""Which model is loaded, joined or let go next, within the memory there is. Pure: nothing is loaded or closed here.

A lease waits as a `Wish`. Wishes are looked at in a fair order: first those of runs that hold the fewest leases, among
these the oldest. One that cannot be met yet may be passed by later ones, but only `PATIENCE` times; then it comes
first, and nothing else is loaded or joined until it is met, so that what it waits for becomes free.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from localfusion.messages import ModelSpec

PATIENCE = 8
"""How often a wish may be passed by later ones."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A model that takes memory, or will (`is_loading`), or is being closed (`is_leaving`).

    `last_used` orders idle ones.
    """

    spec: ModelSpec
    n_bytes: int
    leases: int = 0
    last_used: float = 0.0
    is_leaving: bool = False
    is_loading: bool = False

    @property
    def is_idle(self) -> bool:
        return self.leases == 0 and not self.is_leaving


@dataclass(frozen=True, slots=True)
class Wish:
    """A lease that waits for its model; `run` is whose it is, `passed` how often later wishes went first."""

    spec: ModelSpec
    n_bytes: int
    run: str = ""
    passed: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """`budget_bytes` bound all holdings together; `available_bytes` are what the system could give right now.

    `held` says how many leases each run holds; `wishes` are in order of arrival.
    """

    budget_bytes: int
    available_bytes: int
    holdings: tuple[Holding, ...]
    wishes: tuple[Wish, ...]
    held: tuple[str, ...] = ()

    @property
    def free_bytes(self) -> int:
        """What is left of the budget, and really there: loads under way will take theirs."""
        loading = sum(holding.n_bytes for holding in self.holdings if holding.is_loading)
        left = self.budget_bytes - sum(holding.n_bytes for holding in self.holdings)
        return min(left, self.available_bytes - loading)


@dataclass(frozen=True, slots=True)
class Join:
    """The wish at `position` gets a lease on a model that is there."""

    position: int


@dataclass(frozen=True, slots=True)
class Load:
    """The wish at `position` gets its model loaded."""

    position: int


@dataclass(frozen=True, slots=True)
class Evict:
    """An idle model is closed to make room."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Refuse:
    """The wish at `position` cannot be met, whatever else is let go; `have_bytes` is what it could have at most."""

    position: int
    have_bytes: int


Action = Join | Load | Evict | Refuse


def plan(state: State) -> Action | None:
    """The next thing to do, if any can be done."""
    for position in _fair_order(state):
        action = _meet(state, position)
        if action is not None:
            return action
        if state.wishes[position].passed >= PATIENCE:
            return None
    return None


def has_room_for(state: State, n_bytes: int) -> bool:
    """Whether a model that nobody waits for may be loaded: only into memory that nothing else needs."""
    return not state.wishes and n_bytes <= state.free_bytes


def _fair_order(state: State) -> list[int]:
    held = Counter(state.held)

    def rank(position: int) -> tuple[bool, int, int]:
        wish = state.wishes[position]
        is_overdue = wish.passed >= PATIENCE
        return not is_overdue, 0 if is_overdue else held[wish.run], position

    return sorted(range(len(state.wishes)), key=rank)


def _meet(state: State, position: int) -> Action | None:
    wish = state.wishes[position]
    own = next((holding for holding in state.holdings if holding.spec == wish.spec), None)
    if own is not None:
        return None if own.is_leaving else Join(position)
    if wish.n_bytes > state.budget_bytes:
        return Refuse(position, state.budget_bytes)
    missing = wish.n_bytes - state.free_bytes
    if missing <= 0:
        return Load(position)
    leaving = sum(holding.n_bytes for holding in state.holdings if holding.is_leaving)
    if leaving >= missing:
        return None
    evicted = _makes_room(state.holdings, missing - leaving)
    if evicted is not None:
        return Evict(evicted.spec)
    if all(holding.is_idle for holding in state.holdings):
        return Refuse(position, state.free_bytes + sum(holding.n_bytes for holding in state.holdings))
    return None


def _makes_room(holdings: Iterable[Holding], missing: int) -> Holding | None:
    """An idle model to close so that `missing` bytes become free; None where all idle ones together are too few.

    Those that were used last stay: of the fewest that are needed from the oldest on, the largest goes first.
    """
    chosen: list[Holding] = []
    for holding in sorted((h for h in holdings if h.is_idle), key=lambda h: h.last_used):
        if sum(h.n_bytes for h in chosen) >= missing:
            break
        chosen.append(holding)
    if not chosen or sum(h.n_bytes for h in chosen) < missing:
        return None
    return max(chosen, key=lambda h: h.n_bytes)
