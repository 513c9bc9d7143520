"""Text as the terms that an index holds: words without case and marks, reduced to their stems by language.

Text in scripts that part no words (Chinese, Japanese, Korean, Thai and their kin) becomes overlapping pairs of
characters; where a text is to be found, single characters too, since some are words. A number or an identifier of
several parts stands whole and in its parts. Which words are left out of a query is not decided here. Pure.
"""

import re
import threading
import unicodedata
from functools import lru_cache

import Stemmer

from localfusion.search.languages import DEFAULT

_ASCII_CHUNK = re.compile(r"\n|[a-z0-9]+(?:(?:[._:-]{1,2}|(?<=\d),(?=\d))[a-z0-9]+)*")
_PART = re.compile(r"[^\W_]+")
_JOINT = re.compile(r"[._:,-]+")
_UNPARTED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, Hangul, kana and Han: no space stands between their words, or not between all."""
_SCRIPT_RUN = re.compile(f"[{_UNPARTED}]+|[^{_UNPARTED}]+")
_UNPARTED_START = re.compile(f"[{_UNPARTED}]")
_IN_NO_TERM = re.compile(r"(?![a-z0-9._:,-])[\x00-\x7f]")
"""What the index's own tokenizer would part a term at."""
_NOT_DECOMPOSED = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i"}
)
_MAX_TERM = 64
"""Characters; what is longer is no word, and its beginning finds it as well."""
_MAX_KNOWN = 1 << 18
_BASIC_PLANE = 1 << 16


def terms(text: str, language: str = DEFAULT, *, with_characters: bool = False) -> list[str]:
    """The terms of `text` in order; of an identifier the whole before its parts.

    `with_characters` is for texts that are looked in: each character of an unparted script is a term besides its pairs.
    """
    return term_line(text, language, with_characters=with_characters).split()


def term_line(text: str, language: str = DEFAULT, *, with_characters: bool = False) -> str:
    """The terms of `text` in order, parted by single spaces; a newline stays where it is, as if it were one."""
    known = _terms_of(language, with_characters)
    return " ".join(map(known.__getitem__, _chunks(text)))


def written_words(text: str) -> list[str]:
    """The words of `text` as they stand there; an identifier is one."""
    return [word for word in _any_chunk().findall(text) if word != "\n"]


def fold(text: str) -> str:
    """`text` without case, diacritics and width."""
    folded = text.casefold()
    if folded.isascii():
        return folded
    decomposed = unicodedata.normalize("NFKD", folded.translate(_NOT_DECOMPOSED))
    return unicodedata.normalize("NFC", "".join(c for c in decomposed if not _is_diacritic(c))).casefold()


def _chunks(text: str) -> list[str]:
    """What stands between white space and punctuation, in small letters; an identifier is one of them."""
    folded = text.casefold()
    if folded.isascii():
        return _ASCII_CHUNK.findall(folded)
    return _any_chunk().findall(unicodedata.normalize("NFC", folded))


@lru_cache(maxsize=1)
def _any_chunk() -> re.Pattern[str]:
    """As `_ASCII_CHUNK` for letters of every script with the marks that belong to them."""
    marks = "".join(c for c in map(chr, range(_BASIC_PLANE)) if unicodedata.category(c)[0] == "M")
    word = f"(?:[^\\W_]|[{marks}])+"
    return re.compile(rf"\n|{word}(?:(?:[._:-]{{1,2}}|(?<=\d),(?=\d)){word})*")


class _Terms(dict[str, str]):
    """Chunk -> its terms, worked out when a chunk is first seen. Any thread may look one up."""

    def __init__(self, language: str, with_characters: bool) -> None:
        super().__init__({"\n": "\n"})
        self._language = language
        self._with_characters = with_characters
        self._stem = Stemmer.Stemmer(language, 0).stemWord
        self._lock = threading.Lock()

    def __missing__(self, chunk: str) -> str:
        with self._lock:
            found = " ".join(self._split(chunk))
            if len(self) > _MAX_KNOWN:
                self.clear()
                self["\n"] = "\n"
            self[chunk] = found
        return found

    def _split(self, chunk: str) -> list[str]:
        if chunk.isascii():
            words = _JOINT.split(chunk)
            stemmed = [str(self._stem(word[:_MAX_TERM])) for word in words]
            return [chunk[:_MAX_TERM], *stemmed] if len(words) > 1 else stemmed
        parts = [term for part in _JOINT.split(chunk) for term in self._parts(part)]
        whole = fold(chunk) if _JOINT.search(chunk) else ""
        is_plain = not _UNPARTED_START.search(whole) and not _IN_NO_TERM.search(whole)
        return [whole[:_MAX_TERM], *parts] if whole and is_plain else parts

    def _parts(self, part: str) -> list[str]:
        """A word as one stem; a run of an unparted script as pairs of characters."""
        found: list[str] = []
        for run in _SCRIPT_RUN.findall(unicodedata.normalize("NFKC", part)):
            if _UNPARTED_START.match(run):
                found += self._unparted(run)
            else:
                found += [self._reduced(word) for word in _words(run.casefold())]
        return [term for term in found if term]

    def _unparted(self, run: str) -> list[str]:
        pairs = [run[i : i + 2] for i in range(max(len(run) - 1, 1))]
        return [*pairs, *filter(str.isalnum, run)] if self._with_characters and len(run) > 1 else pairs

    def _reduced(self, word: str) -> str:
        """English is stemmed without its marks, which are foreign to it; in other languages they tell stems apart."""
        if self._language == DEFAULT:
            return str(self._stem(fold(word)[:_MAX_TERM]))
        return fold(str(self._stem(word[:_MAX_TERM])))[:_MAX_TERM]


@lru_cache(maxsize=64)
def _terms_of(language: str, with_characters: bool) -> _Terms:
    return _Terms(language, with_characters)


def _words(text: str) -> list[str]:
    """The words of a chunk after width was folded, which may have brought forth punctuation."""
    return "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()


def _is_diacritic(character: str) -> bool:
    """A mark that only colours the letter before it; vowel signs of Indic scripts are letters of their own."""
    return unicodedata.combining(character) in range(200, 241) or character in "\u0345\u0340\u0341"
