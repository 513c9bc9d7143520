"""Where a provider's key is found: in the environment, else in the system's keyring. It is stored and shown nowhere."""

import asyncio
from collections.abc import Mapping
from configparser import Error as ConfigParserError

import keyring
from keyring.errors import KeyringError

from localfusion.errors import ConfigError
from localfusion.messages import ProviderSpec
from localfusion.providers.secret import Secret

SERVICE = "localfusion"
_NO_RING = (KeyringError, OSError, RuntimeError)
_NO_BACKEND = (ImportError, AttributeError, ValueError, TypeError, ConfigParserError)
"""What loading one raises that the environment or the keyring's own file names, and that is none."""


async def find_key(provider: ProviderSpec, environ: Mapping[str, str]) -> Secret:
    """The provider's key, empty where none is wanted. Raises ConfigError for none, or one that cannot be sent."""
    if not provider.key_variable:
        return Secret("")
    key = environ.get(provider.key_variable, "").strip() or await asyncio.to_thread(_from_keyring, provider.name)
    if not key:
        raise ConfigError(
            f"there is no key for {provider.name}: {provider.key_variable} is not set, and the keyring has none",
            hint=f"set {provider.key_variable}, or store it with `keyring set {SERVICE} {provider.name}`",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"the key for {provider.name} has characters that no key has",
            hint=f"look at {provider.key_variable}, or at the keyring's `{SERVICE} {provider.name}`",
        )
    return Secret(key)


def _from_keyring(name: str) -> str:
    """What the keyring has under this name; "" where there is no keyring that works, or it is locked."""
    try:
        return (keyring.get_password(SERVICE, name) or "").strip()
    except (*_NO_RING, *_NO_BACKEND):
        return ""
