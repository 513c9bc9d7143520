"""Slots over real contexts: whatever was kept, cut or copied, the next token's logits are those of a fresh context."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from numpy.typing import NDArray

from localfusion.engine.llama import Context, DecodeError, Weights, send_log_to
from localfusion.engine.sequences import Slot, Slots, common_prefix
from localfusion.messages import ModelSpec
from tests.tiny_gguf import Architecture, TinyModel, vocabulary, write_tiny_gguf

ARCHITECTURES: tuple[Architecture, ...] = ("llama", "gemma2", "mamba", "jamba")
N_SEQ_MAX, N_BATCH = 3, 64
MARK = 1
"""The token that begins a turn."""
NOISE = 0.05
"""Of the logits' spread: what another order of summing changes; a token too many or too few changes more than all."""


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    send_log_to(lambda _: None)


@cache
def weights(architecture: Architecture) -> Weights:
    with TemporaryDirectory() as folder:
        path = write_tiny_gguf(Path(folder) / "tiny.gguf", TinyModel(architecture=architecture, scale=0.3))
        return Weights(path, n_gpu_layers=0)


@cache
def context(architecture: Architecture, n_seq_max: int = N_SEQ_MAX) -> Context:
    spec = ModelSpec("tiny", Path(), n_ctx=768, n_seq_max=n_seq_max, n_batch=N_BATCH, n_ubatch=N_BATCH)
    return Context(weights(architecture), spec)


@cache
def fresh_logits(architecture: Architecture, ids: tuple[int, ...]) -> NDArray[np.float32]:
    """The logits behind the last token where nothing was ever kept."""
    fresh = context(architecture, 1)
    slots = Slots(fresh, 1)
    for index in range(1 + fresh.n_kept):
        fresh.clear(index)
    slot = slots.try_take("fresh", list(ids))
    assert slot is not None
    return evaluate(fresh, slots, [(slot, len(ids))])[0]


def evaluate(context: Context, slots: Slots, wanted: list[tuple[Slot, int]]) -> list[NDArray[np.float32]]:
    """Let each slot evaluate so many tokens more, in as many batches as stops and sizes ask for; the last logits."""
    goals = [(slot, min(slot.n_past + n, len(slot.ids))) for slot, n in wanted]
    logits: dict[int, NDArray[np.float32]] = {}
    while any(slot.n_past < goal for slot, goal in goals):
        room, rows, taken = context.n_batch, {}, {}
        for slot, goal in goals:
            taken[slot.index] = max(0, min(goal, slot.next_stop, slot.n_past + room) - slot.n_past)
            room -= taken[slot.index]
            for position in range(slot.n_past, slot.n_past + taken[slot.index]):
                token, is_last = slot.ids[position], position == slot.n_past + taken[slot.index] - 1
                rows[slot.index] = context.add(token, position=position, sequence=slot.index, wants_logits=is_last)
        try:
            context.decode()
        except DecodeError:
            if not slots.drop_idle():
                raise
            continue
        for slot, _ in goals:
            if taken[slot.index]:
                logits[slot.index] = context.logits(rows[slot.index]).copy()
                slot.n_past += taken[slot.index]
                slots.note_read(slot)
    return [logits[slot.index] for slot, _ in wanted if slot.index in logits]


def assert_fresh(architecture: Architecture, slot: Slot, logits: NDArray[np.float32]) -> None:
    expected = fresh_logits(architecture, tuple(slot.ids[: slot.n_past]))
    assert np.abs(logits - expected).max() < NOISE * expected.std()


def turn(seed: int, n_tokens: int) -> list[int]:
    random = np.random.default_rng(seed)
    return [MARK, *random.integers(8, len(vocabulary()), n_tokens - 1).tolist()]


TURNS = [turn(seed, n_tokens) for seed, n_tokens in enumerate([70, 40, 90, 5, 33, 130])]
PROMPTS = st.lists(st.integers(0, len(TURNS) - 1), min_size=1, max_size=4).map(
    lambda path: [token for index in path for token in TURNS[index]]
)
NAMES = st.sampled_from("abcd")


class Conversations(RuleBasedStateMachine):
    """Conversations begin, are read in pieces, write, end and are forgotten, in any order."""

    architecture: Architecture

    @initialize()
    def begin(self) -> None:
        self.context = context(self.architecture)
        for index in range(N_SEQ_MAX + self.context.n_kept):
            self.context.clear(index)
        self.slots = Slots(self.context, N_SEQ_MAX, turn_marks={MARK})
        self.busy: list[Slot] = []

    @rule(name=NAMES, ids=PROMPTS)
    def take(self, name: str, ids: list[int]) -> None:
        slot = self.slots.try_take(name, ids)
        if slot is not None:
            assert slot.ids == ids
            assert slot.n_past < len(ids)
            self.busy.append(slot)

    @rule(name=NAMES, ids=PROMPTS, n_written=st.integers(0, 60))
    def answer(self, name: str, ids: list[int], n_written: int) -> None:
        """A whole request at once, where it need not wait."""
        slot = self.slots.try_take(name, ids)
        if slot is None:
            return
        (logits,) = evaluate(self.context, self.slots, [(slot, len(ids))])
        assert_fresh(self.architecture, slot, logits)
        for token in turn(n_written, n_written + 1)[1:]:
            slot.ids.append(token)
            (logits,) = evaluate(self.context, self.slots, [(slot, 1)])
        assert_fresh(self.architecture, slot, logits)
        self.slots.release(slot, None)

    @rule(n=st.integers(1, 200), extra=st.integers(1, 60))
    @precondition(lambda self: self.busy)
    def read(self, n: int, extra: int) -> None:
        """All that are busy go on side by side, the first by `n`, the others by `extra`."""
        wanted = [(slot, n if slot is self.busy[0] else extra) for slot in self.busy]
        stepped = [slot for slot in self.busy if slot.n_past < len(slot.ids)]
        for slot, logits in zip(stepped, evaluate(self.context, self.slots, wanted), strict=True):
            assert_fresh(self.architecture, slot, logits)

    @rule(n=st.integers(1, 80), seed=st.integers(0, 3))
    @precondition(lambda self: self.busy)
    def write(self, n: int, seed: int) -> None:
        slot = self.busy[-1]
        if slot.n_past == len(slot.ids) and len(slot.ids) + n < self.context.n_ctx:
            for token in turn(seed, n + 1)[1:]:
                slot.ids.append(token)
                (logits,) = evaluate(self.context, self.slots, [(slot, 1)])
            assert_fresh(self.architecture, slot, logits)

    @rule()
    @precondition(lambda self: self.busy)
    def release(self) -> None:
        self.slots.release(self.busy.pop(0), None)

    @rule()
    @precondition(lambda self: self.busy)
    def fail(self) -> None:
        self.slots.drop(self.busy.pop())

    @rule()
    def make_room(self) -> None:
        self.slots.drop_idle()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_kept_is_what_a_fresh_context_would_know(architecture: Architecture) -> None:
    machine = type(f"{architecture}Conversations", (Conversations,), {"architecture": architecture})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))


@given(left=st.lists(st.integers(0, 2)), right=st.lists(st.integers(0, 2)), same=st.lists(st.integers(0, 2)))
def test_the_common_beginning(left: list[int], right: list[int], same: list[int]) -> None:
    n = common_prefix([*same, *left], [*same, *right])
    assert n >= len(same)
    assert [*same, *left][:n] == [*same, *right][:n]
    assert n == min(len(same) + len(left), len(same) + len(right)) or [*same, *left][n] != [*same, *right][n]
