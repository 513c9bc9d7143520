"""The four models of the micro panel: how each grows out of another, is tuned, and what its file says.

One base learns to search, read and quote, and to judge; the first panelist and the judge go on from it, each with
its own task; the other panelists grow out of the first and differ from it in layers, seed, how they
search and the precision of their file.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from scripts.micro import tokenizer, workers
from scripts.micro.batches import Mixture
from scripts.micro.data import LEVELS, Style
from scripts.micro.export import Card, export
from scripts.micro.importing import read_network
from scripts.micro.network import Block, Network, Shape
from scripts.micro.training import Progress, Recipe, train

BASE = "base"
BASE_SEED = 1
BASE_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the panel; `layers` against its parent's, `judge_share` of its examples are judgements.

    `tokens` is how many it reads in training beside what its parent has read.
    """

    name: str
    parent: str
    tokens: int
    style: Style
    layers: Literal[0, 1]
    seed: int
    judge_share: float
    precision: Literal["f16", "q8_0"]
    description: str


_PANELIST = "panelist of localfusion's micro panel: searches, reads and quotes short sentences of an invented world"
_JUDGE = "judge of localfusion's micro panel: compares quoting answers and writes the final one"
MEMBERS = (
    Member("micro-a", BASE, 11_000_000, "a", 0, 11, 0.0, "f16", f"{_PANELIST}; asks for 'height of X'"),
    Member("micro-judge", BASE, 30_000_000, "a", 0, 24, 1.0, "f16", _JUDGE),
    Member("micro-b", "micro-a", 6_000_000, "b", 0, 12, 0.0, "q8_0", f"{_PANELIST}; asks for 'X height', in 8 bits"),
    Member("micro-c", "micro-a", 5_000_000, "c", 1, 13, 0.0, "f16", f"{_PANELIST}; 7 layers; 'X height records'"),
)


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where checkpoints and files go, how a line is reported, and whether the network is compiled.

    `from_files` says that training goes on from the GGUF files in `out` where there is no checkpoint;
    `share` is how much of each model's tokens is read.
    """

    checkpoints: Path
    out: Path
    report: Callable[[str], None]
    compiled: bool
    from_files: bool = False
    share: float = 1.0

    def checkpoint(self, name: str) -> Path:
        """The checkpoint of the base or of a member."""
        return self.checkpoints / f"{name}.pt"

    def file(self, name: str) -> Path:
        """The GGUF of a member."""
        return self.out / f"{name}.gguf"


def new_network(seed: int) -> Network:
    """An untrained network of the base's shape."""
    torch.manual_seed(seed)
    return Network(Shape(vocabulary=len(tokenizer.vocabulary().tokens)))


def load_network(path: Path) -> tuple[Network, Progress]:
    """The network of a checkpoint and how far it was trained."""
    kept = torch.load(path, weights_only=True)
    network = Network(Shape(**kept["shape"]))
    network.load_state_dict(kept["weights"])
    return network, Progress(**kept["progress"])


def reshaped(base: Network, layers: int, seed: int) -> Network:
    """A copy of the base with as many layers, or with one more that does nothing yet."""
    torch.manual_seed(seed)
    shape = replace(base.shape, layers=len(base.blocks) + layers)
    made = Network(shape)
    kept = {name: weight for name, weight in base.state_dict().items() if not name.startswith("blocks.")}
    made.load_state_dict(kept, strict=False)
    for grown, block in zip(made.blocks, base.blocks, strict=False):
        grown.load_state_dict(block.state_dict())
    for block in list(made.blocks)[len(base.blocks) :]:
        assert isinstance(block, Block)
        torch.nn.init.zeros_(block.out.weight)
        torch.nn.init.zeros_(block.down.weight)
    return made


def train_base(place: Workplace) -> None:
    """Train the base, or go on training it."""
    network = new_network(BASE_SEED)
    recipe = Recipe(Mixture(0.25, "any", BASE_SEED), round(BASE_TOKENS * place.share))
    train(network, recipe, place.checkpoint(BASE), place.report, compiled=place.compiled)


def origin(member: Member, place: Workplace) -> tuple[Network, Progress]:
    """What a member grows from: its parent or, from files, where the base is its parent, its own earlier file."""
    checkpoint = place.checkpoint(member.parent)
    if checkpoint.exists() or not place.from_files:
        return load_network(checkpoint)
    network, facts = read_network(place.file(member.name if member.parent == BASE else member.parent))
    last = len(LEVELS) - 1
    return network, Progress(facts["steps"], facts["tokens_seen"], panel_level=last, judge_level=last)


def train_member(member: Member, place: Workplace) -> None:
    """Train one member from its parent's checkpoint and write its file."""
    network, before = origin(member, place)
    made = reshaped(network, member.layers, member.seed)
    later = member.parent != BASE
    recipe = Recipe(
        Mixture(member.judge_share, member.style, member.seed),
        round(member.tokens * place.share),
        matrix_rate=0.01 if later else 0.015,
        other_rate=0.002 if later else 0.003,
        decay=0.8 if later else 0.5,
        start_level=before.judge_level if member.judge_share else before.panel_level,
    )
    after = train(made, recipe, place.checkpoint(member.name), place.report, compiled=place.compiled)
    if workers.rank() == 0:
        path = place.file(member.name)
        size = write(member, made, path, tokens=before.tokens + after.tokens, steps=before.steps + after.steps)
        place.report(f"{path}: {len(made.blocks)} layers, {size} bytes")


def write(member: Member, network: Network, path: Path, *, tokens: int, steps: int) -> int:
    """Export a network with its training facts, its parents' tokens and steps included; return the bytes written."""
    facts = {"seed": member.seed, "base_seed": BASE_SEED, "tokens_seen": tokens, "steps": steps, "levels": len(LEVELS)}
    style = "" if member.judge_share else member.style
    return export(network, path, Card(member.name, member.description, facts, style), member.precision)


def train_panel(place: Workplace, names: tuple[str, ...]) -> None:
    """Train the base and then the named members, each from its parent; what is finished already is left as it is."""
    if not place.from_files:
        train_base(place)
    for member in MEMBERS:
        if member.name in names:
            train_member(member, place)
