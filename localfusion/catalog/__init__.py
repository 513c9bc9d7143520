"""The catalogue: from names that people write to files and panels. Opens a file only to see what it is."""

from localfusion.catalog.fallbacks import SteppedIn, step_in
from localfusion.catalog.installed import PathOf, locate, nothing_pulled
from localfusion.catalog.names import embedding_of
from localfusion.catalog.panels import Choice, named, resolve
from localfusion.catalog.seating import can_be_tried, seated, substituted
from localfusion.catalog.sharing import shared

__all__ = [
    "Choice",
    "PathOf",
    "SteppedIn",
    "can_be_tried",
    "embedding_of",
    "locate",
    "named",
    "nothing_pulled",
    "resolve",
    "seated",
    "shared",
    "step_in",
    "substituted",
]
