"""A process without a network: once closed, nothing in it resolves a name or reaches beyond the loopback.

The second wall behind `--offline`, where no network backend is built in the first place. It covers Python's own
sockets, of every library; it does not see what compiled code opens by itself, and none of that is built offline.
"""

import ipaddress
import sys

from localfusion.errors import WebError

HINT = "leave out --offline, and `offline` of config.yaml, to use a network"
_WATCHED = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"})
_LOOKUPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})

_closed: list[bool] = []
"""Holds something once the hook is there: it cannot be taken out again, and one is enough."""


def close_network() -> None:
    """Close the network for the rest of this process's life; any use raises WebError."""
    if not _closed:
        _closed.append(True)
        sys.addaudithook(_refuse)


def is_closed() -> bool:
    """Whether this process has no network any more."""
    return bool(_closed)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _LOOKUPS:
        host = arguments[0] if event != "socket.getnameinfo" else _first(arguments[0])
        _check(host)
    elif event in _WATCHED:
        address = arguments[-1]
        if isinstance(address, tuple):  # of the internet; anything else is a socket of this machine
            _check(_first(address))


def _first(address: object) -> object:
    return address[0] if isinstance(address, tuple) and address else address


def _check(host: object) -> None:
    """Raise WebError unless `host` is the loopback; None and "" are this machine, for servers."""
    name = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else host
    if name is None or (isinstance(name, str) and _is_loopback(name)):
        return
    raise WebError(str(name), f"{name} is not reached: this process is offline", hint=HINT)


def _is_loopback(name: str) -> bool:
    if name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False
