"""Whether the condition of a block of styles holds on an ordinary screen: wide, light, with a mouse. Others: never."""

import re

_WIDTH = 1280.0
_HEIGHT = 800.0
_PIXELS = {"px": 1.0, "em": 16.0, "rem": 16.0, "pt": 4 / 3, "cm": 37.8, "mm": 3.78, "in": 96.0}
_FEATURE = re.compile(r"\(([^()]{1,100})\)")
_LIMIT = re.compile(r"(min|max)-(?:device-)?(width|height)\s*:\s*([\d.]{1,9})(px|r?em|pt|cm|mm|in)?$")
_RANGE = re.compile(r"(width|height)\s*([<>])=?\s*([\d.]{1,9})(px|r?em|pt|cm|mm|in)?$")
_HELD = re.compile(
    r"(?:orientation\s*:\s*landscape|(?:any-)?hover\s*:\s*hover|(?:any-)?pointer\s*:\s*fine|color|hover|pointer"
    r"|prefers-color-scheme\s*:\s*light|prefers-reduced-motion\s*:\s*no-preference|scripting\s*:\s*enabled)$"
)
_GROUPS = ("@supports", "@layer", "@scope")


def applies(prelude: str) -> bool:
    """Whether the block behind an at-rule such as `@media (min-width: 40em)` counts; unknown ones do not."""
    prelude = prelude.lower()
    if prelude.startswith("@media"):
        return media_matches(prelude.removeprefix("@media"))
    return prelude.startswith(_GROUPS) and not prelude.startswith("@supports not")


def media_matches(query: str) -> bool:
    """Whether any query of a list, as in a `media` attribute too, holds; an empty one does."""
    return any(_holds(one.strip()) for one in query.lower().split(","))


def _holds(query: str) -> bool:
    if query.startswith("not"):
        inner = query.removeprefix("not").strip()
        return bool(inner) and not _holds(inner)
    kind = _FEATURE.sub(" ", query).replace("only", " ").replace("and", " ").split()
    if any(word not in ("screen", "all") for word in kind):
        return False
    return all(_has(feature.strip()) for feature in _FEATURE.findall(query))


def _has(feature: str) -> bool:
    if limit := _LIMIT.match(feature):
        actual = _WIDTH if limit[2] == "width" else _HEIGHT
        bound = _length(limit[3], limit[4])
        return actual >= bound if limit[1] == "min" else actual <= bound
    if span := _RANGE.match(feature):
        actual = _WIDTH if span[1] == "width" else _HEIGHT
        bound = _length(span[3], span[4])
        return actual >= bound if span[2] == ">" else actual <= bound
    return _HELD.match(feature) is not None


def _length(number: str, unit: str | None) -> float:
    try:
        return float(number) * _PIXELS[unit or "px"]
    except ValueError:
        return 0.0
