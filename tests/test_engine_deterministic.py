"""`deterministic`: what a request gets is a function of the request alone, bit for bit, whatever else is asked."""

import asyncio
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from localfusion.engine.client import load
from localfusion.engine.llama import Context, Weights, send_log_to
from localfusion.engine.loop import Loop, open_states
from localfusion.engine.protocol import Generate, Output
from localfusion.engine.sequences import Slots
from localfusion.engine.template_sandbox import local_time
from localfusion.messages import Completion, GenerateRequest, Message, ModelSpec, Sampling
from tests.test_engine_loop import TOOLS, run_all
from tests.test_engine_sequences import ARCHITECTURES, PROMPTS, evaluate, turn
from tests.tiny_gguf import Architecture, TinyModel, write_tiny_gguf

N_BATCH = 48
WRITTEN = turn(7, 60)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    send_log_to(lambda _: None)


@cache
def context(architecture: Architecture) -> Context:
    with TemporaryDirectory() as folder:
        path = write_tiny_gguf(Path(folder) / "tiny.gguf", TinyModel(architecture=architecture, scale=0.3))
        weights = Weights(path, n_gpu_layers=0)
    return Context(weights, ModelSpec("tiny", path, n_ctx=768, n_batch=N_BATCH, n_ubatch=32, deterministic=True))


def read_and_write(slots: Slots, context: Context, ids: list[int]) -> list[NDArray[np.float32]]:
    """The logits behind a prompt, and behind tokens that are written after it."""
    slot = slots.try_take("a", ids)
    assert slot is not None
    found = evaluate(context, slots, [(slot, len(ids))])
    for token in WRITTEN:
        slot.ids.append(token)
        found += evaluate(context, slots, [(slot, 1)])
    slots.release(slot, None)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=15)
@given(asked=st.lists(st.tuples(PROMPTS, st.booleans()), min_size=2, max_size=5))
def test_what_was_read_before_changes_no_bit(architecture: Architecture, asked: list[tuple[list[int], bool]]) -> None:
    used = context(architecture)
    prompts: list[list[int]] = []
    for ids, is_next_turn in asked:
        grown = [*prompts[-1], *WRITTEN, *ids] if prompts and is_next_turn else ids
        prompts.append(grown if len(grown) + len(WRITTEN) < used.n_ctx else ids)

    def new_slots() -> Slots:
        used.clear(0)
        return Slots(used, 1, grid=N_BATCH)

    slots = new_slots()
    after_others = [read_and_write(slots, used, ids) for ids in prompts]
    alone = [read_and_write(new_slots(), used, ids) for ids in prompts]
    for left, right in zip(after_others, alone, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = TinyModel(architecture=request.param, scale=0.2)
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / f"{request.param}.gguf", model)


def make_spec(path: Path) -> ModelSpec:
    return ModelSpec("tiny", path, n_seq_max=3, n_batch=N_BATCH, deterministic=True)


WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=5)
FIRST = (Message("user", "What is the height of Skerry? " * 6),)
REQUESTS = [
    GenerateRequest("a", FIRST, sampling=WARM, max_tokens=40, drafts=True),
    GenerateRequest("b", (Message("user", "Who is the keeper?"),), sampling=replace(WARM, seed=6), max_tokens=40),
    GenerateRequest("a", (*FIRST, Message("assistant", "40"), Message("user", "And?")), sampling=WARM, max_tokens=40),
    GenerateRequest("c", FIRST, sampling=WARM, max_tokens=30, grammar="start: /[a-z ]{25}/"),
]


def test_requests_side_by_side_get_what_each_gets_alone(path: Path) -> None:
    alone = [run_all(Loop(make_spec(path), TOOLS), request)[0] for request in REQUESTS]
    loop = Loop(make_spec(path), TOOLS)
    together = run_all(loop, *REQUESTS)
    again = run_all(loop, *reversed(REQUESTS))[::-1]
    assert [done.content for done in together] == [done.content for done in alone]
    assert [done.content for done in again] == [done.content for done in alone]
    assert [done.finish_reason for done in again] == [done.finish_reason for done in alone]


def test_a_conversation_gets_the_same_from_a_worker_that_does_not_remember_it(path: Path) -> None:
    for seed in range(3):
        first = replace(REQUESTS[0], sampling=replace(WARM, seed=seed), grammar="start: /[a-z ]{50}/", max_tokens=60)
        loop = Loop(make_spec(path), TOOLS)
        (one,) = run_all(loop, first)
        grown = (*FIRST, Message("assistant", one.content), Message("user", "And the keeper?"))
        second = replace(first, messages=grown)
        (two,) = run_all(loop, second)
        (anew,) = run_all(Loop(make_spec(path), TOOLS), second)
        assert two.content == anew.content
        assert two.usage.prompt_tokens == anew.usage.prompt_tokens


def test_the_number_of_threads_stays(path: Path) -> None:
    loop, free = Loop(make_spec(path), TOOLS), Loop(replace(make_spec(path), deterministic=False), TOOLS)
    for each, expected in ((loop, {1}), (free, {1, 2})):
        each.set_threads(2)
        each.submit(Generate(1, REQUESTS[0]))
        found = set()
        while not each.is_idle:
            each.step()
            found.add(llama_cpp.llama_n_threads(each.context.pointer))
        assert found == expected


def test_one_that_is_cancelled_in_the_middle_changes_nothing(path: Path) -> None:
    (alone,) = run_all(Loop(make_spec(path), TOOLS), REQUESTS[2])
    loop = Loop(make_spec(path), TOOLS)
    for n_steps in (1, 2, 5, 9):
        loop.submit(Generate(1, REQUESTS[0]))
        loop.submit(Generate(2, REQUESTS[2]))
        for _ in range(n_steps):
            loop.step()
        replies = loop.cancel(1)
        while not loop.is_idle:
            replies += loop.step()
        done = [r.item for r in replies if isinstance(r, Output) and isinstance(r.item, Completion) and r.id == 2]
        assert [completion.content for completion in done] == [alone.content]


def test_a_long_common_beginning_is_still_read_once(tmp_path: Path) -> None:
    loop = Loop(make_spec(write_tiny_gguf(tmp_path / "llama.gguf")), TOOLS)
    first, _, grown, _ = (run_all(loop, request)[0] for request in REQUESTS)
    assert first.usage.cached_tokens == 0
    (again,) = run_all(loop, REQUESTS[2])
    assert again.content == grown.content
    assert again.usage.cached_tokens >= again.usage.prompt_tokens - N_BATCH


@pytest.mark.parametrize(("deterministic", "says"), [(True, "2025-01-01 2025"), (False, str(local_time().year))])
def test_a_template_that_writes_the_date(tmp_path: Path, *, deterministic: bool, says: str) -> None:
    template = "{{ datetime }} {{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    dated = write_tiny_gguf(tmp_path / "dated.gguf", TinyModel(chat_template=template))
    loop = Loop(ModelSpec("dated", dated, deterministic=deterministic), {})
    assert says in loop.template.render([Message("user", "x")])


def test_no_state_is_kept_on_disk(path: Path, tmp_path: Path) -> None:
    assert open_states(tmp_path, make_spec(path)) is None
    assert open_states(tmp_path, replace(make_spec(path), deterministic=False)) is not None


def test_workers_give_the_same_bytes_whatever_threads_they_are_told_to_use(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "llama.gguf")

    async def run(order: list[int], n_threads: int) -> dict[int, str]:
        model = await load(replace(make_spec(path), n_threads=2), state_cache=tmp_path / "states")
        try:
            asked = [asyncio.create_task(model.complete(REQUESTS[index])) for index in order]
            await model.set_threads(n_threads)
            done = await asyncio.gather(*asked)
            return {index: completion.content for index, completion in zip(order, done, strict=True)}
        finally:
            await model.close()

    first, second = asyncio.run(run([0, 1, 2, 3], 1)), asyncio.run(run([3, 1, 2, 0], 2))
    assert first == second
    assert not (tmp_path / "states").exists()
