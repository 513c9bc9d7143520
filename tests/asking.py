"""What the tests of providers share: a model at a server, a request, and what comes of asking."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from localfusion.events import CloudCalled, CloudCharged
from localfusion.messages import (
    CloudLeave,
    Completion,
    Delta,
    GenerateRequest,
    Json,
    Message,
    OutputFormat,
    Prices,
    ProviderSpec,
    RemoteModel,
    Sampling,
)
from localfusion.providers import Spending, open_endpoint
from localfusion.tools import WEB_FETCH, WEB_SEARCH

KEY = "test-9f8e7d6c5b4a"
ENVIRON = {"CLOUD_KEY": KEY}
ALLOWED = CloudLeave(is_allowed=True)
QUESTION = (Message("system", "Answer."), Message("user", "Who keeps Skerry?"))


@dataclass
class Heard:
    """What came of a request: the deltas, the completion, and what was said to leave and to be charged."""

    deltas: list[Delta] = field(default_factory=list)
    said: list[CloudCalled] = field(default_factory=list)
    charged: list[CloudCharged] = field(default_factory=list)
    completion: Completion | None = None

    def hear(self, event: CloudCalled | CloudCharged) -> None:
        if isinstance(event, CloudCalled):
            self.said.append(event)
        else:
            self.charged.append(event)

    @property
    def content(self) -> str:
        return "".join(delta.text for delta in self.deltas if delta.kind == "content")


def remote(
    url: str,
    *,
    tools: bool = False,
    key: str = "CLOUD_KEY",
    retries: int = 0,
    timeout_s: float = 30,
    prices: Prices | None = None,
    n_ctx: int = 8192,
) -> RemoteModel:
    spec = ProviderSpec("cloud", url, key, "tools" if tools else "json_schema", timeout_s, retries)
    return RemoteModel("far", spec, "maker/far-1", n_ctx, prices)


def plain(max_tokens: int | None = 100, messages: tuple[Message, ...] = QUESTION) -> GenerateRequest:
    return GenerateRequest("a", messages, max_tokens=max_tokens, sampling=Sampling(seed=3))


def stepwise(
    calls: Mapping[str, tuple[str, ...]], *, schema: Json = None, messages: tuple[Message, ...] = QUESTION
) -> GenerateRequest:
    """A step of a conversation with both tools, of which `calls` may be called now."""
    tools = (WEB_SEARCH, WEB_FETCH)
    return GenerateRequest("a", messages, tools, max_tokens=100, output=OutputFormat(calls, schema))


def ask(
    model: RemoteModel,
    request: GenerateRequest,
    *,
    spending: Spending | None = None,
    environ: Mapping[str, str] = ENVIRON,
    heard: Heard | None = None,
) -> Heard:
    """Ask once, to the end. Raises what the endpoint raises; `heard` then holds what came before."""
    heard = heard if heard is not None else Heard()

    async def scenario() -> None:
        opened = open_endpoint(model, id="a", environ=environ, spending=spending or Spending(ALLOWED), emit=heard.hear)
        async with opened as endpoint, aclosing(endpoint.generate(request)) as stream:
            async for item in stream:
                if isinstance(item, Completion):
                    heard.completion = item
                elif isinstance(item, Delta):
                    heard.deltas.append(item)

    asyncio.run(scenario())
    return heard


def answer_of(heard: Heard) -> Completion:
    assert heard.completion is not None
    return heard.completion
