"""A GGUF of the user's own as a model of the catalogue: looked at, hashed, noted. The file stays where it is."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from localfusion.catalog.copying import OnBytes
from localfusion.catalog.gguf_files import real
from localfusion.catalog.hashing import sha256_of_named
from localfusion.catalog.installed import Installed
from localfusion.config import ModelsFile, YamlValue
from localfusion.config.models_file import NAME_PATTERN
from localfusion.errors import ConfigError, ModelLoadError
from localfusion.gguf_header import PART_NAME, Header, read_header

Note = Callable[[str, dict[str, YamlValue]], object]
"""Writes what is to be known of models under a name; raises ConfigError."""

LICENCE_CHARACTERS = 100
_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Added:
    """A model and its files, the parts of a split GGUF one by one."""

    name: str
    paths: tuple[Path, ...]
    n_bytes: int
    sha256: str


def header_of(path: Path) -> Header:
    """The header of a whole GGUF, all parts of a split one together; raises ConfigError for anything else."""
    try:
        return read_header(real(path.absolute()), model=path.stem)
    except ModelLoadError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def name_for(path: Path, models: ModelsFile, *, name: str | None) -> str:
    """The name that the file will have; raises ConfigError where something has it, or it cannot be one."""
    found = name or PART_NAME.sub("", path.name).removesuffix(".gguf")
    if found in models.models or found in models.presets or found in models.aliases:
        raise ConfigError(f"there is a {found} already", hint="give it another name with --name")
    if found.endswith(".gguf"):
        raise ConfigError(f"{found} would be taken for a file", hint="give it a name that does not end in .gguf")
    if not _NAME.fullmatch(found):
        usable = re.sub(r"[^A-Za-z0-9._:@+/-]+", "-", found).lstrip("._:@+/-")[:100] or "mine"
        raise ConfigError(
            f"{found!r} cannot be a name, which is of letters, digits and . _ : @ + / -", hint=f"--name {usable}"
        )
    return found


def add(header: Header, name: str, *, installed: Installed, note: Note, on_bytes: OnBytes = lambda _: None) -> Added:
    """Hash all of it, note it, record the hashes. Raises ConfigError, and then nothing is known of it."""
    entry: dict[str, YamlValue] = {"path": str(header.paths[0]), "licence": _licence(header)}
    digests = [sha256_of_named(path, on_bytes=on_bytes) for path in header.paths]
    note(name, {"models": {name: {key: value for key, value in entry.items() if value}}})
    for path, digest in zip(header.paths, digests, strict=True):
        known = installed.known(path)
        if known is not None and known.repo and known.sha256 == digest:  # what is known of the hub's file stays
            installed.record(path, sha256=digest, repo=known.repo, file=known.file, revision=known.revision)
        else:
            installed.record(path, sha256=digest)
    return Added(name, header.paths, header.file_bytes, digests[0])


def _licence(header: Header) -> str:
    """What the file says of its licence, where that is a short word: whoever wrote it may have written anything."""
    found = header.metadata.get("general.license", "")
    return found if isinstance(found, str) and found.isprintable() and len(found) <= LICENCE_CHARACTERS else ""
