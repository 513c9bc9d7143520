"""Rows "judge" and "decode": tokens a second under a grammar, and of 1 to 8 sequences, against bare calls."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from localfusion import citations, judge
from localfusion.analysis import Citation, Response
from localfusion.engine.interface import Model
from localfusion.messages import GenerateRequest, Json, ModelSpec
from scripts.engine_bench import ours, peers
from scripts.engine_bench.documents import QUESTION
from scripts.engine_bench.figures import Figure
from scripts.engine_bench.peers import Peer
from scripts.engine_bench.prompts import Reader
from scripts.engine_bench.setting import JUDGE, PANEL, Setting, median
from scripts.engine_bench.steering import STRING_CHARACTERS, smaller

SEATS = ("a", "b", "c")


def judging(setting: Setting) -> Iterable[Figure]:
    """The judge's analysis, its prompt read before: with its grammar, without, and by `Llama` with llama.cpp's own.

    Without drafts, so that only the constraint differs; what the grammar forces is part of it. Strings and lists
    are kept short on both sides, as an analysis has them.
    """
    n_tokens = setting.pick(64, 200)
    path = setting.model(JUDGE)
    spec = ours.spec(path, n_ctx=4096)
    messages = judge.conversation(QUESTION, responses(Reader(path), setting.pick(60, 250)))
    lark = smaller(judge.analysis_grammar(SEATS, citations.quotable(responses(Reader(path), 60))))
    constrained = GenerateRequest("judge", messages, max_tokens=n_tokens, grammar=lark)
    free = GenerateRequest("judge", messages, max_tokens=n_tokens)
    with_grammar, without = asyncio.run(_alternate(setting, spec, constrained, free))
    name = "judge's JSON, 150 000 tokens in the vocabulary"
    yield Figure(name, with_grammar / without, "of 1", "the same worker unconstrained, tokens a second", 0.95)
    yield Figure("judge: localfusion, constrained", with_grammar, "tok/s")
    yield Figure("judge: localfusion, unconstrained", without, "tok/s")
    theirs = _by_llama(setting, path, Reader(path).prompt_ids(constrained), n_tokens)
    yield Figure(name, with_grammar / theirs, "times", "Llama with llama.cpp's grammar of the same schema", 2.0)
    yield Figure("judge: Llama, constrained", theirs, "tok/s")


async def _alternate(
    setting: Setting, spec: ModelSpec, constrained: GenerateRequest, free: GenerateRequest
) -> tuple[float, float]:
    """Medians of tokens a second, with the grammar and without it."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    async with ours.scheduler(setting) as scheduler, scheduler.lease(spec) as lease:
        for asked in (constrained, free):  # the prompt is read and the tokenizer's tables are built
            await ours.complete(lease.model, asked)
        for repetition in range(setting.pick(1, 3)):
            setting.say(f"judge, repetition {repetition + 1}")
            for asked in (constrained, free):
                rates[asked.grammar is not None].append(await _rate(lease.model, asked))
    return median(rates[True]), median(rates[False])


async def _rate(model: Model, asked: GenerateRequest) -> float:
    started = time.monotonic()
    completion = await ours.complete(model, asked)
    return completion.usage.completion_tokens / (time.monotonic() - started)


def _by_llama(setting: Setting, path: Path, prompt: Sequence[int], n_tokens: int) -> float:
    with Peer() as peer:
        peer.do(peers.open_llama, "one", path, n_ctx=4096, n_threads=setting.cores)
        peer.do(peers.write, "one", prompt, 4)  # the prompt is read
        wrote = [peer.do(peers.write_json, "one", prompt, n_tokens, SCHEMA) for _ in range(setting.pick(1, 2))]
    return median([len(one.ids) / one.seconds for one in wrote])


def responses(reader: Reader, n_tokens: int) -> list[Response]:
    """Three answers of random prose, each with a quotation of a source."""
    made = []
    for number, id in enumerate(SEATS, start=1):
        quote = reader.prose(20, seed=number)
        content = f"{reader.prose(n_tokens, seed=10 + number)} \u201c{quote}\u201d [{number}]"
        citation = Citation(number, f"doc://{id}", id, quote, "verified")
        made.append(Response(id, "random", content, citations=(citation,)))
    return made


def _schema() -> Json:
    """The analysis as a JSON schema, with strings and lists as short as the steered grammar's."""
    text: Json = {"type": "string", "minLength": 1, "maxLength": STRING_CHARACTERS}
    seat: Json = {"enum": list(SEATS)}

    def some(item: Json, least: int = 0) -> Json:
        return {"type": "array", "items": item, "minItems": least, "maxItems": 2}

    def record(**properties: Json) -> Json:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    return record(
        consensus=some(text),
        contradictions=some(record(topic=text, stances=some(record(model=seat, stance=text), 2))),
        partial_coverage=some(record(models=some(seat, 1), point=text)),
        unique_insights=some(record(model=seat, insight=text)),
        blind_spots=some(text),
    )


SCHEMA = _schema()
BATCHES = (1, 2, 4, 8)
N_PROMPT = 16


def decode(setting: Setting) -> Iterable[Figure]:
    """Texts written side by side, short prompts included; the same batch by llama_decode and numpy's argmax."""
    n_tokens = setting.pick(16, 64)
    path = setting.model(PANEL)
    reader = Reader(path)
    for n_sequences in BATCHES:
        texts = [reader.prose(N_PROMPT, seed=seat) for seat in range(n_sequences)]
        works = [ours.request(str(seat), text, n_tokens) for seat, text in enumerate(texts)]
        prompts = [reader.prompt_ids(work) for work in works]
        setting.say(f"decode, {n_sequences} sequences")
        mine, bare = asyncio.run(_beside_bare(setting, path, works, prompts))
        name = f"decode, {n_sequences} {'sequence' if n_sequences == 1 else 'sequences'}"
        yield Figure(name, bare / mine, "of 1", "the same through bare low-level calls, tokens a second", 0.95)
        yield Figure(f"{name}: localfusion", n_sequences * n_tokens / mine, "tok/s")
        yield Figure(f"{name}: bare calls", n_sequences * n_tokens / bare, "tok/s")


async def _beside_bare(
    setting: Setting, path: Path, works: Sequence[GenerateRequest], prompts: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Medians of seconds, ours and bare, in turn."""
    spec = ours.spec(path, n_ctx=1024, n_seq_max=len(works))
    mine, bare = [], []
    n_tokens = works[0].max_tokens
    assert n_tokens is not None
    with Peer() as peer:
        peer.do(peers.open_bare, path, n_ctx=1024, n_sequences=len(works), n_threads=setting.cores)
        peer.do(peers.decode_bare, prompts, 4)
        async with ours.scheduler(setting) as scheduler:
            await ours.warm(scheduler, [spec])
            for repetition in range(setting.pick(1, 3)):
                named = [_again(work, repetition) for work in works]
                mine.append(await ours.together(scheduler, [(spec, work) for work in named]))
                bare.append(await asyncio.to_thread(peer.do, peers.decode_bare, prompts, n_tokens))
    return median(mine), median(bare)


def _again(work: GenerateRequest, repetition: int) -> GenerateRequest:
    """The same length of text that was not read before."""
    last = work.messages[-1]
    changed = replace(last, content=last.content.replace("Note", f"Note {repetition}", 1))
    return replace(work, messages=(*work.messages[:-1], changed))
