"""Model files that other programs keep on this disk: the hub's own cache, Ollama's store, LM Studio's folder.

Reads what these programs say of their files and changes nothing; no file is opened that may be a model.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localfusion.catalog.hub import with_client
from localfusion.config import Surroundings
from localfusion.config.surroundings import expanded

StoreName = Literal["Hugging Face", "Ollama", "LM Studio"]

SERVICE = Path("/usr/share/ollama/.ollama/models")
"""Where Ollama keeps its models when it was installed as a service of Linux."""
MANIFEST_BYTES = 1 << 20
MODEL_LAYER = "application/vnd.ollama.image.model"
HUB_HOSTS = ("hf.co", "huggingface.co")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Store:
    """A folder and the program that it belongs to."""

    name: StoreName
    folder: Path


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its store knows it; what the store does not know is "".

    `repo` and `file` are the hub's names, `tag` is Ollama's word for which file of a repository; `sha256` is what the
    store holds the file to be, not what was found by hashing it.
    """

    store: StoreName
    path: Path
    n_bytes: int
    repo: str = ""
    file: str = ""
    tag: str = ""
    revision: str = ""
    sha256: str = ""


def find_stores(surroundings: Surroundings) -> tuple[Store, ...]:
    """The stores that there are for this user, where their programs look for them."""
    home, variables = surroundings.user_home, surroundings.variables
    named = variables.get("OLLAMA_MODELS", "")
    ollama = [expanded(named, surroundings)] if named else [home / ".ollama" / "models", SERVICE]
    stores = (
        Store("Hugging Face", _hub_cache(surroundings)),
        *(Store("Ollama", folder) for folder in ollama),
        Store("LM Studio", home / ".lmstudio" / "models"),
        Store("LM Studio", home / ".cache" / "lm-studio" / "models"),
    )
    return tuple(store for store in stores if _is_folder(store.folder))


def store_of(path: Path, stores: Iterable[Store]) -> StoreName | None:
    """The program in whose store a file lies."""
    return next((store.name for store in stores if path.is_relative_to(store.folder)), None)


def stored_files(stores: Iterable[Store]) -> Iterator[StoredFile]:
    """Every GGUF of the stores. What is damaged in one, or cannot be read, is left out.

    Raises ConfigError where the hub's client cannot be imported, which reads its cache.
    """
    readers = {"Hugging Face": _of_hub_cache, "Ollama": _of_ollama, "LM Studio": _of_lm_studio}
    for store in stores:
        yield from readers[store.name](store.folder)


def _hub_cache(surroundings: Surroundings) -> Path:
    """As huggingface_hub finds it, from variables that were read already."""
    variables = surroundings.variables
    if named := variables.get("HF_HUB_CACHE", "") or variables.get("HUGGINGFACE_HUB_CACHE", ""):
        return expanded(named, surroundings)
    cache = expanded(variables.get("XDG_CACHE_HOME", "") or "~/.cache", surroundings)
    return expanded(variables.get("HF_HOME", "") or str(cache / "huggingface"), surroundings) / "hub"


def _of_hub_cache(folder: Path) -> Iterator[StoredFile]:
    found: Iterator[StoredFile] = with_client("localfusion.catalog.hub_cache").cached_files(folder)
    return found


def _of_ollama(folder: Path) -> Iterator[StoredFile]:
    """By its manifests, at `manifests/HOST/OWNER/MODEL/TAG`; the weights are a blob under the name of its hash."""
    for path in sorted((folder / "manifests").glob("*/*/*/*")):
        digest = _model_digest(path)
        blob = folder / "blobs" / f"sha256-{digest}"
        if digest and _is_file(blob):
            host, owner, model, tag = path.parts[-4:]
            repo = f"{owner}/{model}" if host in HUB_HOSTS else ""
            yield StoredFile("Ollama", blob, blob.stat().st_size, repo=repo, tag=tag, sha256=digest)


def _is_folder(path: Path) -> bool:
    """One that this user may not look at is not there."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _model_digest(path: Path) -> str:
    """The hash of the one layer of a manifest that holds weights, "" where it has none or is no manifest."""
    try:
        with path.open("rb") as file:
            manifest = json.loads(file.read(MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return ""
    layers = manifest.get("layers") if isinstance(manifest, dict) else None
    found = [layer for layer in layers if _is_model(layer)] if isinstance(layers, list) else []
    digest = _DIGEST.fullmatch(str(found[0].get("digest"))) if len(found) == 1 else None
    return digest[1] if digest else ""


def _is_model(layer: object) -> bool:
    return isinstance(layer, dict) and layer.get("mediaType") == MODEL_LAYER


def _of_lm_studio(folder: Path) -> Iterator[StoredFile]:
    for path in sorted(folder.glob("*/*/*.gguf")):
        if _is_file(path):
            repo = f"{path.parent.parent.name}/{path.parent.name}"
            yield StoredFile("LM Studio", path, path.stat().st_size, repo=repo, file=path.name)
