"""The catalogue: from names that people write to files and panels. Opens a file only to see what it is."""

from localfusion.catalog.fallbacks import SteppedIn, step_in
from localfusion.catalog.gguf_files import is_there
from localfusion.catalog.installed import PathOf, locate, nothing_pulled
from localfusion.catalog.names import embedding_of
from localfusion.catalog.panels import (
    Choice,
    check_files,
    check_leave,
    resolve,
    shared,
    substituted,
    with_what_is_there,
)

__all__ = [
    "Choice",
    "PathOf",
    "SteppedIn",
    "check_files",
    "check_leave",
    "embedding_of",
    "is_there",
    "locate",
    "nothing_pulled",
    "resolve",
    "shared",
    "step_in",
    "substituted",
    "with_what_is_there",
]
