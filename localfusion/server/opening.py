"""A server over an open session, put together and run to its end."""

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localfusion.catalog import locate
from localfusion.config import ModelsFile
from localfusion.config.settings import ServerSettings
from localfusion.messages import CloudLeave, SourcesSpec
from localfusion.server.app import create_app
from localfusion.server.embedding import Embedding
from localfusion.server.keys import KeyRing
from localfusion.server.limits import Queue, Rates
from localfusion.server.metrics import Metrics
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


async def run_server(opening: Opening, session: Session, listening: socket.socket) -> None:
    """Serve until a signal ends it; whoever opened the session closes it."""
    path_of = locate(opening.home)
    served = Served(
        session=session,
        settings=opening.settings,
        models=opening.models,
        embedding=Embedding(session.scheduler, opening.models, path_of, opening.sources.embedding),
        parts=None,
        jobs=None,
        keys=opening.keys,
        queue=Queue(opening.settings.max_queue),
        rates=Rates(),
        metrics=Metrics(),
    )
    await serve(create_app(served), listening, stop_s=opening.settings.stop_s, on_stop=_nothing)


async def _nothing() -> None:
    """There are no jobs to wait for."""


def log_to(handlers: Sequence[logging.Handler]) -> None:
    """Where the server's log is written: a line for each request."""
    log = logging.getLogger("localfusion.server")
    log.handlers[:] = handlers
    log.setLevel(logging.INFO)
    log.propagate = False
