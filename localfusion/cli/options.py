"""Options that several commands share, and the checks that need no model: they fail before anything is started."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from localfusion.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

MAX_QUESTION_CHARACTERS = 200_000


def json_option(command: Callable[P, R]) -> Callable[P, R]:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the whole run as one JSON document.")(command)


def file_option(command: Callable[P, R]) -> Callable[P, R]:
    """-o FILE."""
    help_text = "Write the answer (or the document) to FILE instead of stdout."
    return click.option("-o", "--output", "file", type=click.Path(path_type=Path), metavar="FILE", help=help_text)(
        command
    )


def read_question(argument: str) -> str:
    """The question as it is asked; `-` is read from stdin. Raises ConfigError for one that cannot be asked."""
    text = argument
    if argument == "-":
        text = sys.stdin.buffer.read(4 * MAX_QUESTION_CHARACTERS + 1).decode("utf-8", errors="surrogateescape")
    text = text.strip()
    hint = 'write it in quotes after the options, or pipe it to "localfusion ask -"'
    if not text:
        raise ConfigError("the question is empty", hint=hint)
    if not text.isprintable() and any(0xD800 <= ord(character) < 0xE000 or character == "\0" for character in text):
        raise ConfigError("the question is not UTF-8 text", hint=hint)
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise ConfigError(
            f"the question has {len(text)} characters and at most {MAX_QUESTION_CHARACTERS} are read",
            hint="put long texts into files and name them with --docs",
        )
    return text


def check_paths(paths: tuple[str, ...]) -> tuple[Path, ...]:
    """The paths of --docs, absolute, so that a run can be resumed from anywhere."""
    for path in paths:
        if not path or not Path(path).exists():
            raise ConfigError(f"no such file or folder: {path!r}", hint="--docs takes files and folders that are there")
    return tuple(Path(path).absolute() for path in paths)
