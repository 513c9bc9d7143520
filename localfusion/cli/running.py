"""Carrying out a run for a person: shows it while it lasts, hands over what it came to, names how it ended."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from localfusion.cli.answer import analysis_text, answer_text
from localfusion.cli.live import Emit, shown
from localfusion.errors import ConfigError, DeliberationFailed, LocalFusionError, RunInterrupted
from localfusion.events import AnswerCompleted, DocumentsRead, Event, RunResumed, RunStarted
from localfusion.outcome import Outcome
from localfusion.wire.document import document

Start = Callable[[Emit], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Output:
    """How the outcome is written, and where to; `file` None is stdout."""

    as_json: bool = False
    file: Path | None = None


def carry_out(start: Start, output: Output, *, stored: bool, history: Iterable[Event] = ()) -> None:
    """Run to the end and hand over the outcome; raises DeliberationFailed or RunInterrupted for any other end."""
    check_writable(output)
    run_id, is_answered = "", False
    console = Console(stderr=True, highlight=False)

    async def run(emit: Emit) -> Outcome:
        def listen(event: Event) -> None:
            nonlocal run_id, is_answered
            if isinstance(event, RunStarted | RunResumed | DocumentsRead):
                run_id = event.run_id
            is_answered = is_answered or isinstance(event, AnswerCompleted)
            emit(event)

        return await start(listen)

    try:
        with shown(console, history=history) as emit:
            outcome = _finish(run(emit))
    except KeyboardInterrupt:
        hint = _resume_hint(run_id, stored=stored, is_answered=is_answered)
        raise RunInterrupted("the run was interrupted", hint=hint) from None
    hand_over(outcome, output)
    if outcome.status == "interrupted":
        raise RunInterrupted("the run was interrupted", hint=_resume_hint(run_id, stored=stored))
    if outcome.status == "error":
        raise DeliberationFailed(
            outcome.error or "the run failed",
            failure_reason=outcome.failure_reason or "unexpected_error",
            hint=_failure_hint(outcome) or _resume_hint(run_id, stored=stored),
        )


def _finish(work: Coroutine[None, None, Outcome]) -> Outcome:
    """The one place where an event loop runs; of errors that tasks raised together the first is told."""
    try:
        return asyncio.run(work)
    except ExceptionGroup as group:
        ours, others = group.split(LocalFusionError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from group


def _first(group: ExceptionGroup[LocalFusionError]) -> LocalFusionError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def hand_over(outcome: Outcome, output: Output) -> None:
    """The analysis to stderr; the answer, or the whole document, to stdout or its file."""
    if output.as_json:
        escaped = output.file is None and "utf" not in (sys.stdout.encoding or "").lower()
        text = json.dumps(document(outcome), ensure_ascii=escaped, indent=2)
    else:
        text = answer_text(outcome)
        _show_analysis(outcome)
    if output.file is not None:
        _write(output.file, text + "\n")
        click.echo(f"written to {output.file}", err=True)
    elif text:
        click.echo(text)


def check_writable(output: Output) -> None:
    """Refuse a target that could not be written in the end, before the work is done."""
    if output.file is None:
        return
    file, folder = output.file, output.file.parent
    try:
        is_folder, has_folder, is_device = file.is_dir(), folder.is_dir(), _is_device(file)
    except OSError as error:
        raise _refused(file, error) from error
    if is_folder:
        raise ConfigError(f"{file} is a folder", hint="name a file with -o")
    if not has_folder:
        raise ConfigError(f"the folder {folder} is not there", hint="create it, or name another file with -o")
    if not os.access(file if is_device else folder, os.W_OK):
        raise ConfigError(f"the folder {folder} cannot be written", hint="name a file elsewhere with -o")


def _write(file: Path, text: str) -> None:
    """All of the text or the file as it was; straight into what is no file, such as /dev/null or a named pipe."""
    target = Path(os.path.realpath(file))
    draft = target.with_name(f".localfusion.{os.getpid()}.tmp")
    try:
        if _is_device(file):
            file.write_text(text, encoding="utf-8")
        else:
            draft.write_text(text, encoding="utf-8")
            draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _refused(file, error) from error


def _is_device(file: Path) -> bool:
    """Whether something is there that must not be replaced by a file."""
    return file.exists() and not file.is_file()


def _refused(file: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{file} cannot be written: {error.strerror}", hint="name another file with -o")


def _show_analysis(outcome: Outcome) -> None:
    text = analysis_text(outcome)
    if not text:
        return
    console = Console(stderr=True, highlight=False)
    console.print()
    for line in text.splitlines():
        console.print(Text(line, style="" if line.startswith(" ") else "bold"), soft_wrap=True)
    if sys.stdout.isatty():
        console.print()


def _failure_hint(outcome: Outcome) -> str:
    """What to do where no panelist answered: the hint of the first; going on with the run would fail again."""
    return next((failed.hint for failed in outcome.failed_models if failed.hint and not outcome.responses), "")


def _resume_hint(run_id: str, *, stored: bool, is_answered: bool = False) -> str:
    if not stored or not run_id:
        return "ask again"
    if is_answered:
        return f"localfusion runs show {run_id} shows what it came to"
    return f"localfusion runs resume {run_id} goes on with what is missing"
