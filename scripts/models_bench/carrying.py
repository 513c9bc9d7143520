"""Row "carrying": a bundle made and loaded against `tar` with `zstd` and `sha256sum` on the same files, in turns."""

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from localfusion.catalog.bundle.loading import publish, staged
from localfusion.catalog.bundle.making import readme, readme_member, write_bundle
from localfusion.catalog.bundle.manifest import FORMAT, Manifest
from localfusion.catalog.bundle.reading import BundleStream, read_front
from localfusion.catalog.bundle.selection import select
from localfusion.catalog.copying import copy, keep_nothing
from localfusion.catalog.installed import MODELS_FOLDER, Installed
from localfusion.config import HubEntry, ModelEntry, ModelsFile, PresetEntry, SeatEntry
from localfusion.config.models_file import JudgeEntry
from scripts.engine_bench.figures import Figure
from scripts.models_bench.setting import Setting
from scripts.models_bench.weights import write_weights

REPO = "bench/random-GGUF"
MOST = 1.2
"""How many times the slower tool a bundle may take."""


@dataclass(frozen=True, slots=True)
class Place:
    """Folders of one measurement."""

    folder: Path
    names: tuple[str, ...]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.home / MODELS_FOLDER / REPO / name for name in self.names)

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle.tar"

    @property
    def archive(self) -> Path:
        return self.folder / "archive.tar.zst"

    def fresh(self, name: str) -> Path:
        """An empty folder in the place of whatever was there."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir()
        return self.folder / name


def carrying(setting: Setting) -> Iterator[Figure]:
    """Every command once in each round; the middle of the rounds is what counts."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        place = Place(Path(folder), tuple(f"weights-{number}.gguf" for number in range(setting.n_files)))
        models = _installed(place, setting.file_bytes)
        total_bytes = sum(file.stat().st_size for file in place.files)
        making: Mapping[str, Callable[[], object]] = {
            "bundle": partial(_bundle, place, models),
            "tar with zstd": partial(_run, "tar", "--zstd", "-cf", place.archive, "-C", place.home, MODELS_FOLDER),
            "sha256sum": partial(_run, "sha256sum", *place.files),
        }
        loading: Mapping[str, Callable[[], object]] = {
            "load": partial(_load, place),
            "tar with zstd": lambda: _run("tar", "--zstd", "-xf", place.archive, "-C", place.fresh("opened")),
            "sha256sum": partial(_run, "sha256sum", place.bundle),
        }
        for commands in (making, loading):
            yield from _compared(commands, total_bytes, setting)


def _compared(commands: Mapping[str, Callable[[], object]], total_bytes: int, setting: Setting) -> Iterator[Figure]:
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(setting.n_rounds):
        for name, command in commands.items():
            setting.say(f"round {number + 1}: {name}")
            started = time.perf_counter()
            command()
            seconds[name].append(time.perf_counter() - started)
    ours, *others = commands
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    slower = max(others, key=lambda name: middle[name])
    wanted = None if setting.quick else MOST
    yield Figure(f"{ours}: times the slower", middle[ours] / middle[slower], "times", slower, wanted, is_limit=True)
    for name in commands:
        what = name if name == ours else f"{ours}: {name}"
        yield Figure(what, total_bytes / 10**6 / middle[name], "MB/s")


def _installed(place: Place, file_bytes: int) -> ModelsFile:
    place.home.mkdir()
    with closing(Installed(place.home)) as installed:
        for seed, file in enumerate(place.files):
            write_weights(file, file_bytes, seed=seed)
            with file.open("rb", buffering=0) as weights:
                sha256 = copy(weights.readinto, keep_nothing, file.stat().st_size)
            installed.record(file, sha256=sha256, repo=REPO, file=file.name)
    models = {file.stem: ModelEntry(hub=HubEntry(repo=REPO, file=file.name)) for file in place.files}
    seats = tuple(SeatEntry(model=name) for name in models)
    return ModelsFile("bench", models, {"all": PresetEntry(panel=seats, judge=JudgeEntry(model=seats[0].model))})


def _bundle(place: Place, models: ModelsFile) -> None:
    with closing(Installed(place.home)) as installed:
        found = select(models, "all", installed)
    text = readme(place.bundle.name, found.preset, "")
    members = (readme_member(text), *(file.member for file in found.files))
    manifest = Manifest(
        format=FORMAT,
        localfusion="bench",
        created="2026-01-01T00:00:00Z",
        preset=found.preset,
        models=found.contents,
        members=members,
    )
    write_bundle(place.bundle, manifest, text, found.files)


def _load(place: Place) -> None:
    home = place.fresh("loaded")
    with closing(Installed(home)) as installed, place.bundle.open("rb", buffering=0) as file:
        stream = BundleStream(file, place.bundle.name)
        with staged(stream, read_front(stream, ()), home, installed) as found:
            publish(found, installed)


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
