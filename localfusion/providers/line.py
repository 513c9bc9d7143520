"""The line to a provider: the only module that uses `openai`, `httpx2` and `tenacity`.

It is imported when a provider is first asked, sends a body, and gives back the chunks of the reply. What leaves is what
stands here: the SDK is given no key, and of what it would send along of its own, or read from the environment, the
headers named below are all that stay.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
import tenacity

from localfusion import __version__
from localfusion.errors import ConfigError, ProviderError
from localfusion.messages import Json, RemoteModel
from localfusion.providers.chunks import Chunk, NotAChunk, parse_chunk
from localfusion.providers.event_stream import MAX_EVENT_BYTES, EventReader, TooLarge
from localfusion.providers.keys import find_key
from localfusion.providers.refusals import MAX_BODY_BYTES, Unavailable, refusal, told_in_stream
from localfusion.providers.secret import Secret

T = TypeVar("T")

CONNECT_S = 15.0
MAX_WAIT_S = 60.0
"""Whoever asks to wait longer than this before a request is sent again is not asked again."""
BYTES_A_TOKEN = 4096
"""What a stream may have for a token, its JSON included; most have some 300."""

_KEPT = frozenset({"host", "connection", "content-length", "content-type"})
_NO_KEY = "none"
"""The SDK wants some key and would take one from the environment; this one is taken off before anything is sent."""


_on_sent: ContextVar[Callable[[], None]] = ContextVar("on_sent")
"""Whom the request that is being made tells that it was sent: the SDK has no place for it."""


class _Answered(openai.OpenAIError):
    """A reply that is no chat completion, raised where its headers are seen so that no more of it is read than told."""

    def __init__(self, error: ProviderError) -> None:
        super().__init__(error.message)
        self.error = error


class Line:
    """An open client of one provider, for one model."""

    def __init__(self, client: openai.AsyncOpenAI, model: RemoteModel, secret: Secret) -> None:
        self._client = client
        self._model = model
        self._secret = secret

    async def persist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what sends a request, and again where that may help, waiting longer each time, or as the provider asks."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_help),
            stop=tenacity.stop_after_attempt(self._model.provider.max_retries + 1),
            wait=_pause,
            reraise=True,
        )
        return await retrying(work)

    async def send(
        self, body: Mapping[str, Json], *, max_tokens: int, on_sent: Callable[[], None]
    ) -> AsyncGenerator[Chunk]:
        """The chunks of a reply; `on_sent` is told when the provider has the whole body.

        Raises ProviderError: Unavailable where it makes sense to ask again, without a status where there was no reply.
        """
        reader = EventReader(max_bytes=MAX_EVENT_BYTES + BYTES_A_TOKEN * max_tokens)
        _on_sent.set(on_sent)
        try:
            stream = await self._client.chat.completions.create(
                model=self._model.model, messages=[], stream=True, extra_body=dict(body)
            )
            async with stream:
                async for data in _events(stream.response, reader):
                    if data.startswith("[DONE]"):
                        break
                    yield self._chunk(data)
        except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, TooLarge) as error:
            raise self._named(error) from None

    def _chunk(self, data: str) -> Chunk:
        try:
            chunk = parse_chunk(data)
        except NotAChunk:
            raise ProviderError(
                self._model.name, f"{self._model.provider.name} sent something that is no chat completion", status=200
            ) from None
        if chunk.error is not None:
            raise told_in_stream(chunk.error, model=self._model, secret=self._secret)
        return chunk

    def _named(self, error: Exception) -> ProviderError:
        """What went wrong, by its kind alone: what libraries say may repeat headers."""
        name, provider = self._model.name, self._model.provider
        cause = error if isinstance(error, _Answered) else error.__cause__
        if isinstance(cause, _Answered):
            return cause.error
        if isinstance(error, TooLarge):
            return ProviderError(name, f"{provider.name} sent more than any answer has", status=200)
        if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
            return Unavailable(name, f"{provider.name} did not answer in time")
        hint = f"is {provider.base_url} the right address, and can it be reached?"
        if isinstance(error, openai.APIConnectionError | httpx2.ConnectError):
            return Unavailable(name, f"{provider.name} cannot be reached", hint=hint)
        return Unavailable(name, f"the connection to {provider.name} broke off")


@asynccontextmanager
async def connect(model: RemoteModel, environ: Mapping[str, str]) -> AsyncIterator[Line]:
    """A line to the model's provider. Raises ConfigError where its key is not found."""
    secret = await find_key(model.provider, environ)
    provider = model.provider
    door = _Door(model, secret)
    try:
        http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(provider.timeout_s, connect=min(CONNECT_S, provider.timeout_s)),
            follow_redirects=False,
            trust_env=not _is_loopback(provider.base_url),
            event_hooks={"request": [door.before], "response": [door.after]},
        )
        client = openai.AsyncOpenAI(
            api_key=_NO_KEY, base_url=provider.base_url, max_retries=0, http_client=http, timeout=http.timeout
        )
    except (httpx2.InvalidURL, ValueError, ImportError, OSError) as error:
        raise ConfigError(
            f"{provider.name} cannot be asked: its address, or the environment's proxy or certificates, are no use",
            hint=f"look at base_url of {provider.name} in models.yaml, and at HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE",
        ) from error
    async with http:
        yield Line(client, model, secret)


class _Door:
    """What every request passes on its way out, and every reply on its way in."""

    def __init__(self, model: RemoteModel, secret: Secret) -> None:
        self._model = model
        self._secret = secret

    async def before(self, request: httpx2.Request) -> None:
        """Leave of the headers what is named, add the key, and nothing else."""
        headers: MutableMapping[str, str] = request.headers
        for name in [name for name in headers if name.lower() not in _KEPT]:
            del headers[name]
        headers["accept"] = "text/event-stream, application/json"
        headers["accept-encoding"] = "identity"
        headers["x-openrouter-fusion-depth"] = "1"
        headers["user-agent"] = f"localfusion/{__version__}"
        request.extensions["trace"] = partial(_traced, _on_sent.get())
        if key := self._secret.reveal():
            headers["authorization"] = f"Bearer {key}"

    async def after(self, response: httpx2.Response) -> None:
        """Refuse what is no reply to a chat before it is read."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code == 200 and kind in ("text/event-stream", "application/json", ""):
            return
        if response.status_code == 200:
            provider = self._model.provider
            raise _Answered(
                ProviderError(
                    self._model.name,
                    f"{provider.name} answers with something that is no chat completion",
                    status=200,
                    hint=f"is {provider.base_url} the right address?",
                )
            )
        body = await _bounded(response, MAX_BODY_BYTES)
        headers = {name.lower(): value for name, value in response.headers.items()}
        raise _Answered(refusal(response.status_code, body, headers, model=self._model, secret=self._secret))


async def _traced(on_sent: Callable[[], None], event: str, _: object) -> None:
    """Hear of the steps of a request; the end of the body is the one that counts."""
    if event.endswith(".send_request_body.complete"):
        on_sent()


async def _events(response: httpx2.Response, reader: EventReader) -> AsyncIterator[str]:
    """The data of each event; the one value of a server that does not stream is one. Raises TooLarge."""
    if response.headers.get("content-type", "").startswith("application/json"):
        yield (await _bounded(response, MAX_EVENT_BYTES)).decode("utf-8", "replace")
        return
    async for piece in response.aiter_bytes():
        for data in reader.feed(piece):
            yield data
    for data in reader.finish():
        yield data


async def _bounded(response: httpx2.Response, most: int) -> bytes:
    """The body, as much of it as `most` and the piece that goes over it."""
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > most:
            break
    return body


def _may_help(error: BaseException) -> bool:
    return isinstance(error, Unavailable) and (error.retry_after_s is None or error.retry_after_s <= MAX_WAIT_S)


_GROWING = tenacity.wait_random_exponential(multiplier=0.5, max=20)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: as the provider asks, else longer each time and never the same."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after_s if isinstance(error, Unavailable) else None
    return _GROWING(state) if asked is None else asked


def _is_loopback(base_url: str) -> bool:
    """Whether the provider is on this machine, where no proxy stands between."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
