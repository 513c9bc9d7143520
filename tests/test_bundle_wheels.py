"""`models bundle --wheels`: what a room without a package index installs localfusion from."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from localfusion.catalog.bundle.wheels import gather_wheels, this_target, wanted_of_pip
from localfusion.errors import ConfigError
from tests.bundles import Home, small_home
from tests.harbour import ROOT


def test_this_checkout_is_what_is_asked_for() -> None:
    assert wanted_of_pip() == str(ROOT)
    assert str(sys.version_info.minor) in this_target().python


def test_what_pip_cannot_do_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        gather_wheels(tmp_path / "file" / "below", extras=("no such extra",))
    assert "\n" not in refused.value.message
    assert "pip cannot gather the wheels" in refused.value.message


@pytest.mark.slow
def test_a_new_environment_is_installed_from_a_bundle_alone(tmp_path: Path) -> None:
    file = tmp_path / "room.tar"
    done = small_home(tmp_path / "maker").run("models", "bundle", str(file), "--preset", "small", "--wheels")
    if done.code == 2 and "pip cannot gather the wheels" in done.err:
        pytest.skip(done.err)
    assert done.code == 0, done.err
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path / "opened", filter="data")
    assert "models load room.tar" in (tmp_path / "opened" / "README.txt").read_text()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    wheels = ("--no-index", "--no-compile", "--find-links", str(tmp_path / "opened" / "wheels"), "localfusion")
    without_settings = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", *wheels]
    subprocess.run(install, check=True, env=without_settings, cwd=tmp_path)
    home = {**without_settings, "LOCALFUSION_HOME": str(tmp_path / "home")}
    command = [python, "-m", "localfusion", "models", "load", str(file)]
    loaded = subprocess.run(command, env=home, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
    assert list(Home(tmp_path / "home").contents())
