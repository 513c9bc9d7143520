"""Whole runs on the real engine within little memory: waves, refusals, and what the judge does while others write."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import pytest

from localfusion.deliberation import Question, World, deliberate
from localfusion.domains import Domains
from localfusion.engine import client
from localfusion.engine.interface import Model
from localfusion.errors import OutOfMemory
from localfusion.events import AnalysisCompleted, Event, MemoryAwaited, WarningRaised
from localfusion.judge import seeded_order
from localfusion.messages import GenerateRequest, JudgeSpec, ModelSpec, PanelistSpec, PanelSpec, local_models
from localfusion.outcome import Outcome
from localfusion.scheduler import Engine, Limits, Scheduler
from localfusion.search.documents import DocumentIndex
from localfusion.search.source import Fetched, Found, Search, Source
from localfusion.session import open_session
from localfusion.store import Store
from localfusion.tools import CountTokens, Toolbox
from tests.harbour import HARBOUR, OPEN_QUESTION, micro_panel, request, surroundings


def models(panel: PanelSpec) -> list[ModelSpec]:
    return list(local_models(panel))


def smallest_bytes(panel: PanelSpec) -> list[int]:
    """What each model of a panel takes at least."""

    async def measure() -> list[int]:
        scheduler = Scheduler(Engine(client.load, client.footprint), Limits(2, 2**40, lambda: 2**40))
        found = [await scheduler.fit([spec]) for spec in models(panel)]
        return [one.total_bytes for one in found]

    return asyncio.run(measure())


def ask(home: Path, memory_bytes: int, *, listen: Callable[[Event], None] = lambda _: None) -> Outcome:
    async def run() -> Outcome:
        async with open_session(surroundings(home), memory_bytes=memory_bytes) as session:
            return await session.ask(request(), emit=listen)

    return asyncio.run(run())


def test_a_panel_that_does_not_fit_at_once_runs_in_waves(tmp_path: Path) -> None:
    sizes = smallest_bytes(micro_panel())
    heard: list[Event] = []
    most_workers = 0

    def listen(event: Event) -> None:
        nonlocal most_workers
        heard.append(event)
        most_workers = max(most_workers, len(psutil.Process().children()))

    outcome = ask(tmp_path, max(sizes), listen=listen)
    assert (outcome.status, outcome.failed_models) == ("ok", ())
    assert [response.id for response in outcome.responses] == ["a", "b", "c"]
    assert outcome.answer
    assert most_workers == 1
    assert {event.id for event in heard if isinstance(event, MemoryAwaited)} >= {"b", "c"}
    (warning,) = [event.message for event in heard if isinstance(event, WarningRaised)]
    assert "loaded one after another" in warning


def test_a_panel_that_can_never_fit_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    sizes = smallest_bytes(micro_panel())
    with pytest.raises(OutOfMemory, match="may be used"):
        ask(tmp_path, max(sizes) // 2)
    with closing(Store(tmp_path)) as store:
        assert store.list_runs() == ()


class Watched(Scheduler):
    """A scheduler that says when the judge has read ahead."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        super().__init__(engine, limits)
        self.has_read = asyncio.Event()

    async def read_ahead(self, spec: ModelSpec, request: Callable[[Model], GenerateRequest], *, run: str = "") -> bool:
        has_read = await super().read_ahead(spec, request, run=run)
        if has_read:
            self.has_read.set()
        return has_read


class Late:
    """Documents that are found only once the judge has read what is ready."""

    def __init__(self, source: Source, event: asyncio.Event) -> None:
        self._source, self._event = source, event

    name = "late"

    async def search(self, search: Search) -> Found:
        await self._event.wait()
        return await self._source.search(search)

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        return await self._source.fetch(url, domains)


def test_the_judge_reads_what_is_ready_while_others_still_write() -> None:
    async def scenario() -> tuple[list[Event], Outcome]:
        heard: list[Event] = []
        scheduler = Watched(Engine(client.load, client.footprint), Limits(4, 2**40, lambda: 2**40))
        with closing(Store(None)) as store, closing(DocumentIndex(None)) as index:
            source = index.add((HARBOUR,)).source
            run_id = store.create_run(request())
            late = Late(source, scheduler.has_read)

            def toolbox(seat: PanelistSpec | JudgeSpec, count_tokens: CountTokens) -> Toolbox:
                chosen = late if isinstance(seat, PanelistSpec) and seat.id == "c" else source
                remember = partial(store.save_page, run_id)
                tools = partial(Toolbox, chosen, seat.tools, question=OPEN_QUESTION, max_calls=1, remember=remember)
                return tools(count_tokens=count_tokens)

            def stored_text(url: str) -> str | None:
                page = store.page(run_id, url)
                return None if page is None else page.text

            world = World(scheduler, toolbox, stored_text, heard.append)
            try:
                outcome = await deliberate(Question(OPEN_QUESTION, micro_panel(), seed), world, run_id=run_id)
            finally:
                await scheduler.close()
        return heard, outcome

    seed = next(n for n in range(99) if seeded_order("abc", n)[-1] == "c")
    heard, outcome = asyncio.run(scenario())
    (analysis,) = [event for event in heard if isinstance(event, AnalysisCompleted)]
    assert outcome.status == "ok"
    assert analysis.usage.cached_tokens > 50
