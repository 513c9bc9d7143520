"""What the routes are put together from: what makes orders of requests, replies of turns, and keeps jobs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel

from localfusion.errors import LocalFusionError
from localfusion.messages import Json
from localfusion.outer import TurnItem, TurnRequest
from localfusion.server.jobs import Job, JobRequest, Work


class Order(Protocol):
    """What a request asks for, whole: `model` as it was named, `echo` what a Responses reply repeats."""

    @property
    def turn(self) -> TurnRequest: ...
    @property
    def n(self) -> int: ...
    @property
    def is_streamed(self) -> bool: ...
    @property
    def is_background(self) -> bool: ...
    @property
    def is_stored(self) -> bool: ...
    @property
    def echo(self) -> Mapping[str, Json]: ...


class Orders(Protocol):
    """Makes orders of checked requests. Raises InvalidRequest."""

    def chat(self, body: BaseModel, *, depth: int) -> Order: ...
    def responses(self, body: BaseModel, *, depth: int, history: Sequence[Json] = ()) -> Order: ...
    def names(self) -> Sequence[str]:
        """What a request may name as its model."""
        ...


class ChatFold(Protocol):
    """A chat reply as it comes to be."""

    def feed(self, item: TurnItem, index: int = 0) -> Sequence[BaseModel]: ...
    def end(self) -> Sequence[BaseModel]: ...
    def completion(self) -> BaseModel: ...


class ResponsesFold(Protocol):
    """A response as it comes to be."""

    def start(self) -> Sequence[BaseModel]: ...
    def feed(self, item: TurnItem) -> Sequence[BaseModel]: ...
    def fail(self, error: LocalFusionError) -> Sequence[BaseModel]: ...
    def cancelled(self) -> Sequence[BaseModel]: ...
    def response(self) -> BaseModel: ...


class EmbeddingsAsked(Protocol):
    """A checked request for vectors."""

    @property
    def input(self) -> str | Sequence[str]: ...
    @property
    def model(self) -> str: ...
    @property
    def encoding_format(self) -> Literal["float", "base64"]: ...
    @property
    def dimensions(self) -> int | None: ...


class JobKeeper(Protocol):
    """All jobs of a server."""

    async def start(self, request: JobRequest, work: Work) -> Job: ...
    async def get(self, id: str, owner: str) -> Job: ...
    async def cancel(self, id: str, owner: str) -> Job: ...
    async def delete(self, id: str, owner: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Wire:
    """The classes of requests and replies: what is parsed, and what the OpenAPI shows."""

    chat_request: type[BaseModel]
    chat_completion: type[BaseModel]
    chat_chunk: type[BaseModel]
    responses_request: type[BaseModel]
    response: type[BaseModel]
    response_event: type[BaseModel]
    embeddings_request: type[BaseModel]


@dataclass(frozen=True, slots=True)
class Parts:
    """How requests are understood and told."""

    orders: Orders
    wire: Wire
    chat_reply: Callable[[str, int, Order], ChatFold]
    responses_reply: Callable[[str, int, Order], ResponsesFold]
