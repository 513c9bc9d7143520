"""Real models' chat templates and vocabularies, out of the source distribution of the installed llama-cpp-python.

It vendors llama.cpp with its test files. Fetched once, by pip, into a cache folder; nothing of it is committed.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import llama_cpp

from localfusion.engine import llama
from localfusion.engine.llama import Vocabulary

PACKAGE = "llama-cpp-python"
WANTED = re.compile(r"vendor/llama\.cpp/models/(?:templates/[^/]+\.jinja|ggml-vocab-[^/]+\.gguf(?:\.inp|\.out)?)\Z")
FETCH_LIMIT_S = 600


class UnreachableError(Exception):
    """The source distribution cannot be had here; the message is the end of what pip said."""


def fetch_models() -> Path:
    """The folder with templates (*.jinja) and vocabularies (*.gguf with .inp and .out), from the cache if there."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "localfusion-tests" / f"{PACKAGE}-{version(PACKAGE)}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unpacked = Path(scratch, "unpacked")
            unpacked.mkdir()
            unpack(download(Path(scratch)), unpacked)
            with suppress(OSError):  # another process was faster
                unpacked.rename(folder)
    return folder


def download(folder: Path) -> Path:
    """The source distribution, which pip leaves in `folder`; nothing is built but its metadata."""
    what = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={version(PACKAGE)}"]
    patience = ["--retries", "1", "--timeout", "30"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *patience, *what, "--dest", str(folder)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"pip was not done after {FETCH_LIMIT_S} s") from error
    found = sorted(folder.glob("*.tar.gz"))
    if ended.returncode != 0 or not found:
        raise UnreachableError("\n".join(ended.stderr.strip().splitlines()[-3:]) or "pip left nothing")
    return found[0]


def unpack(archive: Path, folder: Path) -> None:
    """The wanted files side by side in `folder`, under their last names: no path of the archive is followed."""
    with tarfile.open(archive) as members:
        for member in members:
            if not (member.isfile() and WANTED.search(member.name)):
                continue
            content = members.extractfile(member)
            assert content is not None
            with content, (folder / PurePosixPath(member.name).name).open("xb") as target:
                shutil.copyfileobj(content, target)


class VocabularyFile:
    """A GGUF of which only the vocabulary is loaded; it lives as long as this does."""

    def __init__(self, path: Path) -> None:
        llama.send_log_to(lambda _line: None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self._pointer, f"llama.cpp does not load {path}"
        self.vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(self._pointer))

    def close(self) -> None:
        """Free it; the vocabulary cannot be used any more."""
        llama_cpp.llama_model_free(self._pointer)
