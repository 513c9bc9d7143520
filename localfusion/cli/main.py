"""The `localfusion` command: commands are imported when they are used, and every error leaves by one border."""

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from localfusion import __version__
from localfusion.cli.lazy import LazyGroup
from localfusion.cli.terminal import printable
from localfusion.errors import ConfigError, LocalFusionError, RunInterrupted

COMMANDS = {
    "ask": ("localfusion.cli.ask", "Ask a panel of local models one question."),
    "docs": ("localfusion.cli.docs", "Index folders and files ahead, list, refresh and forget them."),
    "doctor": ("localfusion.cli.doctor", "Say what this machine offers and which presets fit."),
    "fetch": ("localfusion.cli.fetch", "Fetch one address as a panelist does, and print what it would be told."),
    "models": ("localfusion.cli.models", "List, pull, verify, carry and remove models; say which presets fit."),
    "runs": ("localfusion.cli.runs", "List, show, resume and remove stored runs."),
    "search": ("localfusion.cli.search", "Search as a panelist does, and print what it would be told."),
    "serve": ("localfusion.cli.serve", "Serve this home's models over OpenAI's and OpenRouter's protocols."),
    "usage": ("localfusion.cli.usage", "Sum up what stored runs took: tokens, time, cost, tools and panels."),
}

INTERRUPTED = 130
LAST_STANDARD_STREAM = 2


@click.group(
    cls=LazyGroup, modules=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "-V", "--version", prog_name="localfusion", message="%(prog)s %(version)s")
def localfusion() -> None:
    """A panel of local GGUF models answers one question, each with its own search; a local judge compares the
    answers; the final answer is written from that, with citations that were checked.

    \b
    Examples:
      localfusion ask --docs examples/harbour "What do the sources say about Skerry?"
      localfusion runs list
    """


def main() -> NoReturn:
    """The console script. A character that the terminal's encoding lacks is shown as a question mark."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit code: 0, 1 (a run failed), 2 (the user's mistake) or 130."""
    try:
        code = localfusion.main(args=list(arguments), prog_name="localfusion", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _say(error.format_message(), _usage_hint(error), code=2)
    except LocalFusionError as error:
        return _say(error.message, error.hint, code=_exit_code(error))
    except OSError as error:
        _drop_output()
        if error.errno == errno.EPIPE:
            return 1
        return _say(f"the system refused: {error}", "check the disk, the permissions and the limits (ulimit)", code=1)
    return code if isinstance(code, int) else 0


def _exit_code(error: LocalFusionError) -> int:
    if isinstance(error, RunInterrupted):
        return INTERRUPTED
    return 2 if isinstance(error, ConfigError) else 1


def _say(message: str, hint: str, *, code: int) -> int:
    click.echo(f"error: {printable(message)}", err=True)
    if hint:
        click.echo(f"hint: {printable(hint)}", err=True)
    return code


def _usage_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"see {context.command_path if context else 'localfusion'} --help"


def _drop_output() -> None:
    """Nothing more can be written to stdout; let the interpreter's own flush at exit fail silently."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_streams() -> None:
    """Put the null device where the shell closed a stream (`>&-`), so that no file of ours gets its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD_STREAM:
        pass
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
