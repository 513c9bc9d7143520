"""One line in the log and one count for each request: method, route, status, seconds, key.

Never a path, an address or what is asked.
"""

import logging
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localfusion.server.guard import CALLER, Caller
from localfusion.server.metrics import Metrics
from localfusion.server.telling import REQUEST_ID

LOG = logging.getLogger("localfusion.server")
NO_ROUTE = "-"


class Access:
    """Wraps the whole server, what the guard refuses included."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id, began, status = f"req_{secrets.token_hex(12)}", time.perf_counter(), 500
        scope[REQUEST_ID] = id

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = id
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else NO_ROUTE
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        caller: Caller = scope.get(CALLER, Caller())
        self._metrics.answered(method, route, status, seconds)
        LOG.info("%s %s %d %.3fs %s %s", method, route, status, seconds, caller.name or NO_ROUTE, scope[REQUEST_ID])
