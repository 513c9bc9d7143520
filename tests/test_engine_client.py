"""Worker processes as the parent sees them: streams, cancel, death, broken files, several at once."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from localfusion.engine import interface
from localfusion.engine.client import Model, Worker, footprint, load, signal_name
from localfusion.errors import ContextOverflow, ModelError, ModelLoadError, WorkerDied
from localfusion.messages import GREEDY, Completion, Delta, GenerateRequest, Message, ModelSpec, Sampling
from tests.tiny_gguf import TinyModel, vocabulary, write_tiny_gguf

WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
LONG = "start: /[a-z]{3000}/"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", TinyModel(n_ctx=4096))


@asynccontextmanager
async def loaded(path: Path, *, n_seq_max: int = 1) -> AsyncIterator[Model]:
    model = await load(ModelSpec("tiny", path, n_seq_max=n_seq_max))
    try:
        yield model
    finally:
        await model.close()


def ask(text: str = "Hello", *, sequence: str = "s", grammar: str | None = None, n_max: int = 30) -> GenerateRequest:
    return GenerateRequest(
        sequence, (Message("user", text),), sampling=WARM, max_tokens=n_max, grammar=grammar, thinking=False
    )


def test_load_generate_close(path: Path) -> None:
    lines: list[str] = []

    async def run() -> int:
        model = await load(ModelSpec("tiny", path), on_log=lines.append)
        assert model.info.n_ctx == model.info.n_ctx_train == 4096
        assert model.info.n_vocab == len(vocabulary())
        items = [item async for item in model.generate(ask())]
        done = items[-1]
        assert isinstance(done, Completion)
        assert "".join(item.text for item in items if isinstance(item, Delta)) == done.content
        assert (await model.complete(ask())).content == done.content
        assert await model.count_tokens(["", "a", "<|im_end|>"]) == (0, 1, 10)
        (usage,) = [item.usage for item in items if isinstance(item, Completion)]
        assert await model.count_prompt([Message("user", "Hello")]) == usage.prompt_tokens
        await model.set_threads(2)
        await model.close()
        await model.close()
        return model.pid

    pid = asyncio.run(run())
    assert not psutil.pid_exists(pid)
    assert any("llama" in line for line in lines)


def wait_for_state(folder: Path) -> None:
    while not list(folder.glob("*.state")):
        time.sleep(0.01)


def test_a_worker_started_anew_goes_on_from_the_states_of_one_that_was_killed(path: Path, tmp_path: Path) -> None:
    request = GenerateRequest("s", (Message("user", "What is the height of Skerry? " * 40),), max_tokens=20)

    async def run() -> tuple[Completion, Completion, Completion]:
        model = await load(ModelSpec("tiny", path), state_cache=tmp_path)
        try:
            first = await model.complete(request)
            await asyncio.to_thread(wait_for_state, tmp_path)
            os.kill(model.pid, signal.SIGKILL)
        finally:
            await model.close()
        anew = await load(ModelSpec("tiny", path), state_cache=tmp_path)
        try:
            second = await anew.complete(request)
        finally:
            await anew.close()
        async with loaded(path) as without:
            return first, second, await without.complete(request)

    first, second, without = asyncio.run(run())
    assert first.content == second.content == without.content
    assert first.usage.cached_tokens == without.usage.cached_tokens == 0
    assert second.usage.cached_tokens == first.usage.prompt_tokens - 1


def test_a_file_replaced_under_its_name_is_noticed_and_harmless(path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    shutil.copy(path, mine)
    other = write_tiny_gguf(tmp_path / "other.gguf", TinyModel(n_ctx=4096, seed=9))

    async def run() -> None:
        async with loaded(mine) as model:
            before = await model.complete(ask())
            assert model.is_current()
            other.replace(mine)
            assert not model.is_current()
            assert (await model.complete(ask())).content == before.content
        async with loaded(mine) as anew:
            assert anew.is_current()
            assert (await anew.complete(ask())).content != before.content

    asyncio.run(run())


def test_a_file_written_over_or_gone_is_noticed(path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    shutil.copy(path, mine)

    async def run() -> None:
        async with loaded(mine) as model:
            with mine.open("r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(bytes(4))
            os.utime(mine, (1, 1))
            assert not model.is_current()
            assert (await model.complete(ask())).usage.completion_tokens
            mine.unlink()
            assert not model.is_current()

    asyncio.run(run())


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="mapped files cannot be cut short here")
def test_a_file_cut_short_while_it_is_mapped_ends_its_own_worker_only(path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    shutil.copy(path, mine)

    async def run() -> WorkerDied:
        async with loaded(mine) as model, loaded(path) as other:
            before = await other.complete(ask())
            assert (await model.complete(ask())).content == before.content
            os.truncate(mine, 4096)
            assert not model.is_current()
            with pytest.raises(WorkerDied) as caught:
                await model.complete(ask("again"))
            assert (await other.complete(ask())).content == before.content
            with pytest.raises(ModelLoadError, match="damaged"):
                await load(ModelSpec("tiny", mine))
            return caught.value

    error = asyncio.run(run())
    assert "SIGBUS" in error.message
    assert "cut short" in error.hint


def test_a_conversation_that_the_template_refuses_is_not_counted(tmp_path: Path) -> None:
    template = "{{ raise_exception('no ' ~ messages[0].role) if messages | length > 1 else messages[0].content }}"
    path = write_tiny_gguf(tmp_path / "strict.gguf", TinyModel(chat_template=template))

    async def run() -> None:
        async with loaded(path) as model:
            with pytest.raises(ModelError, match="no user"):
                await model.count_prompt([Message("user", "a"), Message("assistant", "b")])
            assert await model.count_prompt([Message("user", "a")]) == 1

    asyncio.run(run())


def test_a_process_that_writes_a_line_without_end_is_heard_to_its_last_words() -> None:
    code = "import sys; sys.stderr.write('x' * 300_000 + '\\nlast'); sys.exit(3)"

    async def run() -> ModelError:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        return await Worker(process, "tiny", lambda _: None).death()

    error = asyncio.run(run())
    assert "exit 3" in error.message
    assert "last words: last" in error.hint


def test_a_worker_that_hangs_is_ended_and_said_to_have(path: Path) -> None:
    async def run() -> WorkerDied:
        model = await load(ModelSpec("tiny", path), step_limit_s=2.0)
        try:
            assert (await model.complete(ask())).content
            os.kill(model.pid, signal.SIGSTOP)
            with pytest.raises(WorkerDied) as caught:
                await model.complete(ask("again"))
            return caught.value
        finally:
            await model.close()

    assert "made no step" in asyncio.run(run()).message


def test_a_request_that_waits_its_turn_behind_one_that_steps_is_not_hung(path: Path) -> None:
    async def run() -> None:
        model = await load(ModelSpec("tiny", path, n_ctx=4096), step_limit_s=1.0)
        try:
            long = asyncio.create_task(model.complete(ask(grammar=LONG, n_max=3000)))
            short = asyncio.create_task(model.complete(ask("b", sequence="b", n_max=5)))
            assert (await short).usage.completion_tokens <= 5
            assert (await long).usage.completion_tokens > 1000
        finally:
            await model.close()

    asyncio.run(run())


def test_three_sequences_at_once(path: Path) -> None:
    async def run() -> None:
        async with loaded(path, n_seq_max=3) as model:
            requests = [ask(f"{i}", sequence=f"s{i}") for i in range(5)]
            together = await asyncio.gather(*map(model.complete, requests))
            assert len({done.content for done in together}) == 5
            assert all(done.usage.completion_tokens for done in together)

    asyncio.run(run())


def test_closing_the_stream_cancels_in_the_worker(path: Path) -> None:
    async def run() -> None:
        async with loaded(path) as model:
            async with aclosing(model.generate(ask(grammar=LONG, n_max=4000))) as stream:
                async for item in stream:
                    if isinstance(item, Delta):
                        break
            # The only slot is free again: this ends long before 4000 tokens are written.
            done = await model.complete(ask("next", n_max=3, grammar=LONG))
            assert done.usage.completion_tokens == 3
            task = asyncio.create_task(model.complete(ask(grammar=LONG, n_max=4000)))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await model.complete(ask("next", n_max=3, grammar=LONG))).usage.completion_tokens == 3

    asyncio.run(run())


def test_a_killed_worker_fails_all_who_wait_and_no_other(path: Path) -> None:
    async def run() -> None:
        async with loaded(path, n_seq_max=2) as doomed, loaded(path) as other:
            waiting = [asyncio.create_task(doomed.complete(ask(sequence=f"{i}", grammar=LONG))) for i in range(3)]
            stream = doomed.generate(ask(sequence="x", grammar=LONG, n_max=4000))
            await anext(stream)
            os.kill(doomed.pid, signal.SIGKILL)
            with pytest.raises(WorkerDied, match="SIGKILL") as caught:
                [item async for item in stream]
            assert caught.value.exit_code == -signal.SIGKILL
            assert caught.value.hint
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(outcome, WorkerDied | Completion) for outcome in outcomes)
            with pytest.raises(WorkerDied):
                await doomed.complete(ask())
            with pytest.raises(WorkerDied):
                await doomed.count_tokens(["x"])
            assert (await other.complete(ask())).content

    asyncio.run(run())


def test_closing_ends_what_still_runs(path: Path) -> None:
    async def run() -> None:
        model: interface.Resident = await load(ModelSpec("tiny", path))
        stream = model.generate(ask(grammar=LONG, n_max=4000))
        await anext(stream)
        await model.close()
        with pytest.raises(WorkerDied, match="was closed"):
            [item async for item in stream]

    asyncio.run(run())


def test_a_request_that_cannot_be_served_costs_nobody_else(path: Path) -> None:
    async def run() -> None:
        async with loaded(path) as model:
            with pytest.raises(ContextOverflow) as caught:
                await model.complete(ask("word " * 4000))
            assert caught.value.tokens > caught.value.n_ctx == 4096
            with pytest.raises(ModelError, match="grammar is not valid"):
                await model.complete(ask(grammar="start: nothing"))
            assert (await model.complete(ask())).content

    asyncio.run(run())


def assert_no_load(path: Path) -> ModelLoadError:
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(ModelLoadError) as caught:
        asyncio.run(load(ModelSpec("broken", path)))
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert {child.pid for child in psutil.Process().children()} <= before
    return caught.value


def test_files_that_are_no_model(path: Path, tmp_path: Path) -> None:
    assert "does not exist" in assert_no_load(tmp_path / "none.gguf").message
    page = tmp_path / "page.gguf"
    page.write_text("<html>404</html>")
    assert "not a GGUF" in assert_no_load(page).message
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-5000])
    assert "damaged" in assert_no_load(cut).message


TOKENS = vocabulary()
BROKEN = {
    "no such tokenizer": TinyModel(tokenizer="nonsense"),
    "fewer tokens than rows": TinyModel(tokens=TOKENS[:50]),
    "no byte tokens": TinyModel(tokens=[f"token{i}" for i in range(len(TOKENS))]),
    "not a single token": TinyModel(tokens=["x"]),
    "a merge of nothing known": TinyModel(merges=["zz qq", "broken"], tokens=[*TOKENS[:-1], "?"]),
    "another tokenizer's tokens": TinyModel(tokenizer="llama"),
    "a template that does not parse": TinyModel(chat_template="{% for %}"),
}


@pytest.mark.parametrize("model", BROKEN.values(), ids=BROKEN)
def test_a_broken_vocabulary_is_a_load_error(tmp_path: Path, model: TinyModel) -> None:
    error = assert_no_load(write_tiny_gguf(tmp_path / "broken.gguf", model))
    assert "broken" in error.message


def is_alive(process: psutil.Process) -> bool:
    """Running, and not merely waiting for whoever inherited it to take note of its end."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_go_with_their_parent(path: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from localfusion.engine import interface
from localfusion.engine.client import load
from localfusion.messages import GenerateRequest, Message, ModelSpec

async def main():
    model = await load(ModelSpec("tiny", Path({str(path)!r})))
    print(model.pid, flush=True)
    await model.complete(GenerateRequest("s", (Message("user", "x"),), grammar={LONG!r}))
    await asyncio.sleep(60)

asyncio.run(main())
"""
    for number in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as parent:
            assert parent.stdout is not None
            worker = psutil.Process(int(parent.stdout.readline()))
            parent.send_signal(number)
            parent.wait(timeout=60)
            while is_alive(worker):
                time.sleep(0.01)


def test_a_cancelled_load_leaves_no_process(path: Path) -> None:
    async def run() -> None:
        before = {child.pid for child in psutil.Process().children()}
        task = asyncio.create_task(load(ModelSpec("tiny", path)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {child.pid for child in psutil.Process().children()} <= before

    asyncio.run(run())


async def only_child(before: set[int]) -> psutil.Process:
    """The process that was started last, as soon as there is one."""
    fresh: set[int] = set()
    while not fresh:
        await asyncio.sleep(0.001)
        fresh = {child.pid for child in psutil.Process().children()} - before
    (pid,) = fresh
    return psutil.Process(pid)


SILENT_S, LIMIT_S = 1.5, 0.3
"""A worker that waits for a disk does nothing and says nothing, as one that is stopped."""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
@pytest.mark.parametrize("use_mmap", [True, False])
def test_a_load_from_a_slow_disk_is_waited_for_and_no_hang(path: Path, *, use_mmap: bool) -> None:
    async def run() -> int:
        is_under_way = asyncio.Event()

        def stop(_: str) -> None:
            if not is_under_way.is_set():  # llama.cpp has begun to tell of the load
                worker.suspend()
                is_under_way.set()

        before = {child.pid for child in psutil.Process().children()}
        spec = ModelSpec("tiny", path, use_mmap=use_mmap)
        loading = asyncio.create_task(load(spec, on_log=stop, step_limit_s=LIMIT_S))
        worker = await only_child(before)
        worker.suspend()
        await asyncio.sleep(SILENT_S)
        assert not loading.done()
        worker.resume()
        await is_under_way.wait()
        await asyncio.sleep(SILENT_S)
        worker.resume()
        model = await loading
        await model.close()
        return model.info.n_ctx

    assert asyncio.run(run()) == 4096


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
def test_a_load_that_waits_for_its_disk_can_be_cancelled(path: Path) -> None:
    async def run() -> None:
        before = {child.pid for child in psutil.Process().children()}
        loading = asyncio.create_task(load(ModelSpec("tiny", path)))
        worker = await only_child(before)
        worker.suspend()
        await asyncio.sleep(0.1)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert not worker.is_running()
        assert {child.pid for child in psutil.Process().children()} <= before

    asyncio.run(run())


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
@pytest.mark.parametrize("grammar", [None, "start: /[a-z]{9}/"])
def test_a_model_that_computes_no_numbers_fails_its_request_and_not_its_worker(
    tmp_path: Path, scale: float, grammar: str | None
) -> None:
    path = write_tiny_gguf(tmp_path / "broken.gguf", TinyModel(scale=scale))

    async def run() -> None:
        async with loaded(path) as model:
            for sampling in (WARM, GREEDY):
                with pytest.raises(ModelError, match="rates its next token") as caught:
                    await model.complete(replace(ask(grammar=grammar), sampling=sampling))
                assert not isinstance(caught.value, WorkerDied)
                assert "damaged" in caught.value.hint
            assert await model.count_tokens(["abc"]) == (3,)

    asyncio.run(run())


def test_footprint_counts_what_llama_allocates(path: Path) -> None:
    one = asyncio.run(footprint(ModelSpec("tiny", path, n_ctx=1024)))
    two = asyncio.run(footprint(ModelSpec("tiny", path, n_ctx=1024, n_seq_max=2)))
    n_layer, n_embd = 2, 64
    assert one.kv_bytes == pytest.approx(2 * 2 * n_layer * n_embd * 1024, rel=0.02)
    assert two.kv_bytes == pytest.approx(2 * one.kv_bytes, rel=0.02)
    assert 0 < one.weights_bytes <= path.stat().st_size
    assert one.compute_bytes > 0
    with pytest.raises(ModelLoadError):
        asyncio.run(footprint(ModelSpec("tiny", path.with_name("none.gguf"))))


def test_signals_have_names() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(200) == "signal 200"
