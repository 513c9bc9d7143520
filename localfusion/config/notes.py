"""What commands note of models: a models file for each thing noted, in a folder of the home. Never the user's own."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import yaml

from localfusion.config.catalogue import CHOICE_FILE, MACHINE_FOLDER, load_noted
from localfusion.config.located import YamlValue
from localfusion.config.surroundings import Surroundings, home_directory, make_home
from localfusion.errors import ConfigError

HEADER = "# Written by localfusion. What your own models.yaml says of a name takes the place of what is said here.\n"


class _Dumper(yaml.SafeDumper):
    """Writes a value that is there twice twice: notes are read by people, too."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def note(surroundings: Surroundings, name: str, contents: Mapping[str, YamlValue]) -> Path:
    """Note models, presets and aliases under a name, in place of what was noted under it; returns the file.

    `contents` is what a models file holds. Raises ConfigError, and changes nothing, where it is none or does not agree
    with what else is known.
    """
    path = note_path(surroundings, name)
    text = check_note(surroundings, name, contents)
    make_home(surroundings)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _write(path, text)
    except OSError as error:
        hint = "mend the folder, or set LOCALFUSION_HOME to one that you can write to"
        raise ConfigError(f"{path} cannot be written: {error.strerror}", hint=hint) from error
    return path


def check_note(surroundings: Surroundings, name: str, contents: Mapping[str, YamlValue]) -> str:
    """The text of a note that is not written yet. Raises ConfigError as `note` would."""
    text = HEADER + yaml.dump(dict(contents), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    _check_others(surroundings, {note_path(surroundings, name): text})
    return text


def forget_note(surroundings: Surroundings, name: str) -> bool:
    """Forget what was noted under a name; whether there was anything.

    Raises ConfigError, and forgets nothing, where another note needs it.
    """
    path = note_path(surroundings, name)
    if not path.exists():
        return False
    _check_others(surroundings, {path: ""})
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be removed: {error.strerror}", hint="remove it by hand") from error
    return True


def choose_preset(surroundings: Surroundings, name: str) -> Path:
    """Note which preset is the default of this home; returns the file that says so."""
    path = make_home(surroundings) / CHOICE_FILE
    try:
        _write(path, f"{name}\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", hint="mend the folder") from error
    return path


def _check_others(surroundings: Surroundings, instead: Mapping[Path, str]) -> None:
    """Raise ConfigError where these texts, or notes that were right before, are refused with them."""
    before = load_noted(surroundings).skipped
    for path, error in load_noted(surroundings, instead=instead).skipped.items():
        if path in instead or path not in before:
            raise error


def note_path(surroundings: Surroundings, name: str) -> Path:
    """The file of a note; a name may have characters that file names have not."""
    return home_directory(surroundings) / MACHINE_FOLDER / f"{quote(name, safe='@+ ')}.yaml"


def _write(path: Path, text: str) -> None:
    """All of it or nothing, readable by its owner only, as temporary files are."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
