"""The sequences that a context holds: whose tokens they are, which are evaluated, which can be reused.

A slot is one llama.cpp sequence. It keeps the ids of a conversation after its generation has ended, so that
the next prompt of the same name reads only what is new. Not here: batches, sampling, rendering.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from localfusion.engine.llama import Context, Vocabulary

SHARE_MINIMUM = 32
"""A prefix of another sequence shorter than this is read again rather than copied or waited for."""


@dataclass(slots=True)
class Slot:
    """One sequence: `ids` are its tokens, of which the first `n_past` are evaluated; `text` is what they say.

    `text` is None where the ids do not end at the end of a character.
    """

    index: int
    name: str | None = None
    ids: list[int] = field(default_factory=list)
    n_past: int = 0
    text: str | None = None
    is_busy: bool = False
    last_used: int = 0


class Slots:
    """All slots of a context; `only_whole` says that parts of a sequence can be neither removed nor copied."""

    def __init__(self, context: Context, n_seq_max: int, *, only_whole: bool) -> None:
        self._context = context
        self._slots = [Slot(index) for index in range(n_seq_max)]
        self._only_whole = only_whole
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
        reusable = _reusable(slot, ids)
        donor, shared = self._best_donor(slot, ids)
        if donor is not None and shared > reusable + SHARE_MINIMUM:
            if donor.n_past < shared:
                return None
            self._start_from(slot, donor, shared)
        else:
            self._keep(slot, reusable)
        self._clock += 1
        slot.name, slot.ids, slot.text, slot.is_busy, slot.last_used = name, list(ids), None, True, self._clock
        return slot

    def release(self, slot: Slot, text: str | None) -> None:
        """The generation has ended; its ids stay."""
        slot.is_busy, slot.text = False, text

    def drop(self, slot: Slot) -> None:
        """Free the cells and the name."""
        self._context.clear(slot.index)
        slot.name, slot.ids, slot.n_past, slot.text, slot.is_busy = None, [], 0, None, False

    def drop_idle(self) -> bool:
        """Free the cells of all kept conversations; False where there were none."""
        idle = [slot for slot in self._slots if not slot.is_busy and slot.n_past]
        for slot in idle:
            self.drop(slot)
        return bool(idle)

    def _least_used(self) -> Slot | None:
        idle = [slot for slot in self._slots if not slot.is_busy]
        return min(idle, key=lambda slot: (slot.name is not None, slot.last_used), default=None)

    def _best_donor(self, slot: Slot, ids: Sequence[int]) -> tuple[Slot | None, int]:
        """Another slot with the longest common beginning, evaluated or (where it is being read) soon to be."""
        if self._only_whole:
            return None, 0
        best, longest = None, 0
        for other in self._slots:
            if other is slot:
                continue
            common = min(common_prefix(other.ids, ids), len(ids) - 1)
            common = common if other.is_busy else min(common, other.n_past)
            if common > longest:
                best, longest = other, common
        return best, longest

    def _start_from(self, slot: Slot, donor: Slot, n_tokens: int) -> None:
        self._context.clear(slot.index)
        self._context.copy(donor.index, slot.index, n_tokens)
        slot.n_past = n_tokens

    def _keep(self, slot: Slot, n_keep: int) -> None:
        if n_keep == slot.n_past:
            return
        if n_keep == 0 or not self._context.truncate(slot.index, n_keep):
            self._context.clear(slot.index)
            n_keep = 0
        slot.n_past = n_keep


def _reusable(slot: Slot, ids: Sequence[int]) -> int:
    return min(common_prefix(slot.ids, ids), slot.n_past, len(ids) - 1)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two sequences have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


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
