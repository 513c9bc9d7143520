"""One event of a reply as the bytes of an event stream. What events there are, and when, is not known here.

Progress of a deliberation, for a chat reply, is a field `localfusion:` of its own in the stream. A reader of event
streams ignores fields that it does not know, by the standard, and the `openai` and `openrouter` clients do: what they
would not skip is an event of another name (`openai` reads the data of every event as a chunk), or a chunk without
choices. Whoever wants it reads the lines that begin with `localfusion:`; each is one ChatProgress.
"""

import re

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": waiting\n\n"
"""A comment, which every reader skips: it says that the server lives."""

_PROGRESS = re.compile(r'\{(?:"id":"[^"]*",)?"object":"localfusion\.progress"')
_TYPE = re.compile(r'[{,]"type":"(response\.[a-z_.]+|error)"')
_HEAD = 300
"""Characters within which an event says its type: before anything that a model or a client wrote."""


def frame(text: str) -> bytes:
    """The lines of an event, given as its JSON; one of the Responses protocol is named by its type."""
    if _PROGRESS.match(text):
        return f"localfusion: {text}\n\n".encode()
    named = _TYPE.search(text, 0, _HEAD)
    head = f"event: {named[1]}\n" if named else ""
    return f"{head}data: {text}\n\n".encode()
