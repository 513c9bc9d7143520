"""The final answer: what the writer is asked, on the prefix that the judge has read and written already.

The writer has no tools. What it may quote are the checked quotes of the answers, nothing else.
"""

import hashlib
from collections.abc import Sequence

from localfusion.engine import grammar
from localfusion.messages import GREEDY, GenerateRequest, JudgeSpec, Message, ToolSpec

INSTRUCTIONS = """\
Now write the final answer to the question, from {basis}. Say first what is agreed, give both sides of \
every contradiction, add what only one panelist found, and say what the sources do not say. Put the words \
of a source between \u201c and \u201d with its number after them, like this: \u201cwords of the source\u201d [2]. \
Do not mention the panelists."""

VERSION = hashlib.sha256(INSTRUCTIONS.encode()).hexdigest()[:8]
"""Changes whenever the prompt does; stored with each run."""


def answer_request(
    spec: JudgeSpec,
    judged: Sequence[Message],
    *,
    sequence: str,
    analysis: str | None,
    quotable: grammar.Quotable,
    tools: tuple[ToolSpec, ...] = (),
) -> GenerateRequest:
    """Ask for the final answer on the kept `sequence` of the judge.

    `analysis` is the judge's own JSON, None where it wrote none that can be used. `tools` are those that the template
    has rendered before: the prefix must stay the same, though none can be called any more.
    """
    return GenerateRequest(
        sequence=sequence,
        messages=conversation(judged, analysis),
        tools=tools,
        sampling=GREEDY,
        max_tokens=spec.max_tokens,
        grammar="start: answer\n" + grammar.prose("answer", quotable),
        thinking=spec.thinking,
        drafts=True,
    )


def conversation(judged: Sequence[Message], analysis: str | None) -> tuple[Message, ...]:
    """The judge's messages, its analysis, and the task; without an analysis the task stands in the first question."""
    basis = "your analysis and the answers" if analysis is not None else "the answers"
    task = Message("user", INSTRUCTIONS.format(basis=basis), fields={"task": "answer"})
    if analysis is None:
        return (*judged, task)
    return (*judged, Message("assistant", analysis), task)
