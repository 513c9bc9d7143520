"""Which addresses of the web a search may return and a fetch may reach, by domain and path. Pure: nothing is resolved.

A pattern is a domain (`example.com`, its subdomains included), `*.example.com` (the subdomains alone), a domain with a
path (`example.com/docs`: that path and what is below it), or the name of a built-in list (`@benchmarks`). In such a
list, and only there, `~text` is every address that has this text in its host, path or query, however it is encoded.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from posixpath import normpath
from urllib.parse import unquote, urlsplit

import idna

from localfusion.errors import ConfigError

LISTS: Mapping[str, tuple[str, ...]] = {
    "@benchmarks": (
        "huggingface.co/datasets/perplexity-ai/draco",
        "huggingface.co/api/datasets/perplexity-ai/draco",
        "huggingface.co/spaces/perplexity-ai/draco",
        "hf.co/datasets/perplexity-ai/draco",
        "hf-mirror.com/datasets/perplexity-ai/draco",
        "hf-mirror.com/api/datasets/perplexity-ai/draco",
        "datasets-server.huggingface.co",
        "huggingface-co.translate.goog",
        "hf-co.translate.goog",
        "~perplexity-ai/draco",
        "~perplexity-ai--draco",
    ),
}
"""Name -> patterns. "@benchmarks": where the rubrics of benchmarks lie, which a model under test must not read."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$")
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_HINT = "write domains like example.com, *.example.com or example.com/docs, or a list: " + ", ".join(LISTS)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One checked pattern: the host in ASCII, whether the domain itself is meant too, and the path ("" is all).

    Or a `text` that stands anywhere in an address, and then no host.
    """

    host: str
    with_host: bool = True
    path: str = ""
    text: str = ""

    def covers(self, host: str, path: str, whole: str) -> bool:
        """Whether an address is meant: its host in ASCII, its path as `_plain_path` gives it, all of it decoded."""
        if self.text:
            return self.text in whole
        is_host = (self.with_host and host == self.host) or host.endswith(f".{self.host}")
        return is_host and (not self.path or path == self.path or path.startswith(f"{self.path}/"))


@dataclass(frozen=True, slots=True)
class Domains:
    """What may be reached: of `allowed` (all, where it is empty) what is not `barred`. Made by `parse_domains`."""

    allowed: tuple[Pattern, ...] = ()
    barred: tuple[Pattern, ...] = ()

    def admit(self, url: str) -> bool:
        """Whether an http or https address may be reached; one that cannot be read may not."""
        try:
            parts = urlsplit(url)
            host = ascii_host(parts.hostname or "")
        except ValueError:
            return False
        path = _plain_path(parts.path)
        whole = _decoded(f"{host}{path}?{parts.query}#{parts.fragment}")
        if any(pattern.covers(host, path, whole) for pattern in self.barred):
            return False
        return not self.allowed or any(pattern.covers(host, path, whole) for pattern in self.allowed)


ANYWHERE = Domains()


def parse_domains(allowed: Iterable[str] = (), barred: Iterable[str] = ()) -> Domains:
    """The rules that patterns, as people write them, come to. Raises ConfigError for one that is no pattern."""
    return Domains(_parse_all(allowed), _parse_all(barred))


def both(*rules: Domains) -> Domains:
    """Rules of several places at once: what any of them bars is barred; the last that allows only some decides which.

    The places go from the widest to the nearest, as configuration, request, tool.
    """
    allowed = next((one.allowed for one in reversed(rules) if one.allowed), ())
    return Domains(allowed, tuple(pattern for one in rules for pattern in one.barred))


def ascii_host(host: str) -> str:
    """A host as it is asked for in DNS: lower case, ASCII, no full stop at its end. ValueError for none."""
    host = host.rstrip(".").lower()
    if not host.isascii():
        host = idna.encode(host, uts46=True).decode("ascii")  # an IDNAError is a ValueError
    if not host:
        raise ValueError("there is no host")
    return host


def _parse_all(patterns: Iterable[str]) -> tuple[Pattern, ...]:
    found: list[Pattern] = []
    for pattern in patterns:
        entries = LISTS.get(pattern)
        found += [_parse(pattern)] if entries is None else map(_parse_listed, entries)
    return tuple(found)


def _parse_listed(text: str) -> Pattern:
    return Pattern("", text=text.removeprefix("~")) if text.startswith("~") else _parse(text)


def _parse(text: str) -> Pattern:
    host, slash, path = _SCHEME.sub("", text.strip(), count=1).partition("/")
    with_host = not host.startswith("*.")
    try:
        name = ascii_host(host.removeprefix("*."))
    except ValueError as error:
        raise ConfigError(f"{text!r} is no domain", hint=_HINT) from error
    if not all(_LABEL.match(label) for label in name.split(".")) or "." not in name:
        raise ConfigError(f"{text!r} is no domain", hint=_HINT)
    return Pattern(name, with_host, _plain_path(slash + path).rstrip("/"))


def _decoded(text: str) -> str:
    """What a part of an address says, in lower case, though it be encoded more than once."""
    for _ in range(4):
        text = unquote(text)
    return re.sub("/{2,}", "/", text.lower())


def _plain_path(path: str) -> str:
    """A path however it was encoded: "/data%73ets//x/../y" is "/datasets/y"; letters do not differ by case."""
    plain = _decoded(path)
    return "" if plain in ("", "/") else normpath(f"/{plain.lstrip('/')}").lower()
