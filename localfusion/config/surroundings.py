"""What the process finds around itself: variables, folders, platform. Read once, then passed as a value."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localfusion.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The environment as a value; `platform` is spelt as `sys.platform`, `user_home` is the user's own folder."""

    variables: Mapping[str, str]
    working_directory: Path
    user_home: Path
    platform: str

    @classmethod
    def of_this_process(cls) -> "Surroundings":
        """Read the real environment. Raises ConfigError where the current folder was removed."""
        try:
            here = Path.cwd()
        except FileNotFoundError as error:
            raise ConfigError("the current folder was removed", hint="change to a folder that is there") from error
        return cls(dict(os.environ), here, _user_home(), sys.platform)


def _user_home() -> Path:
    """The user's own folder, or the root where the system knows none (a container with a made-up user id)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def set_hub_offline() -> None:
    """Let the model hub's client, wherever it is used from now on, use no network (HF_HUB_OFFLINE)."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def check_hub_variables() -> None:
    """Raise ConfigError for a variable that the model hub's client, which reads it on import, would not survive."""
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        value = os.environ.get(name, "0")
        if not (value.isascii() and value.isdigit() and len(value) < 9):
            raise ConfigError(f"{name} must be a number of whole seconds", hint=f"correct or unset {name}")


def home_directory(surroundings: Surroundings) -> Path:
    """Where all state lives: LOCALFUSION_HOME, else the platform's data directory. Creates nothing."""
    if explicit := surroundings.variables.get("LOCALFUSION_HOME", ""):
        return surroundings.working_directory / expanded(explicit, surroundings)
    return _data_directory(surroundings) / "localfusion"


def make_home(surroundings: Surroundings) -> Path:
    """Create the home directory readable by its owner only; one that holds anything is left as it is."""
    home = home_directory(surroundings)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(home.iterdir()):
            home.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"the home directory {home} cannot be used: {error.strerror}",
            hint="set LOCALFUSION_HOME to a folder that you can write to",
        ) from error
    return home


def find_models_file(surroundings: Surroundings, explicit: Path | None = None) -> Path:
    """The user's models.yaml: the explicit one, LOCALFUSION_MODELS, ./models.yaml, the home's; else the packaged."""
    if explicit is not None:
        return surroundings.working_directory / explicit
    if named := surroundings.variables.get("LOCALFUSION_MODELS", ""):
        return surroundings.working_directory / expanded(named, surroundings)
    usual = (surroundings.working_directory / "models.yaml", home_directory(surroundings) / "models.yaml")
    return next((path for path in usual if path.is_file()), packaged_models_file())


def packaged_models_file() -> Path:
    """The copy that ships in the wheel; in a source checkout the one at its root."""
    packaged = PACKAGE / "models.yaml"
    return packaged if packaged.is_file() else PACKAGE.parent / "models.yaml"


def expanded(text: str, surroundings: Surroundings) -> Path:
    """A path as it is written in a setting: `~/` is the user's own folder, which not every shell expands."""
    if text == "~" or text.startswith("~/"):
        return surroundings.user_home / text[2:]
    return Path(text)


def _data_directory(surroundings: Surroundings) -> Path:
    match surroundings.platform:
        case "darwin":
            return surroundings.user_home / "Library" / "Application Support"
        case "win32":
            local = surroundings.variables.get("LOCALAPPDATA", "")
            return Path(local) if local else surroundings.user_home / "AppData" / "Local"
        case _:
            xdg = surroundings.variables.get("XDG_DATA_HOME", "")
            # The XDG specification says that a relative path is to be ignored.
            return Path(xdg) if Path(xdg).is_absolute() else surroundings.user_home / ".local" / "share"
