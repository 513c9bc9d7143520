"""Leases on models: what `memory.plan` decides is loaded and closed here, and generations take their `Turns`.

A lease says that a model is resident; the cores are taken for each generation apart, so that a panelist that waits for
a page keeps none of them. A model without leases stays for `keep_alive_s`, or until its memory is needed.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from localfusion.engine.interface import Embeddings, Model, Resident
from localfusion.errors import ModelLoadError, OutOfMemory, QueueFull, WorkerDied
from localfusion.gguf_header import FileIdentity, identity, part_paths
from localfusion.messages import (
    Completion,
    Delta,
    Device,
    Footprint,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelSpec,
    Progress,
    TextKind,
    ToolSpec,
)
from localfusion.scheduler import fitting, memory, placing
from localfusion.scheduler.fitting import KV_TYPES, Fit, KvType, TooLarge, n_ctx_that_fits, variants
from localfusion.scheduler.placing import NoRoom, Placed, Unknown
from localfusion.scheduler.turns import Turns

KEEP_ALIVE_S = 300.0
MAX_RUNS = 64
RETRY_S = 1.0
"""How often a lease that waits for memory looks whether other programs have left some."""


async def no_devices() -> tuple[Device, ...]:
    """A machine without GPUs."""
    return ()


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine that a scheduler drives: how a model is loaded, what it would take, and which GPUs there are."""

    load: Callable[[ModelSpec], Awaitable[Resident]]
    measure: Callable[[ModelSpec], Awaitable[Footprint]]
    devices: Callable[[], Awaitable[tuple[Device, ...]]] = no_devices


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be used: cores, bytes of all workers together, and what the system has right now.

    `vram_bytes` bound each GPU; None is what is free there when it is first looked at, less a reserve. `keep_alive_s`
    is how long a model stays that nobody leases, `max_runs` how many deliberations may be under way.
    """

    cores: int
    memory_bytes: int
    available_bytes: Callable[[], int]
    vram_bytes: int | None = None
    keep_alive_s: float = KEEP_ALIVE_S
    max_runs: int = MAX_RUNS


@dataclass(frozen=True, slots=True)
class Lease:
    """A model that may be used now, and how long its load took (0 if it was resident)."""

    model: Model
    load_seconds: float


@dataclass(slots=True)
class _Loaded:
    """A model that takes memory; `loading` is its load, under way or done."""

    footprint: Footprint
    loading: asyncio.Task[Resident]
    leases: int = 0
    last_used: float = 0.0
    leaving: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Wish:
    spec: ModelSpec
    footprint: Footprint
    run: str
    passed: int = 0
    granted: "asyncio.Future[_Loaded]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(frozen=True, slots=True)
class _Leased:
    """A resident model whose generations take turns on the cores; a run's conversations are its own."""

    spec: ModelSpec
    resident: Resident
    turns: Turns
    run: str

    @property
    def info(self) -> ModelInfo:
        return self.resident.info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        own = replace(request, sequence=f"{self.run}/{request.sequence}")
        async with self.turns.turn(self.spec, self.resident), aclosing(self.resident.generate(own)) as stream:
            async for item in stream:
                yield item

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return await self.resident.count_tokens(texts)

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        return await self.resident.count_prompt(messages, tools)

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Embeddings:
        async with self.turns.turn(self.spec, self.resident):
            return await self.resident.embed(texts, kind=kind)


class Scheduler:
    """Leases on models within the limits of this machine."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._turns = Turns(limits.cores)
        self._footprints: dict[ModelSpec, Footprint] = {}
        self._measured: dict[ModelSpec, FileIdentity] = {}
        self._measuring = asyncio.Semaphore(limits.cores)
        self._vram_bytes: Mapping[str, int] | None = None
        self._looking_at_devices = asyncio.Lock()
        self._loaded: dict[ModelSpec, _Loaded] = {}
        self._wishes: list[_Wish] = []
        self._held: list[str] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._runs = 0
        self._is_closed = False

    @property
    def memory_bytes(self) -> int:
        """What all workers together may take."""
        return self._limits.memory_bytes

    async def vram_bytes(self) -> Mapping[str, int]:
        """What all workers together may take of each GPU, as it is when none of them is loaded there."""
        async with self._looking_at_devices:
            if self._vram_bytes is None or not any(key.device for key in self._loaded):
                try:
                    found = await self._engine.devices()
                except ModelLoadError:  # a load will say why; asked again next time
                    return {}
                self._vram_bytes = placing.budgets(found, vram_bytes=self._limits.vram_bytes)
        return self._vram_bytes

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Be one of the deliberations under way; raises QueueFull."""
        if self._runs >= self._limits.max_runs:
            raise QueueFull(
                f"{self._runs} deliberations are under way already", hint="ask again when one of them has ended"
            )
        self._runs += 1
        try:
            yield
        finally:
            self._runs -= 1

    async def footprint(self, spec: ModelSpec) -> Footprint:
        """What a model would take with these settings, without loading it; raises ModelLoadError."""
        key, file = replace(spec, name=""), identity(part_paths(spec.path))
        if key not in self._loaded and self._measured.get(key) != file:  # what is loaded stays what it was
            self._footprints.pop(key, None)
        if key not in self._footprints:
            async with self._measuring:
                self._footprints[key] = await self._engine.measure(spec)
                self._measured[key] = file
        return self._footprints[key]

    async def fit(self, specs: Iterable[ModelSpec]) -> Fit:
        """The settings with which these models fit, by the specs without their names.

        Raises OutOfMemory, naming what would fit. A file of which nothing can be said takes nothing here, and its lease
        says why.
        """
        keys = {replace(spec, name=""): spec for spec in specs}
        vram_bytes = await self.vram_bytes()
        placed = await self._placed(keys, vram_bytes)
        try:
            found = await self._fit_placed({placed[key]: spec for key, spec in keys.items()}, vram_bytes)
        except OutOfMemory:
            moved = {key: placed[key] if key.n_gpu_layers != "auto" else replace(key, n_gpu_layers=0) for key in keys}
            if moved == placed:
                raise
            placed = moved  # on a GPU that computes in the machine's memory it may take more of that
            found = await self._fit_placed({placed[key]: spec for key, spec in keys.items()}, vram_bytes)
        return replace(found, chosen={key: found.chosen[placed[key]] for key in keys})

    async def _placed(
        self, asked: Mapping[ModelSpec, ModelSpec], vram_bytes: Mapping[str, int]
    ) -> Mapping[ModelSpec, ModelSpec]:
        """Where the layers of each go; `asked` has the specs with their names.

        With f16 caches, else with q8_0 where the type is left open: layers that the user set stay as they are.
        """
        found = await self._place_with(KV_TYPES[0], asked, vram_bytes)
        if isinstance(found, NoRoom):
            found = await self._place_with(KV_TYPES[1], asked, vram_bytes)
        if isinstance(found, NoRoom):
            raise _too_many_layers(asked[found.spec].name, found)
        return found.chosen

    async def _place_with(
        self, kv_type: KvType, asked: Mapping[ModelSpec, ModelSpec], vram_bytes: Mapping[str, int]
    ) -> Placed | NoRoom:
        """The places of layers with caches of this type, where the type is left open."""
        known: dict[ModelSpec, Footprint | None] = {}
        names = {key.path: spec.name for key, spec in asked.items()}
        while isinstance(found := placing.place(list(asked), known, vram_bytes), Unknown):
            variant = (variants(found.spec, kv_type) or variants(found.spec))[0]
            await self._try_footprints(replace(variant, name=names[variant.path]), [variant])
            known[found.spec] = self._footprints.get(variant)
        return found

    async def _fit_placed(self, asked: Mapping[ModelSpec, ModelSpec], vram_bytes: Mapping[str, int]) -> Fit:
        """What is left to choose where the layers have their places."""
        for kv_type in KV_TYPES:  # the second only where the first does not fit: a footprint takes a process
            wanted = {key: variants(key, kv_type) or variants(key) for key in asked}
            await asyncio.gather(*(self._try_footprints(spec, wanted[key]) for key, spec in asked.items()))
            found = fitting.fit(
                list(asked), self._footprints, budget_bytes=self._limits.memory_bytes, vram_bytes=vram_bytes
            )
            if isinstance(found, Fit) and found.is_side_by_side:
                return found
        if isinstance(found, TooLarge):
            raise _too_large(asked[found.spec].name, found, self._limits.memory_bytes)
        return found

    async def _try_footprints(self, spec: ModelSpec, found: Iterable[ModelSpec]) -> None:
        """One after another: what is found out of the first serves the others."""
        for variant in found:
            with suppress(ModelLoadError):
                await self.footprint(replace(variant, name=spec.name))

    @asynccontextmanager
    async def lease(
        self,
        spec: ModelSpec,
        *,
        run: str = "",
        on_wait: Callable[[int], None] = lambda _: None,
        on_granted: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[Lease]:
        """Hold a model: resident while it is held. `run` names whose it is, for fairness. Raises ModelError.

        `on_wait` is told how many bytes it needs where it has to wait for memory, `on_granted` when it waits no more.
        Where its worker dies in the caller's hands (WorkerDied passes through here), the next lease has a new one.
        """
        key = replace(spec, name="")
        loaded = await self._granted(spec, key, run, on_wait)
        started = time.monotonic()
        try:
            on_granted()
            is_fresh = not loaded.loading.done()
            resident = await self._resident(spec, loaded)
            yield Lease(_Leased(key, resident, self._turns, run), time.monotonic() - started if is_fresh else 0.0)
        except WorkerDied:
            self._forget(key, loaded)
            raise
        finally:
            loaded.leases -= 1
            self._held.remove(run)
            self._let_go(key, loaded)

    async def _resident(self, spec: ModelSpec, loaded: _Loaded) -> Resident:
        """The model once it is loaded; WorkerDied where the scheduler was closed meanwhile."""
        try:
            return await asyncio.shield(loaded.loading)
        except asyncio.CancelledError:
            if loaded.loading.cancelled() and self._is_closed:
                raise _closed(spec) from None
            raise

    def loaded(self) -> tuple[ModelSpec, ...]:
        """What takes memory now, by the specs without their names."""
        return tuple(self._loaded)

    async def preload(self, spec: ModelSpec) -> bool:
        """Load a model that will be leased soon, if nobody else needs the memory; whether it is there in the end.

        It holds no lease: what others need more takes its memory back. Raises ModelError.
        """
        key = replace(spec, name="")
        footprint = await self.footprint(spec)
        loaded = self._loaded.get(key)
        if loaded is None:
            if not memory.has_room_for(self._memory_state(), _wish(_Wish(spec, footprint, run=""))):
                return False
            loaded = self._load(spec, key, footprint)
        await asyncio.wait([loaded.loading])
        if loaded.loading.cancelled():
            return False
        loaded.loading.result()
        return loaded.leaving is None

    async def read_ahead(self, spec: ModelSpec, request: Callable[[Model], GenerateRequest], *, run: str = "") -> bool:
        """Let a resident model read a prompt that goes on later, unless others want the cores; whether it was read.

        `request` is made for the model as it is loaded. What it had read when it was stopped is kept by its worker.
        """
        key = replace(spec, name="")
        loaded = self._loaded.get(key)
        is_ready = loaded is not None and loaded.leaving is None and _is_loaded(loaded.loading)
        if not is_ready or self._has_waiting() or not self._turns.free_cores:
            return False
        async with self.lease(spec, run=run) as lease, aclosing(lease.model.generate(request(lease.model))) as stream:
            async for _ in stream:
                if self._has_waiting():
                    return False
        return True

    async def close(self) -> None:
        """End every worker, whoever still holds it; nothing is loaded from now on."""
        self._is_closed = True
        self._move_on()
        for key, loaded in list(self._loaded.items()):
            self._evict(key, loaded)
        while self._leaving:
            await asyncio.wait(set(self._leaving))

    def _has_waiting(self) -> bool:
        """Whether somebody waits for memory or for cores."""
        return bool(self._wishes) or self._turns.is_anyone_waiting

    # Memory

    async def _granted(self, spec: ModelSpec, key: ModelSpec, run: str, on_wait: Callable[[int], None]) -> _Loaded:
        """Wait until the model may be had, and count the lease."""
        self._leave_if_replaced(key)
        wish = _Wish(spec, await self.footprint(spec), run)
        self._wishes.append(wish)
        try:
            self._move_on()
            if not wish.granted.done():
                on_wait(wish.footprint.total_bytes)
                self._look_again()
            return await wish.granted
        except asyncio.CancelledError:
            if wish.granted.done() and not wish.granted.cancelled() and wish.granted.exception() is None:
                self._held.remove(run)
                wish.granted.result().leases -= 1
                self._let_go(key, wish.granted.result())
            raise
        finally:
            if wish in self._wishes:
                self._wishes.remove(wish)
                self._move_on()

    def _look_again(self) -> None:
        """Other programs may have left memory, which nobody tells us of."""
        self._move_on()
        if self._wishes and not self._is_closed:
            asyncio.get_running_loop().call_later(RETRY_S, self._look_again)

    def _move_on(self) -> None:
        if self._is_closed:
            for wish in self._wishes:
                if not wish.granted.done():
                    wish.granted.set_exception(_closed(wish.spec))
        self._wishes = [wish for wish in self._wishes if not wish.granted.done()]
        while self._wishes and (action := memory.plan(self._memory_state())) is not None:
            match action:
                case memory.Join(position) | memory.Load(position):
                    self._grant(position)
                case memory.Evict(key):
                    self._evict(key, self._loaded[key])
                case memory.Refuse(position, have_bytes, place):
                    wish, is_vram = self._wishes.pop(position), place != memory.MACHINE
                    need_bytes = wish.footprint.vram_bytes if is_vram else wish.footprint.total_bytes
                    error = OutOfMemory(wish.spec.name, need_bytes=need_bytes, have_bytes=have_bytes, is_vram=is_vram)
                    wish.granted.set_exception(error)

    def _grant(self, position: int) -> None:
        wish = self._wishes.pop(position)
        for earlier in self._wishes[:position]:
            earlier.passed += 1
        key = replace(wish.spec, name="")
        loaded = self._loaded.get(key) or self._load(wish.spec, key, wish.footprint)
        loaded.leases += 1
        self._held.append(wish.run)
        wish.granted.set_result(loaded)

    def _load(self, spec: ModelSpec, key: ModelSpec, footprint: Footprint) -> _Loaded:
        loaded = self._loaded[key] = _Loaded(footprint, asyncio.ensure_future(self._engine.load(spec)))
        loaded.loading.add_done_callback(lambda _: self._let_go(key, loaded))
        return loaded

    def _let_go(self, key: ModelSpec, loaded: _Loaded) -> None:
        """The model may have become idle, or useless."""
        loaded.last_used = time.monotonic()
        if loaded.leases == 0 and self._loaded.get(key) is loaded and loaded.leaving is None:
            is_dead = loaded.loading.done() and not _is_loaded(loaded.loading)
            if is_dead or not self._limits.keep_alive_s:
                self._evict(key, loaded)
            else:
                asyncio.get_running_loop().call_later(self._limits.keep_alive_s, self._expire, key, loaded)
        elif loaded.leases == 0 and self._loaded.get(key) is not loaded:
            self._evict(key, loaded)
        self._move_on()

    def _leave_if_replaced(self, key: ModelSpec) -> None:
        """An idle model whose file is another one now is of no more use, nor is what was known of it."""
        loaded = self._loaded.get(key)
        is_idle = loaded is not None and loaded.leases == 0 and _is_loaded(loaded.loading)
        if loaded is not None and is_idle and not loaded.loading.result().is_current():
            self._footprints.pop(key, None)
            self._evict(key, loaded)

    def _expire(self, key: ModelSpec, loaded: _Loaded) -> None:
        is_old = time.monotonic() - loaded.last_used >= self._limits.keep_alive_s
        if not is_old or loaded.leases or loaded.leaving is not None or self._loaded.get(key) is not loaded:
            return
        if self._held:  # a run is under way, and may come to it
            asyncio.get_running_loop().call_later(self._limits.keep_alive_s, self._expire, key, loaded)
        else:
            self._evict(key, loaded)

    def _evict(self, key: ModelSpec, loaded: _Loaded) -> None:
        if loaded.leaving is None:
            loaded.leaving = asyncio.create_task(self._leave(key, loaded))
            self._leaving.add(loaded.leaving)
            loaded.leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, key: ModelSpec, loaded: _Loaded) -> None:
        try:
            await _unload(loaded.loading)
        finally:
            self._forget(key, loaded)
            self._move_on()

    def _forget(self, key: ModelSpec, loaded: _Loaded) -> None:
        """The next lease loads the file anew."""
        if self._loaded.get(key) is loaded:
            del self._loaded[key]

    def _memory_state(self) -> memory.State:
        holdings = tuple(
            memory.Holding(
                key,
                one.footprint.total_bytes,
                one.footprint.vram_bytes,
                one.leases,
                one.last_used,
                is_leaving=one.leaving is not None,
                is_loading=not one.loading.done(),
            )
            for key, one in self._loaded.items()
        )
        limits, vram_bytes = self._limits, self._vram_bytes or fitting.NO_GPUS
        wishes = tuple(map(_wish, self._wishes))
        return memory.State(
            limits.memory_bytes, limits.available_bytes(), holdings, wishes, tuple(self._held), vram_bytes
        )


def _wish(wish: _Wish) -> memory.Wish:
    size = wish.footprint
    return memory.Wish(replace(wish.spec, name=""), size.total_bytes, size.vram_bytes, wish.run, wish.passed)


def _closed(spec: ModelSpec) -> WorkerDied:
    return WorkerDied(spec.name, f"the worker of {spec.name} was closed", exit_code=None)


def _is_loaded(loading: "asyncio.Task[Resident]") -> bool:
    return loading.done() and not loading.cancelled() and loading.exception() is None


async def _unload(loading: "asyncio.Task[Resident]") -> None:
    """Close the model, or give up the load that is still under way; a load that failed holds nothing."""
    if not loading.done():
        loading.cancel()
    await asyncio.wait([loading])
    if _is_loaded(loading):
        await loading.result().close()


def _too_many_layers(model: str, found: NoRoom) -> OutOfMemory:
    return OutOfMemory(
        model,
        need_bytes=found.need_bytes,
        have_bytes=found.have_bytes,
        is_vram=True,
        hint=f"with n_gpu_layers {found.n_gpu_layers} it would fit; auto chooses such a number",
    )


def _too_large(model: str, found: TooLarge, budget_bytes: int) -> OutOfMemory:
    n_ctx = n_ctx_that_fits(found.smallest, found.footprint, budget_bytes=budget_bytes)
    return OutOfMemory(
        model,
        need_bytes=found.footprint.total_bytes,
        have_bytes=budget_bytes,
        hint=f"with n_ctx {n_ctx} it would fit" if n_ctx else "",
    )
