"""How often a network in training writes its whole turn right, freely and under the quote constraint.

Teacher-forced: a turn is right if every token of it was the foremost one among those allowed, so a greedy run
would have written it. The constraint here stands for the engine's grammar: inside quotation marks only
runs of words that were shown. It is no substitute for `scripts/bench-micro`, which runs the engine itself.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from scripts.micro import tokenizer
from scripts.micro.data import Encoded, Example, encode
from scripts.micro.network import Network

OPENING, CLOSING = (tokenizer.encode(mark)[0] for mark in "“”")
SPACED_OPENING = tokenizer.encode(" “")[0]


@dataclass(frozen=True, slots=True)
class Right:
    """Of `count` turns of one kind, the shares right without and with the constraint."""

    kind: str
    turn: int
    count: int
    free: float
    constrained: float


def shown_sentences(example: Example) -> list[str]:
    """The sentences that the model was shown, without their numbers and without marks around them."""
    shown = re.split(r"<\|results\|>|<\|answers\|>", "".join(text for text, own in example.pieces if not own))[-1]
    lines = shown.split("<|")[0].strip().split("\n")
    return [re.sub(r"^[abc] “|”? \[\d+\]$", "", line) for line in lines]


def word_runs(sentences: list[str]) -> list[list[int]]:
    """The ids of every sentence from each of its words on."""
    return [
        tokenizer.encode(" ".join(words[start:]))
        for words in (sentence.split() for sentence in sentences)
        for start in range(len(words))
    ]


def allowed_next(prefix: list[int], runs: list[list[int]]) -> set[int]:
    """The ids that may follow `prefix` inside a quotation."""
    following = [run[len(prefix) :] for run in runs if run[: len(prefix)] == prefix]
    return {rest[0] for rest in following if rest} | ({CLOSING} if prefix else set())


def walk(encoded: Encoded, runs: list[list[int]]) -> Iterator[tuple[int, int, set[int] | None]]:
    """(position, turn, allowed ids or None) of every predicted token."""
    turn = -1
    prefix: list[int] | None = None
    for at, token in enumerate(encoded.ids):
        if not encoded.predicted[at]:
            continue
        turn += not encoded.predicted[at - 1]
        yield at, turn, None if prefix is None else allowed_next(prefix, runs)
        if token in (OPENING, SPACED_OPENING):
            prefix = []
        elif token == CLOSING:
            prefix = None
        elif prefix is not None:
            prefix.append(token)


def judge_turns(network: Network, example: Example) -> list[tuple[int, bool, bool]]:
    """(turn, right freely, right under the constraint) of each of the model's turns."""
    encoded = encode(example)
    runs = word_runs(shown_sentences(example))
    with torch.no_grad():
        stream, _, matrix = network(torch.tensor([encoded.ids]))
        logits = (stream @ matrix.T)[0]
    found: dict[int, tuple[bool, bool]] = {}
    for at, turn, allowed in walk(encoded, runs):
        scores, token = logits[at - 1], encoded.ids[at]
        free, bound = found.get(turn, (True, True))
        foremost = int(scores.argmax())
        among = foremost if allowed is None else max(allowed, key=lambda one: float(scores[one]))
        found[turn] = (free and foremost == token, bound and among == token)
    return [(turn, free, bound) for turn, (free, bound) in found.items()]


def measure(network: Network, seed: int, count: int, draw: Callable[[random.Random], Example]) -> list[Right]:
    """Shares of right turns over `count` drawn examples, by kind."""
    rng = random.Random(f"evaluation {seed}")
    tallies: dict[tuple[str, int], list[tuple[bool, bool]]] = {}
    for _ in range(count):
        example = draw(rng)
        for turn, free, bound in judge_turns(network, example):
            tallies.setdefault((example.kind, turn), []).append((free, bound))
    return [
        Right(kind, turn, len(all_), sum(f for f, _ in all_) / len(all_), sum(b for _, b in all_) / len(all_))
        for (kind, turn), all_ in sorted(tallies.items())
    ]
