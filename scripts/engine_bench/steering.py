"""What makes a model of random weights behave as a panelist or a judge would: its grammars, narrowed.

It must call the search until it has to answer, asks one of a few sensible queries, and writes an analysis of a sane
size. Every choice that is left is the model's. What was asked and written is recorded, to be done again by others.
"""

import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from localfusion.engine.interface import Embeddings, Resident
from localfusion.messages import Completion, Delta, GenerateRequest, Message, ModelInfo, Progress, TextKind, ToolSpec
from scripts.engine_bench.documents import unasked

STRING_CHARACTERS = 60
"""About as many as STRING_TOKENS of a random model."""
STRING_TOKENS = 16
_START = re.compile(r"^start: call_0 \|.*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^argument\[.*$", re.MULTILINE)
_SHORTER_QUOTES = (
    (re.compile(r"^STRING_INNER_FIRST: .*$", re.MULTILINE), "STRING_INNER_FIRST: /“/"),
    (re.compile(r"^STRING_INNER_NEXT: .*$", re.MULTILINE), "STRING_INNER_NEXT: / “/"),
    (re.compile(r"^STRING_INNER_REST: .*$", re.MULTILINE), "STRING_INNER_REST: /[.]/"),
    (re.compile(r"\)\* STRING_INNER_REST"), "){0,1} STRING_INNER_REST"),
)
_SMALLER = (
    (
        re.compile(r"^string_inner: STRING_INNER_ALONE\b", re.MULTILINE),
        f"string_inner_alone[max_tokens={STRING_TOKENS}]: STRING_INNER_ALONE\nstring_inner: string_inner_alone",
    ),
    (re.compile(r"\{0,15\}"), "{0,1}"),
    (re.compile(r"\{1,16\}"), "{1,1}"),
)


class GrammarChanged(Exception):
    """The product's grammars are no longer what this module narrows."""


@dataclass(frozen=True, slots=True)
class Written:
    """A request as the model got it, and what it wrote; `path` is its file."""

    path: Path
    request: GenerateRequest
    completion: Completion


class SteeredModel:
    """A loaded model whose requests are narrowed, and kept in `record` once they are done."""

    def __init__(self, model: Resident, path: Path, record: list[Written], *, n_answer: int) -> None:
        self._model, self._path, self._record, self._n_answer = model, path, record, n_answer

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        """As the model's own, with the narrowed grammar; the final answer has `n_answer` tokens at most.

        What is only read ahead, without a grammar, is no request that anybody else would do.
        """
        is_ahead = request.grammar is None
        narrowed = request if is_ahead else narrow(request, n_answer=self._n_answer)
        async with aclosing(self._model.generate(narrowed)) as stream:
            async for item in stream:
                if isinstance(item, Completion) and not is_ahead:
                    self._record.append(Written(self._path, narrowed, item))
                yield item

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return await self._model.count_tokens(texts)

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        return await self._model.count_prompt(messages, tools)

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Embeddings:
        return await self._model.embed(texts, kind=kind)

    async def set_threads(self, n_threads: int) -> None:
        await self._model.set_threads(n_threads)

    def is_current(self) -> bool:
        return self._model.is_current()

    async def close(self) -> None:
        await self._model.close()


def narrow(request: GenerateRequest, *, n_answer: int) -> GenerateRequest:
    """The request of a step, an analysis or a final answer with fewer ways to go on."""
    assert request.grammar is not None
    if request.sequence.endswith("judge") and request.grammar.startswith("start: answer\n"):
        return replace(request, max_tokens=n_answer)
    if "string_inner" in request.grammar:
        return replace(request, grammar=smaller(request.grammar))
    if "call_0" not in request.grammar:
        return request
    queries = f"argument: {' | '.join(map(json.dumps, unasked(request)))}"
    return replace(request, grammar=_change(request.grammar, ((_START, "start: call_0"), (_ARGUMENT, queries))))


def smaller(grammar: str) -> str:
    """An analysis of short strings and short lists."""
    quotes = _SHORTER_QUOTES if "STRING_INNER_QUOTATION" in grammar else ()
    return _change(grammar, (*quotes, *_SMALLER))


def _change(grammar: str, changes: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for pattern, new in changes:
        grammar, n_changed = pattern.subn(new, grammar)
        if not n_changed:
            raise GrammarChanged(f"nothing in the grammar is like {pattern.pattern}")
    return grammar
