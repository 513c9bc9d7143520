"""The description that the server gives of itself holds: whatever is sent to it, what comes back is what it says.

Bodies are drawn from the description by schemathesis, sound ones and broken ones; those that are to be answered name a
micro model and two tokens. With LOCALFUSION_SCHEMA_EXAMPLES there are more of each than usual, and others every time.
"""

import os
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from localfusion.messages import Json
from tests.clients.command import MICRO, QUESTION, VECTORS, furnish, serving

AnyCase = Case[APIOperation]  # type: ignore[type-arg]
WANTED = os.environ.get("LOCALFUSION_SCHEMA_EXAMPLES")
DRAWN = settings(
    max_examples=int(WANTED or "8"),
    derandomize=WANTED is None,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
OPERATIONS = tuple(
    (method, f"{prefix}{path}")
    for prefix in ("/v1", "/api/v1")
    for method, path in (
        ("POST", "/chat/completions"),
        ("POST", "/responses"),
        ("GET", "/responses/{id}"),
        ("DELETE", "/responses/{id}"),
        ("POST", "/responses/{id}/cancel"),
        ("POST", "/embeddings"),
        ("GET", "/models"),
        ("GET", "/models/{id}"),
    )
)
DRAWN_FROM = (
    *((method, path, GenerationMode.POSITIVE) for method, path in OPERATIONS if not path.endswith("/models")),
    *((method, path, GenerationMode.NEGATIVE) for method, path in OPERATIONS if method == "POST" and "{" not in path),
    *(
        (method, path, GenerationMode.NEGATIVE)
        for method, path in OPERATIONS
        if method == "GET" and path.endswith("responses/{id}")
    ),
)
"""Where there is something to be drawn, and something to be broken."""
EVERY = [*OPERATIONS, ("GET", "/health"), ("GET", "/metrics")]
ANSWERED = {"/chat/completions": ("max_tokens", MICRO), "/responses": ("max_output_tokens", MICRO)}
CONTRADICTED = ("max_completion_tokens", "previous_response_id")
"""Fields that a body that is to be answered cannot have: another limit, a response that is not there."""

SAID: Json = [{"role": "user", "content": "How high is Skerry?"}]
FUNCTION: dict[str, Json] = {
    "name": "height",
    "parameters": {"type": "object", "properties": {"place": {"enum": ["Skerry"]}}},
}
SCHEMA: Json = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}
CHAT: tuple[dict[str, Json], ...] = (
    {},
    {"n": 2, "seed": 1, "temperature": 1.5},
    {"logprobs": True, "top_logprobs": 2},
    {"stop": ["e"]},
    {"response_format": {"type": "json_object"}, "max_tokens": 20},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, "max_tokens": 20},
    {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required", "max_tokens": 40},
    {"reasoning": {"effort": "low"}, "max_tokens": 20},
    {"plugins": [{"id": "fusion", "enabled": False}]},
)
RESPONSES: tuple[dict[str, Json], ...] = (
    {},
    {"instructions": "Be brief.", "metadata": {"a": "b"}, "store": False},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 1},
    {"text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}, "max_output_tokens": 20},
    {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required", "max_output_tokens": 40},
    {"background": True},
)
DELIBERATED: dict[str, dict[str, Json]] = {
    "/chat/completions": {"model": "localfusion/micro", "messages": [{"role": "user", "content": QUESTION}]},
    "/responses": {"model": "localfusion/micro", "input": QUESTION},
}
BODIES = tuple(
    (path, {**body, **extra, **streaming})
    for path, body, extras in (
        ("/chat/completions", {"model": MICRO, "messages": SAID, "max_tokens": 4}, CHAT),
        ("/responses", {"model": MICRO, "input": SAID, "max_output_tokens": 4}, RESPONSES),
    )
    for extra in extras
    for streaming in ({}, {"stream": True})
)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenApiSchema]:
    home = tmp_path_factory.mktemp("schema")
    furnish(home)
    with serving(home, "--models", str(home / "models.yaml")) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def tell(case: AnyCase, **headers: str) -> httpx.codes:
    """Send one request and hold the reply against the description.

    That does not know which models are here, nor how large a body may be.
    """
    reply = case.call(headers=headers or None, timeout=60)
    known = [negative_data_rejection] if reply.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE else []
    case.validate_response(reply, excluded_checks=[positive_data_acceptance, *known])
    return httpx.codes(reply.status_code)


def test_every_operation_is_described_and_tried_here(described: OpenApiSchema) -> None:
    found = [one.ok() for one in described.get_all_operations() if isinstance(one, Ok)]
    assert {(operation.method.upper(), operation.path) for operation in found} == set(EVERY)


@pytest.mark.parametrize(
    ("method", "path", "mode"), DRAWN_FROM, ids=[f"{method} {path} {mode.name}" for method, path, mode in DRAWN_FROM]
)
def test_whatever_is_sent_the_reply_is_as_described(
    described: OpenApiSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation = described[path][method]

    @DRAWN
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: AnyCase) -> None:
        assert tell(case) < 500

    run()


def test_keys_headers_and_times_to_wait_are_described(described: OpenApiSchema) -> None:
    raw = described.raw_schema
    assert set(raw["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    assert not [name for name in raw["components"]["schemas"] if "ValidationError" in name]
    for path, operations in raw["paths"].items():
        for operation in operations.values():
            replies = operation["responses"]
            assert "422" not in replies
            assert all("Retry-After" in replies[status]["headers"] for status in ("429", "503") if status in replies)
            assert ("security" in operation) == (path != "/health")
    for path in ("/v1/chat/completions", "/api/v1/responses"):
        names = {parameter["name"] for parameter in raw["paths"][path]["post"]["parameters"]}
        assert names == {"Idempotency-Key", "x-openrouter-fusion-depth"}


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
@pytest.mark.parametrize("path", ANSWERED)
def test_whatever_is_answered_is_as_described(described: OpenApiSchema, prefix: str, path: str) -> None:
    limit, model = ANSWERED[path]
    seen: Counter[int] = Counter()

    @DRAWN
    @given(case=described[f"{prefix}{path}"]["POST"].as_strategy())
    def run(case: AnyCase) -> None:
        assert isinstance(case.body, dict)
        case.body = {name: value for name, value in case.body.items() if name not in CONTRADICTED}
        case.body |= {"model": model, limit: 2}
        seen[tell(case)] += 1

    run()
    assert set(seen) <= {200, 400}
    assert seen[200] > 0


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
def test_a_corpus_of_what_clients_ask_is_answered(described: OpenApiSchema, prefix: str) -> None:
    for path, body in BODIES:
        assert tell(described[f"{prefix}{path}"]["POST"].Case(body=body, media_type="application/json")) == 200, body
    texts: dict[str, Json] = {"model": VECTORS, "input": ["Skerry", "a boat"]}
    for encoding in ("float", "base64"):
        case = described[f"{prefix}/embeddings"]["POST"].Case(
            body={**texts, "encoding_format": encoding}, media_type="application/json"
        )
        assert tell(case) == 200
    assert tell(described[f"{prefix}/models/{{id}}"]["GET"].Case(path_parameters={"id": MICRO})) == 200


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
def test_what_is_kept_is_as_described(described: OpenApiSchema, prefix: str) -> None:
    body: Json = {"model": MICRO, "input": SAID, "max_output_tokens": 4}
    made = described[f"{prefix}/responses"]["POST"].Case(body=body, media_type="application/json").call()
    kept = {"id": made.json()["id"]}
    one = described[f"{prefix}/responses/{{id}}"]
    assert tell(one["GET"].Case(path_parameters=kept)) == 200
    assert tell(one["GET"].Case(path_parameters=kept, query={"stream": True, "starting_after": 2})) == 200
    assert tell(described[f"{prefix}/responses/{{id}}/cancel"]["POST"].Case(path_parameters=kept)) == 200
    assert tell(one["DELETE"].Case(path_parameters=kept)) == 200
    assert tell(one["GET"].Case(path_parameters=kept)) == 404


@pytest.mark.slow
@pytest.mark.parametrize("path", DELIBERATED)
def test_a_deliberation_is_as_described(described: OpenApiSchema, path: str) -> None:
    for prefix, streaming in (("/v1", {}), ("/api/v1", {"stream": True})):
        body: Json = {**DELIBERATED[path], "tool_choice": "required", **streaming}
        assert tell(described[f"{prefix}{path}"]["POST"].Case(body=body, media_type="application/json")) == 200


@pytest.mark.parametrize(("method", "path"), EVERY, ids=[" ".join(row) for row in EVERY])
def test_what_the_guard_refuses_is_as_described(described: OpenApiSchema, method: str, path: str) -> None:
    operation = described[path][method]
    names = {"id": "resp_none"} if "{id}" in path else {}
    for status, header in ((421, {"Host": "evil.example"}), (403, {"Origin": "http://evil.example"})):
        assert tell(operation.Case(path_parameters=names), **header) == status
