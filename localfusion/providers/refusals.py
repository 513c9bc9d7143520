"""What it means that a provider refused: its status, its codes and its headers as one error of the tree. Pure.

Which kind of error it is follows from status and codes, never from a message; the message is only passed on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from localfusion.errors import ProviderError
from localfusion.messages import Json, RemoteModel
from localfusion.providers.secret import Secret

MAX_BODY_BYTES = 1 << 16
"""As much of an error's body as is read."""
OPTIONAL = ("temperature", "top_p", "seed", "max_tokens", "stream_options", "stop")
"""Parameters that a request can do without, or, as `max_tokens`, has another name for."""

_AGAIN = (408, 409, 425, 429)
_TOO_LONG = ("context_length_exceeded", "exceed_context_size_error")
_UNSUPPORTED = ("unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden")


class Unavailable(ProviderError):
    """The same request may succeed later; the provider may have said when."""

    def __init__(
        self, model: str, message: str, *, status: int | None = None, hint: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(model, message, status=status, hint=hint)
        self.retry_after_s = retry_after_s


class Unsupported(ProviderError):
    """The provider does not know, or not allow, one parameter of the request that it can do without."""

    def __init__(self, model: str, message: str, *, status: int, parameter: str) -> None:
        super().__init__(model, message, status=status)
        self.parameter = parameter


class PromptTooLong(ProviderError):
    """The provider says that the prompt does not fit the model's window."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What a body says of an error, as far as it says it in a form that is known."""

    message: str = ""
    codes: tuple[str, ...] = ()
    parameter: str = ""


def refusal(
    status: int, body: bytes, headers: Mapping[str, str], *, model: RemoteModel, secret: Secret
) -> ProviderError:
    """The error for a reply that is none of a chat; never holds the key, whatever the provider repeats."""
    try:
        value: Json = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    said = _said(value)
    message = _sentence(status, said, model, secret)
    if any(code in _TOO_LONG for code in said.codes):
        return PromptTooLong(model.name, message, status=status)
    if said.parameter in OPTIONAL and any(code in _UNSUPPORTED for code in said.codes):
        return Unsupported(model.name, message, status=status, parameter=said.parameter)
    if status in _AGAIN or status >= 500:
        wait = retry_after(headers)
        return Unavailable(model.name, message, status=status, hint=_hint(status, model), retry_after_s=wait)
    return ProviderError(model.name, message, status=status, hint=_hint(status, model))


def told_in_stream(error: Json, *, model: RemoteModel, secret: Secret) -> ProviderError:
    """The error for one that a provider told where an answer should be, with status 200."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else 200
    return refusal(status, json.dumps({"error": error}).encode(), {}, model=model, secret=secret)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a provider asks to wait, None where it does not say."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        seconds = _until(value)
    return seconds if 0 <= seconds < float("inf") else None


def _until(date: str) -> float:
    try:
        at = parsedate_to_datetime(date)
    except ValueError:
        return -1.0
    return max((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _sentence(status: int, said: _Said, model: RemoteModel, secret: Secret) -> str:
    """One sentence; where it is about the key, nothing of what the provider says is repeated."""
    provider = model.provider.name
    if status in (401, 403):
        return f"{provider} does not accept the key for {model.name} ({status})"
    if 300 <= status < 400:
        return f"{provider} sends requests on to another address ({status}), where the key does not go"
    reasons = {402: "asks for payment", 404: f"does not know {model.model}", 429: "takes no more requests for now"}
    reason = reasons.get(status, "failed" if status >= 500 else "refused the request")
    where = "" if status == 200 else f" ({status})"
    told = secret.scrubbed(said.message)
    return f"{provider} {reason}{where}{f': {told}' if told else ''}"


def _hint(status: int, model: RemoteModel) -> str:
    provider = model.provider
    if status in (401, 403):
        where = provider.key_variable or "no key is sent: name its variable with `key` in models.yaml"
        return f"look at {where}" if provider.key_variable else where
    if 300 <= status < 400:
        return f"write the address that is meant as base_url of {provider.name} in models.yaml"
    if status == 404:
        return f"look at `model` of {model.name} and at base_url of {provider.name} in models.yaml"
    return ""


def _said(value: Json) -> _Said:
    """What is said in any of the forms in use: OpenAI's, FastAPI's, and errors as bare text."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return _Said()
    error = value.get("error", value)
    if isinstance(error, str):
        return _Said(error)
    if not isinstance(error, dict):
        return _Said()
    if isinstance(error.get("detail"), list):
        return next(_details(error["detail"]), _Said())
    message = next((text for key in ("message", "detail") if isinstance(text := error.get(key), str)), "")
    codes = tuple(text for key in ("code", "type") if isinstance(text := error.get(key), str))
    parameter = error.get("param")
    return _Said(message, codes, parameter if isinstance(parameter, str) else "")


def _details(details: Json) -> Iterator[_Said]:
    """What FastAPI's errors of validation say: which field, and what is wrong with it."""
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            where = detail.get("loc")
            field = where[-1] if isinstance(where, list) and where else ""
            message, kind = detail.get("msg"), detail.get("type")
            yield _Said(
                message if isinstance(message, str) else "",
                (kind,) if isinstance(kind, str) else (),
                field if isinstance(field, str) else "",
            )
