"""The plan as a pure function, and leases on models that only note what is done to them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.errors import ModelLoadError, WorkerDied
from localfusion.messages import (
    Completion,
    Delta,
    Footprint,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelSpec,
    Progress,
    ToolSpec,
    Usage,
)
from localfusion.scheduler import Grant, Scheduler, State, plan


def spec(name: str) -> ModelSpec:
    return ModelSpec(name, Path(f"/{name}.gguf"))


A, B, C = spec("a"), spec("b"), spec("c")


@pytest.mark.parametrize(
    ("state", "grant"),
    [
        (State(2, {}, ()), None),
        (State(2, {}, (A,)), Grant(0, 2)),
        (State(2, {}, (A, B)), Grant(0, 1)),
        (State(4, {}, (A, A, B)), Grant(0, 2)),
        (State(2, {A: 1}, (B, C)), Grant(0, 1)),
        (State(2, {A: 1, B: 1}, (C,)), None),
        (State(2, {A: 1, B: 1}, (C, A)), Grant(1, 1)),
        (State(1, {}, (A, B)), Grant(0, 1)),
        (State(8, {}, (ModelSpec("d", Path("/d.gguf"), n_threads=3),)), Grant(0, 3)),
        (State(2, {}, (ModelSpec("d", Path("/d.gguf"), n_threads=3),)), Grant(0, 2)),
        (State(8, {}, (A,), frozenset({B, C})), Grant(0, 2)),
        (State(8, {}, (A,), frozenset({A, B})), Grant(0, 4)),
        (State(8, {A: 2}, (B,), frozenset({A, C})), Grant(0, 3)),
        (State(2, {}, (), frozenset({A})), None),
        (State(1, {}, (A,), frozenset({B, C})), Grant(0, 1)),
    ],
)
def test_plan(state: State, grant: Grant | None) -> None:
    assert plan(state) == grant


@given(
    st.integers(1, 16),
    st.lists(st.sampled_from([spec(name) for name in "abcdef"]), max_size=12),
    st.randoms(use_true_random=False),
)
def test_cores_are_never_used_twice_and_everybody_gets_a_turn(
    cores: int, queue: list[ModelSpec], random: Random
) -> None:
    running: dict[ModelSpec, int] = {}
    leases: list[ModelSpec] = []
    waiting: list[ModelSpec] = []
    loading = list(queue)
    served = 0
    while loading or waiting or leases:
        loaded = random.randint(0 if leases or waiting else 1, 3)
        waiting += loading[:loaded]
        del loading[:loaded]
        while (grant := plan(State(cores, running, tuple(waiting), frozenset(loading)))) is not None:
            started = waiting.pop(grant.position)
            running[started] = grant.n_threads
            leases.append(started)
            served += 1
            assert sum(running.values()) <= cores
        assert leases, "nothing runs and nothing may start"
        ended = leases.pop(random.randrange(len(leases)))
        if ended not in leases:
            del running[ended]
    assert served == len(queue)


@given(st.integers(1, 64), st.permutations([spec(name) for name in "abcdef"]), st.integers(1, 6))
def test_models_that_are_asked_for_together_get_even_parts_in_whatever_order_they_load(
    cores: int, order: list[ModelSpec], count: int
) -> None:
    models = order[:count]
    running: dict[ModelSpec, int] = {}
    for position, model in enumerate(models):
        grant = plan(State(cores, running, (model,), frozenset(models[position + 1 :])))
        if grant is not None:
            running[model] = grant.n_threads
    assert len(running) == min(cores, count)
    assert max(running.values()) - min(running.values()) <= 1
    assert sum(running.values()) == cores


class NotedModel:
    """A model that writes nothing: it notes its threads, once they are set, and whether it was closed."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.threads: list[int] = []
        self.may_set_threads: asyncio.Event | None = None
        self.closed = False

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("noted", 256, 256, 0, 0, 0, {}, None)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        yield Completion(request.sequence, "", "stop", Usage())

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(len(text) for text in texts)

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        return len(messages) + len(tools)

    async def set_threads(self, n_threads: int) -> None:
        if self.may_set_threads is not None:
            await self.may_set_threads.wait()
        if self.spec.name == "dying":
            raise WorkerDied("dying", "the worker of dying ended by itself", exit_code=1)
        self.threads.append(n_threads)

    async def close(self) -> None:
        self.closed = True


class Shelf:
    """Loads noted models and keeps them in view."""

    def __init__(self) -> None:
        self.loaded: list[NotedModel] = []
        self.slow: dict[str, asyncio.Event] = {}
        self.may_set_threads: asyncio.Event | None = None

    async def load(self, spec: ModelSpec) -> NotedModel:
        await asyncio.sleep(0)
        if spec.name in self.slow:
            await self.slow[spec.name].wait()
        if spec.name == "broken":
            raise ModelLoadError("broken", "broken cannot be loaded")
        self.loaded.append(NotedModel(spec))
        self.loaded[-1].may_set_threads = self.may_set_threads
        return self.loaded[-1]

    async def measure(self, spec: ModelSpec) -> Footprint:
        return Footprint(len(spec.name), 2, 3, 4)

    def closed(self) -> list[str]:
        return [model.spec.name for model in self.loaded if model.closed]

    def scheduler(self, cores: int) -> Scheduler:
        return Scheduler(cores=cores, load=self.load, measure=self.measure)


def test_seats_on_one_file_share_one_worker() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(2)
        async with scheduler.lease(A) as one, scheduler.lease(ModelSpec("twin", A.path)) as two:
            assert one.model is two.model
            assert shelf.closed() == []
        assert len(shelf.loaded) == 1
        assert shelf.closed() == ["a"]
        assert shelf.loaded[0].threads == [2]

    asyncio.run(scenario())


def test_a_third_worker_waits_for_a_core_and_then_runs() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(2)
        inside = 0
        most = 0

        async def seat(spec: ModelSpec) -> None:
            nonlocal inside, most
            async with scheduler.lease(spec):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.01)
                inside -= 1

        await asyncio.gather(*(seat(spec) for spec in (A, B, C)))
        assert most == 2
        assert all(model.closed for model in shelf.loaded)

    asyncio.run(scenario())


def test_a_load_that_fails_is_told_to_all_and_leaves_nothing() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(2)

        async def seat() -> None:
            async with scheduler.lease(spec("broken")):
                pass

        results = await asyncio.gather(seat(), seat(), return_exceptions=True)
        assert [type(result) for result in results] == [ModelLoadError, ModelLoadError]
        async with scheduler.lease(A):
            pass

    asyncio.run(scenario())


def test_a_cancelled_lease_gives_its_core_back() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = shelf.scheduler(1)

        async def hold() -> None:
            async with scheduler.lease(A):
                await asyncio.sleep(60)

        holder = asyncio.create_task(hold())
        waiter = asyncio.create_task(hold())
        await asyncio.sleep(0.01)
        holder.cancel()
        waiter.cancel()
        await asyncio.gather(holder, waiter, return_exceptions=True)
        async with scheduler.lease(B) as lease:
            assert lease.model.info.description == "noted"
        assert all(model.closed for model in shelf.loaded)

    asyncio.run(scenario())


async def settle() -> None:
    """Let every task go on until it waits for something that nobody else does."""
    for _ in range(50):
        await asyncio.sleep(0)


class Seats:
    """Leases held by tasks of their own until they are let go."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.inside: list[str] = []

    def sit(self, spec: ModelSpec) -> asyncio.Task[None]:
        async def hold() -> None:
            async with self.scheduler.lease(spec):
                self.inside.append(spec.name)
                await asyncio.sleep(60)

        return asyncio.create_task(hold())


async def leave(*seats: asyncio.Task[None]) -> list[BaseException | None]:
    """Cancel the leases and say how each of them ended."""
    for seat in seats:
        seat.cancel()
    return await asyncio.gather(*seats, return_exceptions=True)


def test_two_leases_that_are_granted_together_get_their_threads() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(8))
        first = seats.sit(A)
        await settle()
        together = [seats.sit(B), seats.sit(B)]
        await settle()
        assert seats.inside == ["a"]
        await leave(first)
        await settle()
        assert seats.inside == ["a", "b", "b"]
        assert [model.threads for model in shelf.loaded] == [[8], [8]]
        await leave(*together)

    asyncio.run(scenario())


def test_no_lease_of_a_group_starts_before_the_threads_are_set() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        shelf.may_set_threads = asyncio.Event()
        seats = Seats(shelf.scheduler(8))
        starter, other = seats.sit(A), seats.sit(A)
        await settle()
        model = shelf.loaded[0]
        assert (seats.inside, model.threads) == ([], [])
        await leave(starter)
        assert seats.inside == []
        shelf.may_set_threads.set()
        await settle()
        assert (seats.inside, model.threads) == (["a"], [8])
        await leave(other)
        assert model.closed

    asyncio.run(scenario())


def test_a_worker_that_dies_while_its_threads_are_set_is_told_to_all_of_its_leases() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(8))
        together = [seats.sit(spec("dying")), seats.sit(spec("dying"))]
        results = await asyncio.gather(*together, return_exceptions=True)
        assert [type(result) for result in results] == [WorkerDied, WorkerDied]
        free = seats.sit(B)
        await settle()
        assert shelf.loaded[1].threads == [8]
        await leave(free)

    asyncio.run(scenario())


def test_a_new_worker_is_not_taken_for_the_dead_one_that_another_lease_still_holds() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        seats = Seats(shelf.scheduler(8))
        holds_the_dead = seats.sit(A)
        await settle()
        with pytest.raises(WorkerDied):
            async with seats.scheduler.lease(A):
                raise WorkerDied("a", "the worker of a ended by itself", exit_code=1)
        again = seats.sit(A)
        await settle()
        assert [model.threads for model in shelf.loaded] == [[8], [8]]
        await leave(holds_the_dead)
        assert [model.closed for model in shelf.loaded] == [True, False]
        other = seats.sit(B)
        await settle()
        assert seats.inside == ["a", "a"]
        await leave(again)
        await settle()
        assert seats.inside == ["a", "a", "b"]
        await leave(other)

    asyncio.run(scenario())


def test_the_first_that_is_loaded_leaves_cores_to_those_that_still_load() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        shelf.slow = {name: asyncio.Event() for name in "abc"}
        seats = Seats(shelf.scheduler(8))
        panel = [seats.sit(model) for model in (A, B, C)]
        for name in "bca":
            shelf.slow[name].set()
            await settle()
        assert seats.inside == ["b", "c", "a"]
        assert [model.threads for model in shelf.loaded] == [[2], [3], [3]]
        await leave(*panel)

    asyncio.run(scenario())


def test_a_load_that_failed_or_was_given_up_takes_no_part_of_the_cores() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        shelf.slow = {"b": asyncio.Event()}
        seats = Seats(shelf.scheduler(8))
        gone = [seats.sit(B), seats.sit(spec("broken"))]
        await settle()
        await leave(gone[0])
        stays = seats.sit(A)
        await settle()
        assert shelf.loaded[0].threads == [8]
        results = await leave(stays, gone[1])
        assert type(results[1]) is ModelLoadError

    asyncio.run(scenario())


def test_footprint_is_the_engines() -> None:
    shelf = Shelf()
    assert asyncio.run(shelf.scheduler(1).footprint(A)).total_bytes == 10


def test_keep_alive_keeps_the_worker_until_the_end() -> None:
    async def scenario() -> None:
        shelf = Shelf()
        scheduler = Scheduler(cores=2, load=shelf.load, measure=shelf.measure, keep_alive=True)
        for _ in range(2):
            async with scheduler.lease(A):
                pass
        assert len(shelf.loaded) == 1
        assert shelf.closed() == []
        await scheduler.close()
        assert shelf.closed() == ["a"]

    asyncio.run(scenario())
