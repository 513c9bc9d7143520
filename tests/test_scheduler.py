"""Leases on models that only note what is done to them: memory, turns on the cores, and what happens when some die."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localfusion.engine.interface import Embeddings
from localfusion.errors import ModelLoadError, OutOfMemory, QueueFull, WorkerDied
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
    Usage,
)
from localfusion.scheduler import Engine, Limits, Scheduler

REQUEST = GenerateRequest("s", (Message("user", "?"),))


def spec(name: str) -> ModelSpec:
    return ModelSpec(name, Path(f"/{name}.gguf"))


A, B, C = spec("a"), spec("b"), spec("c")


class NotedModel:
    """A model that notes its threads, once they are set, and whether it was closed; it writes when it may."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.threads: list[int] = []
        self.sequences: list[str] = []
        self.may_write = asyncio.Event()
        self.ended = asyncio.Event()
        self.may_set_threads: asyncio.Event | None = None
        self.closed = False
        self.is_old = False

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("noted", 256, 256, 0, 0, 0, {}, None)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        self.sequences.append(request.sequence)
        yield Progress(1, 2)
        await self.may_write.wait()
        yield Completion(request.sequence, "", "stop", Usage())

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(len(text) for text in texts)

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        return len(messages) + len(tools)

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Embeddings:
        self.sequences.append(kind)
        await self.may_write.wait()
        return Embeddings(np.ones((len(texts), 1), np.float32))

    async def set_threads(self, n_threads: int) -> None:
        if self.may_set_threads is not None:
            await self.may_set_threads.wait()
        if self.spec.name == "dying":
            raise WorkerDied("dying", "the worker of dying ended by itself", exit_code=1)
        self.threads.append(n_threads)

    def is_current(self) -> bool:
        return not self.is_old

    async def close(self) -> None:
        self.closed = True
        self.ended.set()


class Shelf:
    """Loads noted models and keeps them in view."""

    def __init__(self) -> None:
        self.loaded: list[NotedModel] = []
        self.slow: dict[str, asyncio.Event] = {}
        self.sizes: dict[str, int] = {}
        self.is_loaded = {name: asyncio.Event() for name in "abc"}
        self.may_set_threads: asyncio.Event | None = None

    async def load(self, spec: ModelSpec) -> NotedModel:
        await asyncio.sleep(0)
        if spec.name in self.slow:
            await self.slow[spec.name].wait()
        if spec.name == "broken":
            raise ModelLoadError("broken", "broken cannot be loaded")
        self.loaded.append(NotedModel(spec))
        if spec.name in self.is_loaded:
            self.is_loaded[spec.name].set()
        self.loaded[-1].may_set_threads = self.may_set_threads
        return self.loaded[-1]

    async def measure(self, spec: ModelSpec) -> Footprint:
        if spec.name == "unreadable":
            raise ModelLoadError("unreadable", "unreadable cannot be read")
        if spec.n_gpu_layers != "auto" and spec.device:
            n = 10 if spec.n_gpu_layers < 0 else spec.n_gpu_layers
            return Footprint(weights_copied_bytes=10 - n, vram_bytes=10 * n, n_gpu_layers=n)
        weights = self.sizes.get(spec.path.stem, 10)
        return Footprint(weights_copied_bytes=weights, kv_bytes=20 if spec.kv_type == "q8_0" else 40)

    def closed(self) -> list[str]:
        return [model.spec.name for model in self.loaded if model.closed]

    def scheduler(
        self, cores: int, *, memory: int = 10_000, available: int = 10_000, keep_alive_s: float = 0, max_runs: int = 8
    ) -> Scheduler:
        limits = Limits(cores, memory, lambda: available, keep_alive_s=keep_alive_s, max_runs=max_runs)
        return Scheduler(Engine(self.load, self.measure), limits)

    def scheduler_with_gpus(self, *free_bytes: int, vram: int | None = None) -> Scheduler:
        async def devices() -> tuple[Device, ...]:
            return tuple(Device(f"gpu{i}", "a card", n_bytes, n_bytes) for i, n_bytes in enumerate(free_bytes))

        limits = Limits(2, 10_000, lambda: 10_000, vram_bytes=vram, keep_alive_s=60)
        return Scheduler(Engine(self.load, self.measure, devices), limits)


async def settle() -> None:
    """Let every task go on until it waits for something that nobody else does."""
    for _ in range(60):
        await asyncio.sleep(0)


class Seats:
    """Leases held by tasks of their own until they are let go; `inside` are those that hold theirs."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.inside: list[str] = []

    def sit(self, spec: ModelSpec, *, run: str = "") -> asyncio.Task[None]:
        async def hold() -> None:
            async with self.scheduler.lease(spec, run=run):
                self.inside.append(spec.name)
                try:
                    await asyncio.sleep(60)
                finally:
                    self.inside.remove(spec.name)

        return asyncio.create_task(hold())

    def write(self, spec: ModelSpec, *, run: str = "") -> asyncio.Task[None]:
        """Hold a lease and write on it; inside while the model writes."""

        async def hold() -> None:
            async with self.scheduler.lease(spec, run=run) as lease:
                async for item in lease.model.generate(REQUEST):
                    if isinstance(item, Progress):
                        self.inside.append(spec.name)
                self.inside.remove(spec.name)

        return asyncio.create_task(hold())


async def leave(*seats: asyncio.Task[None]) -> list[BaseException | None]:
    """Cancel the leases and say how each of them ended."""
    for seat in seats:
        seat.cancel()
    return await asyncio.gather(*seats, return_exceptions=True)


# Memory


def test_seats_on_one_file_share_one_worker() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(2)
        async with scheduler.lease(A) as one, scheduler.lease(ModelSpec("twin", A.path)) as two:
            assert one.model.info is not None
            assert one.model == two.model
            assert shelf.closed() == []
        await scheduler.close()
        assert len(shelf.loaded) == 1
        assert shelf.closed() == ["a"]

    asyncio.run(scenario())


def test_models_that_do_not_fit_together_are_loaded_in_waves() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(4, memory=120))
        panel = [seats.sit(model) for model in (A, B, C)]
        await settle()
        assert seats.inside == ["a", "b"]
        await leave(panel[0])
        await settle()
        assert seats.inside == ["b", "c"]
        assert shelf.closed() == ["a"]
        await leave(*panel)

    asyncio.run(scenario())


def test_an_idle_model_stays_until_its_memory_is_needed() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(4, memory=120, keep_alive_s=60))
        for model in (A, B, A):
            seat = seats.sit(model)
            await settle()
            await leave(seat)
        assert (len(shelf.loaded), shelf.closed()) == (2, [])
        third = seats.sit(C)
        await settle()
        assert shelf.closed() == ["b"]
        await leave(third)
        await seats.scheduler.close()
        assert sorted(shelf.closed()) == ["a", "b", "c"]

    asyncio.run(scenario())


def test_a_model_whose_file_was_replaced_is_loaded_anew_once_nobody_holds_it() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(1, keep_alive_s=60)
        async with scheduler.lease(A):
            shelf.loaded[0].is_old = True
            async with scheduler.lease(A):
                assert len(shelf.loaded) == 1
        async with scheduler.lease(A):
            assert len(shelf.loaded) == 2
            assert [model.closed for model in shelf.loaded] == [True, False]
        await scheduler.close()

    asyncio.run(scenario())


def test_a_footprint_is_of_what_the_file_holds_now(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"one")

    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(1, memory=100)
        wanted = ModelSpec("m", path)
        assert (await scheduler.fit([wanted])).total_bytes == 50
        shelf.sizes["m"] = 30
        assert (await scheduler.fit([wanted])).total_bytes == 50
        path.write_bytes(b"another")
        assert (await scheduler.fit([wanted])).total_bytes == 70
        async with scheduler.lease(wanted):  # what is held is joined, whatever lies there now
            path.write_bytes(b"much larger")
            shelf.sizes["m"] = 90
            async with scheduler.lease(wanted):
                assert len(shelf.loaded) == 1
        await settle()
        with pytest.raises(OutOfMemory):
            await scheduler.fit([wanted])
        path.write_bytes(b"unreadable")
        with pytest.raises(ModelLoadError):
            await scheduler.footprint(replace(wanted, name="unreadable"))
        await scheduler.close()

    asyncio.run(scenario())


def test_an_idle_model_leaves_after_its_time() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(1, keep_alive_s=0.01)
        async with scheduler.lease(A):
            await asyncio.sleep(0.03)
        assert shelf.closed() == []
        await shelf.loaded[0].ended.wait()
        async with scheduler.lease(A):
            assert len(shelf.loaded) == 2
        await scheduler.close()

    asyncio.run(scenario())


def test_what_can_never_fit_is_refused_and_what_others_hold_is_waited_for() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        shelf.sizes = {"b": 100}
        seats = Seats(shelf.scheduler(4, memory=130))
        with pytest.raises(OutOfMemory) as caught:
            async with seats.scheduler.lease(replace(B, kv_type="f16")):
                pass
        assert (caught.value.need_bytes, caught.value.have_bytes) == (140, 130)
        assert caught.value.message == "b needs 0 MiB and 0 MiB may be used"
        assert shelf.loaded == []
        held, waits = seats.sit(A), seats.sit(replace(B, kv_type="q8_0"))
        await settle()
        assert seats.inside == ["a"]
        await leave(held)
        await settle()
        assert seats.inside == ["b"]
        await leave(waits)

    asyncio.run(scenario())


def test_memory_that_other_programs_took_is_not_used() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        with pytest.raises(OutOfMemory):
            async with shelf.scheduler(4, available=49).lease(A):
                pass
        async with shelf.scheduler(4, available=50).lease(A):
            assert len(shelf.loaded) == 1

    asyncio.run(scenario())


def test_a_load_that_fails_is_told_to_all_and_leaves_nothing() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(2, memory=50)

        async def seat() -> None:
            async with scheduler.lease(spec("broken")):
                pass

        results = await asyncio.gather(seat(), seat(), return_exceptions=True)
        assert [type(result) for result in results] == [ModelLoadError, ModelLoadError]
        async with scheduler.lease(A):
            pass
        await scheduler.close()

    asyncio.run(scenario())


def test_a_lease_that_is_given_up_while_it_waits_leaves_nothing() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(1, memory=50))
        holder, waiter, other = seats.sit(A), seats.sit(B), seats.sit(C)
        await settle()
        await leave(waiter)
        await leave(holder)
        await settle()
        assert seats.inside == ["c"]
        await leave(other)
        await settle()
        assert shelf.closed() == ["a", "c"]

    asyncio.run(scenario())


def test_a_lease_that_is_given_up_while_its_model_loads_ends_the_load() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        shelf.slow = {"a": asyncio.Event()}
        seats = Seats(shelf.scheduler(1, memory=50))
        waiter, other = seats.sit(A), seats.sit(B)
        await settle()
        await leave(waiter)
        await settle()
        assert seats.inside == ["b"]
        assert [model.spec.name for model in shelf.loaded] == ["b"]
        await leave(other)

    asyncio.run(scenario())


def test_the_next_lease_after_a_death_has_a_new_worker() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(8, keep_alive_s=60))
        holds_the_dead = seats.sit(A)
        await settle()
        with pytest.raises(WorkerDied):
            async with seats.scheduler.lease(A):
                raise WorkerDied("a", "the worker of a ended by itself", exit_code=1)
        again = seats.sit(A)
        await settle()
        assert len(shelf.loaded) == 2
        await leave(holds_the_dead)
        await settle()
        assert [model.closed for model in shelf.loaded] == [True, False]
        await leave(again)
        await seats.scheduler.close()
        assert all(model.closed for model in shelf.loaded)

    asyncio.run(scenario())


def test_a_run_that_holds_much_does_not_keep_others_waiting() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(8, memory=100))
        first, second = seats.sit(A, run="x"), seats.sit(B, run="x")
        await settle()
        more, other = seats.sit(C, run="x"), seats.sit(spec("d"), run="y")
        await leave(first)
        await settle()
        assert seats.inside == ["b", "d"]
        await leave(second, more, other)

    asyncio.run(scenario())


def test_too_many_deliberations_are_refused() -> None:
    async def scenario() -> None:
        scheduler = Shelf().scheduler(1, max_runs=1)
        async with scheduler.admitted():
            with pytest.raises(QueueFull, match="1 deliberations are under way"):
                async with scheduler.admitted():
                    pass
        async with scheduler.admitted():
            pass

    asyncio.run(scenario())


def test_whoever_waits_when_the_scheduler_is_closed_is_told() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        shelf.slow = {"c": asyncio.Event()}
        seats = Seats(shelf.scheduler(4, memory=120))
        holds, loads, waits = seats.sit(A), seats.sit(C), seats.sit(B)
        await settle()
        await seats.scheduler.close()
        await settle()
        results = await leave(holds, loads, waits)
        assert [type(result) for result in results[1:]] == [WorkerDied, WorkerDied]
        assert shelf.closed() == ["a"]
        assert [model.spec.name for model in shelf.loaded] == ["a"]

    asyncio.run(scenario())


def test_memory_that_other_programs_leave_is_found_again() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        free = [60]
        scheduler = Scheduler(Engine(shelf.load, shelf.measure), Limits(4, 10_000, lambda: free[0]))
        seats = Seats(scheduler)
        first = seats.sit(A)
        await settle()
        free[0] = 20
        second = seats.sit(B)
        await settle()
        assert seats.inside == ["a"]
        free[0] = 60
        await shelf.is_loaded["b"].wait()
        await leave(first, second)
        await scheduler.close()

    asyncio.run(scenario())


# GPUs

AUTO = replace(A, name="", n_gpu_layers="auto")


def test_layers_go_to_gpus_as_their_memory_allows() -> None:
    async def chosen(spec: ModelSpec, scheduler: Scheduler) -> tuple[str, int | str]:
        found = await scheduler.fit([spec])
        (one,) = found.chosen.values()
        assert found.vram_bytes == (await scheduler.footprint(one)).vram_bytes
        return one.device, one.n_gpu_layers

    async def scenario() -> None:
        shelf = Shelf()
        assert await chosen(AUTO, shelf.scheduler(1)) == ("", 0)
        assert await chosen(AUTO, shelf.scheduler_with_gpus(50, 200)) == ("gpu1", -1)
        assert await chosen(AUTO, shelf.scheduler_with_gpus(64, 50)) == ("gpu0", 6)
        assert await chosen(AUTO, shelf.scheduler_with_gpus(500, vram=35)) == ("gpu0", 3)
        assert await chosen(AUTO, shelf.scheduler_with_gpus(500, vram=0)) == ("", 0)
        assert await chosen(replace(AUTO, n_gpu_layers=4), shelf.scheduler_with_gpus(50)) == ("gpu0", 4)
        found = await shelf.scheduler_with_gpus(50).fit([replace(spec("unreadable"), n_gpu_layers="auto")])
        assert [(one.device, one.n_gpu_layers) for one in found.chosen.values()] == [("", 0)]
        with pytest.raises(OutOfMemory) as caught:
            await shelf.scheduler_with_gpus(48, vram=45).fit([replace(A, n_gpu_layers=-1)])
        assert (caught.value.need_bytes, caught.value.have_bytes, caught.value.is_vram) == (100, 45, True)
        assert caught.value.hint == "with n_gpu_layers 4 it would fit; auto chooses such a number"

    asyncio.run(scenario())


async def by_kv_type(spec: ModelSpec) -> Footprint:
    """What a model takes of a GPU where all of its layers are there: less with a narrower KV cache."""
    if not spec.device:
        return Footprint(weights_copied_bytes=10)
    return Footprint(weights_copied_bytes=1, vram_bytes=60 if spec.kv_type == "q8_0" else 100, n_gpu_layers=10)


def gpu_of(*free_bytes: int) -> tuple[Scheduler, list[int]]:
    """A scheduler with one GPU, which has what stands last in the list."""
    free = list(free_bytes)

    async def devices() -> tuple[Device, ...]:
        return (Device("gpu0", "a card", 1000, free[-1]),)

    return Scheduler(
        Engine(Shelf().load, by_kv_type, devices), Limits(2, 10_000, lambda: 10_000, keep_alive_s=60)
    ), free


def test_layers_that_the_user_set_are_kept_with_a_narrower_cache_where_that_is_open() -> None:
    async def scenario() -> None:
        scheduler, _ = gpu_of(140)
        asked = replace(A, name="", n_gpu_layers=-1, kv_type="auto")
        found = await scheduler.fit([asked])
        assert found.chosen[asked].kv_type == "q8_0"
        assert (found.chosen[asked].n_gpu_layers, found.chosen[asked].device) == (-1, "gpu0")
        with pytest.raises(OutOfMemory):
            await scheduler.fit([replace(asked, kv_type="f16")])

    asyncio.run(scenario())


def test_what_a_gpu_has_free_is_looked_at_again_while_nothing_is_loaded_there() -> None:
    async def scenario() -> None:
        scheduler, free = gpu_of(90)
        asked = replace(A, name="", n_gpu_layers=-1, kv_type="auto")
        with pytest.raises(OutOfMemory):
            await scheduler.fit([asked])
        free.append(900)
        found = await scheduler.fit([asked])
        assert found.chosen[asked].kv_type == "f16"
        async with scheduler.lease(replace(found.chosen[asked], name="a")):
            free.append(0)  # it is ours that takes it
            assert (await scheduler.vram_bytes())["gpu0"] > 100
        await scheduler.close()

    asyncio.run(scenario())


def test_models_that_one_gpu_cannot_have_together_are_leased_one_after_another() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler_with_gpus(160)
        found = await scheduler.fit([replace(one, n_gpu_layers=-1) for one in (A, B)])
        assert not found.is_side_by_side
        a, b = (replace(one, name=one.path.stem) for one in found.chosen.values())
        seats = Seats(scheduler)
        first, second = seats.sit(a), seats.sit(b)
        await settle()
        assert seats.inside == ["a"]
        assert not await scheduler.preload(b)
        await leave(first)
        await shelf.is_loaded["b"].wait()
        await settle()
        assert shelf.closed() == ["a"]
        with pytest.raises(OutOfMemory, match="of VRAM"):
            async with scheduler.lease(replace(b, device="gpu9")):
                pass
        await leave(second)
        await scheduler.close()

    asyncio.run(scenario())


# Cores


def test_a_generation_holds_cores_and_a_lease_alone_does_not() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(2))
        idle = [seats.sit(model) for model in (A, B, C)]
        await settle()
        assert [model.threads for model in shelf.loaded] == [[], [], []]
        writers = [seats.write(model) for model in (A, B, C)]
        await settle()
        assert [model.threads for model in shelf.loaded] == [[2, 1], [1], []]
        assert seats.inside == ["a", "b", "c", "a", "b"]
        shelf.loaded[0].may_write.set()
        await settle()
        assert [model.threads for model in shelf.loaded] == [[2, 1], [1], [1]]
        shelf.loaded[1].may_write.set()
        await settle()
        assert [model.threads for model in shelf.loaded] == [[2, 1], [1], [1, 2]]
        shelf.loaded[2].may_write.set()
        await settle()
        await leave(*idle, *writers)

    asyncio.run(scenario())


def test_embedding_takes_its_turn_on_the_cores() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(1))
        writer = seats.write(A)
        await settle()
        async with seats.scheduler.lease(B) as lease:
            embedding = asyncio.create_task(lease.model.embed(["a", "b"], kind="query"))
            await settle()
            assert shelf.loaded[1].threads == []
            for model in shelf.loaded:
                model.may_write.set()
            assert (await embedding).vectors.shape == (2, 1)
            assert (shelf.loaded[1].threads, shelf.loaded[1].sequences) == ([1], ["query"])
        await leave(writer)

    asyncio.run(scenario())


def test_a_run_has_conversations_of_its_own() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(2, keep_alive_s=60)
        for run in ("x", "y"):
            async with scheduler.lease(A, run=run) as lease:
                shelf.loaded[0].may_write.set()
                assert [item async for item in lease.model.generate(REQUEST)][-1].__class__ is Completion
        assert shelf.loaded[0].sequences == ["x/s", "y/s"]
        await scheduler.close()

    asyncio.run(scenario())


def test_no_generation_starts_before_the_threads_are_set() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        shelf.may_set_threads = asyncio.Event()
        seats = Seats(shelf.scheduler(8))
        starter, other = seats.write(A), seats.write(A)
        await settle()
        model = shelf.loaded[0]
        assert (seats.inside, model.threads) == ([], [])
        await leave(starter)
        assert seats.inside == []
        shelf.may_set_threads.set()
        await settle()
        assert (seats.inside, model.threads) == (["a"], [8])
        await leave(other)

    asyncio.run(scenario())


def test_threads_that_are_being_taken_back_are_not_given_to_another_yet() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(2))
        first = seats.write(A)
        await settle()
        gate = shelf.loaded[0].may_set_threads = asyncio.Event()
        second = seats.write(B)
        await settle()
        assert seats.inside == ["a"]
        gate.set()
        await settle()
        assert seats.inside == ["a", "b"]
        assert [model.threads for model in shelf.loaded] == [[2, 1], [1]]
        await leave(first, second)

    asyncio.run(scenario())


def test_a_worker_that_dies_while_its_threads_are_set_is_told_to_all_who_wait_for_it() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(8))
        together = [seats.write(spec("dying")), seats.write(spec("dying"))]
        results = await asyncio.gather(*together, return_exceptions=True)
        assert [type(result) for result in results] == [WorkerDied, WorkerDied]
        free = seats.write(B)
        await settle()
        assert shelf.loaded[-1].threads == [8]
        await leave(free)
        await settle()

    asyncio.run(scenario())


# What is done ahead


def test_a_model_is_loaded_ahead_only_into_memory_that_nobody_needs() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(2, memory=100, keep_alive_s=60)
        seats = Seats(scheduler)
        seat = seats.sit(A)
        await settle()
        assert await scheduler.preload(B)
        assert await scheduler.preload(B), "it is there already"
        assert not await scheduler.preload(C)
        await settle()
        assert [model.spec.name for model in shelf.loaded] == ["a", "b"]
        needs_the_room = seats.sit(C)
        await settle()
        assert shelf.closed() == ["b"]
        await leave(seat, needs_the_room)
        await scheduler.close()

    asyncio.run(scenario())


def test_what_fails_to_load_ahead_is_told_to_the_lease() -> None:
    async def scenario() -> None:
        scheduler = Shelf().scheduler(2, keep_alive_s=60)
        with pytest.raises(ModelLoadError):
            await scheduler.preload(spec("broken"))
        with pytest.raises(ModelLoadError):
            async with scheduler.lease(spec("broken")):
                pass
        await scheduler.close()

    asyncio.run(scenario())


def test_reading_ahead_stops_when_somebody_wants_the_cores() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(1, keep_alive_s=60)
        assert not await scheduler.read_ahead(A, lambda _: REQUEST)
        assert shelf.loaded == []
        await scheduler.preload(A)
        await settle()
        ahead = asyncio.create_task(scheduler.read_ahead(A, lambda _: REQUEST, run="x"))
        await settle()
        assert shelf.loaded[0].sequences == ["x/s"]
        seats = Seats(scheduler)
        writer = seats.write(B)
        await settle()
        assert seats.inside == []
        shelf.loaded[0].may_write.set()
        assert not await ahead
        await settle()
        assert seats.inside == ["b"]
        assert not await scheduler.read_ahead(A, lambda _: REQUEST)
        assert shelf.loaded[0].sequences == ["x/s"], "the only core is taken"
        await leave(writer)
        await scheduler.close()

    asyncio.run(scenario())


# Settings that fit


def test_settings_are_chosen_so_that_the_models_fit() -> None:
    async def scenario() -> None:
        auto = replace(A, kv_type="auto")
        key = replace(auto, name="")
        for memory, chosen in ((50, replace(key, kv_type="f16")), (30, replace(key, kv_type="q8_0"))):
            found = await Shelf().scheduler(1, memory=memory).fit([auto, replace(auto, name="twin")])
            assert found.chosen == {key: chosen}
        with pytest.raises(OutOfMemory, match="a needs") as caught:
            await Shelf().scheduler(1, memory=29).fit([auto])
        assert caught.value.need_bytes == 30
        found = await Shelf().scheduler(1, memory=29).fit([spec("unreadable")])
        assert found.is_side_by_side
        with pytest.raises(OutOfMemory):
            await Shelf().scheduler(1, memory=29).fit([replace(A, kv_type="q8_0")])

    asyncio.run(scenario())


def test_the_refusal_says_which_window_would_fit() -> None:
    async def scenario() -> None:
        with pytest.raises(OutOfMemory) as caught:
            await Shelf().scheduler(1, memory=31).fit([replace(A, n_ctx=1024)])
        assert caught.value.hint == "with n_ctx 512 it would fit"

    asyncio.run(scenario())


def test_a_gpu_in_the_machines_memory_is_left_where_only_the_processor_has_room(tmp_path: Path) -> None:
    async def devices() -> tuple[Device, ...]:
        return (Device("gpu0", "a part of the processor", 1000, 1000, is_integrated=True),)

    async def measure(spec: ModelSpec) -> Footprint:
        if spec.device:
            return Footprint(vram_bytes=60, n_gpu_layers=10, is_integrated=True)
        return Footprint(weights_copied_bytes=50)

    async def check() -> None:
        engine = Engine(Shelf().load, measure, devices)
        path = tmp_path / "a.gguf"
        path.touch()
        auto = ModelSpec("a", path, n_gpu_layers="auto")
        for memory, layers in ((55, 0), (65, -1)):
            found = await Scheduler(engine, Limits(2, memory, lambda: 1000)).fit([auto])
            assert [chosen.n_gpu_layers for chosen in found.chosen.values()] == [layers]

    asyncio.run(check())
