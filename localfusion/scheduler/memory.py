"""Which model is loaded, joined or let go next, within the memory there is. Pure: nothing is loaded or closed here.

Memory is the machine's and that of each GPU, each with a budget of its own; a model takes of the machine's, and of one
GPU's if it has layers there.

A lease waits as a `Wish`. Wishes are looked at in a fair order: first those of runs that hold the fewest leases, among
these the oldest. One that cannot be met yet may be passed by later ones, but only `PATIENCE` times; then it comes
first, and nothing else is loaded or joined until it is met, so that what it waits for becomes free.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from localfusion.messages import ModelSpec

MACHINE = ""
"""The place of the machine's own memory, beside GPUs by their names; a model on no GPU has it for a device."""

PATIENCE = 8
"""How often a wish may be passed by later ones."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A model that takes memory, or will (`is_loading`), or is being closed (`is_leaving`).

    `vram_bytes` are of its device's memory, `n_bytes` of the machine's. `last_used` orders idle ones.
    """

    spec: ModelSpec
    n_bytes: int
    vram_bytes: int = 0
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
    vram_bytes: int = 0
    run: str = ""
    passed: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """`budget_bytes` bound all holdings together; `available_bytes` are what the system could give right now.

    `vram_bytes` bound the holdings of each GPU. `held` says how many leases each run holds; `wishes` are in order of
    arrival.
    """

    budget_bytes: int
    available_bytes: int
    holdings: tuple[Holding, ...]
    wishes: tuple[Wish, ...]
    held: tuple[str, ...] = ()
    vram_bytes: Mapping[str, int] = field(default_factory=dict)

    def budget(self, place: str) -> int:
        """What may be taken there."""
        return self.budget_bytes if place == MACHINE else self.vram_bytes.get(place, 0)

    def free(self, place: str) -> int:
        """What is left of the budget, and of the machine's memory really there: loads under way will take theirs."""
        left = self.budget(place) - sum(taken(holding, place) for holding in self.holdings)
        if place != MACHINE:
            return left
        return min(left, self.available_bytes - sum(holding.n_bytes for holding in self.holdings if holding.is_loading))


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
    place: str = MACHINE


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


def has_room_for(state: State, wish: Wish) -> bool:
    """Whether a model that nobody waits for may be loaded: only into memory that nothing else needs."""
    return not state.wishes and not _missing(state, wish)


def taken(one: Holding | Wish, place: str) -> int:
    """What a model takes of the memory at a place."""
    if place == MACHINE:
        return one.n_bytes
    return one.vram_bytes if one.spec.device == place else 0


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
    for place in _places(wish):
        if taken(wish, place) > state.budget(place):
            return Refuse(position, state.budget(place), place)
    missing = _missing(state, wish)
    if not missing:
        return Load(position)
    leaving = [holding for holding in state.holdings if holding.is_leaving]
    missing = _less(missing, leaving)
    if not missing:
        return None
    evicted = _makes_room(state.holdings, missing)
    if evicted is not None:
        return Evict(evicted.spec)
    if all(holding.is_idle for holding in state.holdings):
        have_bytes = state.free(MACHINE) + sum(holding.n_bytes for holding in state.holdings)
        return Refuse(position, have_bytes)
    return None


def _places(wish: Wish) -> tuple[str, ...]:
    return (MACHINE, wish.spec.device) if wish.vram_bytes and wish.spec.device else (MACHINE,)


def _missing(state: State, wish: Wish) -> Mapping[str, int]:
    """How many bytes have to become free at which places, where any have."""
    short = {place: taken(wish, place) - state.free(place) for place in _places(wish)}
    return {place: n_bytes for place, n_bytes in short.items() if n_bytes > 0}


def _less(missing: Mapping[str, int], gone: Iterable[Holding]) -> Mapping[str, int]:
    """What is still missing once these models are gone."""
    those = tuple(gone)
    still = {place: n_bytes - sum(taken(one, place) for one in those) for place, n_bytes in missing.items()}
    return {place: n_bytes for place, n_bytes in still.items() if n_bytes > 0}


def _makes_room(holdings: Iterable[Holding], missing: Mapping[str, int]) -> Holding | None:
    """An idle model to close so that what is missing becomes free; None where all idle ones together are too few.

    Those that were used last stay: of the fewest that are needed from the oldest on, the one that gives most goes
    first. What gives nothing at a place that is short is left alone.
    """
    chosen: list[Holding] = []
    still = missing
    for holding in sorted((h for h in holdings if h.is_idle), key=lambda h: h.last_used):
        if any(taken(holding, place) for place in still):
            chosen.append(holding)
            still = _less(missing, chosen)
    if still:
        return None
    return max(chosen, key=lambda holding: sum(taken(holding, place) for place in missing))
