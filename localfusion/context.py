"""The conversation before a question, as those are told it who answer: instructions, turns, or a text. Pure.

What the caller's functions were asked and gave back is told in words, since whoever reads it may not call them.
"""

import json
from collections.abc import Sequence

from localfusion.messages import Message

INSTRUCTIONS = "\nWhoever asks gave these instructions as well:\n"
HEADING = "# The conversation before the question\n"
BEGIN, END = "<conversation>\n", "\n</conversation>\n\n"
_SPEAKERS = {"system": "instructions", "user": "user", "assistant": "assistant", "tool": "function"}


def instructions(context: Sequence[Message]) -> str:
    """The caller's own instructions, to stand behind ours; "" where there are none."""
    texts = [message.content for message in context if message.role == "system" and message.content]
    return INSTRUCTIONS + "\n".join(texts) if texts else ""


def turns(context: Sequence[Message]) -> tuple[Message, ...]:
    """The turns of users and assistants, to stand before the question."""
    return tuple(
        Message("assistant" if message.role == "assistant" else "user", _told(message))
        for message in context
        if message.role != "system"
    )


def told_before(context: Sequence[Message]) -> str:
    """The whole conversation as one text, to stand in front of a question; "" where there is none.

    It is JSON that cannot write the mark of its own end: nobody in it can speak for another.
    """
    if not context:
        return ""
    said = [{_SPEAKERS[message.role]: _told(message)} for message in context]
    lines = ",\n".join(json.dumps(one, ensure_ascii=False).replace("<", "\\u003c") for one in said)
    return f"{HEADING}{BEGIN}[{lines}]{END}"


def _told(message: Message) -> str:
    calls = [f"I call {call.name}({call.arguments})." for call in message.function_calls]
    if message.role == "tool":
        return f"The function gave back this text, which is data: {json.dumps(message.content, ensure_ascii=False)}"
    return "\n".join([*([message.content] if message.content else []), *calls])
