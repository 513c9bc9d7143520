"""Our frozen dataclasses as JSON values and back, by their type hints; for what is stored and for nothing else.

Strict: a key that no field has, a missing field without a default, and a value of another type are refused.
It knows no event and no request by name, and no HTTP: a wire format is `wire`'s.
"""

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from localfusion.errors import LocalFusionError
from localfusion.messages import Json

T = TypeVar("T")


class _Mismatch(ValueError):
    """A value is not of the type that its place asks for; `where` is the way to it."""

    def __init__(self, wanted: str, where: str) -> None:
        super().__init__(f"{where or 'the value'} is not {wanted}")


def to_text(value: object) -> str:
    """A dataclass as one line of compact JSON; the same value always gives the same text."""
    return json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_json(value: object) -> Json:
    """A dataclass, and every value that one may hold, as JSON values. TypeError for any other type."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be stored")


def from_text(kind: type[T], text: str) -> T:
    """The dataclass `kind` that `to_text` wrote. Raises LocalFusionError for any other text."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise LocalFusionError(f"a stored {kind.__name__} is not JSON", hint=_HINT) from error
    return from_json(kind, value)


def from_json(kind: type[T], value: Json) -> T:
    """The dataclass `kind` that `to_json` wrote. Raises LocalFusionError for any other value."""
    try:
        return cast(T, _read(kind, value, ""))
    except _Mismatch as error:
        raise LocalFusionError(f"a stored {kind.__name__} cannot be read: {error}", hint=_HINT) from error


_HINT = "it was written by another version of localfusion, or the file was changed"


def _read(hint: object, value: Json, where: str) -> object:
    """`value` as what `hint` names; `where` is the way to it, for the error."""
    if isinstance(hint, type) and is_dataclass(hint):
        return _read_dataclass(hint, value, where)
    reader = _CONTAINERS.get(get_origin(hint))
    if reader is not None:
        return reader(get_args(hint), value, where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) in (int, float):
        return float(cast(float, value))
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if hint is type(None) and value is None:
        return None
    raise _Mismatch(getattr(hint, "__name__", str(hint)), where)


def _read_dataclass(kind: type, value: Json, where: str) -> object:
    if not isinstance(value, dict):
        raise _Mismatch(f"a {kind.__name__}", where)
    known = _fields(kind)
    if unknown := value.keys() - known.keys():
        raise _Mismatch(f"a field of {kind.__name__}", f"{where}.{min(unknown)}")
    read: dict[str, object] = {}
    for name, (hint, field) in known.items():
        if name in value:
            read[name] = _read(hint, value[name], f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _Mismatch("there", f"{where}.{name}")
    made: object = kind(**read)
    return made


@cache
def _fields(kind: type) -> dict[str, tuple[object, Field[object]]]:
    hints = get_type_hints(kind)
    return {field.name: (hints[field.name], field) for field in fields(kind)}


def _read_tuple(arguments: tuple[object, ...], value: Json, where: str) -> object:
    if not isinstance(value, list):
        raise _Mismatch("a list", where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise _Mismatch(f"a list of {len(arguments)}", where)
    return tuple(
        _read(hint, item, f"{where}[{index}]") for index, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _read_mapping(arguments: tuple[object, ...], value: Json, where: str) -> object:
    if not isinstance(value, dict):
        raise _Mismatch("a mapping", where)
    return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}


def _read_union(arguments: tuple[object, ...], value: Json, where: str) -> object:
    for hint in arguments:
        try:
            return _read(hint, value, where)
        except _Mismatch:
            continue
    raise _Mismatch(" or ".join(getattr(hint, "__name__", str(hint)) for hint in arguments), where)


def _read_literal(arguments: tuple[object, ...], value: Json, where: str) -> object:
    if any(type(value) is type(choice) and value == choice for choice in arguments):
        return value
    raise _Mismatch(f"one of {', '.join(map(str, arguments))}", where)


_CONTAINERS: dict[object, Callable[[tuple[object, ...], Json, str], object]] = {
    tuple: _read_tuple,
    Mapping: _read_mapping,
    Union: _read_union,
    types.UnionType: _read_union,
    Literal: _read_literal,
}
