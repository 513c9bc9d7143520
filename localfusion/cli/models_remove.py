"""`localfusion models remove`: a model's files off this machine, as far as they are localfusion's."""

import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import click

from localfusion.catalog.installed import Installed
from localfusion.catalog.removing import Removal, carry_out, removal_of
from localfusion.cli.known_models import known_models
from localfusion.cli.options import models_option
from localfusion.cli.sizes import size_text
from localfusion.cli.terminal import printable
from localfusion.config import Surroundings, forget_note, make_home, note_path
from localfusion.errors import ConfigError


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@models_option
def remove(*, name: str, yes: bool, models: Path | None) -> None:
    """Remove a model: delete its files, or forget that it was added.

    Deleted is only what localfusion pulled itself, what a pull that was cut off has left too. Files that were added,
    and those of Hugging Face's cache, Ollama or LM Studio, stay where they are and are used no more.

    \b
    Examples:
      localfusion models remove qwen3.5-9b
      localfusion models remove mistral-small --yes
    """
    surroundings = Surroundings.of_this_process()
    known, home = known_models(surroundings, models), make_home(surroundings)
    path = note_path(surroundings, name)
    is_noted, is_unread = path.exists(), path in known.skipped
    with closing(Installed(home)) as installed:
        removal = removal_of(known, name, installed=installed, home=home, is_noted=is_noted, is_unread=is_unread)
        _confirm(removal, is_sure=yes)
        n_bytes = carry_out(removal, installed=installed, forget_note=partial(forget_note, surroundings))
    click.echo(printable(f"removed {name}: freed {size_text(n_bytes)}"), err=True)
    for path in removal.others:
        click.echo(printable(f"kept {path}"), err=True)


def _confirm(removal: Removal, *, is_sure: bool) -> None:
    """Ask; raises ConfigError where nobody can be asked, or the answer is no."""
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"removing {removal.model} was not confirmed", hint="say --yes")
    what = f"delete {size_text(removal.n_bytes)} of files" if removal.n_bytes else "forget it, and keep its file"
    if not click.confirm(printable(f"{removal.model}: {what}?"), err=True):
        raise ConfigError(f"{removal.model} was not removed", hint="nothing was changed")
