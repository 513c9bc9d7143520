"""Which names the server answers to, and which pages of the web may ask it: `Host` and `Origin` as they are written.

Against a page whose name was made to lead here (DNS rebinding): its requests name its own host, and never an address.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::([0-9]{1,5}))?", flags=re.ASCII)


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names that requests may name. Ports are free, since many are forwarded here under another one."""

    names: frozenset[str]
    takes_addresses: bool

    def admits(self, authority: str) -> bool:
        """Whether a request that names this host is meant for this server."""
        name = host_name(authority)
        if name is None:
            return False
        return name in self.names or (_is_address(name) and (self.takes_addresses or ip_address(name).is_loopback))


def hosts_of(host: str, allowed_hosts: Iterable[str] = ()) -> Hosts:
    """The names of a server that listens on `host`: the loopback's, that one, and what else is allowed.

    One that listens on all addresses of the machine answers to every address: no page can have one as its name.
    """
    named = {name.lower().rstrip(".") for name in (host, *allowed_hosts)}
    bare = {host_name(name) or name.strip("[]") for name in named}
    return Hosts(frozenset(LOOPBACK_NAMES | bare), takes_addresses=host in ANY_ADDRESS)


def host_name(authority: str) -> str | None:
    """The name or address in `name:port`, in lower case; None where it is no such thing."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or (found[3] is not None and not 0 < int(found[3]) < 2**16):
        return None
    if found[1] is not None:
        return str(ip_address(found[1])) if _is_address(found[1]) else None
    return found[2].lower().rstrip(".") or None


def is_loopback(host: str) -> bool:
    """Whether what listens on this host is reached from this machine only."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
