"""What an address of the web means, in one spelling, and which IP addresses are public. Pure: nothing is resolved.

Whether a name leads to a public address is found out where it is connected to, in `guard`.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urljoin

from localfusion.domains import Domains, ascii_host
from localfusion.errors import NotHere, WebError

MAX_CHARACTERS = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}
_FIRST_FREE_PORT = 1024

_SHAPE = re.compile(r"(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE)
_WHOLE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_HOST_CHARACTERS = 253
_MAX_SHOWN_CHARACTERS = 100
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_IN_PATH = "%!$&'()*+,;=:@/"
_IN_QUERY = _IN_PATH + "?"

_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared; 100.100.100.200 is a cloud's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's own, though of a public range
        "169.254.0.0/16",  # link-local; 169.254.169.254 is the metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is a cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
"""Of the registry of special-purpose addresses that IANA keeps, all that are no single host of the internet."""

_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that is given out. Loopback, unique local, link-local, site-local, multicast, 64:ff9b:1::/48 are outside."""

_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3ffe::/16",  # given back
        "3fff::/20",  # documentation
    )
)

_HOLDING_4 = tuple(
    IPv6Network(network)
    for network in (
        "::/96",  # IPv4-compatible; loopback and the unspecified address are in it
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64: where there is IPv6 only, every site of IPv4 is met there
    )
)
"""Their last 32 bits are an IPv4 address, which is what is reached."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address that may be asked for, as far as its spelling goes; two that mean the same are equal.

    `host` is a name in ASCII or an IP address, `target` the path with the query; there is no fragment.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The host with its port, unless that is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The one spelling: what is asked for, compared and stored."""
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_address(url: str) -> Address:
    """What `url` means. Raises NotHere for what is no address of the web, WebError for one that must not be asked."""
    if len(url) > MAX_CHARACTERS:
        raise _refused(url, f"it is longer than {MAX_CHARACTERS} characters")
    if not url.isprintable() or " " in url or "\\" in url:
        raise _refused(url, "it has white space, a backslash or a control character in it")
    shape = _SHAPE.fullmatch(url)
    if shape is None:
        raise NotHere(url, f"{_shown(url)} cannot be fetched: only http:// and https:// addresses can")
    scheme, authority, path, query = shape[1].lower(), shape[2], shape[3], shape[4]
    if "@" in authority:
        raise _refused(url, "it has a user name in it")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise _refused(url, "its host or its port is malformed")
    try:
        host = _host(parts[1])
    except ValueError as error:
        raise _refused(url, "its host is malformed or no host of the internet") from error
    port = int(parts[2] or _DEFAULT_PORTS[scheme])
    if port not in _DEFAULT_PORTS.values() and not _FIRST_FREE_PORT <= port <= 0xFFFF:
        raise _refused(url, f"its port {port} is not one of the web")
    target = _without_dots(_escaped(path, _IN_PATH)) + ("" if query is None else f"?{_escaped(query, _IN_QUERY)}")
    return Address(scheme, host, port, target)


def follow(base: Address, reference: str) -> Address:
    """What `reference`, relative or whole, means on the page at `base`. Raises WebError as `parse_address` does."""
    if not reference.isprintable() or len(reference) > MAX_CHARACTERS:  # urljoin would leave out some of them
        raise _refused(reference, "it is too long or has a control character in it")
    try:
        return parse_address(reference if _WHOLE.match(reference) else urljoin(base.url, reference))
    except ValueError as error:
        raise _refused(reference, "it is malformed") from error


def require_admitted(address: Address, domains: Domains) -> None:
    """Raise WebError for an address that `domains` does not admit."""
    if not domains.admit(address.url):
        raise WebError(address.url, f"{address.host} is a source that must not be read here; read another one")


def try_ip(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host in its one spelling, or a resolver's answer, is; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Whether an address is that of one host of the open internet; one with an IPv4 address in it is as that one is."""
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _NOT_PUBLIC_4)
    if ip.scope_id is not None:
        return False
    if any(ip in network for network in _HOLDING_4):
        return is_public(IPv4Address(int(ip) & 0xFFFFFFFF))
    return ip in _GLOBAL_UNICAST and not any(ip in network for network in _NOT_PUBLIC_6)


def _refused(url: str, why: str) -> WebError:
    return WebError(url, f"{_shown(url)} cannot be fetched: {why}")


def _shown(url: str) -> str:
    """What is told of an address that is refused: its host, if it has one. The rest may be a server's words."""
    shape = _SHAPE.fullmatch(url[:MAX_CHARACTERS])
    parts = None if shape is None else _AUTHORITY.fullmatch(shape[2].rpartition("@")[2])
    try:
        host = "" if parts is None else _host(parts[1])
    except ValueError:
        host = ""
    return f"the address at {host}" if 0 < len(host) <= _MAX_SHOWN_CHARACTERS else "the address"


def _host(text: str) -> str:
    """A host in its one spelling. ValueError for what is neither a name with a dot nor an IP address."""
    if text.startswith("["):
        ip = IPv6Address(text[1:-1])
        if ip.scope_id is not None:
            raise ValueError("a zone means something on one machine only")
        return str(ip)
    host = ascii_host(ascii_host(text))  # once more: a full stop of another script is one after the first time
    ipv4 = _try_ipv4(host)
    if ipv4 is not None:
        return str(ipv4)
    labels = host.split(".")
    if len(labels) < 2 or len(host) > _MAX_HOST_CHARACTERS or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("it is no name of the internet")
    return host


def _try_ipv4(host: str) -> IPv4Address | None:
    """The IPv4 address that a host means in any of its spellings; None for a name. ValueError for a wrong one.

    As every resolver and browser reads them: up to four numbers, decimal, octal or hexadecimal, the last of which
    fills what is left.
    """
    labels = host.split(".")
    if not _NUMBER.fullmatch(labels[-1]):
        return None
    *head, last = map(_number, labels)
    if len(head) > 3 or any(number > 0xFF for number in head) or last >= 256 ** (4 - len(head)):
        raise ValueError("it is no IPv4 address")
    return IPv4Address(sum(number << (24 - 8 * place) for place, number in enumerate(head)) + last)


def _number(label: str) -> int:
    if not _NUMBER.fullmatch(label):
        raise ValueError("it is no number")
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8 if label.startswith("0") else 10)


def _escaped(text: str, kept: str) -> str:
    """A path or a query with what must be escaped, and nothing that need not be, as capital %XX."""
    return quote(_ESCAPE.sub(_plain_escape, text), safe=kept)


def _plain_escape(escape: re.Match[str]) -> str:
    if escape[1] is None:
        return "%25"
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


def _without_dots(path: str) -> str:
    """A path without the segments "." and "..", as RFC 3986 removes them."""
    segments = path.split("/")[1:] or [""]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
