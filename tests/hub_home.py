"""A home beside a hub on loopback, and the real command line between them, each in a process of its own."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.harbour import SHIPPED
from tests.hub_server import HubServer

MICRO = {path.name: path.read_bytes() for path in sorted(SHIPPED.glob("*.gguf"))}
"""The shipped models: real GGUFs of a few megabytes."""

MODELS = """\
models:
  ra: {hub: {repo: lab/micro, file: micro-a.gguf}, n_ctx: 2048, n_threads: 1}
  rb: {hub: {repo: lab/micro, file: micro-b.gguf}, n_ctx: 2048, n_threads: 1}
  rj: {hub: {repo: lab/micro, file: micro-judge.gguf}, n_ctx: 2048, n_threads: 1}
presets:
  r: {panel: [{model: ra, fallback: [rb]}], judge: rj}
aliases: {default: r}
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class HubHome:
    """A folder with a models.yaml and a home; commands run in it against a hub, or without one."""

    def __init__(self, folder: Path, hub: HubServer, models: str = MODELS) -> None:
        self.folder, self.hub = folder, hub
        self.home = folder / "home"
        self.write_models(models)

    def write_models(self, models: str) -> None:
        (self.folder / "models.yaml").write_text(models, encoding="utf-8")

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {"LOCALFUSION_HOME": str(self.home), "HF_HOME": str(self.folder / "hf"), "HF_ENDPOINT": self.hub.url}
        return kept | own | dict(more or {})

    def start(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "localfusion", "models", *arguments],
            cwd=self.folder,
            env=self.environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, environ=environ) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def pulled(self, file: str = "micro-a.gguf") -> Path:
        return self.home / "models" / "lab" / "micro" / file

    def whole(self) -> list[str]:
        """What lies where models lie, under names that a run would open."""
        folder = self.home / "models"
        return sorted(str(path.relative_to(folder)) for path in folder.glob("[!.]*/**/*") if path.is_file())

    def kept_bytes(self) -> int:
        """What an unfinished pull has left."""
        return sum(path.stat().st_size for path in (self.home / "models" / ".pulling").rglob("*.part"))
