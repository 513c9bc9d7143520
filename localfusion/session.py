"""Everything that a deliberation stands on, put together on this machine: store, documents, engine, scheduler.

Builds and closes; what is asked, judged and written is `deliberation`'s.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from localfusion import deliberation, machine
from localfusion.analysis import Page, ToolStep
from localfusion.catalog import can_be_tried, seated, shared, step_in, substituted
from localfusion.citations import Closest
from localfusion.config import Surroundings, home_directory, load_settings, make_home
from localfusion.deliberation import OpenRemote, Question, World
from localfusion.domains import parse_domains
from localfusion.engine import client
from localfusion.engine.interface import Model
from localfusion.engine.measurements import Measurements
from localfusion.errors import ConfigError, OutOfMemory
from localfusion.events import DocumentsRead, Event, RunEnded, RunResumed, RunStarted, WarningRaised
from localfusion.messages import (
    CloudLeave,
    JudgeSpec,
    ModelSpec,
    PanelistSpec,
    PanelSpec,
    RemoteModel,
    SourcesSpec,
    ToolCall,
    ToolOptions,
    Usage,
    local_models,
    seats_of,
    with_models,
)
from localfusion.outcome import Outcome
from localfusion.providers import Spending, open_endpoint
from localfusion.run_state import RunState, fold
from localfusion.scheduler import MAX_RUNS, Engine, Limits, Scheduler, fitting
from localfusion.scheduler.embedding import embedder_of
from localfusion.scheduler.fitting import Fit
from localfusion.search.documents import DocumentIndex, Root
from localfusion.search.meaning import closest_sentence
from localfusion.search.opening import NOTHING_NAMED, Embedders, OnProgress, Opened, Sources, in_words
from localfusion.search.source import Source
from localfusion.store import RunRequest, Store
from localfusion.tools import CountTokens, Toolbox, named_addresses
from localfusion.wire.document import document

DOCUMENTS_FILE = "documents.sqlite3"
MEASUREMENTS_FOLDER = "measurements"
STATES_FOLDER = "states"

Emit = Callable[[Event], None]
Remember = Callable[[Page], None]
Narrow = Callable[[RunRequest], RunRequest]


@dataclass(frozen=True, slots=True)
class Session:
    """An open home, where any number of deliberations may run at once.

    `parallel` is how many texts one model may write side by side, whoever asks for them, where there is memory for it.
    """

    store: Store
    documents: DocumentIndex
    sources: Sources
    scheduler: Scheduler
    registered: Callable[[], tuple[Root, ...]] = tuple
    environ: Mapping[str, str] = field(default_factory=dict)
    parallel: int = 1

    async def ask(self, request: RunRequest, *, emit: Emit) -> Outcome:
        """Deliberate on a new run; `emit` hears every event after it was stored.

        Raises ConfigError where a document path is wrong, OutOfMemory where a model can never fit, QueueFull; a run
        that failed is an outcome. The run is stored before documents are read, so that one that is interrupted there
        can be resumed.
        """
        async with self.scheduler.admitted():
            return await self._ask(request, emit)

    async def _ask(self, request: RunRequest, emit: Emit) -> Outcome:
        leave = _leave(request)
        panel, remarks = await self._fitted(seated(request.panel, leave), leave)
        sources, missing = self.searched(request.sources)
        request = replace(request, sources=sources)
        run_id = self.store.create_run(request)
        async with AsyncExitStack() as stack:
            try:
                opened = await stack.enter_async_context(self._opened(run_id, request, emit))
            except ConfigError:
                self.store.discard(run_id)
                raise
            except asyncio.CancelledError:
                self.store.append(run_id, RunEnded("interrupted", "cancelled"))
                raise
            say = partial(_say, self.store, run_id, emit, (*remarks, *missing, *opened.warnings))
            return await self._run(run_id, replace(request, panel=panel), opened.source, say)

    @asynccontextmanager
    async def _opened(self, run_id: str, request: RunRequest, emit: Emit) -> AsyncIterator[Opened]:
        """The sources of a run; how far its documents are read is said, though nothing of it is stored."""
        loop = asyncio.get_running_loop()

        def progress(done: int, of: int, name: str) -> None:
            loop.call_soon_threadsafe(emit, DocumentsRead(run_id, done, of, name))

        emit(DocumentsRead(run_id, 0, 0, ""))
        async with self.sources.open(
            request.sources,
            names_pages=_names_pages(request.question),
            on_progress=progress,
            embedders=await self._embedders(request.sources),
        ) as opened:
            yield opened

    async def _closest(self, sources: SourcesSpec) -> Closest | None:
        embedders = await self._embedders(sources)
        return None if embedders is None else partial(closest_sentence, embedders.asking)

    async def _embedders(self, sources: SourcesSpec) -> Embedders | None:
        """The embedding model of a run, None where it names none. Raises ModelLoadError where its file is none."""
        if sources.embedding is None:
            return None
        asking = await asyncio.to_thread(embedder_of, self.scheduler, sources.embedding)
        return Embedders(reading=replace(asking, waits=True), asking=asking)

    async def resume(self, run_id: str, *, emit: Emit, narrow: Narrow = lambda request: request) -> Outcome:
        """Go on with a stored run. Raises ConfigError where it has its answer or is still running, and as `ask`.

        Documents are read again only where a panelist has yet to answer. `narrow` takes from the request what must not
        be reached, or asked, any more.
        """
        async with self.scheduler.admitted():
            return await self._resume(run_id, emit, narrow)

    async def _resume(self, run_id: str, emit: Emit, narrow: Narrow) -> Outcome:
        request = narrow(self.store.request(run_id))
        if is_complete(self.store, run_id):
            raise ConfigError(f"{run_id} has its answer already", hint=f"localfusion runs show {run_id}")
        state, leave = fold(self.store.events(run_id)), _leave(request)
        panel = seated(request.panel, leave, done=state.responses)
        panel, remarks = await self._fitted(panel, leave, state.responses)
        if not _needs_sources(request.panel, state.responses):
            request = replace(request, sources=replace(request.sources, docs=(), zim=()))
        async with self._opened(run_id, request, emit) as opened:
            self.store.claim(run_id)
            known = fold(self.store.events(run_id)).warnings
            fresh = tuple(warning for warning in (*remarks, *opened.warnings) if warning not in (*known, NOTHING_NAMED))
            say = partial(_say, self.store, run_id, emit, fresh)
            return await self._run(run_id, replace(request, panel=panel), opened.source, say)

    async def _fitted(
        self, panel: PanelSpec, leave: CloudLeave, done: Container[str] = ()
    ) -> tuple[PanelSpec, tuple[str, ...]]:
        """The panel with settings that fit the memory, and what to say of it; raises OutOfMemory where none do.

        Seats whose model can never fit are given a fallback, where they have one. Panelists in `done`, by id, have
        answered and need nothing more.
        """
        while True:
            try:
                panel, found = await self._fit(panel, done)
                break
            except OutOfMemory as error:
                panel = _without(panel, error, leave, done)
        vram_bytes = await self.scheduler.vram_bytes()
        return fitting.applied(panel, found), fitting.remarks(found, self.scheduler.memory_bytes, vram_bytes)

    async def _fit(self, panel: PanelSpec, done: Container[str]) -> tuple[PanelSpec, Fit]:
        """The panel, wide enough to write for others too where that fits side by side. Raises OutOfMemory."""
        wide = with_models(panel, self._wide)
        if wide != panel:
            with suppress(OutOfMemory):
                found = await self.scheduler.fit(local_models(wide, done=done))
                if found.is_side_by_side:
                    return wide, found
        return panel, await self.scheduler.fit(local_models(panel, done=done))

    def _wide(self, spec: ModelSpec) -> ModelSpec:
        return replace(spec, n_seq_max=max(spec.n_seq_max, self.parallel))

    @asynccontextmanager
    async def holding(self, spec: ModelSpec, *, conversation: str = "") -> AsyncIterator[Model]:
        """Hold one model outside of any deliberation. Raises ModelError.

        A file that is loaded already is used as it is loaded. `conversation` names whose it is, for fairness and for
        what is kept of it.
        """
        chosen = self._as_loaded(spec)
        if chosen is None:
            try:
                found = await self.scheduler.fit([self._wide(spec)])
            except OutOfMemory:
                found = await self.scheduler.fit([spec])
            (chosen,) = found.chosen.values()
        async with self.scheduler.lease(replace(chosen, name=spec.name), run=conversation) as lease:
            yield lease.model

    def _as_loaded(self, spec: ModelSpec) -> ModelSpec | None:
        """How a file is loaded now, if it is, and if its window is what `spec` names."""
        usable = [
            loaded
            for loaded in self.scheduler.loaded()
            if not loaded.embeddings and not loaded.deterministic and spec.n_ctx in ("auto", loaded.n_ctx)
        ]
        found = [loaded for loaded in usable if loaded.path == spec.path]
        if usable and not found:  # asking the disk takes longer than all else here
            path = spec.path.resolve()
            found = [loaded for loaded in usable if loaded.path.resolve() == path]
        return found[0] if found else None

    async def call_tool(self, sources: SourcesSpec, options: ToolOptions, call: ToolCall, *, question: str) -> ToolStep:
        """One tool call as a panelist would make it who was asked `question`; the step holds what it would be told."""
        sources, missing = self.searched(sources)
        embedders = await self._embedders(sources)
        opening = self.sources.open(sources, names_pages=_names_pages(question), embedders=embedders)
        async with opening as opened:
            step = await _toolbox(sources, opened.source, question, options, 1, lambda _: None).run(call)
        return replace(step, warnings=(*missing, *opened.warnings, *step.warnings))

    async def prepare(self, sources: SourcesSpec, *, on_progress: OnProgress) -> tuple[str, ...]:
        """Read and embed what of the documents is new, for later runs; returns what keeps them from being embedded."""
        embedders = await self._embedders(sources)
        opening = self.sources.open(sources, names_pages=False, on_progress=on_progress, embedders=embedders)
        async with opening as opened:
            return opened.not_embedded

    def searched(self, sources: SourcesSpec) -> tuple[SourcesSpec, tuple[str, ...]]:
        """What is searched: what was named, else the folders that are registered, else the web; and what is missing.

        Raises ConfigError where folders are registered and none of them is there: it is not the web then.
        """
        if sources.docs or sources.zim or sources.searxng or sources.kiwix or sources.web:
            return sources, ()
        registered = self.registered()
        there = tuple(root.path for root in registered if root.is_there)
        if registered and not there:
            first = registered[0].path
            raise ConfigError(f"{first} was added and is not there now", hint=f"localfusion docs remove {first}")
        missing = tuple(f"{root.path} was added and is not there now" for root in registered if not root.is_there)
        return replace(sources, docs=there, web=not there and not sources.offline), missing

    def _remote(self, leave: CloudLeave, state: RunState) -> OpenRemote:
        """How a run asks providers; what it took of them before it was resumed counts."""
        spending = Spending(leave, spent=sum((use.usage for use in state.cloud), Usage()))

        def remote(model: RemoteModel, id: str, say: Emit) -> AbstractAsyncContextManager[Model]:
            return open_endpoint(model, id=id, environ=self.environ, spending=spending, emit=say)

        return remote

    async def _run(self, run_id: str, request: RunRequest, source: Source, emit: Emit) -> Outcome:
        leave = _leave(request)
        question = Question(
            request.question, request.panel, request.seed, in_words(request.sources), leave, request.context
        )
        state = fold(self.store.events(run_id))
        world = World(
            scheduler=self.scheduler,
            toolbox=partial(_seat_tools, request, source, partial(self.store.save_page, run_id)),
            stored_text=partial(_stored_text, self.store, run_id),
            emit=emit,
            remote=self._remote(leave, state),
            closest=await self._closest(request.sources),
        )
        if state.run_id:
            await deliberation.resume(question, world, state=state)
        else:
            await deliberation.deliberate(question, world, run_id=run_id)
        outcome = stored_outcome(self.store, run_id)
        self.store.finish(run_id, document(outcome))
        return outcome


def _leave(request: RunRequest) -> CloudLeave:
    """What a run may send to providers: nothing where it is offline, whatever else was said."""
    return CloudLeave() if request.sources.offline else request.cloud


def _without(panel: PanelSpec, error: OutOfMemory, leave: CloudLeave, done: Container[str]) -> PanelSpec:
    """The panel where fallbacks stepped in for the model that can never fit; raises `error` where one is missing."""
    for id, seat in seats_of(panel, done=done).items():
        if seat.model.name != error.model:
            continue
        found = step_in(
            id,
            seat.model,
            seat.fallback,
            reason="does_not_fit",
            error=error.message,
            cloud=leave,
            is_there=can_be_tried,
        )
        if found is None:
            raise error
        panel = substituted(panel, id, found)
    return shared(panel)


@asynccontextmanager
async def open_session(
    surroundings: Surroundings,
    *,
    stored: bool = True,
    memory_bytes: int | None = None,
    vram_bytes: int | None = None,
    parallel: int = 1,
    max_runs: int = MAX_RUNS,
) -> AsyncIterator[Session]:
    """Open the home of these surroundings; where nothing is to be stored, runs and documents stay in memory.

    All workers together take at most `memory_bytes`, and `vram_bytes` of each GPU, or what is free now less a reserve
    for other programs. `parallel`: see Session; `max_runs` deliberations may be under way at once.
    """
    home = make_home(surroundings) if stored else None
    index = home / DOCUMENTS_FILE if home else None
    keep_pages_s = 3600 * load_settings(surroundings).settings.search.keep_pages_hours
    with closing(Store(home)) as store, closing(DocumentIndex(index)) as documents:
        async with (
            aclosing(Sources(documents, home, keep_pages_s=keep_pages_s)) as sources,
            open_scheduler(
                surroundings, home, memory_bytes=memory_bytes, vram_bytes=vram_bytes, max_runs=max_runs
            ) as scheduler,
        ):
            registered = partial(_registered, home_directory(surroundings), documents)
            yield Session(store, documents, sources, scheduler, registered, surroundings.variables, parallel)


def _registered(home: Path, documents: DocumentIndex) -> tuple[Root, ...]:
    """The folders and files that `docs add` registered in a home, also for runs that store nothing there.

    What is carried has no files to read again: an index without it, one in memory, is given it from the home's.
    """
    if not (home / DOCUMENTS_FILE).exists():
        return ()
    known = {root.path for root in documents.roots()}
    with closing(DocumentIndex(home / DOCUMENTS_FILE)) as index:
        roots = index.roots()
        for root in roots:
            if root.is_carried and root.path not in known:
                documents.carry(
                    index.carried_lines(root.path),
                    root.path,
                    is_file=index.is_file(root.path),
                    n_documents=root.n_files,
                )
        return roots


@asynccontextmanager
async def open_scheduler(
    surroundings: Surroundings,
    home: Path | None,
    *,
    memory_bytes: int | None,
    vram_bytes: int | None = None,
    max_runs: int = MAX_RUNS,
) -> AsyncIterator[Scheduler]:
    """A scheduler over the engine of this machine; its workers end with it.

    What is found out of files, and the states of prompts that were read, are kept under `home`, or nowhere.
    """
    measurements = Measurements(home / MEASUREMENTS_FOLDER if home else None)
    states = home / STATES_FOLDER if home else None
    load = partial(client.load, environ=surroundings.variables, cache=measurements, state_cache=states)
    measure = partial(client.footprint, environ=surroundings.variables, cache=measurements)
    devices = partial(client.devices, environ=surroundings.variables)
    scheduler = Scheduler(Engine(load, measure, devices), replace(limits(memory_bytes, vram_bytes), max_runs=max_runs))
    try:
        yield scheduler
    finally:
        await scheduler.close()


def limits(memory_bytes: int | None, vram_bytes: int | None = None) -> Limits:
    """What this process may use of the machine; None leaves a reserve for other programs."""
    if memory_bytes is None:
        memory_bytes = fitting.default_budget_bytes(machine.available_bytes(), total_bytes=machine.total_bytes())
    memory_bytes = min(memory_bytes, machine.total_bytes())
    return Limits(machine.usable_cores(), memory_bytes, machine.available_bytes, vram_bytes)


def stored_outcome(store: Store, run_id: str) -> Outcome:
    """What a stored run came to, or has come to so far, citations under the run's numbers."""
    state = fold(store.events(run_id))
    if not state.run_id:
        request = store.request(run_id)
        return Outcome(run_id, "interrupted", request.question, request.seed, request.panel.judge.model.name)
    return deliberation.finished(state)


def is_complete(store: Store, run_id: str) -> bool:
    """Whether a run ended well with an answer, so that resuming it would do nothing."""
    state = fold(store.events(run_id))
    return state.status == "ok" and state.answer is not None


def _say(store: Store, run_id: str, emit: Emit, warnings: Iterable[str], event: Event) -> None:
    """Store, then show; what the documents warned of is said right after the run began."""
    store.append(run_id, event)
    emit(event)
    if isinstance(event, RunStarted | RunResumed):
        for warning in warnings:
            _say(store, run_id, emit, (), WarningRaised(warning))


def _seat_tools(
    request: RunRequest, source: Source, remember: Remember, seat: PanelistSpec | JudgeSpec, count_tokens: CountTokens
) -> Toolbox:
    tools = partial(_toolbox, request.sources, source, request.question, count_tokens=count_tokens)
    return tools(seat.tools, seat.max_tool_calls, remember)


def _toolbox(
    sources: SourcesSpec,
    source: Source,
    question: str,
    options: ToolOptions,
    max_calls: int,
    remember: Remember,
    count_tokens: CountTokens | None = None,
) -> Toolbox:
    return Toolbox(
        source,
        options,
        question=question,
        max_calls=max_calls,
        remember=remember,
        run_domains=(
            parse_domains(sources.allowed_domains, sources.excluded_domains),
            parse_domains(sources.allowed_domains, sources.blocked_domains),
        ),
        count_tokens=count_tokens,
    )


def _stored_text(store: Store, run_id: str, url: str) -> str | None:
    page = store.page(run_id, url)
    return None if page is None else page.text


def _names_pages(question: str) -> bool:
    """Whether the user names a page of the web, which may be fetched whatever is searched."""
    return any(address.lower().startswith("http") for address in named_addresses(question))


def _needs_sources(panel: PanelSpec, done: Container[str]) -> bool:
    """Whether anybody of a panel still searches: a panelist that has yet to answer, or the judge."""
    return panel.judge.max_tool_calls > 0 or any(seat.id not in done for seat in panel.panelists)
