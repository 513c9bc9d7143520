"""Grammars (llguidance's Lark dialect) as plain text: quotes that cannot be invented, tool calls, JSON strings.

Pure strings: no tokenizer, no llguidance here, so that the parent process can compose them. What a piece
of prose may hold: any text, in which a “quotation” is a run of whole words of one source and is followed
by that source's number. The whole of it is ONE terminal: a lexer cannot back up over the bytes that “, ”
and a dash share, one regular expression never has to.

The dialect: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

OPEN_QUOTE = "\u201c"
CLOSE_QUOTE = "\u201d"

Quotable = Mapping[int, Sequence[str]]
"""Source number -> the texts of it that may be quoted; a quotation never runs from one text into the next."""

_CHUNK = re.compile(r"(?:(?<!\S)[-\u2212](?=\d))?\w+(?:(?<=\d)[.,]\d\w*)*|\W", re.DOTALL)
"""A whole word, a whole number with its sign, or one other character: a quotation is a run of these."""

_FREE_TEXT = r"/[^\u201c\u201d\x00-\x08\x0b-\x1f]*/"
_NOT_BLANK = r"/(?s:.*\S.*)/"
_FREE_JSON_TEXT = r"/([^\u201c\u201d\x22\\\x00-\x1f]|\\[\x22\\n])*/"


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


def prose(name: str, quotable: Quotable) -> str:
    """The terminal `name`: text that is not blank, in which every “...” is a run of words of source n, then ` [n]`."""
    return _prose(name, quotable, free=_FREE_TEXT, escape=str)


def json_prose(name: str, quotable: Quotable) -> str:
    """The terminal `name`: the same as `prose`, as a JSON string with its quotation marks."""
    inner = _prose(f"{name}_INNER", quotable, free=_FREE_JSON_TEXT, escape=_json_escape)
    return f'{inner}{name}: "\\"" {name}_INNER "\\""\n'


def one_of(options: Iterable[str]) -> str:
    """A group that admits exactly the given texts."""
    return "(" + " | ".join(literal(option) for option in options) + ")"


def repeated(item: str, *, at_least: int, at_most: int) -> str:
    """A comma-separated list of `item`, as it stands between the brackets of a JSON array."""
    if at_least > 0:
        return f'({item} ("," {item}){{{at_least - 1},{at_most - 1}}})'
    return f'({item} ("," {item}){{0,{at_most - 1}}})?'


def _prose(name: str, quotable: Quotable, *, free: str, escape: Callable[[str], str]) -> str:
    lines = [f"{name}_TEXT: {free}\n"]
    quotes: list[str] = []
    for number, texts in sorted(quotable.items()):
        runs = [run for run in (escape(" ".join(text.split())) for text in texts) if run]
        for position, run in enumerate(runs):
            terminal = f"{name}_Q{number}_{position}"
            lines.append(
                f'{terminal}: %regex {{ "substring_chunks": {json.dumps(_CHUNK.findall(run))} }} & /(?s:.+)/\n'
            )
            quotes.append(f'{terminal} "{CLOSE_QUOTE} [{number}]"')
    quoted = f' ("{OPEN_QUOTE}" ({" | ".join(quotes)}) {name}_TEXT)*' if quotes else ""
    lines.append(f"{name}: ({name}_TEXT{quoted}) & {_NOT_BLANK}\n")
    return "".join(lines)


def _json_escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
