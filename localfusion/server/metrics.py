"""What the server counts of itself, as Prometheus reads it. It names no key and no prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from localfusion.errors import ModelError
from localfusion.messages import Usage
from localfusion.outcome import Status
from localfusion.scheduler import Scheduler

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)


@dataclass(frozen=True, slots=True)
class Residents:
    """The models that take memory now, by their files' names, and what each takes in bytes."""

    memory_bytes: Mapping[str, int]
    budget_bytes: int


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route")
        self._requests = Counter(
            "localfusion_requests", "Requests answered.", (*labels, "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "localfusion_request_seconds",
            "Seconds from a request to the end of its reply.",
            labels,
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "localfusion_tokens",
            "Tokens: prompt (cached included), cached, completion.",
            ("kind",),
            registry=self._registry,
        )
        self._runs = Counter(
            "localfusion_runs", "Deliberations, by how they ended.", ("status",), registry=self._registry
        )
        self._queue = Gauge("localfusion_queue", "Requests under way or waiting.", registry=self._registry)
        self._resident = Gauge(
            "localfusion_resident_bytes", "Memory that a loaded model takes.", ("model",), registry=self._registry
        )
        self._budget = Gauge(
            "localfusion_memory_budget_bytes", "Memory that all models may take.", registry=self._registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is the route's template."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def used(self, usage: Usage) -> None:
        """Count the tokens of one turn."""
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("cached").inc(usage.cached_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)

    def ran(self, status: Status) -> None:
        """Count one deliberation."""
        self._runs.labels(status).inc()

    def text(self, *, queue: int, residents: Residents) -> bytes:
        """The page that Prometheus reads, as it is now."""
        self._queue.set(queue)
        self._budget.set(residents.budget_bytes)
        self._resident.clear()
        for name, n_bytes in residents.memory_bytes.items():
            self._resident.labels(name).set(n_bytes)
        return generate_latest(self._registry)


async def residents_of(scheduler: Scheduler) -> Residents:
    """What is loaded now; of a file that is gone meanwhile nothing is said."""
    found: dict[str, int] = {}
    for spec in scheduler.loaded():
        try:
            footprint = await scheduler.footprint(spec)
        except ModelError:
            continue
        found[spec.path.stem] = found.get(spec.path.stem, 0) + footprint.total_bytes
    return Residents(found, scheduler.memory_bytes)
