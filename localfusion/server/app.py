"""The server as an application: routes under /v1 and /api/v1, errors by the one table, guard and log around them.

It opens and closes nothing.
"""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from localfusion import __version__
from localfusion.errors import InvalidRequest, LocalFusionError, RequestRefused
from localfusion.server.access import Access
from localfusion.server.answer_routes import AnswerRoutes
from localfusion.server.guard import Guard, Policy, refused
from localfusion.server.hosts import hosts_of
from localfusion.server.listing_routes import ListingRoutes
from localfusion.server.openapi import describe
from localfusion.server.served import Served
from localfusion.wire.chat import ChatRequest
from localfusion.wire.chat_reply import ChatChunk
from localfusion.wire.embeddings import EmbeddingsRequest
from localfusion.wire.responses import ResponsesRequest
from localfusion.wire.responses_reply import StreamedEvent

PREFIXES = ("/v1", "/api/v1")
CLIENT_LEFT = 499
"""No status of HTTP's: for the log alone, the client is not there to read it."""


def create_app(served: Served) -> FastAPI:
    """The application over an open session; whoever serves it closes the session."""
    app = FastAPI(title="localfusion", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    listings = ListingRoutes(served)
    for prefix in PREFIXES:
        listings.add_to(app, prefix)
    listings.add_open(app)
    answers = AnswerRoutes(served)
    for prefix in PREFIXES:
        answers.add_to(app, prefix)
    describe(app, (ChatRequest, ResponsesRequest, EmbeddingsRequest, ChatChunk, StreamedEvent))
    handle_errors(app)
    settings = served.settings
    policy = Policy(
        hosts_of(settings.host, settings.allowed_hosts), int(settings.max_body_mib * 2**20), settings.cors_origins
    )
    app.add_middleware(Guard, policy=policy, keys=served.keys, rates=served.rates)
    app.add_middleware(Access, metrics=served.metrics)
    return app


def handle_errors(app: FastAPI) -> None:
    """Let every error of a route leave by the table of `errors`, within what is put around the routes later."""
    app.add_middleware(ExceptionMiddleware, handlers={Exception: _told})
    app.add_exception_handler(LocalFusionError, _told)
    app.add_exception_handler(HTTPException, _of_routing)
    app.add_exception_handler(RequestValidationError, _of_parameters)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _told)


async def _told(request: Request, error: Exception) -> Response:
    return refused(error, request.scope)


async def _of_routing(request: Request, error: Exception) -> Response:
    """There is no such route, or not for this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refusal = RequestRefused("this route does not take this method", refusal="method_not_allowed")
        reply = refused(refusal, request.scope)
        reply.headers.update(error.headers or {})
        return reply
    return refused(RequestRefused("there is nothing at this address", refusal="not_found"), request.scope)


async def _of_parameters(request: Request, error: Exception) -> Response:
    """A parameter of the address is wrong; bodies are parsed by the routes themselves."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return refused(InvalidRequest(f"{param}: {first['msg']}", param=param), request.scope)


async def _left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)
