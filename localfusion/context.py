"""The conversation before a question, as those are told it who answer: instructions, turns, or a text. Pure.

What the caller's functions were asked and gave back is told in words, since whoever reads it may not call them.
"""

from collections.abc import Sequence

from localfusion.messages import Message

INSTRUCTIONS = "\nWhoever asks gave these instructions as well:\n"
HEADING = "# The conversation before the question\n"
_SPEAKERS = {"system": "Instructions", "user": "User", "assistant": "Assistant", "tool": "Function"}


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
    """The whole conversation as one text, to stand in front of a question; "" where there is none."""
    if not context:
        return ""
    return HEADING + "".join(f"{_SPEAKERS[message.role]}: {_told(message)}\n" for message in context) + "\n"


def _told(message: Message) -> str:
    calls = [f"I call {call.name}({call.arguments})." for call in message.function_calls]
    if message.role == "tool":
        return f"The function gave back: {message.content}"
    return "\n".join([*([message.content] if message.content else []), *calls])
