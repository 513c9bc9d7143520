"""All that is known of models on this machine: the packaged models.yaml, what commands noted, and the user's own file.

Each extends what stands before it. Where the files of models lie is not known here.
"""

from pathlib import Path

from localfusion.config.models_file import ModelsFile
from localfusion.config.models_file import load as load_file
from localfusion.config.surroundings import Surroundings, find_models_file, home_directory, packaged_models_file

MACHINE_FOLDER = "models.d"
"""Of the home: models files that `models add`, `models load` and the first `ask` wrote, one for each thing noted."""


def load_models(surroundings: Surroundings, explicit: Path | None = None) -> ModelsFile:
    """Read and check everything; raises ConfigError that names file and line."""
    packaged, own = packaged_models_file(), find_models_file(surroundings, explicit)
    models = load_file(packaged)
    for path in sorted((home_directory(surroundings) / MACHINE_FOLDER).glob("*.yaml")):
        models = load_file(path, extends=models)
    return models if own.resolve() == packaged.resolve() else load_file(own, extends=models)
