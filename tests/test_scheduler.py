"""The plan as a pure function, and leases on models that only note what is done to them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.errors import ModelLoadError
from localfusion.messages import (
    Completion,
    Delta,
    Footprint,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelSpec,
    Progress,
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
    cores: int, queue: list[ModelSpec], random: object
) -> None:
    running: dict[ModelSpec, int] = {}
    leases: list[ModelSpec] = []
    waiting = list(queue)
    served = 0
    while waiting or leases:
        while (grant := plan(State(cores, running, tuple(waiting)))) is not None:
            started = waiting.pop(grant.position)
            running[started] = grant.n_threads
            leases.append(started)
            served += 1
            assert sum(running.values()) <= cores
        assert leases, "nothing runs and nothing may start"
        ended = leases.pop(random.randrange(len(leases)))  # type: ignore[attr-defined]
        if ended not in leases:
            del running[ended]
    assert served == len(queue)


class NotedModel:
    """A model that writes nothing: it notes its threads and whether it was closed."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.threads: list[int] = []
        self.closed = False

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("noted", 256, 256, 0, 0, 0, {}, None)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        yield Completion(request.sequence, "", "stop", Usage())

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(len(text) for text in texts)

    async def count_prompt(self, messages: Sequence[Message]) -> int:
        return len(messages)

    async def set_threads(self, n_threads: int) -> None:
        self.threads.append(n_threads)

    async def close(self) -> None:
        self.closed = True


class Shelf:
    """Loads noted models and keeps them in view."""

    def __init__(self) -> None:
        self.loaded: list[NotedModel] = []

    async def load(self, spec: ModelSpec) -> NotedModel:
        await asyncio.sleep(0)
        if spec.name == "broken":
            raise ModelLoadError("broken", "broken cannot be loaded")
        self.loaded.append(NotedModel(spec))
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
