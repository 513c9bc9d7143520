"""Several sources as one: searched side by side, their results fused; a page is fetched from the first that has it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit

from rapidfuzz import fuzz

from localfusion.domains import Domains
from localfusion.errors import LocalFusionError, NotHere, WebError
from localfusion.search.fusion import fuse
from localfusion.search.source import Fetched, Found, Search, SearchResult, Source
from localfusion.search.tokens import fold, written_words
from localfusion.search.web_results import canonical

TIMEOUT_S = 30.0
MIRROR_SIMILARITY = 95.0
"""Passages that are the same to so many percent, case and marks aside, are of the same page under two addresses."""
MIRROR_CHARACTERS = 60
"""Passages shorter than this are not compared: the same few words stand on many pages."""

_TRACKING = frozenset({"fbclid", "gclid", "msclkid", "mc_cid", "mc_eid", "ref_src"})


class Combined:
    """Sources in order of preference, as one `Source`."""

    def __init__(self, sources: Sequence[Source], *, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s` is what each source may take for a search."""
        self._sources = tuple(sources)
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """The names of all."""
        return " and ".join(source.name for source in self._sources)

    async def search(self, search: Search) -> Found:
        """The results of all sources, fused. One that fails is a warning; WebError, which names each, where all do."""
        answers = await asyncio.gather(*(self._ask(source, search) for source in self._sources))
        failures = tuple(answer for answer in answers if isinstance(answer, str))
        if failures and len(failures) == len(answers):
            raise WebError("", f"no source gave an answer: {'; '.join(failures)}", hint="try other words, or try later")
        found = [answer for answer in answers if not isinstance(answer, str)]
        results = fuse_results([answer.results for answer in found], max_results=search.max_results)
        warnings = (*failures, *(warning for answer in found for warning in answer.warnings))
        return Found(results, tuple(dict.fromkeys(warnings)))

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """The page from the first source that has it. Raises NotHere, which says what each has, where none does."""
        reasons: dict[str, None] = {}
        for source in self._sources:
            try:
                return await source.fetch(url, domains)
            except NotHere as error:
                reasons.setdefault(error.message)
        said = "; ".join(reasons) or "there are no sources"
        raise NotHere(url, f"{url} cannot be fetched: {said}", hint="fetch an address that a search returned")

    async def _ask(self, source: Source, search: Search) -> Found | str:
        """What a source found, or in words why it found nothing."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await source.search(search)
        except TimeoutError:
            return f"{source.name} did not answer within {self._timeout_s:g} s"
        except LocalFusionError as error:
            return f"{source.name} failed: {error.message}" + (f" ({error.hint})" if error.hint else "")


def fuse_results(rankings: Sequence[Sequence[SearchResult]], *, max_results: int) -> tuple[SearchResult, ...]:
    """The best results of several sources, best first; an address once, and a passage that mirrors show once.

    Of the results of one address the first is shown, but one that has the whole page before one that has not.
    """
    shown: dict[str, SearchResult] = {}
    for result in (result for ranking in rankings for result in ranking):
        before = shown.get(same_address(result.url))
        if before is None or (before.page is None and result.page is not None):
            shown[same_address(result.url)] = result
    fused = fuse([[same_address(result.url) for result in ranking] for ranking in rankings])
    kept: list[SearchResult] = []
    texts: list[str] = []
    for address, score in fused:
        text = " ".join(written_words(fold(shown[address].passage)))
        if len(kept) < max_results and not any(_is_mirror(text, other) for other in texts):
            kept.append(replace(shown[address], score=score))
            texts.append(text)
    return tuple(kept)


def same_address(url: str) -> str:
    """What two addresses of one page have in common: no scheme, "www.", last slash, or parameters that only track."""
    known = canonical(url)
    if known is None:
        return url
    parts = urlsplit(known)
    fields = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in fields if name not in _TRACKING and not name.startswith("utm_")]
    query = parts.query if len(kept) == len(fields) else urlencode(kept)
    return f"{parts.netloc.removeprefix('www.')}{parts.path.rstrip('/')}{'?' if query else ''}{query}"


def _is_mirror(text: str, other: str) -> bool:
    if min(len(text), len(other)) < MIRROR_CHARACTERS:
        return False
    return fuzz.ratio(text, other, score_cutoff=MIRROR_SIMILARITY) >= MIRROR_SIMILARITY
