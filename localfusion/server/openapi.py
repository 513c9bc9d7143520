"""The description of the routes: bodies that the routes parse themselves, streams, and every status of an error."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from localfusion.messages import Json
from localfusion.server.errors import BY_KIND, BY_REFUSAL, ROUTER_PREFIX
from localfusion.wire.errors import ErrorBody, RouterErrorBody

REFERENCE = "#/components/schemas/{model}"
OF_ANY = frozenset({400, 401, 403, 405, 408, 413, 421, 429, 500})
"""What the guard, or a failure that nobody foresaw, answers to any request."""
OF_WORK = OF_ANY | {404, 415} | {row.status for row in (*BY_KIND.values(), *BY_REFUSAL.values())}


def body_of(kind: type[BaseModel]) -> dict[str, Json]:
    """The request body of a route that parses it itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _reference(kind)}}}}


def errors(prefix: str, statuses: Iterable[int]) -> dict[int | str, dict[str, object]]:
    """Every error of a route, in the shape of its prefix."""
    return {status: {"model": shape(prefix), "description": HTTPStatus(status).phrase} for status in sorted(statuses)}


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
            description.setdefault("components", {}).setdefault("schemas", {}).update(found)
            app.openapi_schema = description
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def shape(prefix: str) -> type[BaseModel]:
    """What an error is under a prefix."""
    return RouterErrorBody if f"{prefix}/".startswith(ROUTER_PREFIX) else ErrorBody


def _reference(kind: type[BaseModel]) -> dict[str, Json]:
    return {"$ref": REFERENCE.format(model=kind.__name__)}
