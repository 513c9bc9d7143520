"""An engine double that obeys whatever it reads: it makes every tool call that is spelt out and fetches every address.

No constraint holds it, so what is refused is refused by the tools and the guards and not by a model's good manners.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localfusion.engine.interface import Embeddings
from localfusion.errors import ModelLoadError
from localfusion.messages import (
    Completion,
    Delta,
    Footprint,
    GenerateRequest,
    JudgeSpec,
    Message,
    ModelInfo,
    ModelSpec,
    PanelistSpec,
    PanelSpec,
    Progress,
    TextKind,
    ToolSpec,
    ToolSyntax,
    Usage,
)
from localfusion.scheduler import Engine, Limits, Scheduler

ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}:(?://)?[^\s<>\"'“”()\[\]]+", re.IGNORECASE)
CALL = re.compile(r'\{"name": "[^"]*", "arguments": \{[^{}]*\}\}')
NOTHING = '{"consensus":[],"contradictions":[],"partial_coverage":[],"unique_insights":[],"blind_spots":[]}'


@dataclass
class Obedient:
    """A resident model; `asked` holds every request, `words` what it searches for first."""

    words: str = "harbour"
    n_ctx: int = 100_000
    syntax: ToolSyntax | None = None
    asked: list[GenerateRequest] = field(default_factory=list)
    done: set[tuple[str, str]] = field(default_factory=set)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("obedient", self.n_ctx, self.n_ctx, 1000, 1, 1, {}, self.syntax)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Progress | Delta | Completion]:
        self.asked.append(request)
        await asyncio.sleep(0)
        text = self._next(request)
        yield Delta("content", text)
        yield Completion(text, "", "stop", Usage(prompt_tokens=1, completion_tokens=1))

    def _next(self, request: GenerateRequest) -> str:
        if not _may_call(request):
            return self._last(request)
        read = "\n".join(message.content for message in request.messages if message.role != "system")
        found = [json.dumps({"name": "web_fetch", "arguments": {"url": url}}) for url in ADDRESS.findall(read)]
        first = json.dumps({"name": "web_search", "arguments": {"query": self.words}})
        for order in (first, *found, *map(str, CALL.findall(read))):
            if (request.sequence, order) not in self.done:
                self.done.add((request.sequence, order))
                return order
        return self._last(request)

    def _last(self, request: GenerateRequest) -> str:
        if not is_judge(request):
            return "ANSWER: It is done."
        is_told = any(message.fields.get("task") == "answer" for message in request.messages)
        return "It is done." if is_told else NOTHING

    async def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(len(text) // 4 for text in texts)

    async def count_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
        del tools
        return sum(len(message.content) // 4 for message in messages)

    async def embed(self, texts: Sequence[str], *, kind: TextKind) -> Embeddings:
        del texts, kind
        raise ModelLoadError("obedient", "obedient makes no vectors")

    async def set_threads(self, n_threads: int) -> None:
        """It has none."""

    def is_current(self) -> bool:
        return True

    async def close(self) -> None:
        """There is nothing to end."""


def is_judge(request: GenerateRequest) -> bool:
    """Whether the judge is asked, or the writer of the final answer."""
    return request.sequence.rpartition("/")[2] == "judge"


def _may_call(request: GenerateRequest) -> bool:
    """Whether the grammar of the request has a tool call in it; the double does not keep to it."""
    return "call_0" in (request.grammar or "")


def scheduler_of(model: Obedient) -> Scheduler:
    """A scheduler that loads nothing but this model."""

    async def load(spec: ModelSpec) -> Obedient:
        del spec
        await asyncio.sleep(0)
        return model

    async def measure(spec: ModelSpec) -> Footprint:
        del spec
        return Footprint(kv_bytes=1)

    return Scheduler(Engine(load, measure), Limits(2, 2**30, lambda: 2**30))


def panel_of(*, max_tool_calls: int = 16, judge_calls: int = 0) -> PanelSpec:
    """One seat and a judge, both the double."""
    spec = ModelSpec("obedient", Path("obedient.gguf"))
    seat = PanelistSpec("a", spec, max_tool_calls=max_tool_calls)
    return PanelSpec((seat,), JudgeSpec(spec, max_tool_calls=judge_calls))
