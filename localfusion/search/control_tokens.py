"""Tokens by which chat templates mark turns, as they may stand in a page's text; broken up, they are only words.

The engine breaks up the control tokens that a model's vocabulary has; some templates mark turns by plain text, which
only their families know. `<s>` and `</s>` are left to the engine: they are HTML too.
"""

import re

_TOKEN = re.compile(
    r"<\|[\w ./:-]{1,40}\|>"
    r"|<｜[\w ./:▁-]{1,40}｜>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|THINK|IMG|PREFIX|SUFFIX)\]"
    r"|<</?SYS>>"
    r"|</?(?:start_of_turn|end_of_turn|tool_calls?|tool_responses?|function_calls?|think|seed:think|longcat_\w{1,20})>"
    r"|\[(?:BEGIN|END)OFTEXT\]|\[(?:gMASK|sMASK|EOT|BOS|EOS)\]"
)


_BREAK = re.compile(r"(?<=[<\[]) (?=[|｜/<\w])")


def has_control_token(text: str) -> bool:
    """Whether `text` holds one."""
    return _TOKEN.search(text) is not None


def broken_up(text: str) -> str:
    """`text` with a space behind the first character of each control token, as the engine breaks up a model's own."""
    return _TOKEN.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def put_together(text: str) -> str:
    """`text` with what `broken_up` broke as it was before, to be looked at and not to be shown."""
    return _BREAK.sub("", text)
