"""The catalogue: from names that people write to files and panels. Opens a file only to see what it is."""

from localfusion.catalog.fallbacks import SteppedIn, step_in
from localfusion.catalog.installed import PathOf, nothing_pulled
from localfusion.catalog.panels import Choice, check_files, check_leave, resolve, shared, substituted

__all__ = [
    "Choice",
    "PathOf",
    "SteppedIn",
    "check_files",
    "check_leave",
    "nothing_pulled",
    "resolve",
    "shared",
    "step_in",
    "substituted",
]
