"""What a style says, as far as it can hide text: `name: value` pairs, checked. Not what comes of it."""

import re
from collections.abc import Callable, Container, Mapping

from localfusion.search.blocks import word_set
from localfusion.search.colours import try_colour

_IMPORTANT = " !"
"""At the end of a value that was marked as important."""
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})[ \t\n\r\f]?|([^\n]))")
_VARIABLE = re.compile(r"var\(\s*(--[\w-]{1,60})\s*(?:,([^()]*))?\)")
_IMAGE = re.compile(r"(?:url|image|gradient|image-set|element|var|env)\(")
_FONT_SIZE = re.compile(r"(?:^|\s)(-?[\d.]{1,12}(?:[a-z]{1,4}|%)?)\s*(?:/|\s)")
_KEYWORDS = {
    "display": word_set(
        "none block inline inline-block flex inline-flex grid inline-grid table table-row table-cell contents "
        "list-item inline-table table-row-group table-header-group table-footer-group table-caption flow-root initial "
        "inherit unset revert revert-layer -webkit-box -webkit-flex -ms-flexbox -ms-grid ruby run-in math"
    ),
    "visibility": word_set("visible hidden collapse initial inherit unset revert revert-layer"),
    "position": word_set("static relative absolute fixed sticky -webkit-sticky initial inherit unset revert"),
    "content-visibility": word_set("visible auto hidden"),
}
_LENGTH = re.compile(r"[+-]?(?:\d{1,12}\.?\d{0,12}|\.\d{1,12})(?:e[+-]?\d{1,2})?(?:[a-z]{1,5}|%)?$")
_LENGTHS = word_set(
    "left right top bottom width height max-width max-height margin-left margin-top text-indent font-size z-index "
    "opacity scale padding-top padding-bottom"
)
_SIZES = word_set("xx-small x-small small medium large x-large xx-large xxx-large smaller larger")
_WIDE = word_set("auto none inherit initial unset revert revert-layer normal")
_COMPUTED = re.compile(r"(?:calc|min|max|clamp|var|env|attr)\(")
_FREE = word_set(
    "overflow overflow-x overflow-y transform translate clip clip-path filter background-clip animation animation-name "
    "transition transition-property"
)
_COLOURS = word_set("color background-color -webkit-text-fill-color")
_COLOUR_FUNCTION = re.compile(
    r"(?:var|rgba?|hsla?|hwb|lab|lch|oklab|oklch|color|color-mix|light-dark|env)\(|currentcolor$|[a-z]{3,24}$|#[0-9a-f]{3,8}$"
)
_ALIASES = {
    "inset-inline-start": "left",
    "inset-inline-end": "right",
    "inset-block-start": "top",
    "inset-block-end": "bottom",
    "margin-inline-start": "margin-left",
    "margin-block-start": "margin-top",
    "inline-size": "width",
    "block-size": "height",
    "max-inline-size": "max-width",
    "max-block-size": "max-height",
    "-webkit-background-clip": "background-clip",
    "-webkit-clip-path": "clip-path",
    "-webkit-transform": "transform",
    "-webkit-animation": "animation",
    "-webkit-transition": "transition",
}


def declarations(text: str) -> dict[str, str]:
    """The declarations of a style attribute: property -> value, in lower case, an important one with a mark."""
    found: dict[str, str] = {}
    if "/*" in text:
        text = without_comments(text)
    for piece in text.split(";"):
        declare(found, piece)
    return found


def declare(found: dict[str, str], piece: str) -> None:
    """Add what one declaration says, if a browser would take it, over what is there; shorthands as what they set."""
    name, colon, value = piece.partition(":")
    name = name.strip().lower()
    if not colon or (len(value) > 2000 and not name.startswith("background")):
        return
    if "\\" in piece:
        name, value = unescaped(name).strip().lower(), unescaped(value)
    value = value.strip().lower()[:2000]
    body, mark, important = value.rpartition("!")
    is_important = bool(mark) and important.strip() == "important"
    value = body.strip() if is_important else value
    for key, one in _expanded(_ALIASES.get(name, name), value):
        if is_important or not found.get(key, "").endswith(_IMPORTANT):
            found[key] = f"{one}{_IMPORTANT}" if is_important else one


def merged(layers: Mapping[str, str] | None, over: Mapping[str, str]) -> dict[str, str]:
    """Declarations with those of more weight over them; an important one stays."""
    result = dict(layers or {})
    for name, value in over.items():
        if value.endswith(_IMPORTANT) or not result.get(name, "").endswith(_IMPORTANT):
            result[name] = value
    return result


def plain(found: Mapping[str, str], variables: Mapping[str, str], unsettled: Container[str] = ()) -> dict[str, str]:
    """The values alone, without marks and with variables resolved; colours are left that depend on `unsettled` ones."""
    return {
        name: _resolved(name, value.removesuffix(_IMPORTANT), variables, unsettled) for name, value in found.items()
    }


def without_comments(text: str) -> str:
    """A style sheet without its comments."""
    return _COMMENT.sub(" ", text)


def unescaped(text: str) -> str:
    """A name or a value with its backslash escapes resolved."""
    return _ESCAPE.sub(_character, text)


def _character(found: re.Match[str]) -> str:
    if not found[1]:
        return found[2]
    number = int(found[1], 16)
    return chr(number) if 0 < number < 0x110000 and not 0xD800 <= number < 0xE000 else "\ufffd"


def _resolved(name: str, value: str, variables: Mapping[str, str], unsettled: Container[str]) -> str:
    if "var(" not in value:
        return value
    written = value
    for _ in range(4):
        if name in _COLOURS and any(one[1] in unsettled for one in _VARIABLE.finditer(value)):
            return written
        value = _VARIABLE.sub(lambda found: variables.get(found[1], found[2] or "").removesuffix(_IMPORTANT), value)[
            :2000
        ]
    value = value.strip()
    if name in _COLOURS:
        return value if try_colour(value) else written
    return value if _is_valid(name, value) else ""


def _expanded(name: str, value: str) -> list[tuple[str, str]]:
    if name.startswith("--"):
        return [(name, value)]
    if shorthand := _SHORTHANDS.get(name):
        return shorthand(value)
    return [(name, value)] if _is_valid(name, value) else []


def _is_valid(name: str, value: str) -> bool:
    if name in _FREE:
        return bool(value)
    if keywords := _KEYWORDS.get(name):
        return value in keywords or value.startswith("var(")
    if name in _LENGTHS:
        return bool(_LENGTH.match(value) or _COMPUTED.match(value)) or value in _WIDE or value in _SIZES
    return name in _COLOURS and bool(_COLOUR_FUNCTION.match(value))


def _background(value: str) -> list[tuple[str, str]]:
    """A background's colour, and whether there may be an image on it."""
    image = ("background-image", "some" if _IMAGE.search(value) else "none")
    if image[1] == "some":
        return [image]
    clip = [("background-clip", "text")] if re.search(r"\btext\b", value) else []
    pieces = [value, *re.findall(r"[a-z]{2,5}a?\([^()]{1,80}\)|[#\w-]+", value)]
    colour = next((piece for piece in pieces if try_colour(piece)), "transparent")
    return [image, ("background-color", colour), *clip]


def _image(value: str) -> list[tuple[str, str]]:
    return [("background-image", "some" if _IMAGE.search(value) else "none")]


def _font(value: str) -> list[tuple[str, str]]:
    found = _FONT_SIZE.search(value)
    return [("font-size", found[1])] if found else []


def _margin(value: str) -> list[tuple[str, str]]:
    top, right, bottom, left = _sides(value)
    del right, bottom
    return [("margin-top", top), ("margin-left", left)]


def _padding(value: str) -> list[tuple[str, str]]:
    top, _, bottom, _ = _sides(value)
    return [("padding-top", top), ("padding-bottom", bottom)]


def _two(first: str, second: str) -> Callable[[str], list[tuple[str, str]]]:
    """A shorthand of one or two values."""

    def expand(value: str) -> list[tuple[str, str]]:
        values = value.split() or [""]
        return [(first, values[0]), (second, values[-1])]

    return expand


def _inset(value: str) -> list[tuple[str, str]]:
    return list(zip(("top", "right", "bottom", "left"), _sides(value), strict=True))


def _sides(value: str) -> tuple[str, str, str, str]:
    """Top, right, bottom and left of one to four values."""
    sides = value.split()[:4] or [""]
    top = sides[0]
    right = sides[1] if len(sides) > 1 else top
    bottom = sides[2] if len(sides) > 2 else top
    return top, right, bottom, sides[3] if len(sides) > 3 else right


_SHORTHANDS: Mapping[str, Callable[[str], list[tuple[str, str]]]] = {
    "background": _background,
    "background-image": _image,
    "font": _font,
    "margin": _margin,
    "padding": _padding,
    "inset": _inset,
    "inset-inline": _two("left", "right"),
    "inset-block": _two("top", "bottom"),
    "margin-inline": _two("margin-left", "margin-right"),
    "margin-block": _two("margin-top", "margin-bottom"),
}
