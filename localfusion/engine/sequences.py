"""The sequences that a context holds: whose tokens they are, which are evaluated, which can be reused.

A slot is one llama.cpp sequence. It keeps the ids of a conversation after its generation has ended, so that
the next prompt of the same name reads only what is new. Not here: batches, sampling, rendering.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from localfusion.engine.llama import Context, Vocabulary
from localfusion.engine.state_cache import StateCache

SHARE_MINIMUM = 32
"""A prefix of another sequence shorter than this is read again rather than copied or waited for."""
CELLS_A_TOKEN = 256
"""Cells that are copied in the time that reading one token takes, with a margin: that of 1000 or so."""


@dataclass(slots=True)
class Slot:
    """One sequence: `ids` are its tokens, of which the first `n_past` are evaluated; `text` is what they say.

    `text` is None where the ids do not end at the end of a character. The first `n_prompt` ids were a prompt.
    `stops` are lengths at which reading pauses, so that the beginning up to there can be kept: by length, the
    conversation that it is kept for, None where others will start from it.
    """

    index: int
    name: str | None = None
    ids: list[int] = field(default_factory=list)
    n_past: int = 0
    text: str | None = None
    is_busy: bool = False
    last_used: int = 0
    n_prompt: int = 0
    stops: dict[int, str | None] = field(default_factory=dict)

    @property
    def next_stop(self) -> int:
        """How far may be evaluated at once."""
        return min(self.stops, default=len(self.ids))


class Slots:
    """All slots of a context.

    Where the memory cannot cut a sequence anywhere (`Context.n_kept`), beginnings are kept in slots of their
    own: where prompts part, and where a conversation's last turn begins, since templates may write that turn
    differently once it is history (thinking is dropped). `turn_marks` are the tokens that can begin a turn.
    `states` holds beginnings beyond the end of this process; None: nothing outlives it. `grid`: a prompt is reused
    only in multiples of so many tokens. Where that is what one batch evaluates, cells come from the very batches
    that a prompt read from its start would be in, bit for bit.
    """

    def __init__(
        self,
        context: Context,
        n_seq_max: int,
        *,
        turn_marks: Set[int] = frozenset(),
        states: StateCache | None = None,
        grid: int = 1,
    ) -> None:
        self._context = context
        self._share_minimum = max(SHARE_MINIMUM, context.n_ctx // CELLS_A_TOKEN if context.has_streams else 0)
        self._grid = grid
        self._states = states
        self._slots = [Slot(index) for index in range(n_seq_max)]
        self._kept = [Slot(n_seq_max + index) for index in range(context.n_kept)]
        self._turn_marks = turn_marks
        self._clock = 0

    def find(self, name: str) -> Slot | None:
        """The slot that keeps this conversation."""
        return next((slot for slot in self._slots if slot.name == name), None)

    def try_take(self, name: str, ids: list[int]) -> Slot | None:
        """A slot that holds a prompt's ids, as many as possible evaluated already; None: it has to wait.

        It waits while the conversation's own slot or all slots are busy, and while another sequence is
        still reading a beginning that both have.
        """
        own = self.find(name)
        if own is not None and own.is_busy:
            return None
        slot = own or self._least_used()
        if slot is None:
            return None
        reusable = self._usable(slot, ids)
        donor, shared = self._best_donor(slot, ids)
        if self._is_being_read(slot, ids, max(reusable, shared)):
            return None
        stops = self._stops(name, ids)
        if not self._try_restore(slot, ids, max(reusable, shared)):
            reusable = min(reusable, slot.n_past)  # a state that was refused has taken the slot's own
            if donor is not None and shared > reusable + self._share_minimum:
                self._start_from(slot, donor, shared)
            else:
                self._keep(slot, reusable)
        slot.name, slot.ids, slot.text, slot.is_busy, slot.last_used = name, list(ids), None, True, self._tick()
        slot.n_prompt = len(ids)
        slot.stops = {n: to for n, to in stops.items() if n >= slot.n_past + (1 if to == name else self._share_minimum)}
        return slot

    def silent_between(self, speaking: Sequence[Slot]) -> list[Slot]:
        """Slots between the first and the last of those that give nothing to the next batch, and have room to."""
        numbers = {slot.index for slot in speaking}
        between = self._slots[min(numbers) : max(numbers)]
        return [slot for slot in between if slot.index not in numbers and slot.n_past < self._context.n_ctx]

    def note_read(self, slot: Slot) -> None:
        """More of a slot's ids are evaluated: keep the beginning where this is a stop."""
        if slot.n_past >= slot.next_stop and slot.stops:
            stop = slot.next_stop
            kept_for = slot.stops.pop(stop)
            if slot.n_past == stop:
                if self._kept:
                    self._keep_beginning(slot, kept_for)
                self._offer_state(slot)

    def release(self, slot: Slot, text: str | None) -> None:
        """The generation has ended; its ids stay."""
        slot.is_busy, slot.text, slot.stops = False, text, {}

    def drop(self, slot: Slot) -> None:
        """Free the cells and the name."""
        self._context.clear(slot.index)
        slot.name, slot.ids, slot.n_past, slot.text, slot.is_busy, slot.stops = None, [], 0, None, False, {}

    def drop_idle(self) -> bool:
        """Free cells that nobody waits for, kept beginnings first; False where there were none."""
        for slots in (self._kept, self._slots):
            idle = [slot for slot in slots if not slot.is_busy and slot.n_past]
            for slot in idle:
                self.drop(slot)
            if idle:
                return True
        return False

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _least_used(self) -> Slot | None:
        idle = [slot for slot in self._slots if not slot.is_busy]
        return min(idle, key=lambda slot: (slot.name is not None, slot.last_used), default=None)

    def _usable(self, slot: Slot, ids: Sequence[int]) -> int:
        """How many tokens of a prompt a slot has evaluated and can be cut to; the last is always evaluated anew."""
        n_past = slot.n_past if self._grid == 1 else min(slot.n_past, slot.n_prompt)
        common = min(common_prefix(slot.ids, ids), n_past, len(ids) - 1) // self._grid * self._grid
        return common if self._context.can_start_at(slot.index, common, n_past=slot.n_past) else 0

    def _best_donor(self, slot: Slot, ids: Sequence[int]) -> tuple[Slot | None, int]:
        """The other slot that has evaluated most of a prompt."""
        best, longest = None, 0
        for other in [*self._slots, *self._kept]:
            if other is not slot and (usable := self._usable(other, ids)) > longest:
                best, longest = other, usable
        return best, longest

    def _is_being_read(self, slot: Slot, ids: Sequence[int], n_known: int) -> bool:
        """Whether another sequence is about to evaluate more of a prompt than is known of it."""
        for other in self._slots:
            if other is slot or not other.is_busy:
                continue
            common = min(common_prefix(other.ids, ids), len(ids) - 1)
            if common > other.n_past and common > n_known + self._share_minimum:
                if self._kept:
                    other.stops[common] = None
                return True
        return False

    def _stops(self, name: str, ids: list[int]) -> dict[int, str | None]:
        """Where to keep the beginning of a prompt: at its last turn, and where it parts from what was read before."""
        if not self._kept:
            return {} if self._states is None else {len(ids): None}
        marks = (n for n in range(len(ids) - 1, 0, -1) if ids[n] in self._turn_marks)
        stops: dict[int, str | None] = {n: name for n in [next(marks, 0)] if n}
        parted = {common_prefix(slot.ids, ids) for slot in [*self._slots, *self._kept]}
        return stops | {n: None for n in sorted(parted)[-self._context.n_kept :] if 0 < n < len(ids)}

    def _start_from(self, slot: Slot, donor: Slot, n_tokens: int) -> None:
        self._context.clear(slot.index)
        slot.n_past = n_tokens if self._context.copy(donor.index, slot.index, n_tokens) else 0
        donor.last_used = self._tick()

    def _try_restore(self, slot: Slot, ids: Sequence[int], n_known: int) -> bool:
        """Let a slot start from a state on disk, where that has more of a prompt than is known."""
        if self._states is None or not self._context.can_read_state(slot.index):
            return False
        found = self._states.find(ids, n_known=n_known, is_whole=bool(self._kept))
        if found is None or len(found[0].ids) > self._context.n_ctx:
            return False
        state, n_tokens = found

        def read(source: memoryview) -> bool:
            self._keep(slot, 0)
            return self._context.read_state(slot.index, source)

        if not self._states.restore(state, read):
            return False
        slot.n_past = len(state.ids)
        self._keep(slot, n_tokens)
        return True

    def _offer_state(self, slot: Slot) -> None:
        if self._states is not None:
            self._states.offer(
                slot.ids[: slot.n_past],
                is_whole=bool(self._kept),
                n_bytes=self._context.state_bytes(slot.index),
                write=lambda target: self._context.write_state(slot.index, target),
            )

    def _keep_beginning(self, slot: Slot, kept_for: str | None) -> None:
        ids = slot.ids[: slot.n_past]
        same = [kept for kept in self._kept if kept.ids == ids]
        older = [kept for kept in self._kept if kept_for is not None and kept.name == kept_for]
        target = min(same or older or self._kept, key=lambda kept: kept.last_used)
        if not same:
            self.drop(target)
            self._start_from(target, slot, slot.n_past)
            target.ids = ids[: target.n_past]
        target.name, target.last_used = kept_for, self._tick()

    def _keep(self, slot: Slot, n_keep: int) -> None:
        if n_keep == slot.n_past:
            return
        if n_keep == 0 or not self._context.truncate(slot.index, n_keep):
            self._context.clear(slot.index)
            n_keep = 0
        slot.n_past = n_keep


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two sequences have in common at their beginning."""
    same, different = 0, min(len(left), len(right)) + 1
    while different - same > 1:
        middle = (same + different) // 2
        if left[same:middle] == right[same:middle]:
            same = middle
        else:
            different = middle
    return same


def prompt_ids(vocabulary: Vocabulary, text: str, kept: Slot | None) -> list[int]:
    """The ids of a prompt: where it continues what is kept, the kept ids, never tokenized again, and the rest."""
    if kept is not None and kept.text and text.startswith(kept.text):
        rest = text[len(kept.text) :]
        ids = vocabulary.tokenize(rest, parse_special=True)
        if b"".join(map(vocabulary.token_bytes, ids)) == rest.encode():
            return [*kept.ids, *ids]
    ids = vocabulary.tokenize(text, parse_special=True)
    starts_with_bos = bool(ids) and ids[0] == vocabulary.bos
    return [vocabulary.bos, *ids] if vocabulary.add_bos and not starts_with_bos else ids
