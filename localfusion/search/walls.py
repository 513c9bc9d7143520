"""What keeps a page from being read: nothing in it, JavaScript, a login, a robot check. Judged by its words and parts.

A phrase alone is none: there must be something beside it that asks for what it says. Rather a wall is read as a page
than a page refused as a wall.
"""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

_FEW_WORDS = 150
"""A page with more words has something to say, whatever else it asks for."""
_HARDLY_ANY_WORDS = 25
_WORDS_FOR_A_PHRASE = 50
NEEDS_SCRIPTS = "the page shows nothing without JavaScript"
_ROOTS = frozenset({"root", "app", "__next", "__nuxt", "___gatsby", "svelte", "main-app", "react-root"})
"""Names of the element that a script fills."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a page has besides its text: scripts, ids, and which kinds of controls (`form`, `password`, `button`...).

    `is_for_others` says that all of its text is meant for browsers that run no scripts.
    """

    n_scripts: int = 0
    ids: AbstractSet[str] = frozenset()
    controls: AbstractSet[str] = frozenset()
    is_for_others: bool = False


@dataclass(frozen=True, slots=True)
class _Wall:
    """A phrase counts beside one of `controls`, or, where `scripts_will_do`, on a page of hardly any words."""

    clause: str
    controls: frozenset[str]
    scripts_will_do: bool
    phrases: re.Pattern[str]

    def stands(self, folded: str, n_words: int, parts: Parts) -> bool:
        """Whether this is what a short page is about."""
        has_control = not self.controls.isdisjoint(parts.controls)
        is_bare = self.scripts_will_do and n_words < _HARDLY_ANY_WORDS and parts.n_scripts > 0
        if not has_control and not is_bare and not (parts.is_for_others and self.clause == NEEDS_SCRIPTS):
            return False
        n_phrases = sum(1 for _ in self.phrases.finditer(folded))
        return n_phrases > 0 and n_words <= _WORDS_FOR_A_PHRASE * n_phrases


def _wall(clause: str, controls: str, *phrases: str, scripts_will_do: bool = False) -> _Wall:
    return _Wall(clause, frozenset(controls.split()), scripts_will_do, re.compile("|".join(phrases)))


_WALLS = (
    _wall(
        NEEDS_SCRIPTS,
        "",
        r"\b(?:(?:please|must|to) (?:enable|activate|turn on)|requires?|needs?) java ?script",
        r"(?:doesn't|does not|won't|will not|can't|cannot) \w{1,12} (?:\w{1,12} )?without java ?script",
        r"java ?script (?:is|must be|to be)? ?(?:disabled|required|enabled|needed)",
        r"(?:activez|activer|aktivieren sie|habilite?|attiva|schakel) javascript|javascript (?:aktivieren|activé)",
        scripts_will_do=True,
    ),
    _wall(
        "the page asks whether its reader is a robot",
        "form iframe",
        r"\b(?:verify(?:ing)?|confirm|prove|check(?:ing)?)\b.{0,30}\b(?:you are|you're) (?:a )?(?:human|real|not)",
        r"\b(?:i'm|i am|you are|you're) not a (?:robot|bot)\b|\bchecking your browser\b|\bjust a moment\b",
        r"\b(?:complete|solve|enter|pass|fill in) (?:the|this|a) captcha\b|\bunusual traffic\b",
        r"\bare you a robot\b|\battention required!|\baccess to this page has been denied",
        scripts_will_do=True,
    ),
    _wall(
        "the page is shown only to those who log in",
        "password",
        r"\b(?:log|sign) ?in\b|\bforgot(?:ten)? (?:your )?password|\bsubscribe to (?:continue|read|keep)",
        r"\bsubscribers only\b|\balready a subscriber\b|\bmembers only\b",
        r"\b(?:anmelden|einloggen)\b|\bconnectez-vous\b|\bse connecter\b|\binicia(?:r)? sesión\b",
    ),
    _wall(
        "the page is shown only to those who log in",
        "form",
        r"\b(?:please|must|need to|have to) (?:be logged in|log ?in|sign ?in)\b",
        r"\b(?:log|sign) ?in to (?:continue|view|read|see|access)\b|\bsubscribe to (?:continue|read|keep)",
        r"\b(?:anmelden|einloggen), um\b|\bconnectez-vous pour\b|\binicia(?:r)? sesión para\b",
    ),
    _wall(
        "the page shows nothing but a question about cookies",
        "button form",
        r"\b(?:we|this (?:web)?site|our partners)\b.{0,20}\b(?:uses?|sets?|stores?)\b.{0,20}\bcookies\b",
        r"\baccept (?:all )?cookies\b|\bcookie (?:consent|settings|preferences)\b|\bbefore you continue\b",
        r"\balle(?:n)? cookies (?:akzeptieren|zustimmen)|\baccepter (?:tous )?les cookies",
    ),
)


def wall_before(text: str, parts: Parts) -> str:
    """What keeps the page from being read, as a clause for the model; "" where it can be read.

    `text` is what the page shows.
    """
    n_words = len(text.split())
    if n_words >= _FEW_WORDS:
        return ""
    folded = " ".join(text.lower().replace("\u2019", "'").split())
    for wall in _WALLS:
        if wall.stands(folded, n_words, parts):
            return wall.clause
    waits = n_words < _HARDLY_ANY_WORDS and not _ROOTS.isdisjoint(parts.ids)
    if parts.n_scripts and (waits or not n_words):
        return NEEDS_SCRIPTS
    return "" if n_words else "there is no text in it"
