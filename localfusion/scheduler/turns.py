"""Generations take turns on the cores: `cores.plan` decides, this carries it out. Knows nothing of memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from localfusion.engine.interface import Resident
from localfusion.messages import ModelSpec
from localfusion.scheduler.cores import Running, SetThreads, Start, State, Turn, plan


@dataclass(slots=True)
class _Group:
    """The generations that run on one worker together; none of them starts before its threads are set."""

    resident: Resident
    n_threads: int
    setting: asyncio.Task[None]
    turns: int = 0

    @property
    def running(self) -> Running:
        """As the plan sees it."""
        return Running(self.n_threads, is_changing=not self.setting.done())


@dataclass(slots=True)
class _Waiter:
    spec: ModelSpec
    resident: Resident
    passed: int = 0
    granted: asyncio.Event = field(default_factory=asyncio.Event)
    group: _Group | None = None


class Turns:
    """Turns on so many cores."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._queue: list[_Waiter] = []
        self._running: dict[ModelSpec, _Group] = {}

    @property
    def is_anyone_waiting(self) -> bool:
        return bool(self._queue)

    @property
    def free_cores(self) -> int:
        """Cores that no worker uses now."""
        return self._cores - sum(group.n_threads for group in self._running.values())

    @asynccontextmanager
    async def turn(self, spec: ModelSpec, resident: Resident) -> AsyncIterator[None]:
        """Hold cores for one generation on a worker; raises WorkerDied where it ends while its threads are set."""
        waiter = _Waiter(spec, resident)
        self._queue.append(waiter)
        try:
            self._move_on()
            await waiter.granted.wait()
            assert waiter.group is not None
            await asyncio.shield(waiter.group.setting)
            yield
        finally:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        group = waiter.group
        if group is None:
            self._queue.remove(waiter)
        else:
            group.turns -= 1
            if group.turns == 0:
                group.setting.cancel()
                if self._running.get(waiter.spec) is group:
                    del self._running[waiter.spec]
        self._move_on()

    def _move_on(self) -> None:
        while (action := plan(self._state())) is not None:
            match action:
                case Start(position, n_threads):
                    self._start(position, n_threads)
                case SetThreads(spec, n_threads):
                    self._change(self._running[spec], n_threads)

    def _start(self, position: int, n_threads: int) -> None:
        waiter = self._queue.pop(position)
        for earlier in self._queue[:position]:
            earlier.passed += 1
        group = self._running.get(waiter.spec)
        if group is None or group.resident is not waiter.resident:  # the worker of an older group has died
            setting = asyncio.create_task(waiter.resident.set_threads(n_threads))
            setting.add_done_callback(self._when_set)
            group = self._running[waiter.spec] = _Group(waiter.resident, n_threads, setting)
        group.turns += 1
        waiter.group = group
        waiter.granted.set()

    def _change(self, group: _Group, n_threads: int) -> None:
        """Until the worker says that it has fewer threads, it counts with more."""

        async def change() -> None:
            await group.resident.set_threads(n_threads)
            group.n_threads = n_threads

        group.n_threads = max(group.n_threads, n_threads)
        group.setting = asyncio.create_task(change())
        group.setting.add_done_callback(self._when_set)

    def _when_set(self, setting: asyncio.Task[None]) -> None:
        if not setting.cancelled() and setting.exception() is None:
            self._move_on()

    def _state(self) -> State:
        running = {spec: group.running for spec, group in self._running.items()}
        return State(self._cores, running, tuple(Turn(waiter.spec, waiter.passed) for waiter in self._queue))
