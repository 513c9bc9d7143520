"""A YAML file as a checked value, with errors that name line and key. Knows no file and no key by name."""

import re
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from localfusion.config.located import MAX_CHARACTERS, Located, Location, read_yaml
from localfusion.domains import parse_domains
from localfusion.errors import ConfigError


class Entry(BaseModel):
    """What every part of the file has in common: no unknown keys, no conversions, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _one_line(value: str) -> str:
    if not value.strip() or len(value) > 4096 or any(ord(c) < 32 for c in value):
        raise ValueError("must be a path on one line")
    return value


def _domain(value: str) -> str:
    try:
        parse_domains(allowed=(value,))
    except ConfigError as error:
        raise ValueError(f"has no domain in it ({error.hint})") from error
    return value


OneLine = Annotated[str, AfterValidator(_one_line)]
"""A path as people write it."""
Domain = Annotated[str, AfterValidator(_domain)]
DOMAINS = "`example.com` (subdomains too), `*.example.com`, `example.com/docs`, or a list such as `@benchmarks`."

Checked = TypeVar("Checked", bound=Entry)


def read_file(path: Path, what: str, hint: str) -> Located:
    """The values of a YAML file; raises ConfigError with `hint` where it cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(4 * MAX_CHARACTERS + 1).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {what} {path} is not UTF-8 text", hint=hint) from error
    return read_yaml(text, name=str(path))


def checked(located: Located, kind: type[Checked]) -> Checked:
    """The values of a file as `kind`; the first complaint by line is a ConfigError."""
    value = {} if located.value is None and not _required(kind) else located.value
    if not isinstance(value, dict):
        raise located.error((), "the file must be a mapping", hint=_keys_hint(kind))
    try:
        return kind.model_validate({key: entry for key, entry in value.items() if entry is not None or _required(kind)})
    except ValidationError as error:
        raise _first_error(located, error, kind) from error


def _required(kind: type[Entry]) -> bool:
    """Whether a file of this kind must say anything; another may be empty, or have keys with nothing below them."""
    return any(field.is_required() for field in kind.model_fields.values())


def _first_error(located: Located, error: ValidationError, kind: type[Entry]) -> ConfigError:
    """The first complaint by line; several complaints about one value are joined."""
    details = error.errors(include_url=False)
    first = min(details, key=lambda detail: located.line(detail["loc"]))
    location = _known(located, first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        return located.error(
            location, f'unknown key "{key}"', hint=_keys_hint(_entry_at(kind, location[:-1]), guess=key)
        )
    if first["type"] == "missing":
        return located.error(
            location, f'the key "{first["loc"][-1]}" is missing', hint=_keys_hint(_entry_at(kind, location))
        )
    same = [detail for detail in details if _known(located, detail["loc"]) == location]
    message = " or ".join(dict.fromkeys(_sentence(detail) for detail in same))
    return located.error(location, f"{_dotted(location)} {message}", hint=_meaning(location, kind))


def _known(located: Located, location: Location) -> Location:
    """The part of a location that the file has; pydantic adds the branch of a union behind it."""
    while location and location not in located.lines:
        location = location[:-1]
    return location


def _sentence(detail: ErrorDetails) -> str:
    if detail["type"] in ("model_type", "dict_type"):
        return "must be a mapping"
    if detail["type"] == "tuple_type":
        return "must be a list"
    text = detail["msg"].removeprefix("Value error, ")
    return re.sub(r"^\w+ should", "must", text).replace(" after validation", "")


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _meaning(location: Location, kind: type[Entry]) -> str:
    """What the documentation says of the key at a location, or which keys there are."""
    field = _entry_at(kind, location[:-1]).model_fields.get(str(location[-1])) if location else None
    if field is None or field.description is None:
        return _keys_hint(_entry_at(kind, location))
    return f"{location[-1]}: {field.description}"


def _entry_at(kind: type[Entry], location: Location) -> type[Entry]:
    """Which entry a place of the file is in: the last one on the way there, by the types of the fields."""
    entry, hint = kind, _bare(kind)
    for part in location:
        hint = _below(hint, part)
        if isinstance(hint, type) and issubclass(hint, Entry):
            entry = hint
    return entry


def _below(hint: object, part: str | int) -> object:
    """The type of what stands under a key, or at a place, of a value of this type."""
    if isinstance(hint, type) and issubclass(hint, Entry):
        field = hint.model_fields.get(str(part))
        return None if field is None else _bare(field.annotation)
    if get_origin(hint) is dict:
        return _bare(get_args(hint)[1])
    return _bare(get_args(hint)[0]) if get_origin(hint) is tuple else None


def _bare(hint: object) -> object:
    """A type without its bounds, and without the None that it may be instead."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return _bare(get_args(hint)[0])
    return hint


def _keys_hint(entry: type[Entry], *, guess: str = "") -> str:
    """Says which keys a place of the file has, the nearest to a mistyped one first."""
    keys = list(entry.model_fields)
    near = get_close_matches(guess, keys, n=1)
    return (f'did you mean "{near[0]}"? ' if near else "") + f"the keys here are {', '.join(keys)}"
