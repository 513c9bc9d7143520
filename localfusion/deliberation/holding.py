"""A seat's model while it works: held, tried once more where its worker died, replaced where it fails for good."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from localfusion.catalog import can_be_tried, step_in, substituted
from localfusion.deliberation.run import Run
from localfusion.engine.interface import Model
from localfusion.errors import ConfigError, ModelError, OutOfMemory, ProviderError, TimedOut, WorkerDied
from localfusion.events import FallbackTaken, MemoryAwaited, ModelLoading, ModelReady
from localfusion.messages import AnyModel, FallbackReason, ModelSpec, RemoteModel, local_models, with_model

T = TypeVar("T")


async def with_fallbacks(run: Run, id: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work of a seat with its model, or with the first of its fallbacks that can. Raises ModelError.

    `work` asks the run for its seat's model each time. What was finished with one model is kept for the next.
    """
    while True:
        try:
            return await _twice(run, id, work)
        except ModelError as error:
            if not await _step_in(run, id, error):
                raise


@asynccontextmanager
async def _time_limit(run: Run, id: str) -> AsyncIterator[Callable[[], None]]:
    """The seat's time limit, which begins when the value is called: waiting for others is not the model's doing."""
    seat = run.seat(id)
    limit = asyncio.timeout(None)

    def begin() -> None:
        if seat.timeout_s is not None:
            limit.reschedule(asyncio.get_running_loop().time() + seat.timeout_s)

    try:
        async with limit:
            yield begin
    except TimeoutError as error:
        if seat.timeout_s is None or not limit.expired():
            raise
        raise TimedOut(seat.model.name, timeout_s=seat.timeout_s) from error


async def _step_in(run: Run, id: str, error: ModelError) -> bool:
    """Put a fallback of the seat in place of its model; whether there was one that fits."""
    while True:
        seat = run.seat(id)
        found = step_in(
            id,
            seat.model,
            seat.fallback,
            reason=_reason(error),
            error=error.brief,
            cloud=run.question.cloud,
            is_there=can_be_tried,
        )
        if found is None:
            return False
        run.question = replace(run.question, panel=substituted(run.question.panel, id, found))
        run.say(FallbackTaken(found.substitution))
        try:
            await _fit(run, id, found.model)
        except OutOfMemory as too_large:
            error = too_large
        else:
            return True


async def _fit(run: Run, id: str, model: AnyModel) -> None:
    """Choose what is left open of how a file is loaded that nobody counted on. Raises OutOfMemory.

    A file that others sit on is not loaded twice: it is used as they have it.
    """
    if isinstance(model, ModelSpec):
        panel = run.question.panel
        others = (spec for spec in local_models(panel) if spec is not model)
        same = next((spec for spec in others if spec.path.resolve() == model.path.resolve()), None)
        chosen = same or (await run.world.scheduler.fit([model])).chosen[replace(model, name="")]
        run.question = replace(run.question, panel=with_model(panel, id, replace(chosen, name=model.name)))


def _reason(error: ModelError) -> FallbackReason:
    if isinstance(error, TimedOut):
        return "timed_out"
    return "does_not_fit" if isinstance(error, OutOfMemory) else "died"


async def _twice(run: Run, id: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do what needs a worker, and once more where the worker died; what was finished is kept by the run's state."""
    try:
        return await work()
    except WorkerDied as error:
        run.warn(f"{id}: {error.message}; it is tried once more")
        return await work()


@asynccontextmanager
async def leased(run: Run, id: str, spec: AnyModel) -> AsyncIterator[Model]:
    """Hold a model within the seat's time limit, saying what it waits for. Raises ModelError."""
    async with _time_limit(run, id) as begin, _held(run, id, spec, begin) as model:
        yield model


@asynccontextmanager
async def _held(run: Run, id: str, spec: AnyModel, begin: Callable[[], None]) -> AsyncIterator[Model]:
    """The model; `begin` is called once it is this seat's turn to load and use it."""
    if isinstance(spec, RemoteModel):
        begin()
        async with AsyncExitStack() as stack:
            try:
                remote = await stack.enter_async_context(run.world.remote(spec, id, run.say))
            except ConfigError as error:  # a key or a package that is missing costs this seat, not the run
                raise ProviderError(spec.name, error.message, hint=error.hint) from error
            yield remote
        return
    run.say(ModelLoading(id, spec.name))

    def wait(need_bytes: int) -> None:
        run.say(MemoryAwaited(id, spec.name, need_bytes))

    async with run.world.scheduler.lease(spec, run=run.state.run_id, on_wait=wait, on_granted=begin) as lease:
        run.say(ModelReady(id, spec.name, lease.load_seconds))
        yield lease.model
