"""Row "footprint": predicted against measured, of workers of many kinds of model, after decoding to the full context.

Measured is a worker's memory less that of an empty one, anonymous and mapped apart (Linux). No weights are shared
between workers; of libraries, which are, every page counts here, so that other programs change nothing.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from localfusion.engine import client
from localfusion.messages import GenerateRequest, Message, ModelSpec, Sampling
from scripts.engine_bench.figures import Figure
from scripts.engine_bench.random_models import RandomModel, write_random_model
from scripts.engine_bench.setting import Setting

WANTED = 0.05
"""How far from 1 a ratio may be."""
N_TO_WRITE = 48
"""Tokens of the window that are left to write; the prompt fills the rest."""
SETTLED_S = 1.0
NOISE = "start: /[a-z ]{4000}/"
GREY = Sampling(temperature=1.0)


@dataclass(frozen=True, slots=True)
class FootprintRow:
    """One part of one combination; bytes, less what an empty worker takes."""

    name: str
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


@dataclass(frozen=True, slots=True)
class Memory:
    """A process's memory, in bytes: anonymous pages, and pages of files that it has mapped."""

    anonymous: int
    mapped: int


@dataclass(frozen=True, slots=True)
class Case:
    """A model and how it is loaded; the spec's path is filled in when the file is written."""

    name: str
    model: RandomModel
    spec: ModelSpec


def case(model: RandomModel, spec: ModelSpec) -> Case:
    """The combination, named by what is not usual about it."""
    sequences = f" x {spec.n_seq_max}" if spec.n_seq_max > 1 else ""
    size = f"{model.n_vocab // 1000}k" if model.n_vocab != 32_000 else ""
    flags = ["" if spec.use_mmap else "copied", "" if spec.use_extra_bufts else "not repacked"]
    words = [
        model.architecture,
        model.quantization,
        size,
        f"n_ctx {spec.n_ctx}{sequences}",
        f"kv {spec.kv_type}",
        *flags,
    ]
    return Case(" ".join(filter(None, words)), model, spec)


def loaded_as(n_ctx: int, n_seq_max: int = 1) -> ModelSpec:
    return ModelSpec("random", Path(), n_ctx=n_ctx, n_seq_max=n_seq_max)


LLAMA = RandomModel()
BIG_VOCABULARY = 152_000
CASES: tuple[Case, ...] = (
    case(LLAMA, loaded_as(1024)),
    case(LLAMA, replace(loaded_as(1024), use_mmap=False)),
    case(replace(LLAMA, quantization="q4_k"), replace(loaded_as(768, 3), kv_type="q8_0")),
    case(replace(LLAMA, quantization="q8_0", n_layer=14), replace(loaded_as(1024), kv_type="q8_0")),
    case(replace(LLAMA, quantization="f16", n_layer=6), loaded_as(2048)),
    case(replace(LLAMA, n_vocab=BIG_VOCABULARY), replace(loaded_as(1024), use_extra_bufts=False)),
    case(RandomModel("gemma3"), loaded_as(1024, 2)),
    case(RandomModel("gemma3", quantization="q8_0", n_layer=14), replace(loaded_as(1024), use_mmap=False)),
    case(RandomModel("qwen3moe"), loaded_as(4096)),
    case(RandomModel("qwen3moe", quantization="q4_k", n_vocab=BIG_VOCABULARY), loaded_as(1024, 4)),
    case(RandomModel("deepseek2"), loaded_as(1024)),
    case(RandomModel("mamba2", n_layer=44), loaded_as(1024, 2)),
    case(RandomModel("lfm2", quantization="q4_k"), loaded_as(1024)),
    case(RandomModel("lfm2"), replace(loaded_as(1024), use_mmap=False, use_extra_bufts=False, n_ubatch=128)),
)
QUICK_CASES = tuple(replace(CASES[number], spec=replace(CASES[number].spec, n_ctx=512)) for number in (0, 8, 11))


def footprint(setting: Setting) -> Iterable[Figure]:
    """The worst of all combinations, then each of them."""
    rows = asyncio.run(measure(setting.models_dir, quick=setting.quick, say=setting.say))
    worst = max(abs(row.ratio - 1) for row in rows)
    yield Figure(f"footprint: worst of {len(rows)} predictions", worst, "off", "measured", WANTED, is_limit=True)
    for row in rows:
        against = f"{row.measured / 2**20:.1f} MiB measured, less an empty worker"
        yield Figure(f"footprint: {row.name}", row.ratio, "of 1", against)


async def measure(folder: Path, *, quick: bool, say: Callable[[str], None]) -> list[FootprintRow]:
    """Two rows for each combination, anonymous and mapped. Models are written to `folder`, one at a time.

    No drafts are made, and the room for them is left out of what was predicted.
    """
    empty = await empty_worker()
    rows = []
    for one in QUICK_CASES if quick else CASES:
        path = write_random_model(folder / "footprint.gguf", one.model)
        try:
            found = await _compare(one, replace(one.spec, path=path), empty)
            rows += found
            for row in found:
                say(f"{row.name}: {row.ratio:.3f}")
        finally:
            path.unlink()
    return rows


async def _compare(one: Case, spec: ModelSpec, empty: Memory) -> list[FootprintRow]:
    predicted = await client.footprint(spec)
    async with _loaded(spec) as model:
        await asyncio.gather(*(_fill(model, f"{number}") for number in range(spec.n_seq_max)))
        taken = memory_of(model.pid)
    undrafted = predicted.anonymous_bytes - predicted.drafts_bytes
    anonymous = undrafted - empty.anonymous, taken.anonymous - empty.anonymous
    rows = [FootprintRow(f"{one.name}: anonymous", *anonymous)]
    if spec.use_mmap:
        mapped = predicted.mapped_bytes - empty.mapped, taken.mapped - empty.mapped
        rows.append(FootprintRow(f"{one.name}: mapped", *mapped))
    return rows


@asynccontextmanager
async def _loaded(spec: ModelSpec) -> AsyncIterator[client.Model]:
    model = await client.load(spec)
    try:
        yield model
    finally:
        await model.close()


async def empty_worker() -> Memory:
    """What a worker takes that waits for its first command."""
    process = await client.start_process(None, model="nothing")
    worker = client.Worker(process, "nothing", lambda _: None)
    try:
        before, now = Memory(0, 0), memory_of(process.pid)
        while before != now:
            await asyncio.sleep(SETTLED_S)
            before, now = now, memory_of(process.pid)
        return now
    finally:
        await worker.close()


def memory_of(pid: int) -> Memory:
    """From the kernel's own sums (proc(5), smaps_rollup and status)."""
    texts = [Path(f"/proc/{pid}/{name}").read_text(encoding="ascii") for name in ("smaps_rollup", "status")]
    sizes = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", "".join(texts), re.MULTILINE)}
    return Memory(sizes["Pss_Anon"], sizes["RssFile"])


async def _fill(model: client.Model, sequence: str) -> None:
    """Read a prompt of nearly the whole window, then write to its end under a grammar."""
    message = await _long_message(model, seed=int(sequence))
    request = GenerateRequest(sequence, (message,), sampling=GREY, grammar=NOISE)
    done = await model.complete(request)
    assert done.usage.prompt_tokens + done.usage.completion_tokens >= model.info.n_ctx - 1, done


async def _long_message(model: client.Model, *, seed: int) -> Message:
    letters = random.Random(seed)
    words = ["".join(letters.choices("abcdefghijklmnop", k=4)) for _ in range(model.info.n_ctx)]
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        n_tokens = await model.count_prompt([_message(words[:middle])])
        low, high = (middle, high) if n_tokens <= model.info.n_ctx - N_TO_WRITE else (low, middle - 1)
    return _message(words[:low])


def _message(words: Sequence[str]) -> Message:
    return Message("user", " ".join(words))
