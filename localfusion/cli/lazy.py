"""A group of commands that imports one only to run it, so that `--help` loads click and nothing else."""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

import click

from localfusion.errors import ConfigError


def module_of_extra(name: str, *, package: str, extra: str) -> ModuleType:
    """A module that needs the package of an extra, imported when it is used. Raises ConfigError without the package."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        hint = f'install it: pip install "localfusion[{extra}]"'
        raise ConfigError(f"this needs {package}, which is not installed", hint=hint) from error


class LazyGroup(click.Group):
    """A group that knows its commands' names and one line of each.

    `modules` maps a command to the module that holds it, under its name or (`list`, a built-in's name) as
    `NAME_command`, and to its line in the overview.
    """

    def __init__(self, *, modules: Mapping[str, tuple[str, str]], **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self._modules:
            return None
        module = import_module(self._modules[cmd_name][0])
        command: click.Command = getattr(module, f"{cmd_name}_command", None) or getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        rows = [(name, line) for name, (_, line) in self._modules.items()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
