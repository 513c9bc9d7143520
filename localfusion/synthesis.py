"""The final answer: what the writer is asked, on the prefix that the judge has read and written already.

The writer has no tools. What it may quote are the checked quotes of the answers, nothing else.
"""

import hashlib
from collections.abc import Sequence

from localfusion.engine import grammar
from localfusion.messages import GREEDY, GenerateRequest, JudgeSpec, Message, ToolSpec, WriterSpec

INSTRUCTIONS = """\
Now write the final answer to the question, from {basis}. Say first what is agreed, give both sides of \
every contradiction, add what only one panelist found, and say what the sources do not say. Put the words \
of a source between \u201c and \u201d with its number after them, like this: \u201cwords of the source\u201d [2]. \
Do not mention the panelists."""
AS_TOLD = " Keep to the instructions of whoever asks, which stand above, where they do not speak against this."

VERSION = hashlib.sha256((INSTRUCTIONS + AS_TOLD).encode()).hexdigest()[:8]
"""Changes whenever the prompt does; stored with each run."""


def answer_request(
    spec: JudgeSpec | WriterSpec,
    judged: Sequence[Message],
    *,
    sequence: str,
    analysis: str | None,
    quotable: grammar.Quotable,
    tools: tuple[ToolSpec, ...] = (),
    is_instructed: bool = False,
) -> GenerateRequest:
    """Ask for the final answer on the kept `sequence` of the judge, or as a writer who reads the same.

    `analysis` is the judge's own JSON, None where it wrote none that can be used. `tools` are those that the template
    has rendered before: the prefix must stay the same, though none can be called any more.
    """
    return GenerateRequest(
        sequence=sequence,
        messages=conversation(judged, analysis, is_instructed=is_instructed),
        tools=tools,
        sampling=spec.sampling if isinstance(spec, WriterSpec) else GREEDY,
        max_tokens=spec.max_tokens,
        grammar="start: answer\n" + grammar.prose("answer", quotable),
        thinking=spec.thinking,
        max_thinking_tokens=spec.max_thinking_tokens,
        drafts=True,
    )


def conversation(
    judged: Sequence[Message], analysis: str | None, *, is_instructed: bool = False
) -> tuple[Message, ...]:
    """The judge's messages, its analysis, and the task; without an analysis the task stands in the first question.

    `is_instructed`: whoever asks gave instructions of his own.
    """
    basis = "your analysis and the answers" if analysis is not None else "the answers"
    text = INSTRUCTIONS.format(basis=basis) + (AS_TOLD if is_instructed else "")
    task = Message("user", text, fields={"task": "answer"})
    if analysis is None:
        return (*judged, task)
    return (*judged, Message("assistant", analysis), task)
