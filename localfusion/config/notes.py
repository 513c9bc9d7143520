"""What commands note of models on this machine: a models file of its own for each thing, in the home's models.d."""

import os
from pathlib import Path

import yaml

from localfusion.config.catalogue import MACHINE_FOLDER
from localfusion.config.models_file import Contents, load
from localfusion.config.surroundings import Surroundings, make_home, packaged_models_file
from localfusion.errors import ConfigError

_TOP = "# Written by localfusion; `localfusion models` changes it.\n"


def note(surroundings: Surroundings, name: str, contents: Contents, *, only_check: bool = False) -> Path:
    """Keep models, presets and aliases as models.d/NAME.yaml, in the place of what stood there; returns the file.

    All or nothing, readable by its owner only. Raises ConfigError for what does not fit what it extends, and where it
    is to `only_check`, does nothing else.
    """
    folder = make_home(surroundings) / MACHINE_FOLDER
    file, draft = folder / f"{name}.yaml", folder / f".{name}.{os.getpid()}.tmp"
    text = yaml.safe_dump(contents.model_dump(mode="json", exclude_defaults=True), allow_unicode=True, sort_keys=False)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(draft, _TOP + text)
        _check(draft, file)
        if not only_check:
            draft.replace(file)
    except OSError as error:
        hint = "check the disk and the permissions of the home directory"
        raise ConfigError(f"{file} cannot be written: {error.strerror}", hint=hint) from error
    finally:
        draft.unlink(missing_ok=True)
    return file


def _write(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as open_file:
        open_file.write(text)
        open_file.flush()
        os.fsync(descriptor)


def _check(draft: Path, file: Path) -> None:
    """Load everything as it will be, since a file that does not fit would stop every command."""
    models = load(packaged_models_file())
    for path in sorted({*file.parent.glob("*.yaml"), file}):
        models = load(draft if path == file else path, extends=models)
