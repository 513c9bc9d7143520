"""Grounding: which [n] of an answer is bound to which stored text, and whether it stands there.

Pure functions over text. Panelists cite their own numbers; `renumber` makes these run-wide in panel order.
A cited sentence is *verified* when its quotation stands in the stored text and holds every number and
name of the sentence; *weak* when the quotation stands there but for spelling, or the stored text has a sentence of
most of its words, never without its numbers and names; else *not_found*. Meaning is compared elsewhere.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rapidfuzz import fuzz, process

from localfusion.analysis import Citation, Passage, Response, Support
from localfusion.search.languages import STOP_WORDS
from localfusion.search.meaning import Match

_QUOTED = re.compile("\u201c(?P<quote>[^\u201c]*?)\u201d \\[(?P<number>\\d{1,4})\\]")
_QUOTED_OR_MARK = re.compile(r"(?P<quoted>\u201c[^\u201c]*?\u201d(?= \[\d{1,4}\]))|\s?\[(?P<number>\d{1,4})\]")
"""A [n] that stands within a quotation is the source's own; it is bound to nothing of ours."""
_UNSETTLED = re.compile(r"\u201c(?:(?!\u201d \[\d{1,4}\])[^\u201c])*\Z|\s*\[\d{0,4}\Z|\s+\Z")
"""The end of a text in which what follows decides what is a quotation, a mark, or a blank before one."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W_]+(?:['’.,-][^\W_]+)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WEAK_SHARE = 0.6
_SAME_WORD, _NEARLY = 85, 92
"""Of 100, as rapidfuzz counts: how alike two words, or a quotation and what stands in the text, have to be."""
_LOOKED_AT = 8
_PLAIN_WORDS = STOP_WORDS["english"] | frozenset(
    [
        "according",
        "accounts",
        "another",
        "both",
        "documents",
        "each",
        "few",
        "however",
        "many",
        "one",
        "others",
        "records",
        "reports",
        "several",
        "sources",
        "three",
        "two",
        "yet",
    ]
)
"""Words that open an English sentence and are no name; any other must stand in the source."""
CLOSE = 0.8
"""The cosine from which on a sentence says what is cited. Not calibrated: that takes a real embedding model."""
_MOST_COMPARED = 256
_MARKS = {"'": "\u2018\u2019\u201a\u201b", '"': "\u201c\u201d\u201e", "-": "\u2010\u2011\u2012\u2013\u2014\u2212"}
_PLAIN = {ord(mark): plain for plain, marks in _MARKS.items() for mark in marks}
_STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "been", "by", "for", "from", "has", "have", "in", "is", "it", "its"}
    | {"of", "on", "or", "that", "the", "to", "was", "were", "with"}
)


Closest = Callable[[str, Sequence[str]], Awaitable[Match | None]]
"""Which of several sentences is closest in meaning to a claim; None where there is none, or nothing to tell it by."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A cited piece of an answer: `text` is the sentence without marks, `quote` what stands between “ and ”."""

    number: int
    text: str
    quote: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """A [n] and where it stands: `answer[start:end]`; `quote` is the quotation right before it, if there is one."""

    number: int
    start: int
    end: int
    quote: str | None


@dataclass(frozen=True, slots=True)
class StoredText:
    """What one source number stands for: its address, its title and the whole stored text.

    `snippets` is what search engines say that it says: it supports weakly, since nobody has seen it there.
    """

    url: str
    title: str
    text: str
    snippets: str = ""


def find_claims(answer: str) -> tuple[Claim, ...]:
    """Every [n] of `answer` with the sentence it stands behind, in order.

    A sentence that holds several quotations is cut behind each mark, so that each mark answers for its own part.
    """
    claims: list[Claim] = []
    for sentence in _sentences(answer):
        start = 0
        pending = ""
        for mark in _QUOTED_OR_MARK.finditer(sentence):
            if mark.group("quoted"):
                continue
            piece = sentence[start : mark.end()]
            number = int(mark.group("number"))
            text = _plain(piece) or pending
            claims.append(Claim(number, text, _last_quote(piece, number=number)))
            pending = text
            start = mark.end()
    return tuple(claims)


def find_marks(answer: str) -> tuple[Mark, ...]:
    """Every [n] of `answer` outside of quotations, in order."""
    quotes = {found.end(): found.group("quote") for found in _QUOTED.finditer(answer)}
    return tuple(
        Mark(int(found.group("number")), found.start("number") - 1, found.end(), quotes.get(found.end()))
        for found in _QUOTED_OR_MARK.finditer(answer)
        if not found.group("quoted")
    )


def check(answer: str, sources: Mapping[int, StoredText]) -> tuple[Citation, ...]:
    """One `Citation` for each distinct (number, claim) of `answer`; unknown numbers are `not_found`."""
    found: dict[tuple[int, str], Citation] = {}
    for claim in find_claims(answer):
        source = sources.get(claim.number)
        if source is None:
            citation = Citation(claim.number, "", "", claim.quote or claim.text, "not_found")
        else:
            quote, support = _support(claim, source.text)
            if support == "not_found" and source.snippets:
                quote, support = _support(claim, source.snippets)
                support = "weak" if support == "verified" else support
            citation = Citation(claim.number, source.url, source.title, quote, support)
        found.setdefault((citation.number, citation.quote), citation)
    return tuple(found.values())


async def check_meaning(
    answer: str, checked: Sequence[Citation], sources: Mapping[int, StoredText], closest: Closest
) -> tuple[Citation, ...]:
    """The citations of `check`, those that no words support compared by meaning: close enough, they are weak.

    Only sentences that hold every number and name of what is cited are compared, and a quotation never is: it stands
    in its source or it does not.
    """
    unquoted = {(claim.number, claim.text) for claim in find_claims(answer) if claim.quote is None}
    return tuple(
        [await _by_meaning(one, sources, closest) if (one.number, one.quote) in unquoted else one for one in checked]
    )


async def _by_meaning(citation: Citation, sources: Mapping[int, StoredText], closest: Closest) -> Citation:
    source = sources.get(citation.number)
    if citation.support != "not_found" or source is None:
        return citation
    needed = _names_and_numbers(citation.quote)
    sentences = [_squeeze(one) for one in _SENTENCE_END.split(source.text) if one.strip() and needed <= _terms(one)]
    match = await closest(citation.quote, sentences[:_MOST_COMPARED])
    if match is None or match.similarity < CLOSE:
        return citation
    return replace(citation, quote=sentences[match.index], support="weak")


def renumber(responses: Sequence[Response]) -> tuple[Response, ...]:
    """The responses with run-wide numbers: the same address has the same number, counted in the order given.

    Only addresses that an answer cites get a number; a mark without one is removed, and what it was cited for has the
    number 0.
    """
    numbers: dict[str, int] = {}
    return tuple(_renumber_one(response, numbers) for response in responses)


def quotable(responses: Iterable[Response]) -> dict[int, tuple[str, ...]]:
    """What later stages may quote: the checked quotes of the answers, by run-wide number, without repeats."""
    texts: dict[int, dict[str, None]] = {}
    for response in responses:
        for citation in response.citations:
            if citation.support != "not_found":
                texts.setdefault(citation.number, {})[citation.quote] = None
    return {number: _outermost(quotes) for number, quotes in sorted(texts.items())}


def passages_by_number(passages: Iterable[Passage]) -> dict[int, tuple[str, ...]]:
    """What a panelist may quote: the lines it has read, by its own numbers, without repeats.

    Lines of a passage need not follow one another in the page, so no quotation may run from one into the next.
    """
    texts: dict[int, dict[str, None]] = {}
    for passage in passages:
        for line in passage.text.splitlines():
            texts.setdefault(passage.number, {})[line] = None
    return {number: tuple(found) for number, found in texts.items()}


def drop_unknown_marks(answer: str, known: Iterable[int]) -> str:
    """`answer` without the [n] that are bound to no source."""
    kept = set(known)
    return _change_marks(answer, lambda mark, number: mark if number in kept else "")


class MarkDropper:
    """`drop_unknown_marks` of a stripped text that arrives in pieces: what was shown is never taken back."""

    def __init__(self, known: Iterable[int]) -> None:
        self._known = frozenset(known)
        self._held = ""
        self._has_begun = False

    def feed(self, text: str) -> str:
        """What can be shown of the text so far, and was not shown yet."""
        self._held += text
        if not self._has_begun:
            self._held = self._held.lstrip()
            self._has_begun = bool(self._held)
        unsettled = _UNSETTLED.search(self._held)
        end = len(self._held) if unsettled is None else unsettled.start()
        settled, self._held = self._held[:end], self._held[end:]
        return drop_unknown_marks(settled, self._known)

    def finish(self) -> str:
        """The rest, without blanks at the end."""
        return drop_unknown_marks(self._held.rstrip(), self._known)


def _change_marks(answer: str, change: Callable[[str, int], str]) -> str:
    """`answer` with every [n] outside of quotations, the blank before it included, as `change` makes it."""

    def changed(found: re.Match[str]) -> str:
        return found.group(0) if found.group("quoted") else change(found.group(0), int(found.group("number")))

    return _QUOTED_OR_MARK.sub(changed, answer)


def _renumber_one(response: Response, numbers: dict[str, int]) -> Response:
    mapping: dict[int, int] = {}
    for citation in response.citations:
        if citation.url and citation.support != "not_found":
            mapping[citation.number] = numbers.setdefault(citation.url, len(numbers) + 1)
    content = drop_unknown_marks(response.content, mapping)
    content = _change_marks(content, lambda mark, number: mark.replace(mark.strip(), f"[{mapping[number]}]"))
    citations = tuple(
        replace(citation, number=0 if citation.support == "not_found" else mapping[citation.number])
        for citation in response.citations
    )
    return replace(response, content=content, citations=citations)


def _support(claim: Claim, stored: str) -> tuple[str, Support]:
    text = _squeeze(stored)
    if claim.quote is not None:
        quote = _squeeze(claim.quote)
        if not quote or not _stands_in(quote, text):
            return _nearly(quote, text)
        needed = _names_and_numbers(claim.text) | _opening_name(claim.text, quote, text)
        whole = needed <= _terms(quote)
        return quote, "verified" if whole else "weak"
    sentence = _squeeze(claim.text)
    if sentence and _stands_in(sentence, text):
        return sentence, "verified"
    return _best_sentence(sentence, stored)


def _nearly(quote: str, text: str) -> tuple[str, Support]:
    """The run of words of `text` that differs from `quote` in spelling alone: marks, case, a letter here and there."""
    plain = _plainly(text)
    found = fuzz.partial_ratio_alignment(_plainly(quote), plain, score_cutoff=_NEARLY)
    if found is None or found.dest_end <= found.dest_start:
        return quote, "not_found"
    start, end = _whole_words(plain, found.dest_start, found.dest_end)
    there = text[start:end]
    return (there, "weak") if _names_and_numbers(quote) <= _terms(there) else (quote, "not_found")


def _plainly(text: str) -> str:
    """`text` without case and with plain quotation marks and dashes, each character in its place."""
    return "".join(c if len(c) == 1 else " " for c in map(str.lower, text.translate(_PLAIN)))


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return start, end


def _stands_in(quote: str, text: str) -> bool:
    """Whether `quote` stands in `text` in whole words and whole numbers: neither 4 nor 200 stands in 4,200."""
    before = r"(?<!\w)(?<!\d[.,])" if quote[0].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if quote[-1].isalnum() else ""
    return re.search(before + re.escape(quote) + after, text) is not None


def _best_sentence(sentence: str, stored: str) -> tuple[str, Support]:
    wanted = _content_words(sentence)
    candidates = [_squeeze(candidate) for candidate in _SENTENCE_END.split(stored) if candidate.strip()]
    if not wanted or not candidates:
        return sentence, "not_found"
    ranked = sorted(candidates, key=lambda candidate: -len(wanted & _content_words(candidate)))[:_LOOKED_AT]
    best = max(ranked, key=lambda candidate: _share_there(wanted, candidate))
    if _share_there(wanted, best) >= _WEAK_SHARE and _names_and_numbers(sentence) <= _terms(best):
        return best, "weak"
    return sentence, "not_found"


def _share_there(wanted: set[str], candidate: str) -> float:
    """The share of the words that the candidate has, in this spelling or nearly."""
    there = _content_words(candidate)
    return sum(word in there or _has_like(word, there) for word in wanted) / len(wanted)


def _has_like(word: str, there: set[str]) -> bool:
    return process.extractOne(word, there, scorer=fuzz.ratio, score_cutoff=_SAME_WORD) is not None


def _sentences(answer: str) -> list[str]:
    """Sentences of an answer; an end inside a quotation is none, and marks stay with the sentence before them."""
    protected = _QUOTED.sub(lambda m: re.sub(r"\s", "\x00", m.group(0)), answer)
    protected = re.sub(r"\s+(?=\[\d{1,4}\])", "\x00", protected)
    return [piece.replace("\x00", " ") for piece in _SENTENCE_END.split(protected) if piece.strip()]


def _last_quote(piece: str, *, number: int) -> str | None:
    quotes = [m.group("quote") for m in _QUOTED.finditer(piece) if int(m.group("number")) == number]
    return quotes[-1] if quotes else None


def _plain(piece: str) -> str:
    unmarked = _change_marks(piece, lambda mark, _: mark[: mark.index("[")])
    return _squeeze(unmarked.replace("\u201c", "").replace("\u201d", "")).strip(" ,;:")


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _names_and_numbers(sentence: str) -> set[str]:
    """Numbers, and capitalised words that do not begin the sentence."""
    names = {word.lower() for word in _words(sentence)[1:] if word[0].isupper()}
    return names | {number.lower() for number in _NUMBER.findall(sentence)}


def _opening_name(sentence: str, quote: str, text: str) -> set[str]:
    """The capitalised word that begins a sentence around a quotation, unless it is known for a plain word.

    Known are words of the grammar, and those that the source writes in lower case.
    """
    words = _words(sentence)
    if not words or not words[0][0].isupper() or sentence.startswith(quote):
        return set()
    first = words[0].lower()
    is_plain = first in _PLAIN_WORDS or first in _WORD.findall(text)
    return set() if is_plain else {first}


def _terms(text: str) -> set[str]:
    return {word.lower() for word in _words(text)} | set(_NUMBER.findall(text))


def _content_words(text: str) -> set[str]:
    return {word.lower() for word in _words(text)} - _STOP_WORDS


def _words(text: str) -> list[str]:
    return [re.sub(r"['’]s$", "", word) for word in _WORD.findall(text)]


def _outermost(quotes: Iterable[str]) -> tuple[str, ...]:
    """The quotes that are no part of another one."""
    unique = list(dict.fromkeys(quotes))
    return tuple(quote for quote in unique if not any(quote != other and quote in other for other in unique))
