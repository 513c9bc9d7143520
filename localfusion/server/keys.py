"""The keys of those who may ask the server: names, limits and hashes of keys, in keys.json of a home.

A key is 256 random bits and is shown once; a plain SHA-256 of so much chance cannot be reversed.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from localfusion.errors import ConfigError

FILE_NAME = "keys.json"
PREFIX = "lf-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeyEntry(BaseModel):
    """One key as it is kept; None is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=rf"^{NAME.pattern}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: str = Field(max_length=40)
    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000)
    max_queue: int | None = Field(None, ge=1, le=100_000)

    @property
    def id(self) -> str:
        """What whoever has the key is known by: as random as the key, so that a later one of its name is another."""
        return f"key_{self.sha256[:32]}"


class KeyFile(BaseModel):
    """The whole of keys.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    keys: list[KeyEntry]


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys of a home; where there are none nobody is asked for one."""

    entries: tuple[KeyEntry, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries)

    def find(self, secret: str) -> KeyEntry | None:
        """The key that this is, compared with every one, in a time that tells nothing about them."""
        digest = _digest(secret)
        found = None
        for entry in self.entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return found

    def added(self, entry: KeyEntry) -> "Keys":
        """With one more. Raises ConfigError where its name is taken."""
        if any(known.name == entry.name for known in self.entries):
            raise ConfigError(
                f"there is a key {entry.name} already",
                hint=f"localfusion serve keys remove {entry.name}",
            )
        return replace(self, entries=(*self.entries, entry))

    def removed(self, name: str) -> "Keys":
        """Without the one of this name. Raises ConfigError where there is none."""
        left = tuple(entry for entry in self.entries if entry.name != name)
        if len(left) == len(self.entries):
            names = ", ".join(entry.name for entry in self.entries)
            raise ConfigError(f"there is no key {name}", hint=f"the keys are {names or 'none'}")
        return replace(self, entries=left)


def new_key(
    name: str, *, created: str, requests_per_minute: int | None = None, max_queue: int | None = None
) -> tuple[str, KeyEntry]:
    """A new key, to be shown once, and what is kept of it. Raises ConfigError for a name that is none."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a key", hint="use letters, digits and . _ -, 64 at most")
    secret = PREFIX + secrets.token_urlsafe(32)
    limits = {"requests_per_minute": requests_per_minute, "max_queue": max_queue}
    return secret, KeyEntry.model_validate({"name": name, "sha256": _digest(secret), "created": created, **limits})


def load_keys(home: Path) -> Keys:
    """The keys of a home, none where it has no file of them. Raises ConfigError for one that cannot be read."""
    path = home / FILE_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Keys()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", hint="make it readable, or move it away"
        ) from error
    try:
        return Keys(tuple(KeyFile.model_validate_json(text).keys))
    except ValidationError as error:
        raise ConfigError(
            f"{path} is damaged: {error.errors()[0]['msg']}",
            hint="move it away and make new keys: localfusion serve keys add NAME",
        ) from error


def save_keys(home: Path, keys: Keys) -> None:
    """Put the file in place, readable by its owner only. Raises ConfigError where it cannot be written."""
    path, draft = home / FILE_NAME, home / f".{FILE_NAME}.{os.getpid()}"
    text = json.dumps(KeyFile(keys=list(keys.entries)).model_dump(), indent=2) + "\n"
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", hint="check the disk and the folder"
        ) from error


@dataclass(slots=True)
class KeyRing:
    """The keys of a home as they are now: a key that is added or removed counts from the next request on.

    Once there were keys there is no way back to none but a new start: a file that goes missing opens nothing.
    """

    home: Path
    _keys: Keys = field(default_factory=Keys)
    _stamp: tuple[int, int, int] | None = None
    _is_closed: bool = False

    @property
    def is_closed(self) -> bool:
        """Whether a key is demanded."""
        self._look()
        return self._is_closed

    def find(self, secret: str) -> KeyEntry | None:
        """The key that this is. Raises ConfigError where the file cannot be read any more."""
        self._look()
        return self._keys.find(secret)

    def _look(self) -> None:
        stamp = _stamp(self.home / FILE_NAME)
        if stamp != self._stamp:
            self._keys = load_keys(self.home)
            self._stamp = stamp
            self._is_closed = self._is_closed or bool(self._keys)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", errors="surrogateescape")).hexdigest()
