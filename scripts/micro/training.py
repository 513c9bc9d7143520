"""The training loop: Muon on matrices, AdamW on the rest, levels by accuracy; nothing follows the clock.

A run is described by `Recipe` and kept in one checkpoint file, from which it goes on. Nothing here exports.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from scripts.micro import workers
from scripts.micro.batches import Batch, Mixture, Producer
from scripts.micro.data import ENTITY_DIFFERS, LEVELS
from scripts.micro.network import Network

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and on what a network is trained.

    `tokens` are counted with their padding; the rate rises for the first `warm` of them and falls for the last `decay`
    share. A checkpoint is saved about every `save_every_s` seconds.
    """

    mixture: Mixture
    tokens: int
    batch_tokens: int = 12288
    matrix_rate: float = 0.02
    other_rate: float = 0.004
    warm: int = 350_000
    decay: float = 0.35
    mark_weight: float = 1.0
    advance_at: float = 0.75
    start_level: int = 0
    save_every_s: float = 120.0
    report_every: int = 50


@dataclass(slots=True)
class Progress:
    """Where a run stands: steps, tokens read, seconds trained, levels, and moving averages of whole turns right."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    panel_level: int = 0
    judge_level: int = 0
    right: dict[str, float] = field(default_factory=dict)
    since_level: int = 0


def optimizers(network: Network, recipe: Recipe) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms and the label head."""
    matrices = [weight for weight in network.blocks.parameters() if weight.ndim == 2]
    known = {id(weight) for weight in matrices}
    others = [weight for weight in network.parameters() if id(weight) not in known]
    return (
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    )


def rate_at(recipe: Recipe, tokens: int) -> float:
    """The factor on the learning rates after so many tokens: rising, level, then falling to a fiftieth."""
    if tokens < recipe.warm:
        return max(tokens / recipe.warm, 0.02)
    left = 1 - tokens / recipe.tokens
    return max(min(1.0, left / recipe.decay), 0.02)


def losses(
    network: Network, batch: Batch, forward: Callable[..., tuple[torch.Tensor, ...]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss of the model's own tokens, mean loss of the labels, and which of the targets were foremost.

    Tokens count by how wrong they are (focal loss, https://arxiv.org/abs/1708.02002, gamma 1): most of an answer is
    copied and soon easy, and the few tokens that choose what to copy would drown in it.
    """
    with torch.autocast("cpu", torch.bfloat16):
        stream, middle, matrix = forward(torch.from_numpy(batch.ids))
        logits = stream.flatten(0, 1)[torch.from_numpy(batch.positions)] @ matrix.T
        labels = torch.from_numpy(batch.mark_labels)
        whole_line = (labels < ENTITY_DIFFERS).long()
        marks = network.marks(middle.flatten(1, 2)[whole_line, torch.from_numpy(batch.mark_positions)])
    targets = torch.from_numpy(batch.targets)
    each = functional.cross_entropy(logits.float(), targets, reduction="none")
    weight = 0.05 + 1 - torch.exp(-each.detach())
    own = (each * weight).sum() / weight.sum()
    marked = functional.cross_entropy(marks.float(), labels) if len(labels) else own.new_zeros(())
    return own, marked, logits.detach().argmax(-1) == targets


def tally(progress: Progress, batch: Batch, hits: torch.Tensor) -> None:
    """Update the moving averages of turns of which every token was foremost."""
    misses = np.bincount(batch.turns, weights=~hits.numpy(), minlength=2 * len(batch.kinds))
    for turn, wrong in enumerate(misses):
        key = f"{batch.kinds[turn // 2]}{turn % 2 + 1}"
        before = progress.right.get(key, 0.0)
        progress.right[key] = before + 0.004 * (float(wrong == 0) - before)


def advance(progress: Progress, recipe: Recipe, producer: Producer) -> None:
    """Raise the level of the panelists or the judge when their moving averages allow it."""
    kinds = ("answerable2", "unanswerable2", "contradictory2", "open2")
    known = [progress.right.get(kind, 0.0) for kind in kinds]
    if sum(known) / 4 > recipe.advance_at and progress.panel_level < len(LEVELS) - 1:
        progress.panel_level += 1
        progress.right |= {kind: progress.right.get(kind, 0.0) - 0.25 for kind in kinds}
    if progress.right.get("judge1", 0.0) > recipe.advance_at and progress.judge_level < len(LEVELS) - 1:
        progress.judge_level += 1
        progress.right["judge1"] -= 0.25
    producer.levels = progress.panel_level, progress.judge_level


@dataclass(slots=True)
class Run:
    """A network in training: its optimizers, how far it is, and moving averages of its two losses."""

    network: Network
    recipe: Recipe
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    progress: Progress
    forward: Callable[..., tuple[torch.Tensor, ...]]
    mean: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def restore(self, path: Path) -> None:
        """Go on from the checkpoint at `path`, if there is one."""
        if not path.exists():
            return
        kept = torch.load(path, weights_only=True)
        self.network.load_state_dict(kept["weights"])
        self.progress = Progress(**kept["progress"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        kept = {
            "shape": asdict(replace(self.network.shape, layers=len(self.network.blocks))),
            "weights": self.network.state_dict(),
            "progress": asdict(self.progress),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(kept, beside)
        beside.replace(path)

    def step(self, batch: Batch) -> None:
        """Learn from one batch of each worker."""
        started = time.monotonic()
        factor = rate_at(self.recipe, self.progress.tokens)
        rates = (self.recipe.matrix_rate, self.recipe.other_rate)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=False)
        own, marked, hits = losses(self.network, batch, self.forward)
        torch.autograd.backward([own + self.recipe.mark_weight * marked])
        tokens, *shared = workers.average(self.network, [float(batch.ids.size), own.item(), marked.item()])
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.progress.steps += 1
        self.progress.tokens += round(tokens * workers.count())
        self.progress.seconds += time.monotonic() - started
        self.mean = [0.95 * old + 0.05 * new for old, new in zip(self.mean, shared, strict=True)]
        tally(self.progress, batch, hits)


def train(network: Network, recipe: Recipe, path: Path, report: Report, *, compiled: bool = False) -> Progress:
    """Train until the recipe's tokens are read, going on from the checkpoint at `path` if there is one."""
    progress = Progress(panel_level=recipe.start_level, judge_level=recipe.start_level)
    forward = torch.compile(network, dynamic=True) if compiled else network
    run = Run(network, recipe, optimizers(network, recipe), progress, forward)
    run.restore(path)
    if run.progress.tokens >= recipe.tokens:
        return run.progress
    levels = run.progress.panel_level, run.progress.judge_level
    seed = recipe.mixture.seed + 1000 * run.progress.steps + 500 * workers.rank()
    producer = Producer(replace(recipe.mixture, seed=seed), recipe.batch_tokens // workers.count(), levels)
    saved = run.progress.seconds
    for batch in producer:
        run.step(batch)
        advance(run.progress, recipe, producer)
        over = run.progress.tokens >= recipe.tokens
        if workers.rank() == 0 and (run.progress.steps % recipe.report_every == 0 or over):
            report(describe(run.progress, run.mean))
        if workers.rank() == 0 and (over or run.progress.seconds - saved > recipe.save_every_s):
            saved = run.progress.seconds
            run.save(path)
        if over:
            break
    producer.close()
    workers.wait()
    return run.progress


def describe(progress: Progress, mean: list[float]) -> str:
    """One line of a log."""
    right = " ".join(f"{kind} {share:.2f}" for kind, share in sorted(progress.right.items()))
    speed = progress.tokens / max(progress.seconds, 1e-9)
    return (
        f"{progress.seconds:6.0f} s  step {progress.steps}  {progress.tokens / 1e6:.2f} M tok ({speed:.0f}/s)  "
        f"loss {mean[0]:.4f} marks {mean[1]:.4f}  levels {progress.panel_level} {progress.judge_level}  {right}"
    )
