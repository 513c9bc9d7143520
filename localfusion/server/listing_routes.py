"""The routes that ask no model: models, health, metrics."""

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from localfusion import __version__
from localfusion.errors import RequestRefused
from localfusion.server.cards import card, model_list
from localfusion.server.metrics import CONTENT_TYPE, residents_of
from localfusion.server.openapi import OF_ANY, errors
from localfusion.server.served import Served
from localfusion.wire.listings import Health, ModelCard, ModelList


class ListingRoutes:
    """The endpoints, over what the server stands on."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def add_to(self, app: FastAPI, prefix: str) -> None:
        """Put the models under a prefix."""

        async def models() -> Response:
            """Everything that a request may name as its model."""
            return JSONResponse(model_list(self._served.models, self._names(), prefix=prefix).model_dump())

        async def model(id: str) -> Response:
            """One of them."""
            if id not in self._names():
                raise RequestRefused(f"there is no model {id[:200]!a}", refusal="not_found")
            return JSONResponse(card(self._served.models, id, prefix=prefix).model_dump())

        found = errors(prefix, OF_ANY | {404})
        app.get(f"{prefix}/models", response_model=ModelList, responses=errors(prefix, OF_ANY))(models)
        app.get(f"{prefix}/models/{{id:path}}", response_model=ModelCard, responses=found)(model)

    def add_open(self, app: FastAPI) -> None:
        """Put health and metrics at the root."""
        described = errors("", OF_ANY)
        app.get("/health", response_model=Health, responses=described)(self.health)
        text: dict[int | str, dict[str, object]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
        app.get("/metrics", response_class=Response, responses=described | text)(self.metrics)

    async def health(self) -> Response:
        """Whether the server answers; needs no key."""
        return JSONResponse(Health(version=__version__).model_dump())

    async def metrics(self, request: Request) -> Response:
        """What the server counts of itself, as Prometheus reads it."""
        del request
        residents = await residents_of(self._served.session.scheduler)
        page = self._served.metrics.text(queue=self._served.queue.n, residents=residents)
        return Response(page, media_type=CONTENT_TYPE)

    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._served.orders.names(), *self._served.embedding.names())))
