"""Options that several commands share, and the checks that need no model: they fail before anything is started."""

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click

from localfusion.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
G = TypeVar("G")

MAX_QUESTION_CHARACTERS = 200_000
UNITS: Mapping[str, int] = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
"""What a letter before "B" multiplies by; the "B" itself may be left out."""


def parse_size(_context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A number of bytes as people write it, like 12GiB, 800MB or 1.5G."""
    if value is None:
        return None
    n_bytes = _bytes(value)
    if n_bytes is None or n_bytes < 2**20:
        raise click.BadParameter(
            f"{value!r} is no size of 1 MiB or more; write it like 12GiB or 800MB", param=parameter
        )
    return n_bytes


def parse_count(_context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A number as people write it, like 200000, 200k or 1.5M."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?) ?([km])?", value.strip().lower(), flags=re.ASCII)
    if found is None:
        raise click.BadParameter(f"{value!r} is no number; write it like 200000 or 200k", param=parameter)
    return int(float(found[1]) * UNITS[found[2] or ""])


def parse_size_or_zero(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """The same, or 0."""
    return 0 if value is not None and _bytes(value) == 0 else parse_size(context, parameter, value)


def _bytes(value: str) -> int | None:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([kmg]i?)?b?", value.strip().lower(), flags=re.ASCII)
    return None if found is None else int(float(found[1]) * UNITS[found[2] or ""])


def grouped(
    group: type[G], options: Sequence[Callable[[Callable[P, R]], Callable[P, R]]]
) -> Callable[[Callable[Concatenate[G, P], R]], Callable[P, R]]:
    """Options that a command gets as one value, its first argument: a dataclass with a field for each option."""

    def decorate(command: Callable[Concatenate[G, P], R]) -> Callable[P, R]:
        @functools.wraps(command)
        def with_group(*args: P.args, **kwargs: P.kwargs) -> R:
            values = {name: kwargs.pop(name) for name in signature(group).parameters}
            return command(group(**values), *args, **kwargs)

        decorated: Callable[P, R] = with_group
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def json_option(command: Callable[P, R]) -> Callable[P, R]:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the whole run as one JSON document.")(command)


def file_option(command: Callable[P, R]) -> Callable[P, R]:
    """-o FILE."""
    help_text = "Write the answer (or the document) to FILE instead of stdout."
    return click.option("-o", "--output", "file", type=click.Path(path_type=Path), metavar="FILE", help=help_text)(
        command
    )


def models_option(command: Callable[P, R]) -> Callable[P, R]:
    """--models FILE."""
    help_text = "The models.yaml to use.  [default: LOCALFUSION_MODELS, ./models.yaml, the home's, the packaged one]"
    return click.option("--models", type=click.Path(path_type=Path), metavar="FILE", help=help_text)(command)


def memory_option(command: Callable[P, R]) -> Callable[P, R]:
    """--memory SIZE."""
    help_text = "What all models together may take, like 12GiB.  [default: what is free, less a reserve]"
    return click.option("--memory", callback=parse_size, metavar="SIZE", help=help_text)(command)


def vram_option(command: Callable[P, R]) -> Callable[P, R]:
    """--vram SIZE."""
    help_text = "What they may take of each GPU; 0 uses none.  [default: what is free, less a reserve]"
    return click.option("--vram", callback=parse_size_or_zero, metavar="SIZE", help=help_text)(command)


def read_question(argument: str) -> str:
    """The question as it is asked; `-` is read from stdin. Raises ConfigError for one that cannot be asked."""
    hint = 'write it in quotes after the options, or pipe it to "localfusion ask -"'
    if argument == "-":
        argument = sys.stdin.buffer.read(4 * MAX_QUESTION_CHARACTERS + 1).decode("utf-8", errors="surrogateescape")
    text = text_argument(argument, "question", hint=hint)
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise ConfigError(
            f"the question has {len(text)} characters and at most {MAX_QUESTION_CHARACTERS} are read",
            hint="put long texts into files and name them with --docs",
        )
    return text


def text_argument(argument: str, what: str, *, hint: str = "write it in quotes") -> str:
    """An argument that is free text, trimmed. Raises ConfigError where there is none or it is not UTF-8."""
    # In the C locale Python takes no byte of an argument beyond ASCII for text.
    text = argument if is_text(argument) else os.fsencode(argument).decode("utf-8", errors="surrogateescape")
    text = text.strip()
    if not text:
        raise ConfigError(f"the {what} is empty", hint=hint)
    if not is_text(text) or "\0" in text:
        raise ConfigError(f"the {what} is not UTF-8 text", hint=hint)
    return text


def check_paths(paths: tuple[str, ...], option: str) -> tuple[Path, ...]:
    """The paths of an option, absolute, so that a run can be resumed from anywhere. Raises ConfigError."""
    hint = f"{option} takes what is there"
    for path in paths:
        try:
            is_there = bool(path) and Path(path).exists()
        except OSError as error:
            raise ConfigError(f"{path!r} cannot be opened: {error.strerror}", hint=hint) from error
        if not is_there:
            raise ConfigError(f"no such file or folder: {path!r}", hint=hint)
        if not is_text(whole := str(Path(path).absolute())):
            raise ConfigError(f"the name {whole!a} is not UTF-8", hint="rename it")
    return tuple(Path(path).absolute() for path in paths)


def is_text(argument: str) -> bool:
    """Whether an argument can be stored and printed: no byte of it was anything but UTF-8."""
    return not any(0xD800 <= ord(character) < 0xE000 for character in argument)
