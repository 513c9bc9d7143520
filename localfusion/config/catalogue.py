"""All that is known of models on this machine: the packaged models.yaml, what commands noted, and the user's own file.

Each extends what stands before it. Where the files of models lie is not known here.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from localfusion.config.models_file import Extension, ModelsFile, read, read_text
from localfusion.config.surroundings import Surroundings, find_models_file, home_directory, packaged_models_file
from localfusion.errors import ConfigError

DEFAULT = "default"
"""The preset or alias that is meant where nothing is named."""
CHOICE_FILE = "default-preset"
"""Of the home: the name of the preset that was chosen as the default; a `default` of the user's own file wins."""
MACHINE_FOLDER = "models.d"
"""Of the home: models files that `models add`, `models load` and the first `ask` wrote, one for each thing noted."""


def load_models(
    surroundings: Surroundings, explicit: Path | None = None, *, instead: Mapping[Path, str] | None = None
) -> ModelsFile:
    """Read and check everything, notes as `load_noted` does; raises ConfigError that names file and line."""
    path = find_models_file(surroundings, explicit)
    noted = load_noted(surroundings, instead=instead)
    if _is_packaged(path):
        return _with_choice(noted, surroundings)
    found = read(path, extends=noted)
    return found.whole if DEFAULT in found.own.aliases else _with_choice(found.whole, surroundings)


def _with_choice(models: ModelsFile, surroundings: Surroundings) -> ModelsFile:
    chosen = chosen_preset(surroundings)
    return replace(models, aliases={**models.aliases, DEFAULT: chosen}) if chosen in models.presets else models


def chosen_preset(surroundings: Surroundings) -> str:
    """The preset that somebody chose as this home's default; "" where nobody has, or where it cannot be read."""
    try:
        return (home_directory(surroundings) / CHOICE_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def read_models(surroundings: Surroundings, explicit: Path | None = None) -> Extension:
    """The user's own file by itself, and what it comes to; the packaged one where there is no other."""
    own = find_models_file(surroundings, explicit)
    return read(own, extends=None if _is_packaged(own) else load_noted(surroundings))


def load_noted(surroundings: Surroundings, *, instead: Mapping[Path, str] | None = None) -> ModelsFile:
    """The packaged file and what commands noted, with other texts `instead` of what stands in some notes.

    Notes extend each other by name; one that names what is noted in a later one is read after it. A note that is
    refused is among the `skipped`: it must not stop the commands that would mend it.
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
            return replace(models, skipped=refused)
        waiting = list(refused)
    return models


def _noted(path: Path, text: str | None, models: ModelsFile) -> ModelsFile:
    extension = read(path, extends=models) if text is None else read_text(text, path, extends=models)
    return extension.whole


def _is_packaged(path: Path) -> bool:
    return path.resolve() == packaged_models_file().resolve()
