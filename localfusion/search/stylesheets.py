"""The style sheets that stand in a page: which declarations they have for an element. Fetches no sheet.

Selectors of tags, classes, ids and attributes, and combinations of these, where an element that must be around is
looked for among all open ones. What depends on what a reader does (`:hover`), on a place among others (`:nth-child`) or
on another element not being there (`:not`) never matches.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from localfusion.search.blocks import Unreadable
from localfusion.search.declarations import declare, merged, unescaped, without_comments
from localfusion.search.embedded_sheets import TOO_MANY
from localfusion.search.media import applies

_MARK = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|\\.|[{};]", re.DOTALL)
_NAME = r"(?:[\w-]|[^\x00-\x7f]|\\[0-9a-fA-F]{1,6}[ ]?|\\.)+"
_COMPOUND = re.compile(rf"(\*|{_NAME})?((?:[.#]{_NAME}|\[[^\]]*\])*)$")
_SIMPLE = re.compile(rf"([.#]){_NAME}|\[[^\]]*\]")
_COMBINATOR = re.compile(r"\s*([>+~])\s*|\s+")
_ATTRIBUTE = re.compile(r"\[\s*([\w-]+)\s*(?:([~|^$*]?=)\s*[\"']?(.*?)[\"']?(\x00[isIS])?)?\]$", re.DOTALL)
_CASE = re.compile(r"(?<=[\s\"'])\s*([is])\s*\]$", re.IGNORECASE)
_HEX_ESCAPE = re.compile(r"\\[0-9a-fA-F]{1,6}[ \t\n]?")
_CHOICE = re.compile(r"([^\s>+~,()]*?):(?:is|where|matches|-webkit-any)\(([^()]{1,300})\)")
_MOST_CHOICES = 4
_MOST_ALTERNATIVES = 32
_RARITY = {"#": 0, ".": 1}
_LONGEST_SELECTOR = 300
_MOST_SELECTORS = 100_000
"""Blocks and selectors of all sheets."""
_DEEPEST_NESTING = 8
_LONGEST_CAREFUL_LIST = 20_000
_MOST_CHECKS = 2_000_000
"""Comparisons of a rule with an element; more are made to keep a reader busy."""


@dataclass(frozen=True, slots=True)
class _Attribute:
    name: str
    operator: str
    value: str
    in_any_case: bool = False

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Whether an element with these attributes is meant."""
        actual = attributes.get(self.name)
        if actual is None or not self.operator:
            return actual is not None
        if self.in_any_case:
            actual = actual.lower()
        if self.operator == "=":
            return actual == self.value
        if not self.value:
            return False
        if self.operator == "~=":
            return self.value in actual.split()
        if self.operator == "|=":
            return actual == self.value or actual.startswith(f"{self.value}-")
        found = {"^=": actual.startswith(self.value), "$=": actual.endswith(self.value), "*=": self.value in actual}
        return found.get(self.operator, False)


@dataclass(frozen=True, slots=True)
class _Rule:
    """`keys` are the element's own tag, .classes and #id; `around` those of elements that must be open or before it."""

    keys: frozenset[str]
    attributes: tuple[_Attribute, ...]
    around: frozenset[str]
    beside: frozenset[str]
    weight: tuple[int, int, int, int]
    says: Mapping[str, str]


class StyleSheet:
    """The rules of all sheets of a page, by what they are about.

    `variables` are those of the whole page; `unsettled` names those that some of its elements have otherwise.
    """

    def __init__(self, sheets: Iterable[str]) -> None:
        self._rules: dict[str, list[_Rule]] = {}
        self._known: dict[tuple[str, ...], list[_Rule]] = {}
        self._n_selectors = self._n_checks = 0
        self.variables: dict[str, str] = {}
        self.unsettled: set[str] = set()
        for sheet in sheets:
            self._read(without_comments(sheet).replace("<!--", "").replace("-->", ""))

    def declared(
        self, keys: tuple[str, ...], attributes: Mapping[str, str], *, around: Container[str], before: Container[str]
    ) -> dict[str, str]:
        """What the rules say of an element with these keys, the weightiest over the others.

        `around` holds the keys of the elements that it stands in, `before` those of all that were seen. Raises
        Unreadable where there is no end of rules.
        """
        if not self._rules:
            return {}
        rules = self._candidates(keys)
        self._n_checks += len(rules)
        if self._n_checks > _MOST_CHECKS:
            raise Unreadable(TOO_MANY)
        found: dict[str, str] = {}
        for rule in rules:
            if (
                all(one.holds(attributes) for one in rule.attributes)
                and all(key in around for key in rule.around)
                and all(key in before for key in rule.beside)
            ):
                found = merged(found, rule.says)
        return found

    def _count(self) -> None:
        """One more block or selector; an end to those that have none."""
        self._n_selectors += 1
        if self._n_selectors > _MOST_SELECTORS:
            raise Unreadable(TOO_MANY)

    def _candidates(self, keys: tuple[str, ...]) -> list[_Rule]:
        """The rules whose own part fits, the lightest first."""
        rules = self._known.get(keys)
        if rules is None:
            own = set(keys)
            listed = [rule for key in ("*", *dict.fromkeys(keys)) for rule in self._rules.get(key, ())]
            self._n_checks += len(listed)
            rules = sorted((rule for rule in listed if rule.keys <= own), key=lambda rule: rule.weight)
            self._known[keys] = rules
        return rules

    def _read(self, sheet: str) -> None:
        """Take in the rules of a sheet; blocks that are never closed end where it does."""
        above: list[_Context] = []
        start = 0
        for mark in _MARK.finditer(sheet):
            if mark[0] not in ("{", "}", ";"):
                continue
            piece = sheet[start : mark.start()].strip()
            start = mark.end()
            if mark[0] == "{":
                self._count()
                above.append(_inner(above[-1] if above else _ANY, piece, len(above)))
            elif above:
                above[-1].say(piece)
            if mark[0] == "}" and above:
                self._add(above.pop())
        if above:
            above[-1].say(sheet[start:])
        for context in reversed(above):
            self._add(context)

    def _add(self, context: "_Context") -> None:
        if not context.is_active or not context.says:
            return
        for text in (one for selector in context.selectors for one in _alternatives(selector)):
            self._count()
            if _is_root(text):
                self.variables |= {name: value for name, value in context.says.items() if name.startswith("--")}
            else:
                self.unsettled.update(name for name in context.says if name.startswith("--"))
            rule = _try_rule(text, context.says, self._n_selectors)
            if rule is not None:
                self._rules.setdefault(_handle(rule.keys), []).append(rule)


@dataclass(frozen=True, slots=True)
class _Context:
    """An open block: the selectors that its declarations are for ("" in a conditional block of none), and these."""

    selectors: tuple[str, ...]
    is_active: bool
    says: dict[str, str] = field(default_factory=dict)

    def say(self, declaration: str) -> None:
        """Add a declaration that stands in the block."""
        if self.selectors and self.is_active:
            declare(self.says, declaration)


_ANY = _Context((), is_active=True)


def _inner(around: _Context, prelude: str, depth: int) -> _Context:
    """The block that a prelude opens within another."""
    if prelude.startswith("@"):
        return _Context(around.selectors, around.is_active and applies(prelude))
    selectors = tuple(one.strip() for one in _split_list(prelude))
    if around.selectors:
        nested = [_nest(outer, inner) for outer in around.selectors[:16] for inner in selectors[:16]]
        selectors = tuple(one for one in nested if len(one) <= _LONGEST_SELECTOR)
    return _Context(selectors, around.is_active and depth <= _DEEPEST_NESTING)


def _nest(outer: str, inner: str) -> str:
    return inner.replace("&", outer) if "&" in inner else f"{outer} {inner}"


def _split_list(text: str) -> list[str]:
    """The selectors of a list; commas within parentheses or brackets part none."""
    if ("(" not in text and "[" not in text) or len(text) > _LONGEST_CAREFUL_LIST:
        return text.split(",")
    return re.split(r",(?![^(\[]{0,300}[)\]])", text)


def _alternatives(selector: str) -> list[str]:
    """The selectors that one with `:is()` or `:where()` stands for; a few of them where it stands for many."""
    known = [selector]
    for _ in range(_MOST_CHOICES):
        found = _CHOICE.search(known[0]) if ":" in known[0] else None
        if not found:
            break
        choices = [one.strip() for one in found[2].split(",")][:_MOST_ALTERNATIVES]
        known = [
            f"{one[: at.start()]}{_compound(at[1], choice)}{one[at.end() :]}"
            for one in known
            if (at := _CHOICE.search(one))
            for choice in choices
        ][:_MOST_ALTERNATIVES]
    return known


def _compound(before: str, choice: str) -> str:
    """A selector that holds where both do: a tag comes first."""
    if not before or not re.match(r"[\w*]", choice):
        return before + choice
    return f"{choice}{before}" if before[0] in ".#[" else f"{before}{choice.removeprefix(before)}"


def _is_root(selector: str) -> bool:
    return selector in (":root", "html", "body", "*", ":host", ":root,:host")


def _try_rule(text: str, says: Mapping[str, str], order: int) -> _Rule | None:
    """The rule of one selector; None for one that this module does not follow."""
    if not 0 < len(text) <= _LONGEST_SELECTOR:
        return None
    text = _HEX_ESCAPE.sub(_escaped_plainly, text.replace(":root", "html"))
    pieces = _COMBINATOR.split(re.sub(r"\[[^\]]*\]", _packed, text).strip())
    compounds = [_try_compound(piece) for piece in pieces[::2]]
    if any(compound is None for compound in compounds):
        return None
    known = [compound for compound in compounds if compound is not None]
    own, attributes = known[-1]
    around: set[str] = set()
    beside: set[str] = set()
    is_beside = False
    for (keys, _), combinator in zip(reversed(known[:-1]), reversed(pieces[1::2]), strict=True):
        is_beside = combinator in ("+", "~")
        (beside if is_beside else around).update(keys)
    every = [key for keys, _ in known for key in keys]
    n_ids = sum(key.startswith("#") for key in every)
    n_classes = sum(key.startswith(".") for key in every) + sum(len(found) for _, found in known)
    weight = (n_ids, n_classes, len(every) - n_ids - n_classes, order)
    return _Rule(own, attributes, frozenset(around), frozenset(beside), weight, says)


def _escaped_plainly(found: re.Match[str]) -> str:
    """A character that was escaped by its number, without the space that ends the number."""
    character = unescaped(found[0])
    return character if character.isalnum() or character in "-_" else f"\\{character}"


def _packed(found: re.Match[str]) -> str:
    """An attribute selector without white space that would look like a combinator."""
    text = _CASE.sub("\x00" r"\1]", found[0])
    return re.sub(r"\s*([~|^$*]?=)\s*", r"\1", text).replace(" ", "").replace(">", "").replace("+", "")


def _try_compound(text: str) -> tuple[frozenset[str], tuple[_Attribute, ...]] | None:
    found = _COMPOUND.match(text)
    if not found or not text:
        return None
    keys = {unescaped(found[1]).lower()} if found[1] and found[1] != "*" else set()
    attributes: list[_Attribute] = []
    for simple in _SIMPLE.finditer(found[2]):
        if simple[1]:
            keys.add(simple[1] + unescaped(simple[0][1:]))
        elif attribute := _ATTRIBUTE.match(simple[0]):
            attributes.append(_attribute(attribute))
        else:
            return None
    return frozenset(keys), tuple(attributes)


def _attribute(found: re.Match[str]) -> _Attribute:
    in_any_case = (found[4] or "").lower().endswith("i")
    value = found[3] or ""
    return _Attribute(found[1].lower(), found[2] or "", value.lower() if in_any_case else value, in_any_case)


def _handle(keys: frozenset[str]) -> str:
    """The key under which a rule is kept: the one that the fewest elements have."""
    return min(keys, key=lambda key: (_RARITY.get(key[0], len(_RARITY)), key), default="*")
