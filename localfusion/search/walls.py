"""What keeps a page from being read: nothing in it, JavaScript, a login, a robot check. Judged by its words."""

import re
from collections.abc import Set as AbstractSet

_FEW_WORDS = 150
"""A page with more words has something to say, whatever else it asks for."""
_HARDLY_ANY_WORDS = 25
_WORDS_FOR_A_PHRASE = 50
NEEDS_SCRIPTS = "the page shows nothing without JavaScript"
_ROOTS = frozenset({"root", "app", "__next", "__nuxt", "___gatsby", "svelte", "main-app", "react-root"})
"""Names of the element that a script fills."""
_WALLS = (
    (
        NEEDS_SCRIPTS,
        (
            r"\b(?:enable|activate|turn on|requires?|needs?|without) java ?script",
            r"java ?script (?:is|must be|to be)? ?(?:disabled|required|enabled|needed)",
            r"(?:activez|activer|aktivieren sie|habilite?|attiva|schakel) javascript|javascript (?:aktivieren|activé)",
        ),
    ),
    (
        "the page asks whether its reader is a robot",
        (
            r"\b(?:verify(?:ing)?|confirm|prove|check(?:ing)?)\b.{0,30}\b(?:you are|you're) (?:a )?(?:human|real|not)",
            r"\b(?:i'm|i am|you are|you're) not a (?:robot|bot)\b|\bcaptcha\b|\bchecking your browser\b",
            r"\bunusual traffic\b|\bjust a moment\b|\bare you a robot\b|\bddos protection\b|\battention required!",
            r"\baccess to this page has been denied",
        ),
    ),
    (
        "the page is shown only to those who log in",
        (
            r"\b(?:log|sign) ?in (?:to (?:continue|view|read|see|access|your)|required|or (?:sign|register|create))",
            r"\bplease (?:log|sign) ?in\b|\bforgot(?:ten)? (?:your )?password|\bsubscribe to (?:continue|read|keep)",
            r"\byou (?:must|need to|have to) (?:be logged in|log ?in|sign ?in|register)|\bsubscribers only\b",
            r"\balready a subscriber\b|\bmembers only\b|\b(?:anmelden|einloggen), um\b|\bconnectez-vous\b",
            r"\binicia(?:r)? sesión (?:para|en)",
        ),
    ),
    (
        "the page shows nothing but a question about cookies",
        (
            r"\b(?:we|this (?:web)?site|our partners).{0,40}\bcookies\b|\baccept (?:all )?cookies\b",
            r"\bcookie (?:consent|settings|preferences)\b|\bbefore you continue\b",
            r"\balle(?:n)? cookies (?:akzeptieren|zustimmen)|\baccepter (?:tous )?les cookies",
        ),
    ),
)
_PATTERNS = tuple((clause, re.compile("|".join(patterns))) for clause, patterns in _WALLS)


def wall_before(text: str, *, n_scripts: int, ids: AbstractSet[str]) -> str:
    """What keeps the page from being read, as a clause for the model; "" where it can be read.

    `text` is what the page shows, `ids` are those of its elements.
    """
    n_words = len(text.split())
    if n_words >= _FEW_WORDS:
        return ""
    folded = " ".join(text.lower().replace("\u2019", "'").split())
    for clause, pattern in _PATTERNS:
        if _fills(pattern, folded, n_words):
            return clause
    waits = n_words < _HARDLY_ANY_WORDS and not _ROOTS.isdisjoint(ids)
    if n_scripts and (waits or not n_words):
        return NEEDS_SCRIPTS
    return "" if n_words else "there is no text in it"


def _fills(pattern: re.Pattern[str], folded: str, n_words: int) -> bool:
    """Whether such phrases are what a short page is about."""
    n_phrases = sum(1 for _ in pattern.finditer(folded))
    return n_phrases > 0 and n_words <= _WORDS_FOR_A_PHRASE * n_phrases
