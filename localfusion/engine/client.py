"""The parent's side of a worker process: load a GGUF file, generate, embed, count, close. Async, and only here.

Everything that can happen to a worker ends in an error of the tree: a file that cannot be loaded in
ModelLoadError, a process that ended by itself in WorkerDied. Nothing of llama.cpp is imported here.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import monotonic

import numpy as np

import localfusion
from localfusion.config.surroundings import Surroundings
from localfusion.engine.footprint import (
    DryRun,
    WeightSizes,
    estimate_context,
    plan_weights,
    predict,
    read_weights,
)
from localfusion.engine.interface import Embeddings
from localfusion.engine.measurements import Measurements, may_use_gpus
from localfusion.engine.prefixes import NO_PREFIXES, Prefixes, prefixes_of
from localfusion.engine.protocol import (
    FLOATS,
    LENGTH,
    LESS_ON_GPU,
    Cancel,
    Command,
    Counted,
    CountPrompt,
    CountTokens,
    Describe,
    Described,
    Done,
    Embed,
    Embedded,
    Failed,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Log,
    Measure,
    Measured,
    Output,
    Overflowed,
    Refused,
    Reply,
    SetThreads,
    to_frame,
    to_reply,
)
from localfusion.errors import ContextOverflow, GrammarRefused, ModelError, ModelLoadError, WorkerDied
from localfusion.gguf_header import FileIdentity, Header, identity, part_paths, read_header
from localfusion.messages import (
    Completion,
    Delta,
    Device,
    EngineFacts,
    Footprint,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelSpec,
    Progress,
    TextKind,
    ToolSpec,
)

TOOL_ARGUMENTS: Mapping[str, str] = {"web_search": "query", "web_fetch": "url"}
"""The tools whose syntax is derived from a template while it loads, and the one argument of each."""
CLOSE_LIMIT_S = 1.0
STEP_LIMIT_S = 600.0
"""How long a worker with work may say nothing. One batch of the largest models on a slow disk takes minutes."""
WAITING: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
"""How threads wait for each other: some 0.1 ms on the core, then off it. libgomp reads it once, when a worker starts.

Long enough for an idle machine, where sleeping at once costs half the speed; short enough beside other programs, where
waiting on the core for one whose core they took costs nearly all of it.
"""
STDERR_LINES = 20
STDERR_LINE_BYTES = 1 << 16
KILLED = -9
"""What a process returns that SIGKILL ended: the system's way when memory runs out."""

BREAKS_WORKERS = "a broken vocabulary does this, and a chat template that does not end"
CUT_SHORT = -signal.SIGBUS if hasattr(signal, "SIGBUS") else None
"""What a process returns that read a page of a mapped file behind its end."""

Died = None
"""What a waiting request finds in its queue when the worker has ended."""


class Worker:
    """A worker process and the replies that come from it, each handed to the request it answers."""

    def __init__(self, process: Process, name: str, on_log: Callable[[str], None]) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._on_log = on_log
        self._queues: dict[int, asyncio.Queue[Reply | None]] = {}
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES)
        self._tasks = [asyncio.create_task(self._read_replies()), asyncio.create_task(self._read_stderr())]
        self._last_reply = monotonic()
        self._has_ended = False
        self._is_closed = False
        self._is_hung = False

    def open_queue(self, number: int) -> asyncio.Queue[Reply | None]:
        """Where the replies to a request arrive from now on; `Died` at the end of the process."""
        queue: asyncio.Queue[Reply | None] = asyncio.Queue()
        if self._has_ended:
            queue.put_nowait(Died)
        self._queues[number] = queue
        return queue

    async def reply(self, queue: asyncio.Queue[Reply | None], *, limit_s: float) -> Reply | None:
        """The next reply to a request; a worker that says nothing to anybody for `limit_s` is ended."""
        asked = monotonic()
        while True:
            silent_s = monotonic() - max(asked, self._last_reply)
            try:
                async with asyncio.timeout(max(limit_s - silent_s, 0.01)):
                    return await queue.get()
            except TimeoutError:
                if monotonic() - max(asked, self._last_reply) >= limit_s:
                    self._is_hung = True
                    self._kill()

    def close_queue(self, number: int) -> None:
        """Nobody waits for these replies any more."""
        self._queues.pop(number, None)

    def send(self, command: Command) -> None:
        """Write a command; where the process has ended it is lost, and the queues say so."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.write(to_frame(command))

    async def death(self, *, is_loading: bool = False, is_on_gpu: bool = False) -> ModelError:
        """The error that says how the process ended."""
        code = await self._process.wait()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(self._tasks[1], return_exceptions=True)
        if self._is_closed:
            return WorkerDied(self.name, f"the worker of {self.name} was closed", exit_code=code)
        if self._is_hung:
            message = f"the worker of {self.name} made no step for a long time and was ended"
            return WorkerDied(self.name, message, exit_code=code, hint="the other models go on without it")
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended by itself (exit {code})"
        words = self._last_words[-1] if self._last_words else ""
        if is_loading and code == KILLED:
            message = f"the worker of {self.name} was ended by the system while it loaded"
            return ModelLoadError(self.name, message, hint="memory may be short; choose a smaller model or n_ctx")
        if is_loading:
            message = f"llama.cpp broke down on the file of {self.name}: its worker {how}"
            cause = f"{LESS_ON_GPU}; or " if is_on_gpu else ""
            hint = f"{cause}the file is damaged ({BREAKS_WORKERS}); the other models go on without it"
            return ModelLoadError(self.name, message, hint=f"{hint}; last words: {words}" if words else hint)
        message, hint = f"the worker of {self.name} {how}", "the other models go on without it"
        if code == CUT_SHORT:
            hint = f"its file was cut short while it was in use, or cannot be read; fetch it again; {hint}"
        return WorkerDied(self.name, message, exit_code=code, hint=f"{hint}; last words: {words}" if words else hint)

    async def close(self) -> None:
        """End the process and wait until it is gone; safe to call twice."""
        assert self._process.stdin is not None
        self._is_closed = True
        self._process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await self._process.wait()
        except TimeoutError:
            self._kill()
            await self._process.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _read_replies(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                (length,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
                self._hand_over(to_reply(await self._process.stdout.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self._has_ended = True
            for queue in self._queues.values():
                queue.put_nowait(Died)

    def _hand_over(self, reply: Reply) -> None:
        self._last_reply = monotonic()
        if isinstance(reply, Log):
            self._on_log(reply.line)
            return
        number = 0 if isinstance(reply, Loaded | Measured | Described | LoadFailed) else reply.id
        if number in self._queues:
            self._queues[number].put_nowait(reply)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        held = b""
        while chunk := await self._process.stderr.read(STDERR_LINE_BYTES):
            *lines, held = (held + chunk).split(b"\n")
            if len(held) > STDERR_LINE_BYTES:
                lines, held = [*lines, held], b""
            self._note(lines)
        self._note([held])

    def _note(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8", "replace").strip()
            if text:
                self._last_words.append(text)
                self._on_log(text)


class Model:
    """One loaded GGUF file in its worker process. Any number of tasks may use it at once."""

    def __init__(
        self,
        spec: ModelSpec,
        info: ModelInfo,
        worker: Worker,
        *,
        file: FileIdentity,
        prefixes: Prefixes = NO_PREFIXES,
        step_limit_s: float,
    ) -> None:
        self.spec = spec
        self._file = file
        self._prefixes = prefixes
        self._step_limit_s = step_limit_s
        self.info = info
        self._worker = worker
        self._ids = count(1)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._worker.pid

    def is_current(self) -> bool:
        """Whether the file at the path is still what was loaded; replaced or changed, it has to be loaded anew."""
        return identity(part_paths(self.spec.path)) == self._file

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        """What the model writes, as it is written; the last item is the Completion.

        Closing the iterator or cancelling the task ends the generation in the worker. Raises
        ContextOverflow, WorkerDied, GrammarRefused, or ModelError where the template refuses.
        """
        number = next(self._ids)
        queue = self._worker.open_queue(number)
        is_finished = False
        try:
            self._worker.send(Generate(number, request))
            while not is_finished:
                reply = await self._worker.reply(queue, limit_s=self._step_limit_s)
                is_finished = not (isinstance(reply, Output) and not isinstance(reply.item, Completion))
                yield (await self._to_item(reply))
        finally:
            self._worker.close_queue(number)
            if not is_finished:
                self._worker.send(Cancel(number))

    async def complete(self, request: GenerateRequest) -> Completion:
        """The finished generation, without the pieces."""
        async for item in self.generate(request):
            if isinstance(item, Completion):
                return item
        raise AssertionError("a generation ends with its Completion")

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Embeddings:
        """The vectors of texts, each with what this model wants in front of its kind (`prefixes`).

        Cancelling the task ends the request in the worker. Raises WorkerDied, or ModelError where the model was not
        loaded with `embeddings`.
        """
        if not texts:
            return Embeddings(np.zeros((0, 0), np.float32))
        prefix, number = self._prefixes.of(kind), next(self._ids)
        queue = self._worker.open_queue(number)
        parts: list[Embedded] = []
        n_missing = len(texts)
        try:
            self._worker.send(Embed(number, tuple(prefix + text for text in texts)))
            while n_missing:
                parts.append(await self._embedded(queue))
                n_missing -= parts[-1].n_texts
        finally:
            self._worker.close_queue(number)
            if n_missing:
                self._worker.send(Cancel(number))
        vectors = np.frombuffer(b"".join(part.vectors for part in parts), FLOATS).astype(np.float32)
        return Embeddings(vectors.reshape(len(texts), -1), sum(part.n_cut for part in parts))

    async def _embedded(self, queue: asyncio.Queue[Reply | None]) -> Embedded:
        reply = await self._worker.reply(queue, limit_s=self._step_limit_s)
        if reply is Died:
            raise await self._worker.death()
        if isinstance(reply, Failed):
            raise ModelError(self.spec.name, f"{self.spec.name}: {reply.message}", hint=reply.hint)
        assert isinstance(reply, Embedded)
        return reply

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """How many tokens each text has, read as plain text."""
        reply = await self._ask(CountTokens(next(self._ids), tuple(texts)))
        assert isinstance(reply, Counted)
        return reply.counts

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        """How many tokens the prompt of a conversation has, as the chat template writes it; raises ModelError."""
        reply = await self._ask(CountPrompt(next(self._ids), tuple(messages), tuple(tools)))
        assert isinstance(reply, Counted)
        return reply.counts[0]

    async def set_threads(self, n_threads: int) -> None:
        """Use this many threads from the next batch on."""
        await self._ask(SetThreads(next(self._ids), n_threads))

    async def close(self) -> None:
        """End the worker and wait until it is gone; safe to call twice."""
        await self._worker.close()

    async def _to_item(self, reply: Reply | None) -> Progress | Delta | Completion:
        match reply:
            case Output(_, item):
                return item
            case Overflowed(_, tokens, n_ctx):
                raise ContextOverflow(self.spec.name, tokens=tokens, n_ctx=n_ctx)
            case Refused(_, message, reason, line):
                raise GrammarRefused(self.spec.name, f"{self.spec.name}: {message}", reason=reason, line=line)
            case Failed(_, message, hint):
                raise ModelError(self.spec.name, f"{self.spec.name}: {message}", hint=hint)
            case None:
                raise await self._worker.death()
            case _:
                raise AssertionError(f"{reply} does not answer a Generate")

    async def _ask(self, command: CountPrompt | CountTokens | SetThreads) -> Counted | Done:
        queue = self._worker.open_queue(command.id)
        try:
            self._worker.send(command)
            reply = await self._worker.reply(queue, limit_s=self._step_limit_s)
        finally:
            self._worker.close_queue(command.id)
        if reply is Died:
            raise await self._worker.death()
        if isinstance(reply, Failed):
            raise ModelError(self.spec.name, f"{self.spec.name}: {reply.message}", hint=reply.hint)
        assert isinstance(reply, Counted | Done)
        return reply


async def load(
    spec: ModelSpec,
    *,
    on_log: Callable[[str], None] = lambda _: None,
    environ: Mapping[str, str] | None = None,
    step_limit_s: float = STEP_LIMIT_S,
    state_cache: Path | None = None,
    cache: Measurements | None = None,
) -> Model:
    """Start a worker and load the file in it; raises ModelLoadError. `on_log` gets llama.cpp's log by lines.

    `state_cache` is the folder where prompts that were read outlive the worker; None: nothing is kept or read back.
    A worker that has work and says nothing for `step_limit_s` is ended. Cancelling the task leaves no process behind.
    `cache` learns where the weights are, for footprints to come.
    """
    file = identity(part_paths(spec.path))
    header = await asyncio.to_thread(read_header, spec.path, model=spec.name)
    log: list[str] = []
    is_loaded = False

    def hear(line: str) -> None:
        if not is_loaded:
            log.append(line)
        on_log(line)

    worker = Worker(await start_process(environ, model=spec.name), spec.name, hear if cache else on_log)
    try:
        reply = await first_reply(worker, Load(spec, dict(TOOL_ARGUMENTS), state_cache))
        assert isinstance(reply, Loaded)
        is_loaded = True
        is_same = identity(part_paths(spec.path)) == file
        if cache and is_same and (weights := read_weights(log)):
            cache.keep(weights, header, spec)
        prefixes = prefixes_of(header.metadata, spec.path)
        return Model(spec, reply.info, worker, file=file, prefixes=prefixes, step_limit_s=step_limit_s)
    except BaseException:
        await asyncio.shield(worker.close())
        raise


async def footprint(
    spec: ModelSpec, *, environ: Mapping[str, str] | None = None, cache: Measurements | None = None
) -> Footprint:
    """What the file would take once loaded, without loading it; raises ModelLoadError.

    The context's buffers are llama.cpp's own figures, from a dry run in a process of its own, or by arithmetic where
    that process dies. Where the weights will be is planned by llama.cpp's rules, until `cache` has it from a load.
    """
    file = identity(part_paths(spec.path))
    header = await asyncio.to_thread(read_header, spec.path, model=spec.name)
    dry_run = cache.find(DryRun, header, spec) if cache else None
    if dry_run is None:
        found = await _dry_run(spec, environ)
        dry_run = found if isinstance(found, DryRun) else await _estimate(header, spec, environ, death=found)
        if cache and dry_run is found and identity(part_paths(spec.path)) == file:
            cache.keep(dry_run, header, spec)
    weights = cache.find(WeightSizes, header, spec) if cache else None
    if weights is None:
        weights = plan_weights(
            header,
            spec,
            features=dry_run.features,
            has_gpu=dry_run.has_gpu,
            is_integrated=dry_run.is_integrated,
        )
    return predict(
        header,
        spec,
        weights=weights,
        context=dry_run.context,
        has_gpu=dry_run.has_gpu,
        is_integrated=dry_run.is_integrated,
    )


async def _dry_run(spec: ModelSpec, environ: Mapping[str, str] | None) -> DryRun | ModelError:
    """What llama.cpp says, or how its process died of it; raises ModelLoadError for a file that it refuses."""
    worker = Worker(await start_process(environ, model=spec.name), spec.name, lambda _: None)
    try:
        reply = await _ask_first(worker, Measure(spec))
        if reply is Died:
            return await worker.death(is_loading=True)
    finally:
        await asyncio.shield(worker.close())
    if isinstance(reply, LoadFailed):
        raise _refusal(spec.name, f"{spec.path}", reply)
    assert isinstance(reply, Measured)
    return reply.dry_run


async def _estimate(header: Header, spec: ModelSpec, environ: Mapping[str, str] | None, *, death: ModelError) -> DryRun:
    """Arithmetic instead of a dry run; raises `death` where it has no formula for the architecture."""
    context = estimate_context(header, spec)
    if context is None:
        raise death
    engine = await describe(environ=environ)
    if spec.device and spec.n_gpu_layers:  # either may have to compute most of it
        bound = context.compute_bytes
        context = replace(context, compute_bytes=2 * bound, device_compute_bytes=bound)
    is_integrated = engine.is_integrated(spec.device)
    return DryRun(context, tuple(sorted(engine.features)), engine.has_gpu, is_integrated)


async def describe(*, environ: Mapping[str, str] | None = None) -> EngineFacts:
    """How the engine on this machine was built; raises ModelLoadError where it does not even start."""
    worker = Worker(await start_process(environ, model="llama.cpp"), "llama.cpp", lambda _: None)
    try:
        reply = await first_reply(worker, Describe())
    finally:
        await asyncio.shield(worker.close())
    assert isinstance(reply, Described)
    return reply.facts


async def devices(*, environ: Mapping[str, str] | None = None) -> tuple[Device, ...]:
    """The GPUs of this machine; a build that can use none is seen by its files, and no process is started."""
    return (await describe(environ=environ)).devices if may_use_gpus() else ()


async def first_reply(worker: Worker, command: Load | Describe) -> Loaded | Described:
    """The answer to a worker's first command; raises ModelLoadError."""
    match await _ask_first(worker, command):
        case Loaded() | Described() as reply:
            return reply
        case LoadFailed() as failed:
            file = worker.name if isinstance(command, Describe) else command.spec.path
            raise _refusal(worker.name, f"{file}", failed)
        case _:
            is_on_gpu = isinstance(command, Load) and bool(command.spec.device and command.spec.n_gpu_layers)
            raise await worker.death(is_loading=True, is_on_gpu=is_on_gpu)


async def _ask_first(worker: Worker, command: Load | Measure | Describe) -> Reply | None:
    queue = worker.open_queue(0)
    worker.send(command)
    if isinstance(command, Load):  # a slow disk may take its time, and what llama.cpp says on the way is a reply
        return await queue.get()
    return await worker.reply(queue, limit_s=STEP_LIMIT_S)


def _refusal(model: str, file: str, reply: LoadFailed) -> ModelLoadError:
    brief = f"the model file {Path(file).name}: {reply.message}"
    return ModelLoadError(model, f"the model file {file}: {reply.message}", brief=brief, hint=reply.hint)


async def start_process(environ: Mapping[str, str] | None, *, model: str) -> Process:
    """A worker process with pipes. It finds this very package, and nothing of the current directory.

    Without `environ` it has this process's environment. Raises ModelLoadError where the system has no room for it.
    """
    if environ is None:
        environ = Surroundings.of_this_process().variables
    paths = [str(Path(localfusion.__file__).parent.parent), environ.get("PYTHONPATH", "")]
    child_environ = {
        **WAITING,
        "GGML_NO_BACKTRACE": "1",
        **environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    command = [sys.executable, "-P", "-m", "localfusion.engine.worker"]
    try:
        return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=child_environ)
    except OSError as error:
        message = f"the worker of {model} cannot be started: {error.strerror}"
        raise ModelLoadError(model, message, hint="free some memory, or raise the limits (ulimit)") from error


def signal_name(number: int) -> str:
    """SIGKILL for 9; the number where the platform has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
