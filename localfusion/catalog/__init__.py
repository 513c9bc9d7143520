"""The catalogue: from names that people write to files and panels. Opens a file only to see what it is."""

from localfusion.catalog.panels import Choice, check_files, resolve

__all__ = ["Choice", "check_files", "resolve"]
