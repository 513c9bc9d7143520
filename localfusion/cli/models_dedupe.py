"""`localfusion models dedupe`: models that other programs have on this disk already, used where they are."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from localfusion.catalog.deduping import Used, candidates, remove_ours, use_in_place
from localfusion.catalog.installed import Installed
from localfusion.catalog.stores import find_stores, stored_files
from localfusion.cli.byte_progress import byte_progress
from localfusion.cli.known_models import known_models
from localfusion.cli.options import models_option
from localfusion.cli.sizes import size_text
from localfusion.cli.terminal import json_text, printable
from localfusion.config import Surroundings, make_home
from localfusion.messages import Json


@click.command()
@models_option
@click.option("--yes", is_flag=True, help="Delete our own copies of what is used elsewhere.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def dedupe(*, models: Path | None, yes: bool, as_json: bool) -> None:
    """Find models that other programs have on this disk, and use them.

    Looked through are Hugging Face's cache (HF_HUB_CACHE, HF_HOME), Ollama's store (OLLAMA_MODELS) and LM Studio's
    folder. What has a model's name or hash and its size is hashed; what is that model is used in place. Nothing of
    another program's is changed.

    \b
    Examples:
      localfusion models dedupe
      localfusion models dedupe --yes
    """
    surroundings = Surroundings.of_this_process()
    found = list(candidates(known_models(surroundings, models), stored_files(find_stores(surroundings))))
    with closing(Installed(make_home(surroundings))) as installed:
        used = []
        for one in found:
            with byte_progress(f"reading {one.first.path.name}", one.n_bytes) as on_bytes:
                used.append(use_in_place(installed, one, on_bytes=on_bytes))
        freed = sum(remove_ours(installed, one) for one in used) if yes else 0
    if as_json:
        click.echo(json_text([_document(one) for one in used]))
    else:
        _print(used)
    _say_twice(used, freed, is_deleted=yes)


def _print(used: Sequence[Used]) -> None:
    if not used:
        click.echo("no other program on this disk has a model of the catalogue", err=True)
    for one in used:
        said = f"not used: {one.problem}" if one.problem else "used in place"
        click.echo(printable(f"{one.model}  {one.store}  {size_text(one.n_bytes)}  {said}  {one.path}"))


def _say_twice(used: Sequence[Used], freed: int, *, is_deleted: bool) -> None:
    twice = sum(file.n_bytes for one in used for file in one.ours)
    if is_deleted:
        click.echo(f"freed {size_text(freed)}", err=True)
    elif twice:
        click.echo(f"{size_text(twice)} are here twice; `localfusion models dedupe --yes` deletes our copies", err=True)


def _document(one: Used) -> Json:
    return {
        "model": one.model,
        "store": one.store,
        "path": str(one.path),
        "bytes": one.n_bytes,
        "problem": one.problem or None,
        "copies": [str(file.path) for file in one.ours],
    }
