"""What stands between a reader and a page: nothing in it, JavaScript, a login, a robot check. Judged by words and signs."""

import re
from collections.abc import Set as AbstractSet

_FEW_WORDS = 150
"""A page with more words has something to say, whatever else it asks for."""
_HARDLY_ANY_WORDS = 25
_ROOTS = frozenset(
    {"root", "app", "__next", "__nuxt", "___gatsby", "svelte", "main-app", "react-root", "ember-basic-dropdown"}
)
_WALLS = (
    (
        "the page shows nothing without JavaScript",
        r"\b(?:enable|activate|turn on|requires?|needs?|without) java ?script|java ?script (?:is|must be|to be)? ?(?:disabled|required|enabled|needed)"
        r"|(?:activez|activer|aktivieren sie|habilite?|attiva|schakel) java ?script|javascript (?:aktivieren|activé)",
    ),
    (
        "the page asks whether its reader is a robot",
        r"\b(?:verify(?:ing)?|confirm|prove|check(?:ing)?)\b.{0,30}\b(?:you are|you're|that you are|if you are) (?:a )?(?:human|not a robot|real)"
        r"|\b(?:i'm|i am|you are|you're) not a (?:robot|bot)\b|\bcaptcha\b|\bchecking your browser\b|\bunusual traffic\b"
        r"|\bjust a moment\b|\bare you a robot\b|\bddos protection\b|\battention required!|\baccess to this page has been denied",
    ),
    (
        "the page is shown only to those who log in",
        r"\b(?:log|sign) ?in (?:to (?:continue|view|read|see|access|your)|required|or (?:sign|register|create))|\bplease (?:log|sign) ?in\b"
        r"|\byou (?:must|need to|have to) (?:be logged in|log ?in|sign ?in|register)|\bforgot(?:ten)? (?:your )?password"
        r"|\bsubscribe to (?:continue|read|keep)|\bsubscribers only\b|\balready a subscriber\b|\bmembers only\b"
        r"|\b(?:anmelden|einloggen), um\b|\bconnectez-vous\b|\binicia(?:r)? sesión (?:para|en)",
    ),
    (
        "the page shows nothing but a question about cookies",
        r"\b(?:we|this (?:web)?site|our partners).{0,40}\bcookies\b|\baccept (?:all )?cookies\b|\bcookie (?:consent|settings|preferences)\b"
        r"|\bbefore you continue\b|\balle(?:n)? cookies (?:akzeptieren|zustimmen)|\baccepter (?:tous )?les cookies",
    ),
)
_PATTERNS = tuple((sentence, re.compile(pattern)) for sentence, pattern in _WALLS)


def wall_before(text: str, *, n_scripts: int, ids: AbstractSet[str]) -> str:
    """What keeps the page from being read, as a clause for the model; "" where it can be read."""
    n_words = len(text.split())
    if n_words >= _FEW_WORDS:
        return ""
    folded = " ".join(text.lower().replace("\u2019", "'").split())
    for sentence, pattern in _PATTERNS:
        if _fills(pattern, folded, n_words):
            return sentence
    is_scripted = n_scripts and (n_words == 0 or (n_words < _HARDLY_ANY_WORDS and not _ROOTS.isdisjoint(ids)))
    if is_scripted:
        return "the page shows nothing without JavaScript"
    return "" if n_words else "there is no text in it"


def _fills(pattern: re.Pattern[str], folded: str, n_words: int) -> bool:
    """Whether such phrases are what a short page is about: one in very few words, or one in each fifty."""
    n_phrases = sum(1 for _ in pattern.finditer(folded))
    return n_phrases > 0 and n_words <= 50 * n_phrases
