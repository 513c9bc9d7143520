"""`localfusion models lint`: what is wrong or doubtful in a models file, by line."""

from pathlib import Path

import click

from localfusion.catalog.doubts import doubts
from localfusion.cli.terminal import json_text, printable
from localfusion.config import Surroundings, read_models
from localfusion.errors import ConfigError


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@click.option("--strict", is_flag=True, help="Exit with 2 where anything is doubtful.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def lint(*, file: Path | None, strict: bool, as_json: bool) -> None:
    """Say what is wrong or doubtful in a models file.

    An error ends it, as it would end any command. What is only doubtful is listed: a judge whose family sits on its
    panel, files that are missing, hashes and revisions that are not pinned, licences with conditions, providers without
    key or encryption, models without prices, fallbacks that can never step in. Without FILE it is the file in force.

    \b
    Examples:
      localfusion models lint
      localfusion models lint team.yaml --strict
    """
    extension = read_models(Surroundings.of_this_process(), file)
    found, name = doubts(extension), extension.located.name
    if as_json:
        warnings = [{"line": doubt.line, "place": doubt.place, "message": doubt.message} for doubt in found]
        click.echo(json_text({"file": name, "warnings": warnings}))
    else:
        for doubt in found:
            click.echo(printable(f"{name}:{doubt.line}: {doubt.place}: {doubt.message}"))
        click.echo(printable(f"{name}: {_count(len(found))}"), err=True)
    if strict and found:
        raise ConfigError(f"{name} has {_count(len(found))}", hint="mend them, or leave out --strict")


def _count(n_doubts: int) -> str:
    return "1 warning" if n_doubts == 1 else f"{n_doubts or 'no'} warnings"
