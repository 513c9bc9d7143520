"""The one tree of exceptions; every foreign error is mapped to it at the door where it enters.

LocalFusionError                     one sentence; `hint` says what to do
├── ConfigError                      the user must change a file, a flag or an install
├── InvalidRequest(param, code)      whoever asks the server must change the request
├── RequestRefused(refusal)          the server does not take the request, or no longer, whatever it asks for
├── ModelError(model)                one model failed; the deliberation may go on
│   ├── ModelLoadError
│   ├── OutOfMemory(need_bytes, have_bytes)
│   ├── ContextOverflow(tokens, n_ctx)
│   ├── MalformedOutput(text)
│   ├── GrammarRefused(line)         what a model should write cannot be put as a constraint
│   ├── WorkerDied(exit_code)
│   ├── TimedOut(timeout_s)
│   └── ProviderError(status)
│       └── LimitReached         the run may spend no more on cloud models
├── WebError(url)                    told to the model as a tool result
│   └── NotHere                      this source has no such address; another may
├── HubError(repo)                   the model hub could not be reached, refused, or sent something else
├── QueueFull                        the server answers 503 with Retry-After
├── Unstorable                       a database refuses this one change; others it takes
├── NoSuchResponse                   the server has none of this id, or it is somebody else's
├── RunInterrupted                   the user stopped the run; what was finished is stored
└── DeliberationFailed(failed_models, failure_reason)
"""

from typing import Literal

FailureReason = Literal[
    "all_panels_failed",
    "insufficient_credits",
    "rate_limited",
    "fusion_invocation_capped",
    "unexpected_error",
    "invalid_model",
    "judge_not_valid_json",
    "judge_schema_mismatch",
    "judge_upstream_error",
    "judge_empty_completion",
    "cancelled",
]
"""FUSION.md section 4: the closed set of reasons the protocol knows."""


Refusal = Literal[
    "body_too_large",
    "invalid_api_key",
    "method_not_allowed",
    "not_found",
    "origin_not_allowed",
    "rate_limit_exceeded",
    "request_timeout",
    "timeout",
    "unknown_host",
    "unsupported_media_type",
]
"""Why the server does not take a request. `request_timeout`: it came too slowly; `timeout`: its answer did."""


class LocalFusionError(Exception):
    """Any failure that localfusion can name: `message` is one sentence, `hint` what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(LocalFusionError):
    """The user must change a file, a flag or an install; the CLI exits with 2."""


class InvalidRequest(LocalFusionError):
    """Whoever asks the server must change the request: `param` is the field, `code` what is wrong, for programs."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param
        self.code = code


class RequestRefused(LocalFusionError):
    """The server does not take the request, or no longer; `retry_after_s` says when it would, None: not by waiting."""

    def __init__(self, message: str, *, refusal: Refusal, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.refusal = refusal
        self.retry_after_s = retry_after_s


class ModelError(LocalFusionError):
    """One model failed; the deliberation may go on without it. `brief` is what a run says of that."""

    def __init__(self, model: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.model = model
        self.brief = message


class ModelLoadError(ModelError):
    """The file is missing, damaged, or not one that llama.cpp can load.

    `brief` is the message without the file's folder, which whoever asks a server is not told.
    """

    def __init__(self, model: str, message: str, *, brief: str = "", hint: str = "") -> None:
        super().__init__(model, message, hint=hint)
        self.brief = brief or message


class OutOfMemory(ModelError):
    """The model needs more bytes than there are: of the machine's memory, or (`is_vram`) of a GPU's."""

    def __init__(self, model: str, *, need_bytes: int, have_bytes: int, is_vram: bool = False, hint: str = "") -> None:
        need, have = (f"{n_bytes / 2**20:.0f} MiB" for n_bytes in (need_bytes, have_bytes))
        super().__init__(
            model,
            f"{model} needs {need}{' of VRAM' if is_vram else ''} and {have} may be used",
            hint=hint or f"choose a smaller model or a smaller {'n_gpu_layers' if is_vram else 'n_ctx'}",
        )
        self.is_vram = is_vram
        self.need_bytes = need_bytes
        self.have_bytes = have_bytes


class ContextOverflow(ModelError):
    """A prompt does not fit the context window."""

    def __init__(self, model: str, *, tokens: int, n_ctx: int) -> None:
        super().__init__(
            model,
            f"the prompt has {tokens} tokens and {model} reads at most {n_ctx}",
            hint="shorten the question, or raise n_ctx of the model in models.yaml",
        )
        self.tokens = tokens
        self.n_ctx = n_ctx


class MalformedOutput(ModelError):
    """A model wrote something that its own constraint or parser does not admit."""

    def __init__(self, model: str, message: str, *, text: str) -> None:
        super().__init__(model, message)
        self.text = text


class GrammarRefused(ModelError):
    """A grammar that cannot be compiled or followed; `line` is the line of it that is at fault, where that is known."""

    def __init__(self, model: str, message: str, *, reason: str, line: int | None = None) -> None:
        super().__init__(model, message)
        self.reason = reason
        self.line = line


class WorkerDied(ModelError):
    """The worker process ended before its answer did; `exit_code` is negative for a signal."""

    def __init__(self, model: str, message: str, *, exit_code: int | None, hint: str = "") -> None:
        super().__init__(model, message, hint=hint)
        self.exit_code = exit_code


class TimedOut(ModelError):
    """The model took longer than its seat allows."""

    def __init__(self, model: str, *, timeout_s: float) -> None:
        super().__init__(
            model, f"{model} took longer than {timeout_s:g} s", hint="raise timeout_s of the seat in models.yaml"
        )
        self.timeout_s = timeout_s


class ProviderError(ModelError):
    """A remote endpoint refused or failed; `status` is HTTP's, None where there was no answer."""

    def __init__(self, model: str, message: str, *, status: int | None = None, hint: str = "") -> None:
        super().__init__(model, message, hint=hint)
        self.status = status


class LimitReached(ProviderError):
    """What the run may spend on cloud models, in money or in tokens, does not cover the next call."""


class WebError(LocalFusionError):
    """A search or a fetch failed; the model is told, the run goes on."""

    def __init__(self, url: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.url = url


class NotHere(WebError):
    """The source that was asked has no such address; another one may have it."""


class HubError(LocalFusionError):
    """The model hub could not be reached, refused, or sent something else than it said; nothing of it is kept."""

    def __init__(self, repo: str, message: str, *, status: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.repo = repo
        self.status = status


class QueueFull(LocalFusionError):
    """Too many deliberations wait already."""


class Unstorable(LocalFusionError):
    """A database refuses what is to be written for what it is; the disk and the file are all right."""


class NoSuchResponse(LocalFusionError):
    """Whoever asks has no response of this id: it never was, is gone, was not stored, or is somebody else's."""


class RunInterrupted(LocalFusionError):
    """The user stopped the run; what was finished is stored and can be resumed."""


class DeliberationFailed(LocalFusionError):
    """No final answer could be written; `failed_models` holds (id, error) of each panelist that failed."""

    def __init__(
        self,
        message: str,
        *,
        failure_reason: FailureReason,
        failed_models: tuple[tuple[str, str], ...] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.failure_reason = failure_reason
        self.failed_models = failed_models
