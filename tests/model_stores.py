"""Folders as Hugging Face's cache, Ollama and LM Studio lay them out, with files that are given."""

import hashlib
import json
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def in_hub_cache(cache: Path, repo: str, file: str, content: bytes, *, digest: str = "", commit: str = COMMIT) -> Path:
    """A file of a repository: a link in a snapshot to a blob that is named by its hash."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / (digest or sha256(content))
    link = folder / "snapshots" / commit / file
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    (folder / "refs" / "main").write_text(commit)
    return link


def in_ollama(models: Path, name: str, content: bytes, *, digest: str = "") -> Path:
    """A model under `HOST/OWNER/MODEL/TAG`: a manifest, and a blob without a suffix that is named by its hash."""
    digest = digest or sha256(content)
    blob, manifest = models / "blobs" / f"sha256-{digest}", models / "manifests" / name
    blob.parent.mkdir(parents=True, exist_ok=True)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(content)},
        {"mediaType": "application/vnd.ollama.image.template", "digest": f"sha256:{'0' * 64}", "size": 7},
    ]
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": f"sha256:{'1' * 64}", "size": 3}
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}))
    return blob


def in_lm_studio(models: Path, repo: str, file: str, content: bytes) -> Path:
    """A file at `PUBLISHER/MODEL/FILE`."""
    path = models / repo / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
