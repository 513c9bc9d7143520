"""Signatures of manifests, made and checked by `ssh-keygen -Y` with keys that people have already. Keeps no key."""

import base64
import binascii
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from localfusion.catalog.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from localfusion.errors import ConfigError

NAMESPACE = "localfusion-bundle"
TRUSTED_KEYS = "trusted_bundle_keys"
"""Of the home: the public keys whose bundles are loaded, in the format of authorized_keys."""
MAX_SIGNATURE_BYTES = 2**16

_SSH_KEYGEN = "ssh-keygen"
_IDENTITY = "localfusion"
_KEY = re.compile(r"(?:^|\s)((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)\s+([A-Za-z0-9+/]+=*)(?:\s|$)")


def sign(manifest: bytes, key: Path) -> bytes:
    """The signature of a manifest by a private key, or by the agent that has the one of a public key.

    Raises ConfigError where ssh-keygen makes none; it may ask at the terminal for the key's passphrase.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / MANIFEST_NAME
        file.write_bytes(manifest)
        done = _ssh_keygen("sign", "-f", str(key), "-n", NAMESPACE, str(file))
        if done.returncode != 0:
            raise ConfigError(
                f"the bundle cannot be signed with {key}: {_last_line(done.stderr)}",
                hint="name a private key of ssh, or a public one whose private key the agent has",
            )
        return file.with_name(SIGNATURE_NAME).read_bytes()


def can_check() -> bool:
    """Whether signatures can be looked at here."""
    return shutil.which(_SSH_KEYGEN) is not None


def is_signed_by(manifest: bytes, signature: bytes, keys: Sequence[str]) -> bool:
    """Whether one of the keys, as `read_keys` gives them, made this signature of the manifest."""
    with tempfile.TemporaryDirectory() as folder:
        signers, signed = Path(folder) / "signers", Path(folder) / SIGNATURE_NAME
        signers.write_text("".join(f"{_IDENTITY} {key}\n" for key in keys))
        signed.write_bytes(signature)
        names = ("-f", str(signers), "-I", _IDENTITY, "-n", NAMESPACE, "-s", str(signed))
        return _ssh_keygen("verify", *names, stdin=manifest).returncode == 0


def is_signed(manifest: bytes, signature: bytes) -> bool:
    """Whether this is a signature of the manifest by any key at all."""
    with tempfile.TemporaryDirectory() as folder:
        signed = Path(folder) / SIGNATURE_NAME
        signed.write_bytes(signature)
        names = ("-n", NAMESPACE, "-s", str(signed))
        return _ssh_keygen("check-novalidate", *names, stdin=manifest).returncode == 0


def trusted_keys(home: Path, named: Iterable[Path]) -> tuple[str, ...]:
    """The keys of the files that are named and of the home's own. Raises ConfigError for a file without any."""
    own = home / TRUSTED_KEYS
    files = [*named, *([own] if own.exists() else [])]
    return tuple(key for file in files for key in read_keys(file))


def read_keys(file: Path) -> tuple[str, ...]:
    """The public keys of a file, each as its type and its base64; raises ConfigError where a line is none."""
    hint = "name a file of public keys, as ssh-keygen writes them beside private ones (.pub)"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the keys of {file} cannot be read: {reason}", hint=hint) from error
    keys = tuple(_keys(file, lines, hint))
    if not keys:
        raise ConfigError(f"{file} holds no public key", hint=hint)
    return keys


def _keys(file: Path, lines: Iterable[str], hint: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _KEY.search(line)
        if found is None or not _is_base64(found[2]):
            raise ConfigError(f"{file}:{number}: this is no public key of ssh", hint=hint)
        yield f"{found[1]} {found[2]}"


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        return False
    return True


def _ssh_keygen(action: str, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run([_SSH_KEYGEN, "-Y", action, *arguments], input=stdin, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError("ssh-keygen is not installed", hint="install OpenSSH's client") from error


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "ssh-keygen said nothing"
