"""How much the JSON Schemas of a caller may ask for, where llguidance would compile for long and knows no limit itself.

Pure; what these limits let through, the limits of `constrain` bound. Whether a schema is valid is not known here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from localfusion.messages import Json

MOST_VALUES = 5_000
"""Members of objects and items of lists, in all schemas of a turn: two seconds of compilation at the very most."""
MOST_PATTERN_PROPERTIES = 32
"""In one schema: each is held against each."""
LARGEST_MULTIPLE = 10_000
"""The least common multiple of all `multipleOf` in one schema: as many states, which are made outside of all fuel."""


def excess(schemas: Sequence[Mapping[str, Json]]) -> tuple[int, str] | None:
    """Which of the schemas of a turn asks for too much, and for what; None where none does."""
    n_left = MOST_VALUES
    for place, schema in enumerate(schemas):
        members = list(_members(dict(schema)))
        n_left -= len(members)
        if n_left < 0:
            return place, f"more than {MOST_VALUES} keys and items in the schemas of one request"
        patterns = [value for key, value in members if key == "patternProperties"]
        if sum(len(value) for value in patterns if isinstance(value, dict)) > MOST_PATTERN_PROPERTIES:
            return place, f"more than {MOST_PATTERN_PROPERTIES} patternProperties"
        if not _are_small([value for key, value in members if key == "multipleOf"]):
            return place, f"multipleOf with a common multiple of more than {LARGEST_MULTIPLE}"
    return None


def _members(schema: Json) -> Iterator[tuple[str, Json]]:
    """All members and items at any depth, items under the key ""."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            yield from (("", item) for item in value)
            waiting += value


def _are_small(multiples: Sequence[Json]) -> bool:
    """Whether what is a multiple of all of these, as it may have to be where schemas are put together, has few states.

    Decimal places and zeros at the end cost next to nothing.
    """
    common = 1
    for value in multiples:
        if isinstance(value, int | float) and 0 < value < math.inf:
            common = math.lcm(common, int(str(Fraction(str(value)).numerator).rstrip("0")))
        if common > LARGEST_MULTIPLE:
            return False
    return True
