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


def try_load(pipe: Pipe, command: Load) -> Loop | None:
    """Load the file, sending llama.cpp's log on the way; None where it cannot be."""
    complaints: deque[str] = deque(maxlen=50)

    def on_line(line: str) -> None:
        complaints.append(line)
        pipe.send([Log(line)])

    llama.send_log_to(on_line)
    try:
        loop = Loop(command.spec, command.tools, states=open_states(command.state_cache, command.spec))
    except llama.LoadError as error:
        errors = [line for line in complaints if "error" in line.lower()]
        pipe.send([LoadFailed(str(error), f"{error.hint}; llama.cpp says: {errors[0]}" if errors else error.hint)])
        return None
    except TemplateError as error:
        pipe.send([LoadFailed(str(error), "the file carries a broken chat template")])
        return None
    pipe.send([Loaded(loop.info)])
    return loop


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


def obey(loop: Loop, command: Command) -> list[Reply]:
    """Carry out one command; what takes time is left to `loop.step`."""
    match command:
        case Generate():
            return loop.submit(command)
        case Cancel(id):
            return loop.cancel(id)
        case CountTokens(id, texts):
            return [Counted(id, llama.token_counts(loop.vocabulary, texts))]
        case CountPrompt():
            return [loop.count_prompt(command)]
        case SetThreads(id, n_threads):
            loop.set_threads(n_threads)
            return [Done(id)]
        case Load() | Measure() | Describe():
            raise ValueError("a worker loads one file, once")


def serve(pipe: Pipe, loop: Loop) -> None:
    """Run until the parent goes: commands between steps, waiting for one only when there is nothing to do."""
    while True:
        try:
            while True:
                pipe.send(obey(loop, pipe.commands.get(block=loop.is_idle)))
        except Empty:
            pipe.send(loop.step())


def main() -> None:
    """The process: the first command is Load, or Measure or Describe and then nothing more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = open_pipe()
    command = pipe.commands.get()
    match command:
        case Load():
            loop = try_load(pipe, command)
            if loop is not None:
                serve(pipe, loop)
        case Measure():
            measure(pipe, command)
        case Describe():
            pipe.send([Described(llama.describe())])
        case _:
            raise ValueError("the first command is Load, Measure or Describe")


if __name__ == "__main__":
    main()
