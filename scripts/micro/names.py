"""Invented names of things, people, places and publications; no name has a reserved word in it."""

import random

from scripts.micro.lexicon import NAME_WORDS, RESERVED, SOURCE_WORDS, whole_words, words

ONSETS = words(
    "b br c ch cl cr d dr f fl fr g gl gr h j k kn l m n p pr qu r s sc sh sk sl sm sn sp st str t th tr tw v w wh y z"
)
VOWELS = words("a e i o u a e i o u ai ea ee oa oo ou y ey ie au")
CODAS = words("b ck d ft g k l ld ll lm lt m mp n nd ng nk nn nt p r rd rk rl rm rn rr rt s sk ss st t th tt v w x")
ENDINGS = words(
    "en er ry ley ton wick ford ham by mouth well stead holm ness port den dale more rick shaw combe worth wood field "
    "ington ick a o is an on el ia us ier ow ill et ard ence ane ine ora ena ell"
)
_TAKEN = frozenset(word.lower() for word in whole_words()) | RESERVED


def word(rng: random.Random) -> str:
    """One invented capitalised word of one to three syllables."""
    while True:
        parts = [rng.choice(ONSETS) if rng.random() < 0.85 else "", rng.choice(VOWELS)]
        if rng.random() < 0.75:
            parts.append(rng.choice(CODAS))
        if rng.random() < 0.35:
            parts += [rng.choice(ONSETS), rng.choice(VOWELS)]
            if rng.random() < 0.4:
                parts.append(rng.choice(CODAS))
        if rng.random() < 0.6:
            parts.append(rng.choice(ENDINGS))
        text = "".join(parts)
        if 3 <= len(text) <= 10 and text not in _TAKEN:
            return text.capitalize()


def entity(rng: random.Random) -> str:
    """A name of one or two words such as a lighthouse, a ship or a village could bear."""
    draw = rng.random()
    if draw < 0.45:
        return word(rng)
    if draw < 0.57:
        return f"The {word(rng)}"
    if draw < 0.75:
        return f"{rng.choice(NAME_WORDS)} {word(rng)}"
    if draw < 0.88:
        return f"{word(rng)} {rng.choice(NAME_WORDS)}"
    return f"{word(rng)} {word(rng)}"


def sibling(rng: random.Random, name: str) -> str:
    """A name that shares a word with `name` where it has two, so that one word does not tell them apart."""
    parts = name.split()
    if len(parts) == 1:
        return f"{rng.choice(NAME_WORDS)} {word(rng)}" if rng.random() < 0.3 else word(rng)
    return f"{parts[0]} {word(rng)}" if rng.random() < 0.7 else f"{word(rng)} {parts[1]}"


def person(rng: random.Random) -> str:
    """A first and a last name; at times one of them alone."""
    return word(rng) if rng.random() < 0.2 else f"{word(rng)} {word(rng)}"


def place(rng: random.Random) -> str:
    """A village, a river or a county."""
    return word(rng) if rng.random() < 0.7 else f"{rng.choice(NAME_WORDS)} {word(rng)}"


def source(rng: random.Random) -> str:
    """What stands after "According to": a publication, a person or a place's archive."""
    draw = rng.random()
    if draw < 0.5:
        return f"the {word(rng)} {rng.choice(SOURCE_WORDS)}"
    if draw < 0.7:
        return f"the {rng.choice(SOURCE_WORDS)}"
    return person(rng)
