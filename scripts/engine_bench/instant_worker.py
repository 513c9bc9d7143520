"""A worker process that speaks the protocol and answers at once, what a panelist, a judge or a writer would say.

A frame for every token, written as the real worker writes them; no model and no file behind it. The tokens of each
text but a tool call are the first argument.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from localfusion.engine.protocol import (
    Cancel,
    Command,
    Counted,
    CountPrompt,
    CountTokens,
    Done,
    Generate,
    Load,
    Loaded,
    Output,
    Reply,
    SetThreads,
    read_command,
    to_frame,
)
from localfusion.messages import Completion, Delta, ModelInfo, Progress, ToolSyntax, Usage
from scripts.engine_bench.documents import QUERIES, unasked

N_PROMPT = 1000
CALL = "<call>"
INFO = ModelInfo(
    description="answers at once",
    n_ctx=1 << 20,
    n_ctx_train=1 << 20,
    n_vocab=1,
    n_params=1,
    size_bytes=1,
    special_tokens={CALL: 0},
    tool_syntax=ToolSyntax(
        before={"web_search": f"{CALL}search ", "web_fetch": f"{CALL}fetch "},
        after={"web_search": "\n", "web_fetch": "\n"},
        escaped=False,
    ),
)


def main() -> None:
    """Serve until the parent closes the pipe."""
    replies, commands = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    serve(commands, replies, n_tokens=int(sys.argv[1]))


def serve(commands: BinaryIO, replies: BinaryIO, *, n_tokens: int) -> None:
    while (command := read_command(commands)) is not None:
        for reply in answer(command, n_tokens):
            replies.write(to_frame(reply))
            replies.flush()


def answer(command: Command, n_tokens: int) -> Iterator[Reply]:
    """What a worker would reply."""
    match command:
        case Load():
            yield Loaded(INFO)
        case Generate(id, request):
            yield Output(id, Progress(N_PROMPT, N_PROMPT))
            pieces = text(request.grammar or "", n_tokens, unasked(request)[0])
            yield from (Output(id, Delta("content", piece)) for piece in pieces)
            usage = Usage(prompt_tokens=N_PROMPT, completion_tokens=len(pieces))
            yield Output(id, Completion("".join(pieces), "", "stop", usage))
        case CountTokens(id, texts):
            yield Counted(id, tuple(map(len, texts)))
        case CountPrompt(id):
            yield Counted(id, (N_PROMPT,))
        case SetThreads(id):
            yield Done(id)
        case Cancel() | _:
            pass


def text(grammar: str, n_tokens: int, query: str = QUERIES[0]) -> list[str]:
    """The tokens of a text that the grammar admits: a call where one may be made."""
    if grammar.startswith("start: call_0"):
        return [CALL, "search", " ", *query, "\n"]
    words = [" word"] * n_tokens
    if "STRING_INNER" not in grammar:
        return words
    names = ("consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots")
    before, after = json.dumps({name: ["|"] if name == "consensus" else [] for name in names}).split("|")
    return [before, *words, after]


if __name__ == "__main__":
    main()
