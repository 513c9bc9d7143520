"""All that the routes of one server stand on, as one value."""

from dataclasses import dataclass

from localfusion.config import ModelsFile
from localfusion.config.settings import ServerSettings
from localfusion.server.answering import Answering
from localfusion.server.embedding import Embedding
from localfusion.server.jobs import Jobs
from localfusion.server.keys import KeyRing
from localfusion.server.limits import Queue, Rates
from localfusion.server.metrics import Metrics
from localfusion.server.orders import OrderBook
from localfusion.session import Session


@dataclass(frozen=True, slots=True)
class Served:
    """An open home, what is said of it, and who keeps the jobs."""

    session: Session
    settings: ServerSettings
    models: ModelsFile
    embedding: Embedding
    orders: OrderBook
    answering: Answering
    jobs: Jobs
    keys: KeyRing
    queue: Queue
    rates: Rates
    metrics: Metrics
