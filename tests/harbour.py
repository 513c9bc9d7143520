"""What the tests of whole runs share: the harbour folder, the micro panel, a home of their own."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from localfusion.catalog import Choice, resolve
from localfusion.config import Surroundings, load_models_file
from localfusion.config.surroundings import packaged_models_file
from localfusion.messages import PanelSpec, SourcesSpec
from localfusion.store import RunRequest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "localfusion" / "catalog" / "shipped"
HARBOUR = ROOT / "examples" / "harbour"
OPEN_QUESTION = "What do the sources say about Skerry?"


@functools.cache
def micro_panel(*panel: str) -> PanelSpec:
    """The panel of the preset `micro`, or another one with its judge."""
    chosen = Choice(preset="micro") if not panel else Choice(preset="micro", panel=panel)
    return resolve(load_models_file(packaged_models_file()), chosen)


def request(question: str = OPEN_QUESTION, panel: PanelSpec | None = None) -> RunRequest:
    """A question to the harbour."""
    return RunRequest(question, panel or micro_panel(), SourcesSpec(docs=(HARBOUR,)))


def surroundings(home: Path) -> Surroundings:
    """This process's own, with another home."""
    return Surroundings({**os.environ, "LOCALFUSION_HOME": str(home)}, home, home, sys.platform)


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "localfusion", *arguments],
        cwd=ROOT,
        env={**os.environ, "LOCALFUSION_HOME": str(home), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
