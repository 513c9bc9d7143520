"""All that is known of models on this machine: the packaged models.yaml, what commands noted, and the user's own file.

Each extends what stands before it. Where the files of models lie is not known here.
"""

from collections.abc import Mapping
from pathlib import Path

from localfusion.config.models_file import Extension, ModelsFile, read, read_text
from localfusion.config.surroundings import Surroundings, find_models_file, home_directory, packaged_models_file

MACHINE_FOLDER = "models.d"
"""Of the home: models files that `models add`, `models load` and the first `ask` wrote, one for each thing noted."""


def load_models(surroundings: Surroundings, explicit: Path | None = None) -> ModelsFile:
    """Read and check everything; raises ConfigError that names file and line."""
    own = find_models_file(surroundings, explicit)
    noted = load_noted(surroundings)
    return noted if _is_packaged(own) else read(own, extends=noted).whole


def read_models(surroundings: Surroundings, explicit: Path | None = None) -> Extension:
    """The user's own file by itself, and what it comes to; the packaged one where there is no other."""
    own = find_models_file(surroundings, explicit)
    return read(own, extends=None if _is_packaged(own) else load_noted(surroundings))


def load_noted(surroundings: Surroundings, *, instead: Mapping[Path, str] | None = None) -> ModelsFile:
    """The packaged file and what commands noted, with other texts `instead` of what stands in some notes."""
    models = read(packaged_models_file()).whole
    texts = instead or {}
    for path in sorted({*(home_directory(surroundings) / MACHINE_FOLDER).glob("*.yaml"), *texts}):
        noted = read_text(texts[path], path, extends=models) if path in texts else read(path, extends=models)
        models = noted.whole
    return models


def _is_packaged(path: Path) -> bool:
    return path.resolve() == packaged_models_file().resolve()
