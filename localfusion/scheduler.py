"""Who may run: one worker per file, leases on it, and the cores shared out so that none is used twice.

The decision is pure (`plan`), the acting is `Scheduler`. A lease loads the model if it is not resident,
then waits for cores; the sum of threads over running workers never exceeds the cores. A worker's threads
are set before the first of the leases that run on it together. Memory does not bound admission yet:
`footprint` is what that decision will ask.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from localfusion.engine.interface import Model
from localfusion.errors import WorkerDied
from localfusion.messages import Footprint, ModelSpec


@dataclass(frozen=True, slots=True)
class State:
    """`running` maps each worker that writes now to its threads; `waiting` are leases in order of arrival.

    `loading` are the models that leases wait for: they will want cores as soon as they are there.
    """

    cores: int
    running: Mapping[ModelSpec, int]
    waiting: tuple[ModelSpec, ...]
    loading: frozenset[ModelSpec] = frozenset()


@dataclass(frozen=True, slots=True)
class Grant:
    """The lease at `position` of the queue may start, on a worker with so many threads."""

    position: int
    n_threads: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A model that may be used now, and how long its load took (0 if it was resident)."""

    model: Model
    load_seconds: float


def plan(state: State) -> Grant | None:
    """The next lease to start, if one can: a sequence more on a running worker costs no core.

    Otherwise the oldest lease gets an even part of the free cores, at least one. What is still loading has
    its part too, since a worker keeps the threads it starts with.
    """
    for position, spec in enumerate(state.waiting):
        if spec in state.running:
            return Grant(position, state.running[spec])
    free = state.cores - sum(state.running.values())
    if not state.waiting or free < 1:
        return None
    rivals = {*state.waiting, *state.loading} - state.running.keys()
    share = max(1, free // len(rivals))
    most = state.waiting[0].n_threads
    return Grant(0, share if most == "auto" else min(share, most))


@dataclass(slots=True)
class _Resident:
    loading: asyncio.Task[Model]
    leases: int = 0


@dataclass(slots=True)
class _Group:
    """The leases that run on one worker together; none of them starts before its threads are set."""

    model: Model
    n_threads: int
    threads_set: asyncio.Task[None]
    leases: int = 0


@dataclass(slots=True)
class _Waiter:
    spec: ModelSpec
    model: Model
    granted: asyncio.Event = field(default_factory=asyncio.Event)
    group: _Group | None = None


class Scheduler:
    """Leases on models; `load` and `measure` are the engine's, `cores` what this process may use.

    A worker goes with its last lease, or with `keep_alive` when the scheduler is closed.
    """

    def __init__(
        self,
        *,
        cores: int,
        load: Callable[[ModelSpec], Awaitable[Model]],
        measure: Callable[[ModelSpec], Awaitable[Footprint]],
        keep_alive: bool = False,
    ) -> None:
        self._cores = cores
        self._load = load
        self._measure = measure
        self._keep_alive = keep_alive
        self._residents: dict[ModelSpec, _Resident] = {}
        self._loading: list[ModelSpec] = []
        self._queue: list[_Waiter] = []
        self._running: dict[ModelSpec, _Group] = {}

    async def footprint(self, spec: ModelSpec) -> Footprint:
        """What a model would take with these settings, without loading it."""
        return await self._measure(spec)

    @asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[Lease]:
        """Hold a model: resident while it is held, and given cores of its own. Raises ModelError.

        Where its worker dies in the caller's hands (WorkerDied passes through here), the next lease has a new one.
        """
        key = replace(spec, name="")
        started = time.monotonic()
        resident = self._residents.get(key)
        if resident is None:
            resident = self._residents[key] = _Resident(asyncio.create_task(self._loaded(spec)))
        fresh = resident.leases == 0
        resident.leases += 1
        try:
            model = await self._when_loaded(key, resident)
            seconds = time.monotonic() - started if fresh else 0.0
            async with self._cores_for(key, model):
                yield Lease(model, seconds)
        except WorkerDied:
            self._forget(key, resident)
            raise
        finally:
            resident.leases -= 1
            is_kept = self._keep_alive and _is_loaded(resident.loading) and self._residents.get(key) is resident
            if resident.leases == 0 and not is_kept:
                self._forget(key, resident)
                await _unload(resident.loading)

    async def close(self) -> None:
        """End every worker, whoever still holds it."""
        residents = list(self._residents.values())
        self._residents.clear()
        for resident in residents:
            await _unload(resident.loading)

    def _forget(self, key: ModelSpec, resident: _Resident) -> None:
        """The next lease loads the file anew."""
        if self._residents.get(key) is resident:
            del self._residents[key]

    async def _loaded(self, spec: ModelSpec) -> Model:
        return await self._load(spec)

    async def _when_loaded(self, key: ModelSpec, resident: _Resident) -> Model:
        self._loading.append(key)
        try:
            return await asyncio.shield(resident.loading)
        finally:
            self._loading.remove(key)

    @asynccontextmanager
    async def _cores_for(self, key: ModelSpec, model: Model) -> AsyncIterator[None]:
        waiter = _Waiter(key, model)
        self._queue.append(waiter)
        try:
            self._start_what_can()
            await waiter.granted.wait()
            assert waiter.group is not None
            await asyncio.shield(waiter.group.threads_set)
            yield
        finally:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
        elif waiter.group is not None:
            group = waiter.group
            group.leases -= 1
            if group.leases == 0:
                group.threads_set.cancel()
                if self._running.get(waiter.spec) is group:
                    del self._running[waiter.spec]
        self._start_what_can()

    def _start_what_can(self) -> None:
        while (grant := plan(self._state())) is not None:
            waiter = self._queue.pop(grant.position)
            group = self._running.get(waiter.spec)
            if group is None or group.model is not waiter.model:  # the worker of an older group has died
                threads_set = asyncio.create_task(waiter.model.set_threads(grant.n_threads))
                group = self._running[waiter.spec] = _Group(waiter.model, grant.n_threads, threads_set)
            group.leases += 1
            waiter.group = group
            waiter.granted.set()

    def _state(self) -> State:
        running = {spec: group.n_threads for spec, group in self._running.items()}
        waiting = tuple(waiter.spec for waiter in self._queue)
        return State(self._cores, running, waiting, frozenset(self._loading))


def _is_loaded(loading: asyncio.Task[Model]) -> bool:
    return loading.done() and not loading.cancelled() and loading.exception() is None


async def _unload(loading: asyncio.Task[Model]) -> None:
    """Close the model, or give up the load that is still under way; a load that failed holds nothing."""
    if not loading.done():
        loading.cancel()
    await asyncio.wait([loading])
    if _is_loaded(loading):
        await loading.result().close()
