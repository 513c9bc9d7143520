"""Fields of replies that are left out where they have no value, and not sent as null."""

from typing import Annotated, TypeVar

from pydantic import Field

T = TypeVar("T")


def _is_none(value: object) -> bool:
    return value is None


Sparse = Annotated[T | None, Field(exclude_if=_is_none)]
"""A field that is not there where it is None; a plain `T | None` is there, as null."""
