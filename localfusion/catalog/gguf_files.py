"""Which GGUF file a model entry or a path means. Reads no more than a file's first four bytes."""

from pathlib import Path

from localfusion.config import ModelEntry
from localfusion.errors import ConfigError

SHIPPED = Path(__file__).resolve().parent / "shipped"
MAGIC = b"GGUF"


def file_of(entry: ModelEntry, *, folder: Path) -> Path:
    """The file of a catalogue entry; a relative `path` starts at `folder`."""
    if entry.shipped is not None:
        return SHIPPED / entry.shipped
    return folder / expanded(entry.path or "")


def expanded(path: str) -> Path:
    """A path whose `~` is a user's own folder; a name that no user has stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_gguf(path: Path, *, model: str) -> None:
    """Refuse what cannot be a model before anything is started; raises ConfigError naming the path."""
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except FileNotFoundError as error:
        hint = "check the path, or choose a model whose file is there"
        raise ConfigError(f"the file of the model {model} is missing: {path}", hint=hint) from error
    except OSError as error:
        hint = "name a GGUF file that you may read"
        raise ConfigError(
            f"the file of the model {model} cannot be read: {path}: {error.strerror}", hint=hint
        ) from error
    if not start:
        raise ConfigError(f"the file of the model {model} is empty: {path}", hint="fetch or copy it again")
    if start != MAGIC:
        hint = "llama.cpp reads GGUF files only; convert the model, or fetch its GGUF"
        raise ConfigError(f"the file of the model {model} is not a GGUF: {path}", hint=hint)
