"""The links of a page as addresses that may be fetched next. Whether they may be is decided elsewhere."""

import re
from collections.abc import Sequence
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from localfusion.analysis import Link
from localfusion.search.control_tokens import broken_up, has_control_token
from localfusion.search.visible_page import FoundLink

_MOST_LINKS = 200
_LONGEST_ADDRESS = 2000
_LONGEST_TEXT = 100
_IGNORED = re.compile(r"[\t\n\r]")
_AS_WRITTEN = "!#$%&'()*+,/:;=?@[]~|"


def absolute_links(found: Sequence[FoundLink], *, url: str, base: str) -> tuple[Link, ...]:
    """The http and https addresses, each once, in the page's order; those of menus and the like come last.

    `base` is the page's own base address, "" for none. Links to a place within the page itself are left
    out, and those whose address holds a control token of chat templates.
    """
    start = try_address(base, url) or url
    own = try_address(url, url)
    links: dict[str, Link] = {}
    for link in sorted(found, key=lambda one: one.is_aside):
        address = try_address(link.href, start)
        if address and address != own and len(links) < _MOST_LINKS and not has_control_token(address):
            links.setdefault(address, Link(address, broken_up(_cut(link.text))))
    return tuple(links.values())


def try_address(href: str, base: str) -> str | None:
    """The absolute address that a link means, without fragment, its path in ASCII; None for none of the web's."""
    try:
        parts = urlsplit(urljoin(base, _IGNORED.sub("", href).strip()))
        has_host = bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not has_host:
        return None
    path = quote(parts.path, safe=_AS_WRITTEN) or "/"
    address = urlunsplit((parts.scheme, parts.netloc.lower(), path, quote(parts.query, safe=_AS_WRITTEN), ""))
    return address if len(address) <= _LONGEST_ADDRESS and " " not in address and address.isprintable() else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT].rsplit(' ', 1)[0]}…"
