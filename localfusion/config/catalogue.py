"""All that is known of models on this machine: the packaged models.yaml, what commands noted, and the user's own file.

Each extends what stands before it. Where the files of models lie is not known here.
"""

from collections.abc import Mapping
from pathlib import Path

from localfusion.config.models_file import Extension, ModelsFile, read, read_text
from localfusion.config.surroundings import Surroundings, find_models_file, home_directory, packaged_models_file
from localfusion.errors import ConfigError

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
    """The packaged file and what commands noted, with other texts `instead` of what stands in some notes.

    Notes extend each other by name; one that names what is noted in a later one is read after it.
    """
    models = read(packaged_models_file()).whole
    texts = instead or {}
    waiting = sorted({*(home_directory(surroundings) / MACHINE_FOLDER).glob("*.yaml"), *texts})
    while waiting:
        refused: dict[Path, ConfigError] = {}
        for path in waiting:
            try:
                models = _noted(path, texts.get(path), models)
            except ConfigError as error:
                refused[path] = error
        if len(refused) == len(waiting):
            raise refused[waiting[0]]
        waiting = list(refused)
    return models


def _noted(path: Path, text: str | None, models: ModelsFile) -> ModelsFile:
    extension = read(path, extends=models) if text is None else read_text(text, path, extends=models)
    return extension.whole


def _is_packaged(path: Path) -> bool:
    return path.resolve() == packaged_models_file().resolve()
