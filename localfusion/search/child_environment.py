"""The environment of a process that reads files or archives of unknown origin. What it may take is bound elsewhere."""

import os
from collections.abc import Mapping
from pathlib import Path

import localfusion
from localfusion.config.surroundings import Surroundings

_KEPT_VARIABLES = frozenset(
    {"PATH", "PYTHONHOME", "PYTHONUTF8", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE"}
) | {"SYSTEMROOT", "WINDIR", "TEMP", "TMP", "TMPDIR"}
"""The variables that a process needs to start. It is told no other: a key in one is no business of a file's."""


def child_environment() -> Mapping[str, str]:
    """This very package is found, and nothing of the current directory."""
    around = Surroundings.of_this_process().variables
    paths = [str(Path(localfusion.__file__).parent.parent), around.get("PYTHONPATH", "")]
    kept = {name: value for name, value in around.items() if name.upper() in _KEPT_VARIABLES}
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
