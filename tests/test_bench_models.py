"""The bench of bundles: its row end to end in its small size. No time is looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_row_is_measured_end_to_end(tmp_path: Path) -> None:
    written = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "scripts" / "bench-models"), "--quick", "--only", "carrying"]
    done = subprocess.run([*command, "--json", str(written)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure["value"] for figure in json.loads(written.read_text())}
    assert len(figures) == len(done.stdout.splitlines()) - 1
    assert {"bundle", "load", "load: sha256sum", "bundle: tar with zstd"} < set(figures)
    assert all(value > 0 for value in figures.values())
