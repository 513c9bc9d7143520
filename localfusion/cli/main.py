"""The `localfusion` command: commands are imported when they are used, and every error leaves by one border."""

import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from localfusion import __version__
from localfusion.cli.terminal import printable
from localfusion.errors import ConfigError, LocalFusionError, RunInterrupted

COMMANDS = {
    "ask": ("localfusion.cli.ask", "Ask a panel of local models one question."),
    "runs": ("localfusion.cli.runs", "List, show, resume and remove stored runs."),
}
"""Command -> the module that holds it under its own name, and its line in the overview."""

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that knows its commands' names and one line of each, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        return _reader_gone()
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


def _reader_gone() -> int:
    """Whoever read our output has left; say nothing, and let the interpreter's own flush at exit fail silently."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
