"""Batches of encoded examples, drawn in a process of their own so that the trainer never waits.

A batch holds examples of like length, padded; it is plain numpy and says for every target which example
and which of the model's turns it belongs to.
"""

import multiprocessing as mp
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scripts.micro import tokenizer
from scripts.micro.data import LEVELS, STYLES, Encoded, Style, encode, panelist_example
from scripts.micro.judge_data import judge_example

Ints = NDArray[np.int64]
Levels = tuple[int, int]
"""The levels of the panelists' and the judge's examples."""

POOL = 384
AHEAD = 2
GRAIN = 32


@dataclass(frozen=True, slots=True)
class Mixture:
    """What to draw: the share of judge examples, the panelist's style ("any": each at random) and the seed."""

    judge_share: float
    style: Style | Literal["any"]
    seed: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Ids (rows, length); flat positions that predict `targets`; flat positions of marks and their labels."""

    ids: Ints
    positions: Ints
    targets: Ints
    turns: Ints
    kinds: tuple[str, ...]
    mark_positions: Ints
    mark_labels: Ints


def collate(examples: Sequence[Encoded]) -> Batch:
    """Pad to a common length; `turns` numbers each target's turn as 2 * row + (0 first turn, 1 second)."""
    length = -(-max(len(example.ids) for example in examples) // GRAIN) * GRAIN
    ids = np.full((len(examples), length), tokenizer.vocabulary().tokens.index(tokenizer.PAD), dtype=np.int64)
    positions, targets, turns, marks, labels = [], [], [], [], []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        turn = -1
        for at in range(1, len(example.ids)):
            if example.predicted[at]:
                turn += not example.predicted[at - 1]
                positions.append(row * length + at - 1)
                targets.append(example.ids[at])
                turns.append(2 * row + turn)
        marks += [row * length + at for at, _ in example.marks]
        labels += [label for _, label in example.marks]
    kinds = tuple(example.kind for example in examples)
    flat = [np.array(part, dtype=np.int64) for part in (positions, targets, turns, marks, labels)]
    return Batch(ids, flat[0], flat[1], flat[2], kinds, flat[3], flat[4])


def draw(rng: random.Random, mixture: Mixture, panel_level: int, judge_level: int) -> Encoded:
    """One encoded example; one in five is drawn from an easier level, so that nothing is forgotten."""
    if rng.random() < mixture.judge_share:
        return encode(judge_example(rng, LEVELS[_at_most(rng, judge_level)]))
    style = rng.choice(STYLES) if mixture.style == "any" else mixture.style
    return encode(panelist_example(rng, LEVELS[_at_most(rng, panel_level)], style))


def _at_most(rng: random.Random, level: int) -> int:
    return level if rng.random() < 0.8 else rng.randint(0, level)


def pool_of_batches(rng: random.Random, one: Callable[[], Encoded], tokens: int) -> list[Batch]:
    """Draw a pool of examples and cut it by length into batches of about `tokens` padded tokens, shuffled."""
    examples = sorted((one() for _ in range(POOL)), key=lambda example: len(example.ids))
    found: list[Batch] = []
    group: list[Encoded] = []
    for example in examples:
        length = -(-len(example.ids) // GRAIN) * GRAIN
        if group and (len(group) + 1) * length > tokens:
            found.append(collate(group))
            group = []
        group.append(example)
    found.append(collate(group))
    rng.shuffle(found)
    return found


def get_while_wanted(queue: "mp.Queue[Levels]") -> Levels:
    """The next request; ends this process when the one that asks is gone."""
    parent = mp.parent_process()
    while parent is not None and parent.is_alive():
        try:
            return queue.get(timeout=5)
        except Empty:
            continue
    sys.exit(0)


def _produce(asked: "mp.Queue[Levels]", drawn: "mp.Queue[list[Batch]]", mixture: Mixture, tokens: int) -> None:
    rng = random.Random(f"train {mixture.seed}")
    drawn.cancel_join_thread()
    while True:
        panel, judge = get_while_wanted(asked)
        drawn.put(pool_of_batches(rng, lambda: draw(rng, mixture, panel, judge), tokens))  # noqa: B023


class Producer:
    """Batches from a daemon process, always `AHEAD` pools before they are needed; `levels` may be raised meanwhile.

    The levels of a pool are those when it was asked for, so that the batches depend on the seed and on what was
    learnt, not on how fast the process is.
    """

    def __init__(self, mixture: Mixture, tokens: int, levels: Levels) -> None:
        context = mp.get_context("spawn")
        self._asked: mp.Queue[Levels] = context.Queue()
        self._drawn: mp.Queue[list[Batch]] = context.Queue()
        self.levels = levels
        self._process = context.Process(target=_produce, args=(self._asked, self._drawn, mixture, tokens), daemon=True)
        self._process.start()

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(AHEAD):
            self._asked.put(self.levels)
        while self._process.is_alive():
            try:
                pool = self._drawn.get(timeout=5)
            except Empty:
                continue
            self._asked.put(self.levels)
            yield from pool

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()
