"""The catalogue for a command, with a warning on stderr for each note of the home that had to be left out."""

from pathlib import Path

import click

from localfusion.cli.terminal import printable
from localfusion.config import ModelsFile, Surroundings, load_models


def known_models(surroundings: Surroundings, explicit: Path | None = None) -> ModelsFile:
    """`load_models`, and what it skipped is said. Raises ConfigError for a file of the user's own."""
    found = load_models(surroundings, explicit)
    for path, error in found.skipped.items():
        click.echo(printable(f"warning: a note is left out: {error.message}"), err=True)
        click.echo(printable(f"hint: correct or remove {path}"), err=True)
    return found
