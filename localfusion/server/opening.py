"""A server over an open session, put together and run to its end."""

import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from localfusion.catalog.installed import FILE_NAME, Installed
from localfusion.config import ModelsFile
from localfusion.config.settings import ServerSettings
from localfusion.messages import CloudLeave, SourcesSpec
from localfusion.server.answer_routes import revived, stopped
from localfusion.server.answering import Answering
from localfusion.server.app import create_app
from localfusion.server.embedding import Embedding
from localfusion.server.jobs import Jobs
from localfusion.server.keys import KeyRing
from localfusion.server.limits import Queue, Rates
from localfusion.server.metrics import Metrics
from localfusion.server.orders import OrderBook
from localfusion.server.running import serve
from localfusion.server.served import Served
from localfusion.session import Session


@dataclass(frozen=True, slots=True)
class Opening:
    """What a server is opened with: what its home says, and whoever started it."""

    settings: ServerSettings
    models: ModelsFile
    home: Path
    sources: SourcesSpec
    cloud: CloudLeave
    keys: KeyRing
    is_stored: bool = True


@asynccontextmanager
async def put_together(opening: Opening, session: Session) -> AsyncIterator[Served]:
    """What a server over an open session stands on; its jobs end with it."""
    settings, queue, metrics = opening.settings, Queue(opening.settings.max_queue), Metrics()
    answering = Answering(session, metrics, settings.timeout_s, settings.watts, opening.is_stored)
    home = opening.home if opening.is_stored else None
    with closing(Installed(opening.home if home or (opening.home / FILE_NAME).exists() else None)) as installed:
        orders = OrderBook(opening.models, installed.path_of, opening.sources, opening.cloud)
        revive = partial(revived, orders, answering, queue)
        forget = session.store.forget
        async with Jobs(home, keep_days=settings.keep_days, revive=revive, stopped=stopped, forget_runs=forget) as jobs:
            yield Served(
                session=session,
                settings=settings,
                models=opening.models,
                embedding=Embedding(session.scheduler, opening.models, installed.path_of, opening.sources.embedding),
                orders=orders,
                answering=answering,
                jobs=jobs,
                keys=opening.keys,
                queue=queue,
                rates=Rates(),
                metrics=metrics,
            )


async def run_server(opening: Opening, session: Session, listening: socket.socket) -> None:
    """Serve until a signal ends it; whoever opened the session closes it."""
    stop_s = opening.settings.stop_s
    async with put_together(opening, session) as served:
        await serve(create_app(served), listening, stop_s=stop_s, on_stop=partial(served.jobs.close, stop_s))


def log_to(handlers: Sequence[logging.Handler]) -> None:
    """Where the server's log is written: a line for each request."""
    log = logging.getLogger("localfusion.server")
    log.handlers[:] = handlers
    log.setLevel(logging.INFO)
    log.propagate = False
