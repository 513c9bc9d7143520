"""What the tests of bundles share: a home whose panel is of the model hub, and bundles that are made there."""

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import yaml

from localfusion.catalog.bundle.reading import BundleStream, read_front
from localfusion.catalog.installed import MODELS_FOLDER, Installed
from localfusion.cli.models_load import take_in
from localfusion.search.documents import DocumentIndex
from localfusion.session import DOCUMENTS_FILE
from tests.harbour import ROOT, SHIPPED, surroundings

REPO = "harbour/micro-GGUF"
QUESTION = "What is the height of Skerry?"
MICRO = ("micro-a", "micro-b", "micro-c", "micro-judge")


@dataclass(frozen=True)
class Home:
    """A home directory, and the models.yaml beside it."""

    path: Path

    @property
    def models_yaml(self) -> Path:
        return self.path.parent / f"{self.path.name}.yaml"

    def run(self, *arguments: str, stdin: bytes | None = None, prefix: Sequence[str] = ()) -> "Done":
        """The command line in a process of its own."""
        command = [*prefix, sys.executable, "-m", "localfusion", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environ, input=stdin, capture_output=True, check=False, timeout=300
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    @property
    def environ(self) -> dict[str, str]:
        own = {"LOCALFUSION_MODELS": str(self.models_yaml)} if self.models_yaml.exists() else {}
        return {**os.environ, "LOCALFUSION_HOME": str(self.path), "NO_COLOR": "1", **own}

    def add_hub_model(self, file: Path, name: str, *, repo: str = REPO, revision: str = "0" * 40) -> Path:
        """A file as if it had been pulled and verified."""
        target = self.path / MODELS_FOLDER / repo / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
        with closing(Installed(self.path)) as installed:
            installed.record(target, sha256=sha256_of(target), repo=repo, file=name, revision=revision)
        return target

    def contents(self) -> dict[str, bytes]:
        """Every file of the store, what was noted included, by its path; databases and what is staged are not of it."""
        kept = [self.path / MODELS_FOLDER, self.path / "models.d"]
        files = [file for folder in kept for file in folder.rglob("*") if file.is_file()]
        return {str(file.relative_to(self.path)): file.read_bytes() for file in files}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def micro_home(path: Path) -> Home:
    """A home in which the micro panel was pulled from a hub."""
    home = Home(path)
    path.mkdir(parents=True)
    shipped = yaml.safe_load((ROOT / "models.yaml").read_text(encoding="utf-8"))
    models = {}
    for name in MICRO:
        home.add_hub_model(SHIPPED / f"{name}.gguf", f"{name}.gguf")
        entry = {key: value for key, value in shipped["models"][name].items() if key != "shipped"}
        models[f"hub-{name}"] = {"hub": {"repo": REPO, "file": f"{name}.gguf"}, **entry}
    preset = shipped["presets"]["micro"]
    panel = [{**seat, "model": f"hub-{seat['model']}"} for seat in preset["panel"]]
    judge = {**preset["judge"], "model": "hub-micro-judge"}
    presets = {"carried": {**preset, "panel": panel, "judge": judge}}
    home.models_yaml.write_text(yaml.safe_dump({"models": models, "presets": presets}), encoding="utf-8")
    return home


def reader(raw: bytes) -> io.RawIOBase:
    """Bytes as an unbuffered file."""
    return _Bytes(raw)


class _Bytes(io.RawIOBase):
    def __init__(self, raw: bytes) -> None:
        self._file = io.BytesIO(raw)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)


def small_gguf(path: Path, *, n_weights: int = 64, seed: int = 0) -> Path:
    """A GGUF whose header is sound and whose one tensor is noise; no engine would load it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("noise", np.random.default_rng(seed).standard_normal(n_weights).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def small_home(path: Path) -> Home:
    """A home with two models of a hub, one of no hub, a preset of these, and a folder of documents that was added."""
    home = Home(path)
    path.mkdir(parents=True)
    for seed, name in enumerate(("one", "two")):
        home.add_hub_model(small_gguf(path.parent / "made" / f"{name}.gguf", seed=seed), f"{name}.gguf")
    own = small_gguf(path.parent / "made" / "my own.gguf", seed=2)
    models = {name: {"hub": {"repo": REPO, "file": f"{name}.gguf"}, "licence": "MIT"} for name in ("one", "two")}
    presets = {"small": {"panel": ["one", "other"], "judge": "own"}}
    whole = {"models": {**models, "own": {"path": str(own)}}, "presets": presets, "aliases": {"other": "two"}}
    home.models_yaml.write_text(yaml.safe_dump(whole), encoding="utf-8")
    notes = path.parent / "notes"
    notes.mkdir()
    (notes / "skerry.md").write_text("# Skerry\n\nThe height of Skerry is 40 metres.\n")
    (notes / "hallow.md").write_text("# Port Hallow\n\nThe depth of Port Hallow is 9 metres.\n")
    with closing(DocumentIndex(path / DOCUMENTS_FILE)) as index:
        index.add([notes])
        index.register([notes], is_read=True)
    return home


def small_bundle(folder: Path, *arguments: str) -> Path:
    """A bundle of such a home, made by the command."""
    home = small_home(folder / "from")
    file = folder / "small.tar"
    done = home.run("models", "bundle", str(file), "--preset", "small", "--docs", str(folder / "notes"), *arguments)
    assert done.code == 0, done.err
    return file


def load_bytes(raw: bytes, home: Path, keys: Sequence[str] = (), *, may_replace: bool = False) -> None:
    """What `models load` does, in this process; raises what it would say."""
    home.mkdir(parents=True, exist_ok=True)
    stream = BundleStream(reader(raw), "the bundle")
    take_in(stream, read_front(stream, keys), surroundings(home), home, may_replace=may_replace)


def new_key(path: Path, *kind: str) -> Path:
    """A private key of ssh, beside which its public one is."""
    command = ["ssh-keygen", "-q", "-N", "", "-C", "a maker", "-f", str(path), *(kind or ("-t", "ed25519"))]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path
