"""GGUF files as paths name them, and whether they are any. Reads no more of a file than its header."""

from pathlib import Path

from localfusion.errors import ConfigError, ModelLoadError
from localfusion.gguf_header import PART_NAME, read_header

SHIPPED = Path(__file__).resolve().parent / "shipped"


def expanded(path: str) -> Path:
    """A path whose `~` is a user's own folder; a name that no user has stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def real(path: Path) -> Path:
    """The file behind links. A part of a split keeps its name: the other parts are found by it, beside it."""
    file = path.resolve()
    if PART_NAME.search(path.name) and not PART_NAME.search(file.name):
        return path.parent.resolve() / path.name
    return file


def check_gguf(path: Path, *, model: str) -> None:
    """Refuse what cannot be a model before anything is started; raises ConfigError naming model and file."""
    try:
        read_header(path, model=model)
    except ModelLoadError as error:
        raise ConfigError(error.message, hint=error.hint) from error
