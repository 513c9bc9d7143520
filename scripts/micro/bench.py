"""Measure the micro panel on invented worlds that training never saw, through the whole deliberation.

Every question is a full run on the real engine; workers stay loaded between runs. Printed as it is measured.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localfusion.engine import client
from localfusion.messages import PanelSpec, SourcesSpec
from localfusion.scheduler import Engine, Scheduler
from localfusion.search.documents import DocumentIndex
from localfusion.search.opening import Sources
from localfusion.session import Session, limits
from localfusion.store import RunRequest, Store
from scripts.micro.folder import write_folder
from scripts.micro.scoring import Graded, Key, grade_outcome, paired_interval
from scripts.micro.world import Kind, World, generate

FIRST_SEED = 1_000_000
KINDS: tuple[Kind, ...] = ("answerable", "unanswerable", "contradictory", "open")
WANTED: dict[Kind, float] = {"answerable": 0.9, "unanswerable": 0.8, "contradictory": 0.8}
GATE: dict[Kind, float] = {"answerable": 0.8, "unanswerable": 0.6, "contradictory": 0.6}


@dataclass(slots=True)
class Tally:
    """Grades by kind of question and by who gave the answer ("a", "b", ..., "panel", "judge")."""

    grades: dict[Kind, list[dict[str, Graded]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    failures: int = 0

    def count(self, kind: Kind) -> int:
        return len(self.grades[kind])

    def mean(self, kind: Kind, who: str, *, found_only: bool = False) -> tuple[float, int]:
        """The mean grade and over how many questions; `found_only`: of those whose gold sentence was read."""
        scores = [
            grades[who].score for grades in self.grades[kind] if who in grades and (grades[who].found or not found_only)
        ]
        return (sum(scores) / len(scores) if scores else 0.0), len(scores)


async def measure(panel: PanelSpec, *, per_kind: int, say: Callable[[str], None]) -> Tally:
    """Ask questions of fresh worlds until each kind has been asked `per_kind` times."""
    tally = Tally()
    seed = FIRST_SEED
    scheduler = Scheduler(Engine(client.load, client.footprint), limits(None))
    try:
        while any(tally.count(kind) < per_kind for kind in KINDS):
            world = generate(seed)
            with tempfile.TemporaryDirectory() as folder:
                await _ask_world(Bench(scheduler, panel, Path(folder) / "world"), world, tally, per_kind)
            seed += 1
            say(" ".join(f"{kind} {tally.count(kind)}/{per_kind}" for kind in KINDS))
    finally:
        await scheduler.close()
    return tally


@dataclass(frozen=True, slots=True)
class Bench:
    """Where one world is asked: the loaded workers, the panel, and the folder that the world is written to."""

    scheduler: Scheduler
    panel: PanelSpec
    folder: Path


async def _ask_world(bench: Bench, world: World, tally: Tally, per_kind: int) -> None:
    key = Key.of(world, write_folder(world, bench.folder))
    store, index = Store(None), DocumentIndex(None)
    session = Session(store, index, Sources(index, None, keep_pages_s=0), bench.scheduler)
    try:
        for question in world.questions:
            if tally.count(question.kind) < per_kind:
                request = RunRequest(question.text, bench.panel, SourcesSpec(docs=(bench.folder,)))
                outcome = await session.ask(request, emit=lambda _: None)
                tally.grades[question.kind].append(grade_outcome(question, outcome, key))
                tally.failures += len(outcome.failed_models) + (outcome.analysis is None)
    finally:
        index.close()
        store.close()


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was measured, over how many questions, and what is wanted of it."""

    name: str
    value: float
    count: int
    wanted: float | None = None
    gate: float | None = None

    @property
    def ok(self) -> bool | None:
        return None if self.wanted is None else self.value >= self.wanted


def figures(tally: Tally, ids: Sequence[str]) -> list[Figure]:
    """Every figure of the table, each panelist first, then the panel and the judge."""
    found: list[Figure] = []
    for kind in KINDS:
        for who in (*ids, "panel", "judge"):
            value, count = tally.mean(kind, who)
            if count:
                applies = (who in ids and kind == "unanswerable") or who == "judge"
                wanted, gate = (WANTED.get(kind), GATE.get(kind)) if applies else (None, None)
                found.append(Figure(f"{kind}: {_title(who)}", value, count, wanted, gate))
        if kind == "answerable":
            for who in ids:
                value, count = tally.mean(kind, who, found_only=True)
                name = f"{kind}, its search found it: {_title(who)}"
                found.append(Figure(name, value, count, WANTED[kind], GATE[kind]))
    return found


def ahead(tally: Tally, ids: Sequence[str]) -> tuple[str, int, tuple[float, float, float]]:
    """The panel against its best member where documents are spread or conflict, paired by question."""
    graded = [*tally.grades["open"], *tally.grades["contradictory"]]
    best = max(ids, key=lambda who: sum(grades[who].score for grades in graded if who in grades))
    differences = [grades["panel"].score - grades[best].score for grades in graded if best in grades]
    return best, len(differences), paired_interval(differences)


def _title(who: str) -> str:
    return who if who in ("panel", "judge") else f"panelist {who}"
