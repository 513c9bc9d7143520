"""What `calc()`, `min()`, `max()` and `clamp()` come to, where their units are of one kind. No variables, no layout."""

import re

_CALL = re.compile(r"(calc|min|max|clamp|)\(([^()]{1,200})\)")
_NUMBER = re.compile(r"([+-]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9}))([a-z]{0,5}|%)$")
_TERM = re.compile(r"\s+([+-])\s+")
_PRODUCT = re.compile(r"\s*([*/])\s*")
_DEEPEST = 8

_Length = tuple[float, str]


def computed(value: str) -> str:
    """The value as one number with its unit; as it is where that is not to be told."""
    if "(" not in value or len(value) > 300:
        return value
    whole = value
    for _ in range(_DEEPEST):
        found = _CALL.search(whole)
        if found is None:
            break
        result = _try_call(found[1], found[2])
        if result is None:
            return value
        whole = f"{whole[: found.start()]}{result[0]:.9g}{result[1]}{whole[found.end() :]}"
    return whole.strip()


def _try_call(name: str, inside: str) -> _Length | None:
    parts = [_try_sum(part) for part in inside.split(",")]
    if name == "min":
        return _least([part for part in parts if part is not None])
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or (name in ("", "calc") and len(known) != 1) or (name == "clamp" and len(known) != 3):
        return None
    if name == "max":
        return _one_unit(max([number for number, _ in known]), known)
    if name == "clamp":
        return _one_unit(max(known[0][0], min(known[1][0], known[2][0])), known)
    return known[0]


def _least(known: list[_Length]) -> _Length | None:
    """The smallest of some lengths; nothing is smaller than none, whatever the others are."""
    if any(number <= 0 for number, _ in known):
        return min(known)
    return _one_unit(min((number for number, _ in known), default=0.0), known)


def _try_sum(text: str) -> _Length | None:
    first, *others = _TERM.split(text.strip())
    parts = [_try_product(part) for part in (first, *others[1::2])]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    signs = [1, *(1 if sign == "+" else -1 for sign in others[::2])]
    return _one_unit(sum(sign * number for sign, (number, _) in zip(signs, known, strict=True)), known)


def _try_product(text: str) -> _Length | None:
    first, *others = _PRODUCT.split(text.strip())
    whole = _try_number(first)
    for operator, factor in zip(others[::2], others[1::2], strict=True):
        by = _try_number(factor)
        if whole is None or by is None or (whole[1] and by[1]) or (operator == "/" and (by[1] or not by[0])):
            return None
        whole = (whole[0] * by[0] if operator == "*" else whole[0] / by[0], whole[1] or by[1])
    return whole


def _one_unit(number: float, known: list[_Length]) -> _Length | None:
    """The number in the unit that all have that are not zero; None where these are several."""
    units = {unit for one, unit in known if one and unit}
    return (
        (number, units.pop() if units else "px" if any(unit for _, unit in known) else "") if len(units) < 2 else None
    )


def _try_number(text: str) -> _Length | None:
    found = _NUMBER.match(text)
    return (float(found[1]), found[2]) if found else None
