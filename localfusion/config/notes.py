"""What commands note of models on this machine: a models file of its own for each thing, in the home's models.d."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from localfusion.config.catalogue import MACHINE_FOLDER
from localfusion.config.located import YamlValue
from localfusion.config.models_file import load
from localfusion.config.surroundings import Surroundings, make_home, packaged_models_file
from localfusion.errors import ConfigError

_TOP = "# Written by localfusion; `localfusion models` changes it.\n"


def note(surroundings: Surroundings, name: str, contents: Mapping[str, YamlValue]) -> Path:
    """Keep models, presets and aliases as models.d/NAME.yaml, in the place of what stood there; returns the file.

    All or nothing, readable by its owner only. Raises ConfigError for what does not fit what it extends.
    """
    with _drafted(surroundings, name, contents) as (draft, file):
        draft.replace(file)
        return file


def check_note(surroundings: Surroundings, name: str, contents: Mapping[str, YamlValue]) -> None:
    """Raise ConfigError where `note` would, and keep nothing."""
    with _drafted(surroundings, name, contents):
        return


@contextmanager
def _drafted(surroundings: Surroundings, name: str, contents: Mapping[str, YamlValue]) -> Iterator[tuple[Path, Path]]:
    folder = make_home(surroundings) / MACHINE_FOLDER
    file, draft = folder / f"{name}.yaml", folder / f".{name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(draft, _TOP + yaml.safe_dump(dict(contents), allow_unicode=True, sort_keys=False))
        _check(draft, file)
        yield draft, file
    except OSError as error:
        hint = "check the disk and the permissions of the home directory"
        raise ConfigError(f"{file} cannot be written: {error.strerror}", hint=hint) from error
    finally:
        draft.unlink(missing_ok=True)


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
