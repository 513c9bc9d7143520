"""The one table of errors: every kind has its status, in OpenAI's shape and in OpenRouter's."""

import pytest
from openai.types.responses import ResponseErrorEvent
from openrouter import components

from localfusion import errors
from localfusion.errors import LocalFusionError
from localfusion.server.errors import BY_KIND, BY_REFUSAL, first_of, told, unexpected
from localfusion.server.telling import telling

ROWS: tuple[tuple[LocalFusionError, int, str, str], ...] = (
    (
        errors.InvalidRequest("no", param="n", code="unsupported_value"),
        400,
        "invalid_request_error",
        "unsupported_value",
    ),
    (errors.ContextOverflow("m", tokens=9, n_ctx=8), 400, "invalid_request_error", "context_length_exceeded"),
    (errors.OutOfMemory("m", need_bytes=2, have_bytes=1), 503, "server_error", "out_of_memory"),
    (errors.ModelLoadError("m", "no"), 500, "server_error", "model_not_loaded"),
    (errors.MalformedOutput("m", "no", text="x"), 502, "server_error", "malformed_output"),
    (errors.WorkerDied("m", "no", exit_code=-9), 502, "server_error", "worker_died"),
    (errors.TimedOut("m", timeout_s=1), 504, "server_error", "timeout"),
    (errors.LimitReached("m", "no"), 402, "insufficient_quota", "insufficient_credits"),
    (errors.ProviderError("m", "no", status=500), 502, "server_error", "provider_error"),
    (errors.ModelError("m", "no"), 502, "server_error", "model_error"),
    (errors.DeliberationFailed("no", failure_reason="all_panels_failed"), 502, "server_error", "deliberation_failed"),
    (errors.NoSuchResponse("no"), 404, "invalid_request_error", "not_found"),
    (errors.QueueFull("no"), 503, "server_error", "queue_full"),
    (errors.RunInterrupted("no"), 503, "server_error", "interrupted"),
    (errors.NotHere("doc://x", "no"), 502, "server_error", "web_error"),
    (errors.HubError("a/b", "no"), 502, "server_error", "hub_error"),
    (errors.ConfigError("no"), 500, "server_error", "configuration_error"),
    (errors.LocalFusionError("no"), 500, "server_error", "internal_error"),
    (errors.RequestRefused("no", refusal="body_too_large"), 413, "invalid_request_error", "body_too_large"),
    (errors.RequestRefused("no", refusal="invalid_api_key"), 401, "authentication_error", "invalid_api_key"),
    (errors.RequestRefused("no", refusal="method_not_allowed"), 405, "invalid_request_error", "method_not_allowed"),
    (errors.RequestRefused("no", refusal="not_found"), 404, "invalid_request_error", "not_found"),
    (errors.RequestRefused("no", refusal="origin_not_allowed"), 403, "permission_error", "origin_not_allowed"),
    (errors.RequestRefused("no", refusal="rate_limit_exceeded"), 429, "rate_limit_error", "rate_limit_exceeded"),
    (errors.RequestRefused("no", refusal="request_timeout"), 408, "invalid_request_error", "request_timeout"),
    (errors.RequestRefused("no", refusal="timeout"), 504, "server_error", "timeout"),
    (errors.RequestRefused("no", refusal="unknown_host"), 421, "invalid_request_error", "unknown_host"),
    (
        errors.RequestRefused("no", refusal="unsupported_media_type"),
        415,
        "invalid_request_error",
        "unsupported_media_type",
    ),
)


@pytest.mark.parametrize(("error", "status", "kind", "code"), ROWS, ids=[f"{row[3]} {row[1]}" for row in ROWS])
def test_each_kind_has_its_row_in_both_shapes(error: LocalFusionError, status: int, kind: str, code: str) -> None:
    found = told(error)
    assert (found.row.status, found.row.type, found.row.code) == (status, kind, code)
    detail = found.body("/v1/responses")["error"]
    assert isinstance(detail, dict)
    assert {key: detail[key] for key in ("type", "code")} == {"type": kind, "code": code}
    router = found.body("/api/v1/responses")["error"]
    assert isinstance(router, dict)
    parsed = components.BadRequestResponseErrorData.model_validate(router)
    assert parsed.code == status
    assert isinstance(parsed.metadata, dict)
    assert parsed.metadata["code"] == code
    event = found.event(7)
    assert ResponseErrorEvent.model_validate(event).code == components.ErrorEvent.model_validate(event).code == code
    assert (event["type"], event["sequence_number"]) == ("error", 7)


def test_no_row_is_left_untested() -> None:
    tested = {told(row[0]).row for row in ROWS}
    assert {row for row in (*BY_KIND.values(), *BY_REFUSAL.values()) if row.code != "invalid_value"} <= tested


def test_a_message_says_what_to_do() -> None:
    assert told(errors.QueueFull("it is full", hint="wait")).message == "it is full; wait"


def test_whoever_must_wait_is_told_how_long() -> None:
    limited = errors.RequestRefused("no", refusal="rate_limit_exceeded", retry_after_s=1.2)
    assert told(limited).headers == {"retry-after": "2"}
    assert told(errors.QueueFull("no")).headers == {"retry-after": "5"}
    assert told(errors.RequestRefused("no", refusal="invalid_api_key")).headers == {"www-authenticate": "Bearer"}
    assert told(errors.ConfigError("no")).headers == {"x-should-retry": "false"}
    assert told(errors.InvalidRequest("no")).headers == {}


def test_a_failed_deliberation_says_why() -> None:
    found = told(errors.DeliberationFailed("nobody answered", failure_reason="all_panels_failed"))
    openai = found.body("/v1/chat/completions")["error"]
    assert isinstance(openai, dict)
    assert openai["failure_reason"] == "all_panels_failed"


def test_what_nobody_foresaw_is_told_by_its_id_alone() -> None:
    found = unexpected("req_1")
    assert (found.row.status, "req_1" in found.message) == (500, True)


@pytest.mark.parametrize("error", [errors.ConfigError("/a/b is gone"), errors.ModelLoadError("m", "/a/b is gone")])
def test_what_names_files_of_the_server_is_logged_and_not_told(
    error: LocalFusionError, caplog: pytest.LogCaptureFixture
) -> None:
    found = telling(error, "req_1")
    assert found.row == told(error).row
    assert found.message.endswith("log says more under req_1")
    assert "/a/b" not in found.message
    assert "req_1 failed: /a/b is gone" in caplog.text


def test_of_errors_raised_together_the_first_is_told() -> None:
    first = errors.QueueFull("one")
    group = ExceptionGroup("all", [ExceptionGroup("inner", [first]), ValueError("two")])
    assert first_of(group) is first
