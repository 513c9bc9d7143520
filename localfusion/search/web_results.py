"""What search engines answer, made fit to be shown: plain text, addresses in one form, within the domains asked for.

Which engine is asked, and how, is not known here; no address is resolved or fetched.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import unescape
from urllib.parse import quote, urlsplit, urlunsplit

from localfusion.domains import ascii_host
from localfusion.search.blocks import squeeze
from localfusion.search.control_tokens import broken_up, put_together
from localfusion.search.sentences import leading_sentences
from localfusion.search.source import Search, SearchResult
from localfusion.search.suspicion import signs

MAX_URL_CHARACTERS = 2048
MAX_TITLE_CHARACTERS = 300
MAX_SNIPPET_CHARACTERS = 20_000
MAX_SITES = 3
"""With at most so many allowed domains the engines are told of them; with more, only what comes back is looked at."""

_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]*:[0-9a-f:.]*")
_MOST_ROUNDS = 6
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_IN_PATH = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True, slots=True)
class Row:
    """One result as an engine gave it."""

    url: str
    title: str
    snippet: str


def web_results(rows: Iterable[Row], search: Search, *, source: str) -> tuple[SearchResult, ...]:
    """The first `max_results` rows that may be shown, in their order, each address once."""
    results: dict[str, SearchResult] = {}
    for row in rows:
        url = canonical(row.url)
        if url is None or url in results or not search.domains.admit(url):
            continue
        title = broken_up(plain(row.title[:MAX_SNIPPET_CHARACTERS]))[:MAX_TITLE_CHARACTERS].strip() or url
        snippet = broken_up(plain(row.snippet[:MAX_SNIPPET_CHARACTERS]))
        passage = leading_sentences(snippet or title, search.max_characters)
        results[url] = SearchResult(url, title, passage, source, 1 / (len(results) + 1))
        if len(results) >= search.max_results:
            break
    return tuple(results.values())


def suspicions(results: Iterable[SearchResult]) -> tuple[str, ...]:
    """A warning for the user for each result, of those that have no page, that looks like an attack."""
    found = ((one, signs(put_together(f"{one.title}\n{one.passage}"), "")) for one in results if one.page is None)
    return tuple(
        f"a search result of {urlsplit(one.url).hostname} looks like an attack on the model: {', '.join(clauses)}"
        for one, clauses in found
        if clauses
    )


def plain(text: str) -> str:
    """Text without tags, entities, comments and what cannot be seen, on one line.

    Over and over: what was encoded twice, or stood in pieces around a tag, must not come out as a tag.
    """
    for _ in range(_MOST_ROUNDS):
        before = text
        text = squeeze(unescape(_TAG.sub("", _UNSEEN.sub(" ", text))))
        if text == before:
            return text
    return squeeze(text.replace("<", " "))


def canonical(url: str) -> str | None:
    """An http or https address in its one form, without fragment; None for any other and for one with a user in it."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        host = ascii_host(parts.hostname or "")
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or "@" in parts.netloc or not _HOST.fullmatch(host):
        return None
    place = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        place = f"{place}:{port}"
    path = quote(_encoded(parts.path) or "/", safe=_IN_PATH)
    query = quote(_encoded(parts.query), safe=_IN_PATH + "?")
    whole = urlunsplit((parts.scheme, place, path, query, ""))
    return whole if len(whole) <= MAX_URL_CHARACTERS else None


def without_orders(query: str, signs: str) -> str:
    """The words of a query without the signs at their beginning that make an order of a word."""
    return " ".join(filter(None, (word.lstrip(signs) for word in query.split())))


def query_of(search: Search) -> str:
    """The words to look for, with a `site:` term for each of a few allowed domains."""
    hosts = list(dict.fromkeys(pattern.host for pattern in search.domains.allowed if pattern.host))
    if not hosts or len(hosts) > MAX_SITES:
        return search.query
    return f"{search.query} {' OR '.join(f'site:{host}' for host in hosts)}"


def _encoded(part: str) -> str:
    """`part` with what no address may hold as percent codes, and each "%" that begins no code as "%25"."""
    part = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", part)
    return _UNSAFE.sub(lambda match: f"%{ord(match.group()):02X}", part)
