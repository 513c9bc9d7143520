"""The wheels that install localfusion where no network is, gathered by pip. Installs nothing."""

import json
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from localfusion import __version__
from localfusion.catalog.bundle.manifest import WheelTarget
from localfusion.errors import ConfigError

_ROOT = Path(__file__).resolve().parents[3]


def this_target() -> WheelTarget:
    """What wheels are for that were gathered here."""
    python = f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}"
    return WheelTarget(python=python, platform=sysconfig.get_platform())


def gather_wheels(folder: Path, *, extras: Sequence[str] = ()) -> tuple[Path, ...]:
    """Wheels of localfusion and of all that it needs, built into `folder`. Raises ConfigError with pip's own words.

    What pip has in its cache is not built again.
    """
    wanted = f"{wanted_of_pip()}[{','.join(extras)}]" if extras else wanted_of_pip()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run([*command, "--wheel-dir", str(folder), wanted], capture_output=True, check=False, text=True)
    wheels = tuple(sorted(folder.glob("*.whl")))
    if done.returncode != 0 or not wheels:
        raise ConfigError(
            f"pip cannot gather the wheels of {wanted}: {_reason(done.stderr)}",
            hint="`python -m pip wheel` must work here, with a network or a cache; or leave out --wheels",
        )
    return wheels


def wanted_of_pip() -> str:
    """What pip is asked for: the checkout that this code runs from, where it was installed from, or its version."""
    if (_ROOT / "pyproject.toml").is_file():
        return str(_ROOT)
    try:
        origin = json.loads(distribution("localfusion").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    url = str(origin.get("url", ""))
    place = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None
    if place is not None and place.exists():
        return str(place)
    return f"localfusion=={__version__}"


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if line.lower().startswith("error")]
    return (told or lines or ["pip said nothing"])[-1]
