"""One event of a reply as the bytes of an event stream. What events there are, and when, is not known here.

Progress of a deliberation, for a chat reply, is a field `localfusion:` of its own in the stream. A reader of event
streams ignores fields that it does not know, by the standard, and the `openai` and `openrouter` clients do: what they
would not skip is an event of another name (`openai` reads the data of every event as a chunk), or a chunk without
choices. Whoever wants it reads the lines that begin with `localfusion:`; each is one ChatProgress.
"""

import json

from localfusion.messages import Json

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": waiting\n\n"
"""A comment, which every reader skips: it says that the server lives."""

PROGRESS = "localfusion.progress"
"""The `object` of what is sent as a field of its own."""


def frame(event: Json) -> bytes:
    """The event's lines; an event that has a `type` is named by it, as the Responses protocol wants it."""
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    if not isinstance(event, dict):
        return f"data: {text}\n\n".encode()
    if event.get("object") == PROGRESS:
        return f"localfusion: {text}\n\n".encode()
    name = event.get("type")
    head = f"event: {name}\n" if isinstance(name, str) else ""
    return f"{head}data: {text}\n\n".encode()
