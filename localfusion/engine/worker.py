"""The worker process: reads commands from the pipe, steps the loop, writes replies. Started by `client`.

A thread reads commands, so that the end of the parent (the pipe closes) ends this process at once, even in
the middle of a decode. Ctrl-C is the parent's to handle. Whatever C code prints to stdout goes to stderr,
which the parent reads; the replies have a descriptor of their own.
"""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import BinaryIO

from localfusion.engine import llama
from localfusion.engine.embedding import Embedder
from localfusion.engine.footprint import DryRun, read_context
from localfusion.engine.loop import Loop, open_states
from localfusion.engine.protocol import (
    Cancel,
    Command,
    Counted,
    CountPrompt,
    CountTokens,
    Describe,
    Described,
    Done,
    Embed,
    Failed,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Log,
    Measure,
    Measured,
    Reply,
    SetThreads,
    read_command,
    to_frame,
)
from localfusion.engine.template_sandbox import TemplateError


@dataclass
class Pipe:
    """Both directions to the parent; commands arrive by a thread."""

    replies: BinaryIO
    commands: SimpleQueue[Command] = field(default_factory=SimpleQueue)

    def send(self, replies: Iterable[Reply]) -> None:
        """Write replies in order, at once."""
        frames = b"".join(map(to_frame, replies))
        if frames:
            self.replies.write(frames)
            self.replies.flush()

    def listen(self, stream: BinaryIO) -> None:
        """Queue commands until the parent closes the pipe, then end this process."""
        try:
            while (command := read_command(stream)) is not None:
                self.commands.put(command)
        finally:
            os._exit(0)


def open_pipe() -> Pipe:
    """Take stdin and stdout for the protocol and leave stderr where stdout was."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    commands = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    pipe = Pipe(replies)
    threading.Thread(target=pipe.listen, args=(commands,), daemon=True).start()
    return pipe


def try_load(pipe: Pipe, command: Load) -> Loop | Embedder | None:
    """Load the file, sending llama.cpp's log on the way; None where it cannot be."""
    complaints: deque[str] = deque(maxlen=50)

    def on_line(line: str) -> None:
        complaints.append(line)
        pipe.send([Log(line)])

    llama.send_log_to(on_line)
    try:
        loaded = load(command)
    except llama.LoadError as error:
        errors = [line for line in complaints if "error" in line.lower()]
        pipe.send([LoadFailed(str(error), f"{error.hint}; llama.cpp says: {errors[0]}" if errors else error.hint)])
        return None
    except TemplateError as error:
        pipe.send([LoadFailed(str(error), "the file carries a broken chat template")])
        return None
    pipe.send([Loaded(loaded.info)])
    return loaded


def load(command: Load) -> Loop | Embedder:
    """The file as the spec wants it: to write, or to embed; raises LoadError or TemplateError."""
    if command.spec.embeddings:
        return Embedder(command.spec)
    return Loop(command.spec, command.tools, states=open_states(command.state_cache, command.spec))


def measure(pipe: Pipe, command: Measure) -> None:
    """Answer with what loading would take."""
    try:
        log = llama.dry_run(command.spec)
    except llama.LoadError as error:
        pipe.send([LoadFailed(str(error), error.hint)])
    else:
        facts = llama.describe()
        is_integrated = facts.is_integrated(command.spec.device)
        found = DryRun(read_context(log), tuple(sorted(facts.features)), facts.has_gpu, is_integrated)
        pipe.send([Measured(found)])


def obey(loaded: Loop | Embedder, command: Command) -> list[Reply]:
    """Carry out one command; what takes time is left to `step`."""
    match command:
        case CountTokens(id, texts):
            return [Counted(id, llama.token_counts(loaded.vocabulary, texts))]
        case SetThreads(id, n_threads):
            loaded.set_threads(n_threads)
            return [Done(id)]
        case Load() | Measure() | Describe():
            raise ValueError("a worker loads one file, once")
        case _ if isinstance(loaded, Embedder):
            return obey_embedding(loaded, command)
        case _:
            return obey_writing(loaded, command)


def obey_writing(loop: Loop, command: Generate | Embed | Cancel | CountPrompt) -> list[Reply]:
    """What is asked of a model that writes."""
    match command:
        case Generate():
            return loop.submit(command)
        case Cancel(id):
            return loop.cancel(id)
        case CountPrompt():
            return [loop.count_prompt(command)]
        case Embed(id):
            return [Failed(id, "it was loaded to write, not to embed", "name an embedding model")]


def obey_embedding(embedder: Embedder, command: Generate | Embed | Cancel | CountPrompt) -> list[Reply]:
    """What is asked of a model that embeds."""
    match command:
        case Embed():
            embedder.submit(command)
        case Cancel(id):
            embedder.cancel(id)
        case Generate(id) | CountPrompt(id):
            return [Failed(id, "it was loaded to embed, not to write", "name a model that writes")]
    return []


def serve(pipe: Pipe, loaded: Loop | Embedder) -> None:
    """Run until the parent goes: commands between steps, waiting for one only when there is nothing to do."""
    while True:
        try:
            while True:
                pipe.send(obey(loaded, pipe.commands.get(block=loaded.is_idle)))
        except Empty:
            pipe.send(loaded.step())


def main() -> None:
    """The process: the first command is Load, or Measure or Describe and then nothing more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = open_pipe()
    command = pipe.commands.get()
    match command:
        case Load():
            loaded = try_load(pipe, command)
            if loaded is not None:
                serve(pipe, loaded)
        case Measure():
            measure(pipe, command)
        case Describe():
            pipe.send([Described(llama.describe())])
        case _:
            raise ValueError("the first command is Load, Measure or Describe")


if __name__ == "__main__":
    main()
