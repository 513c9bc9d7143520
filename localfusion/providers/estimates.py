"""How many tokens a text may have, where only its provider has the tokenizer. Pure; errs on the large side."""

import json
import re
from math import ceil

from localfusion.messages import Json

TURN_TOKENS = 8
"""What a turn takes beside its text: role, marks, ids."""

_WORDS = re.compile(r"[A-Za-z]+")
_OTHER = re.compile(r"[\n!-@\[-`{-~]")
_FOREIGN = re.compile(r"[^\x00-\x7f]+")


def estimated_tokens(text: str) -> int:
    """Tokens of a text: a word has one for three letters, a digit, a mark or a line break one, other scripts more.

    English prose has about a quarter fewer with any tokenizer in use. It is meant to err that way: what is estimated
    must fit a window and a limit of cost.
    """
    words = sum(ceil(len(word) / 3) for word in _WORDS.findall(text))
    foreign = sum(ceil(len(run.encode("utf-8", "replace")) / 2) for run in _FOREIGN.findall(text))
    return words + len(_OTHER.findall(text)) + foreign + text.count("  ") // 2


def estimated_prompt(body: dict[str, Json]) -> int:
    """Tokens of a request: its messages, and the tools and the schema that it describes."""
    messages = body.get("messages")
    turns = messages if isinstance(messages, list) else []
    described = [body[key] for key in ("tools", "response_format") if key in body]
    texts = [_text(turn) for turn in turns] + [json.dumps(value, ensure_ascii=False) for value in described]
    return sum(map(estimated_tokens, texts)) + TURN_TOKENS * (len(turns) + 1)


def prompt_characters(body: dict[str, Json]) -> int:
    """Characters of all messages of a request, calls included."""
    messages = body.get("messages")
    return sum(len(_text(turn)) for turn in messages) if isinstance(messages, list) else 0


def _text(turn: Json) -> str:
    if not isinstance(turn, dict):
        return ""
    calls = json.dumps(turn["tool_calls"], ensure_ascii=False) if "tool_calls" in turn else ""
    return f"{turn.get('content') or ''}{calls}"
