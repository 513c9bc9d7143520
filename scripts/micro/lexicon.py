"""The words of the micro panel's world: attributes, units, closed sets of values and the words of idle sentences.

It holds no sentences and draws nothing at random; `world` does that. Words listed in `RESERVED` appear in
tests and examples and therefore never in training.
"""

from dataclasses import dataclass
from typing import Literal

ValueKind = Literal["number", "colour", "material", "person", "place", "year"]


def words(text: str) -> list[str]:
    """The words of a text that lists them."""
    return text.split()


@dataclass(frozen=True, slots=True)
class Attribute:
    """What a sentence can state of an entity; `units` only where the value is a number."""

    name: str
    kind: ValueKind
    units: tuple[str, ...] = ()
    low: int = 0
    high: int = 0


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("height", "number", ("metres", "feet"), 3, 400),
    Attribute("depth", "number", ("metres", "feet", "fathoms"), 2, 300),
    Attribute("length", "number", ("metres", "feet", "miles", "kilometres"), 4, 900),
    Attribute("width", "number", ("metres", "feet"), 2, 200),
    Attribute("weight", "number", ("tonnes", "tons", "kilograms", "pounds"), 2, 9000),
    Attribute("age", "number", ("years",), 3, 900),
    Attribute("cost", "number", ("pounds", "crowns", "dollars", "euros"), 10, 9900),
    Attribute("population", "number", ("people", "inhabitants", "souls"), 12, 9900),
    Attribute("speed", "number", ("knots", "miles per hour", "kilometres per hour"), 3, 90),
    Attribute("capacity", "number", ("litres", "barrels", "passengers", "tonnes", "gallons", "people"), 6, 5000),
    Attribute("colour", "colour"),
    Attribute("material", "material"),
    Attribute("keeper", "person"),
    Attribute("owner", "person"),
    Attribute("founder", "person"),
    Attribute("architect", "person"),
    Attribute("captain", "person"),
    Attribute("builder", "person"),
    Attribute("home port", "place"),
    Attribute("birthplace", "place"),
    Attribute("river", "place"),
    Attribute("county", "place"),
    Attribute("year of founding", "year"),
    Attribute("year of completion", "year"),
)

COLOURS = words(
    "red green blue white black grey yellow brown orange purple pink silver golden crimson scarlet violet "
    "turquoise ochre ivory amber maroon cream"
)
MATERIALS = words(
    "granite oak iron steel brick marble slate timber sandstone limestone concrete copper bronze glass pine "
    "basalt clay brass teak stone wood elm"
)
SOURCE_WORDS = words(
    "Gazette Almanac Chronicle Register Ledger Survey Courier Herald Journal Annals Archive Review Mercury Post "
    "Record Bulletin Society Museum Council Guide"
)
NAME_WORDS = words(
    "Port Light Bay Point Head House Mill Bridge Tower Hall Rock Island Castle Abbey Lodge Sound Reach Cove Hill "
    "Fort Quay Farm Lake Mount Saint Cape North South East West Old New Great Little Upper Lower Star Lady Queen King"
)
FUNCTION_WORDS = words(
    "The the of is has a an According to Records records give as In in was given What Who Tell me does have do "
    "sources say about not known Which which who what by and or with for from on at it its are were be been that "
    "this there their they one two three all no more than into over after before near every each many most some "
    "web search fetch No results found result error Error document page could read timed out"
)
JSON_WORDS = words(
    "consensus contradictions topic stances model stance partial_coverage models point unique_insights insight "
    "blind_spots disagree"
)
IDLE_NOUNS = words(
    "wind rain storm tide ferry market school garden road path gull fish boat rope song fog sheep child letter "
    "bread door window winter summer autumn spring morning evening harvest stream field wall barn clock lamp bell "
    "visitor traveller baker teacher fisherman pilot sailor coast shore valley village town church library train "
    "festival meeting notice weather bird seal horse cart coat fire kettle table book map chart engine signal"
)
IDLE_VERBS = words(
    "opens closes returns sleeps sings waits rises falls drifts grows turns stops begins ends moves arrives leaves "
    "passes rests shines"
)
IDLE_ADJECTIVES = words(
    "quiet busy cold warm wet dry early late old new small large bright dark heavy light slow quick narrow wide "
    "gentle rough steady empty crowded popular famous distant local common"
)
UNITS = sorted({word for attribute in ATTRIBUTES for unit in attribute.units for word in unit.split()})
ATTRIBUTE_WORDS = sorted({word for attribute in ATTRIBUTES for word in attribute.name.split()})

RESERVED = frozenset(
    words(
        "skerry hallow merriden merrow harbour localfusion fusion micro kestrel tarn fell marrow orla tamsin quill "
        "brannock calder thornwick"
    )
)


def whole_words() -> list[str]:
    """Every word that is one token of the micro tokenizer, in a fixed order and without repeats."""
    groups = (
        FUNCTION_WORDS,
        ATTRIBUTE_WORDS,
        UNITS,
        COLOURS,
        MATERIALS,
        SOURCE_WORDS,
        NAME_WORDS,
        JSON_WORDS,
        IDLE_NOUNS,
        IDLE_VERBS,
        IDLE_ADJECTIVES,
    )
    return list(dict.fromkeys(word for group in groups for word in group))
