"""`localfusion models add`: a GGUF of the user's own as a model of the catalogue."""

from contextlib import closing
from functools import partial
from pathlib import Path

import click

from localfusion.catalog import adding
from localfusion.catalog.installed import Installed
from localfusion.cli.byte_progress import byte_progress
from localfusion.cli.known_models import known_models
from localfusion.cli.options import models_option, text_argument
from localfusion.cli.sizes import size_text
from localfusion.cli.terminal import printable
from localfusion.config import Surroundings, make_home, note


@click.command()
@click.argument("path", metavar="PATH")
@click.option("--name", metavar="NAME", help="What it is called from now on.  [default: the file's name]")
@models_option
def add(*, path: str, name: str | None, models: Path | None) -> None:
    """Add a GGUF file of your own, under a name that panels can use.

    The file stays where it is, an Ollama blob or a file of another program's too. Its header is checked, all of it is
    hashed. Of a split GGUF name the first part.

    \b
    Examples:
      localfusion models add ~/models/mistral-small.gguf
      localfusion models add ~/.ollama/models/blobs/sha256-6a0746a1ec1a --name llama
    """
    surroundings = Surroundings.of_this_process()
    file = Path(text_argument(path, "path"))
    known = known_models(surroundings, models)
    named = adding.name_for(file, known, name=name)
    header = adding.header_of(surroundings.working_directory / file.expanduser())
    with (
        closing(Installed(make_home(surroundings))) as installed,
        byte_progress(f"reading {named}", header.file_bytes) as on_bytes,
    ):
        added = adding.add(header, named, installed=installed, note=partial(note, surroundings), on_bytes=on_bytes)
    click.echo(printable(f"added {added.name}, {size_text(added.n_bytes)}, sha256 {added.sha256}"), err=True)
