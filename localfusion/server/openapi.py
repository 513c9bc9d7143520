"""The description of the routes: bodies and headers that the routes read themselves, streams, errors, and keys."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from localfusion.messages import Json
from localfusion.server.errors import BY_KIND, BY_REFUSAL, ROUTER_PREFIX
from localfusion.server.guard import OPEN_PATHS
from localfusion.wire.errors import ErrorBody, RouterErrorBody

REFERENCE = "#/components/schemas/{model}"
UNSENT = ("HTTPValidationError", "ValidationError")
"""Shapes of the errors that FastAPI alone would send."""
OF_ANY = frozenset({400, 401, 403, 405, 408, 413, 421, 429, 500})
"""What the guard, or a failure that nobody foresaw, answers to any request."""
OF_WORK = OF_ANY | {404, 415} | {row.status for row in (*BY_KIND.values(), *BY_REFUSAL.values())}
MUST_WAIT = frozenset({429, 503})
RETRY_AFTER: Json = {
    "Retry-After": {
        "description": "Seconds after which to ask again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
"""The header of replies of these statuses."""
SCHEMES: Mapping[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key; needed once the server has any."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same in another place."},
}
IDEMPOTENCY_KEY = "Idempotency-Key"
DEPTH_HEADER = "x-openrouter-fusion-depth"
ASKING_HEADERS: Json = [
    {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "description": "The same request with the same key is answered once.",
        "schema": {"type": "string"},
    },
    {
        "name": DEPTH_HEADER,
        "in": "header",
        "description": "How many deliberations the request comes from the inside of.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 999},
    },
]
"""What the routes that ask models to write read."""


def body_of(kind: type[BaseModel]) -> dict[str, Json]:
    """The request body of a route that parses it itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _reference(kind)}}}}


def asking(kind: type[BaseModel]) -> dict[str, Json]:
    """The same of a route that also reads headers."""
    return body_of(kind) | {"parameters": ASKING_HEADERS}


def errors(prefix: str, statuses: Iterable[int]) -> dict[int | str, dict[str, object]]:
    """Every error of a route, in the shape of its prefix."""
    return {status: _error(shape(prefix), status) for status in sorted(statuses)}


def streamed(*events: type[BaseModel]) -> dict[int | str, dict[str, object]]:
    """A reply that is a stream of events where the request asks for one; what goes wrong later is told in it."""
    told: Json = {"anyOf": [_reference(event) for event in events]}
    data: Json = {
        "anyOf": [
            {"const": "[DONE]"},
            {"type": "string", "contentMediaType": "application/json", "contentSchema": told},
        ]
    }
    item: Json = {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}
    return {200: {"content": {"text/event-stream": {"itemSchema": item}}}}


def describe(app: FastAPI, kinds: Iterable[type[BaseModel]]) -> None:
    """Let the app's description name the classes that no route has as a parameter."""
    _, schemas = models_json_schema([(kind, "validation") for kind in kinds], ref_template=REFERENCE)
    found: Mapping[str, Json] = schemas.get("$defs", {})

    def openapi() -> dict[str, Json]:
        if not app.openapi_schema:
            description = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            parts = description.setdefault("components", {})
            parts.setdefault("schemas", {}).update(found)
            parts["securitySchemes"] = SCHEMES
            for path, operations in description["paths"].items():
                for operation in operations.values():
                    _correct(operation, needs_key=path not in OPEN_PATHS)
            for name in UNSENT:
                parts["schemas"].pop(name, None)
            app.openapi_schema = description
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _correct(operation: dict[str, Json], *, needs_key: bool) -> None:
    """Leave out the status that FastAPI alone would send; say which keys are read. There may be none at all."""
    responses = operation["responses"]
    assert isinstance(responses, dict)
    responses.pop("422", None)
    if needs_key:
        keys: list[Json] = [{name: []} for name in SCHEMES]
        operation["security"] = [{}, *keys]


def _error(model: type[BaseModel], status: int) -> dict[str, object]:
    described = {"model": model, "description": HTTPStatus(status).phrase}
    return described | ({"headers": RETRY_AFTER} if status in MUST_WAIT else {})


def shape(prefix: str) -> type[BaseModel]:
    """What an error is under a prefix."""
    return RouterErrorBody if f"{prefix}/".startswith(ROUTER_PREFIX) else ErrorBody


def _reference(kind: type[BaseModel]) -> dict[str, Json]:
    return {"$ref": REFERENCE.format(model=kind.__name__)}
