"""Grammars (llguidance's Lark dialect) as plain text: quotes that cannot be invented, tool calls, JSON.

Pure strings: no tokenizer, no llguidance here, so that the parent process can compose them. What a piece
of prose may hold: any text, in which a “quotation” is a run of whole words of one source and is followed
by that source's number. A lexer cannot back up over the bytes that “, ” and a dash share, so text up to and with
the “ is one lexeme and the quotation with its number is the next: each ends where nothing else could follow.
All quotations are alternatives of one lexeme, so that its automaton is made once, when the grammar is compiled.

The dialect: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from localfusion.messages import Json

JSON_STYLE: dict[str, Json] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_COMPOSING = frozenset(
    {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "patternProperties"}
    | {"dependentSchemas", "unevaluatedProperties", "minProperties", "propertyNames"}
)

OPEN_QUOTE = "\u201c"
CLOSE_QUOTE = "\u201d"

Quotable = Mapping[int, Sequence[str]]
"""Source number -> the texts of it that may be quoted; a quotation never runs from one text into the next."""

_CHUNK = re.compile(r"(?:(?<!\S)[-\u2212](?=\d))?\w+(?:(?<=\d)[.,]\d\w*)*|\W", re.DOTALL)
"""A whole word, a whole number with its sign, or one other character: a quotation is a run of these."""
_JSON_CHUNK = re.compile(rf"\\(?:u[0-9a-f]{{4}}|.)|{_CHUNK.pattern}", re.DOTALL)
"""The same in the text of a JSON string, where an escape is one character too."""

_FREE_TEXT = r"[^\u201c\u201d\x00-\x08\x0b-\x1f]"
_FREE_JSON_TEXT = r"([^\u201c\u201d\x22\\\x00-\x1f]|\\[\x22\\n])"


def literal(text: str) -> str:
    """`text` as a quoted literal of the dialect."""
    return json.dumps(text)


def with_special_tokens(text: str, special_tokens: Mapping[str, int]) -> str:
    """`text` as a sequence of literals and special tokens; a control token never matches as plain text."""
    if not text:
        return '""'
    names = sorted((name for name in special_tokens if name), key=len, reverse=True)
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
    return " ".join(
        f"<[{special_tokens[piece]}]>" if piece in special_tokens else literal(piece) for piece in pieces if piece
    )


def prose(name: str, quotable: Quotable, *, barred: str = "") -> str:
    """The rule `name`: text that is not blank, in which every “...” is a run of words of source n, then ` [n]`.

    It begins with none of the ASCII characters `barred`.
    """
    begins = f"/(?s:[^{_as_class(barred)}].*)/" if barred else ""
    return _prose(name, quotable, free=_FREE_TEXT, begins=begins, to_chunks=_CHUNK.findall)


def json_prose(name: str, quotable: Quotable) -> str:
    """The rule `name`: the same as `prose`, as a JSON string with its quotation marks."""
    inner = _prose(f"{name}_inner", quotable, free=_FREE_JSON_TEXT, begins="", to_chunks=_json_chunks)
    return f'{inner}{name}: "\\"" {name}_inner "\\""\n'


def any_text(name: str) -> str:
    """The terminal `name`: any text but none. Control tokens are no text."""
    return f"{name}: /(?s:.+)/\n"


def text_without(name: str, mark: str, *, is_anywhere: bool) -> str:
    """The terminal `name`: any text but none, that does not hold `mark`, or only does not begin with it."""
    before = "(?s:.*)" if is_anywhere else r"\s*"
    return f"{name}: /(?s:.+)/ & ~/{before}{_as_pattern(mark)}(?s:.*)/\n"


def text_up_to(name: str, mark: str) -> str:
    """The rule `name`: any text that ends with the first `mark` in it."""
    return f"{name}[lazy]: /(?s:.*){_as_pattern(mark)}/\n"


def json_value(name: str, schema: Mapping[str, Json]) -> str:
    """The rule `name`, one line: JSON of a JSON Schema, written as Python writes it on one line.

    White space is where it must be and nowhere else, so that a weak model cannot write blanks without end.
    """
    return f"{name}: %json {json.dumps({**closed(schema), 'x-guidance': JSON_STYLE})}\n"


def closed(schema: Mapping[str, Json]) -> dict[str, Json]:
    """The schema with all objects closed that name their properties and do not say whether there may be others.

    JSON of it is JSON of the schema: a model is only kept from making up names. Left as they are: schemas that are put
    together, where closing a part could leave nothing.
    """
    properties, required = schema.get("properties"), schema.get("required", [])
    items = schema.get("items")
    inner: dict[str, Json] = {"items": closed(items)} if isinstance(items, dict) else {}
    if _COMPOSING & set(schema):
        return dict(schema)
    if isinstance(properties, dict) and properties and isinstance(required, list):
        inner["properties"] = {k: closed(v) if isinstance(v, dict) else v for k, v in properties.items()}
        if "additionalProperties" not in schema and all(key in properties for key in required):
            inner["additionalProperties"] = False
    return {**schema, **inner}


def line_of_text(name: str, *, barred: str, max_tokens: int) -> str:
    """The rule `name`: one line of text with a word in it, without the ASCII characters `barred`, `"` and a backslash.

    Its length is bounded in tokens: a bound in characters would be a state for each, and masks are made by state.
    """
    free = f'[^"\\\\\\x00-\\x1f{_as_class(barred)}]'
    return f"{name}[max_tokens={max_tokens}]: /{free}*\\w{free}*/\n"


def one_of(options: Iterable[str]) -> str:
    """A group that admits exactly the given texts."""
    return "(" + " | ".join(literal(option) for option in options) + ")"


def _prose(name: str, quotable: Quotable, *, free: str, begins: str, to_chunks: Callable[[str], list[str]]) -> str:
    terminal = name.upper()
    also = f" & {begins}" if begins else ""
    lines = [f"{terminal}_ALONE: /{free}*/ & /(?s:.*\\S.*)/{also}\n"]
    quotations: list[str] = []
    for number, texts in sorted(quotable.items()):
        runs = [chunks for text in texts if (chunks := to_chunks(" ".join(text.split())))]
        names = [f"{terminal}_Q{number}_{position}" for position in range(len(runs))]
        for run_name, chunks in zip(names, runs, strict=True):
            lines.append(f'{run_name}: %regex {{ "substring_chunks": {json.dumps(chunks)} }}\n')
        if names:
            quotations.append(f'({" | ".join(names)}) "{CLOSE_QUOTE} [{number}]"')
    if not quotations:
        return "".join([*lines, f"{name}: {terminal}_ALONE\n"])
    lines += [
        f"{terminal}_FIRST: /{free}*{OPEN_QUOTE}/{also}\n",
        f"{terminal}_NEXT: /{free}*{OPEN_QUOTE}/\n",
        f"{terminal}_REST: /{free}+/\n",
        f"{terminal}_QUOTATION: ({' | '.join(quotations)}) & /[^{CLOSE_QUOTE}](?s:.*)/\n",
        f"{name}_quotation[lazy]: {terminal}_QUOTATION\n",
        f"{name}_quoting: {terminal}_FIRST {name}_quotation ({terminal}_NEXT {name}_quotation)* {terminal}_REST?\n",
        f"{name}: {terminal}_ALONE | {name}_quoting\n",
    ]
    return "".join(lines)


def _as_pattern(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _as_class(characters: str) -> str:
    return "".join(f"\\x{ord(character):02x}" for character in sorted(set(characters)) if character.isascii())


def _json_chunks(text: str) -> list[str]:
    return _JSON_CHUNK.findall(json.dumps(text, ensure_ascii=False)[1:-1])
