"""What is in the wheel: the code, models.yaml, and every GGUF file that models.yaml says is shipped."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SHIPPED_LIMIT_BYTES = 12_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Name and size of every file in a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    with ZipFile(built) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


def test_the_wheel_holds_the_models_file_and_what_it_ships(wheel: dict[str, int]) -> None:
    models = yaml.safe_load((ROOT / "models.yaml").read_text(encoding="utf-8"))["models"]
    shipped = {f"localfusion/catalog/shipped/{entry['shipped']}" for entry in models.values() if "shipped" in entry}
    assert "localfusion/models.yaml" in wheel
    assert "localfusion/py.typed" in wheel
    assert {name for name in wheel if name.endswith(".gguf")} == shipped
    assert len(shipped) == 4
    assert sum(wheel[name] for name in shipped) <= SHIPPED_LIMIT_BYTES


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel: dict[str, int]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "localfusion").rglob("*.py")}
    assert modules <= set(wheel)
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"localfusion"}
