"""What llama.cpp told of earlier loads and dry runs, kept in memory and in a folder. It measures and predicts nothing.

An answer holds for one state of a file, one processor, one build of llama.cpp and the settings it depends on. What
cannot be read back, for whatever reason, was never kept.
"""

import hashlib
import platform
import re
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from localfusion import machine
from localfusion.codec import from_text, to_text
from localfusion.engine.footprint import DryRun, WeightSizes
from localfusion.errors import LocalFusionError
from localfusion.gguf_header import Header, identity
from localfusion.messages import ModelSpec

Known = TypeVar("Known", DryRun, WeightSizes)

SETTINGS: Mapping[type, tuple[str, ...]] = {
    WeightSizes: ("n_gpu_layers", "device", "use_mmap", "use_extra_bufts"),
    DryRun: (
        "n_ctx",
        "n_parallel",
        "n_kept",
        "n_batch",
        "n_ubatch",
        "flash_attn",
        "kv_type",
        "n_gpu_layers",
        "device",
        "use_extra_bufts",
        "embeddings",
    ),
}
"""What each kind of answer depends on, by the names of ModelSpec."""

PROCESSOR = re.compile(r"llama\w*|mtmd|ggml|ggml-(base|cpu|blas|rpc)\b.*")
"""Libraries of a build that uses no GPU, by their names without "lib" and suffix."""


LAYOUT = 2
"""Raised when localfusion asks llama.cpp for other buffers under the same settings: older answers no longer hold."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of the folder; `subject` is repeated in it, so that a wrong file is not taken for the right one."""

    subject: str
    value: DryRun | WeightSizes


class Measurements:
    """Answers by file and settings. Without a folder they last as long as this object."""

    def __init__(self, folder: Path | None = None, *, place: str = "") -> None:
        self._folder = folder
        self._place = place or this_place()
        self._known: dict[str, DryRun | WeightSizes] = {}

    def find(self, kind: type[Known], header: Header, spec: ModelSpec) -> Known | None:
        """What is known of this file under these settings."""
        subject = self._subject(kind, header, spec)
        known = self._known.get(subject)
        if known is None and self._folder is not None:
            known = _read(self._folder / _name(subject), subject)
        if not isinstance(known, kind):
            return None
        self._known[subject] = known
        return known

    def keep(self, value: DryRun | WeightSizes, header: Header, spec: ModelSpec) -> None:
        """Remember an answer; a folder that cannot be written to is left alone."""
        subject = self._subject(type(value), header, spec)
        if self._known.get(subject) == value:
            return
        self._known[subject] = value
        if self._folder is not None:
            with suppress(OSError):
                _write(self._folder / _name(subject), _Entry(subject, value))

    def _subject(self, kind: type, header: Header, spec: ModelSpec) -> str:
        settings = {name: getattr(spec, name) for name in SETTINGS[kind]}
        return f"{kind.__name__} {LAYOUT} of {identity(header.paths)} with {settings} on {self._place}"


def this_place() -> str:
    """The processor and the build of llama.cpp: its libraries, which are looked for as an import would find them."""
    build = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in _libraries()]
    features = sorted(machine.processor_features())
    return hashlib.sha256(f"{platform.machine()} {features} {build}".encode()).hexdigest()


def may_use_gpus() -> bool:
    """Whether a library of the build might be for GPUs: any but those that a build for processors has, apart."""
    names = [file.name.removeprefix("lib").partition(".")[0] for file in _libraries()]
    return "ggml" not in names or any(PROCESSOR.fullmatch(name) is None for name in names)


def _libraries() -> list[Path]:
    folders = (Path(entry) / "llama_cpp" / "lib" for entry in sys.path)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return sorted(file for file in folder.glob("*") if file.is_file()) if folder else []


def _name(subject: str) -> str:
    return f"{hashlib.sha256(subject.encode()).hexdigest()[:32]}.json"


def _read(path: Path, subject: str) -> DryRun | WeightSizes | None:
    try:
        entry = from_text(_Entry, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, LocalFusionError):
        return None
    return entry.value if entry.subject == subject else None


def _write(path: Path, entry: _Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(to_text(entry))
    Path(file.name).replace(path)
