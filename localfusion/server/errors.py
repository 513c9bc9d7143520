"""The one table from what went wrong to what a client is told: status, type, code. Raises and logs nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from localfusion.errors import (
    ConfigError,
    ContextOverflow,
    DeliberationFailed,
    HubError,
    InvalidRequest,
    LimitReached,
    LocalFusionError,
    MalformedOutput,
    ModelError,
    ModelLoadError,
    NoSuchResponse,
    OutOfMemory,
    ProviderError,
    QueueFull,
    Refusal,
    RequestRefused,
    RunInterrupted,
    TimedOut,
    WebError,
    WorkerDied,
)
from localfusion.messages import Json
from localfusion.wire.errors import ErrorBody, ErrorDetail, RouterDetail, RouterErrorBody, RouterMetadata
from localfusion.wire.responses_reply import ErrorEvent

ROUTER_PREFIX = "/api/"
"""Where errors have OpenRouter's shape; everywhere else they have OpenAI's."""
QUEUE_RETRY_S = 5.0
"""When somebody may ask again who was told that the queue is full: nobody knows how long what runs will take."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of error is to a client."""

    status: int
    type: str
    code: str


BY_KIND: Mapping[type[LocalFusionError], Row] = {
    InvalidRequest: Row(400, "invalid_request_error", "invalid_value"),
    ContextOverflow: Row(400, "invalid_request_error", "context_length_exceeded"),
    OutOfMemory: Row(503, "server_error", "out_of_memory"),
    ModelLoadError: Row(500, "server_error", "model_not_loaded"),
    MalformedOutput: Row(502, "server_error", "malformed_output"),
    WorkerDied: Row(502, "server_error", "worker_died"),
    TimedOut: Row(504, "server_error", "timeout"),
    LimitReached: Row(402, "insufficient_quota", "insufficient_credits"),
    ProviderError: Row(502, "server_error", "provider_error"),
    ModelError: Row(502, "server_error", "model_error"),
    DeliberationFailed: Row(502, "server_error", "deliberation_failed"),
    NoSuchResponse: Row(404, "invalid_request_error", "not_found"),
    QueueFull: Row(503, "server_error", "queue_full"),
    RunInterrupted: Row(503, "server_error", "interrupted"),
    WebError: Row(502, "server_error", "web_error"),
    HubError: Row(502, "server_error", "hub_error"),
    ConfigError: Row(500, "server_error", "configuration_error"),
    LocalFusionError: Row(500, "server_error", "internal_error"),
}
"""An error is its own class or the nearest above it that stands here. Of InvalidRequest the code is its own."""

BY_REFUSAL: Mapping[Refusal, Row] = {
    "body_too_large": Row(413, "invalid_request_error", "body_too_large"),
    "invalid_api_key": Row(401, "authentication_error", "invalid_api_key"),
    "method_not_allowed": Row(405, "invalid_request_error", "method_not_allowed"),
    "not_found": Row(404, "invalid_request_error", "not_found"),
    "origin_not_allowed": Row(403, "permission_error", "origin_not_allowed"),
    "rate_limit_exceeded": Row(429, "rate_limit_error", "rate_limit_exceeded"),
    "request_timeout": Row(408, "invalid_request_error", "request_timeout"),
    "timeout": Row(504, "server_error", "timeout"),
    "unknown_host": Row(421, "invalid_request_error", "unknown_host"),
    "unsupported_media_type": Row(415, "invalid_request_error", "unsupported_media_type"),
}

ROUTER_TYPES: Mapping[int, str] = {
    401: "authentication",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    408: "timeout",
    413: "payload_too_large",
    429: "rate_limit_exceeded",
    503: "provider_overloaded",
    504: "timeout",
}
"""OpenRouter's words for errors, by their status; there are two more for the rest, by whose fault it is."""

UNEXPECTED = Row(500, "server_error", "internal_error")


@dataclass(frozen=True, slots=True)
class Told:
    """An error as a client is told it; `retry_after_s` None is not said."""

    row: Row
    message: str
    param: str | None = None
    failure_reason: str | None = None
    retry_after_s: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What stands in the reply's head beside the length and the type."""
        headers = {"www-authenticate": "Bearer"} if self.row.status == 401 else {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        elif self.row.status >= 500:  # OpenAI's clients ask again by themselves; it would take as long and end alike
            headers["x-should-retry"] = "false"
        return headers

    def body(self, path: str) -> dict[str, Json]:
        """The JSON of the reply to a request of this path."""
        row = self.row
        if path.startswith(ROUTER_PREFIX):
            metadata = RouterMetadata(
                error_type=_router_type(row),
                code=row.code,
                param=self.param,
                type=row.type,
                failure_reason=self.failure_reason,
            )
            router = RouterErrorBody(error=RouterDetail(code=row.status, message=self.message, metadata=metadata))
            return router.model_dump()
        detail = ErrorDetail(
            message=self.message, type=row.type, param=self.param, code=row.code, failure_reason=self.failure_reason
        )
        left_out = {"failure_reason"} if self.failure_reason is None else set()
        return ErrorBody(error=detail).model_dump(exclude={"error": left_out})

    def event(self, sequence: int) -> dict[str, Json]:
        """The JSON of the event that tells it within a streamed response."""
        code, message = self.row.code, self.message
        return ErrorEvent(sequence_number=sequence, code=code, message=message, param=self.param).model_dump()


def told(error: LocalFusionError) -> Told:
    """What a client is told of an error: its message and its hint, and the row of its kind."""
    message = _sentences(error)
    if isinstance(error, InvalidRequest):
        return Told(Row(400, "invalid_request_error", error.code), message, error.param)
    if isinstance(error, RequestRefused):
        return Told(BY_REFUSAL[error.refusal], message, retry_after_s=error.retry_after_s)
    row = next(BY_KIND[kind] for kind in type(error).__mro__ if kind in BY_KIND)
    reason = error.failure_reason if isinstance(error, DeliberationFailed) else None
    return Told(row, message, None, reason, QUEUE_RETRY_S if row.status == 503 else None)


def unexpected(id: str) -> Told:
    """What a client is told of an error that nobody foresaw: where its trace is, and nothing of it."""
    return Told(UNEXPECTED, f"the server failed in a way that it does not know; its log says more under {id}")


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of errors that were raised together."""
    error = group.exceptions[0]
    return first_of(error) if isinstance(error, BaseExceptionGroup) else error


def _router_type(row: Row) -> str:
    if row.code == "context_length_exceeded":
        return row.code
    return ROUTER_TYPES.get(row.status, "invalid_request" if row.status < 500 else "server")


def _sentences(error: LocalFusionError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message
