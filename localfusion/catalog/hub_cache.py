"""The files of huggingface_hub's own cache, as that says them itself. Imported by `stores` only to look into one."""

import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from localfusion.catalog.stores import StoredFile

_SHA256 = re.compile(r"[0-9a-f]{64}")


def cached_files(folder: Path) -> Iterator[StoredFile]:
    """Every GGUF of the cache, once for each revision that has it; nothing where it cannot be read."""
    try:
        repos = scan_cache_dir(folder).repos
    except (CacheNotFound, OSError, ValueError):
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda revision: revision.commit_hash):
            for file in sorted(revision.files, key=lambda file: file.file_path):
                if repo.repo_type == "model" and file.file_name.endswith(".gguf"):
                    blob = file.blob_path.name
                    yield StoredFile(
                        "Hugging Face",
                        file.file_path,
                        file.size_on_disk,
                        repo=repo.repo_id,
                        file=file.file_path.relative_to(revision.snapshot_path).as_posix(),
                        revision=revision.commit_hash,
                        sha256=blob if _SHA256.fullmatch(blob) else "",
                    )
