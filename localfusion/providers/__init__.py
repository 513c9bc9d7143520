"""Cloud endpoints, the only door to `openai`: opened by leave of the run, paid within its limits, named in its events.

The packages of the extra `cloud` are imported when the first endpoint is opened, so that a run without one neither
needs them nor waits for them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module

from localfusion.errors import ConfigError, ProviderError
from localfusion.events import CloudCalled, CloudCharged
from localfusion.messages import RemoteModel
from localfusion.providers.endpoint import Endpoint, Line
from localfusion.providers.spending import Spending

__all__ = ["Endpoint", "Spending", "open_endpoint"]

Connect = Callable[[RemoteModel, Mapping[str, str]], AbstractAsyncContextManager[Line]]


@asynccontextmanager
async def open_endpoint(
    model: RemoteModel,
    *,
    id: str,
    environ: Mapping[str, str],
    spending: Spending,
    emit: Callable[[CloudCalled | CloudCharged], None],
) -> AsyncIterator[Endpoint]:
    """A provider's model for a seat (or "judge"), closed at the end.

    `emit` is told of each request before it leaves, and of what it took when it has ended. Raises ProviderError where
    the run does not allow it, ConfigError where a package or the key is missing.
    """
    if not spending.leave.is_allowed:
        raise ProviderError(
            model.name,
            f"{model.name} runs at {model.provider.name}, and this run may send nothing there",
            hint="allow it with --allow-cloud, or choose a model that runs here",
        )
    connect = await asyncio.to_thread(_connect)
    async with connect(model, environ) as line:
        yield Endpoint(model, line, id=id, spending=spending, emit=emit)


def _connect() -> Connect:
    """The function that opens lines, with all that it needs. Raises ConfigError."""
    try:
        connect: Connect = import_module("localfusion.providers.line").connect
    except ImportError as error:
        raise ConfigError(
            "asking a cloud model needs packages that are not installed", hint='pip install "localfusion[cloud]"'
        ) from error
    return connect
