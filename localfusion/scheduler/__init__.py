"""The scheduler: which models are loaded and which generations run, within the memory and the cores there are."""

from localfusion.scheduler.embedding import LeasedEmbedder, embedder_of
from localfusion.scheduler.leases import MAX_RUNS, Engine, Lease, Limits, Scheduler

__all__ = ["MAX_RUNS", "Engine", "Lease", "LeasedEmbedder", "Limits", "Scheduler", "embedder_of"]
