"""`localfusion models verify`: every installed file hashed anew, and which of three things changed."""

import sys
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from localfusion.catalog.gguf_files import expanded
from localfusion.catalog.installed import Installed
from localfusion.catalog.verifying import SAID, WRONG, Subject, Verdict, subjects, verify
from localfusion.catalog.wanted import named_models, wanted
from localfusion.cli.known_models import known_models
from localfusion.cli.options import models_option
from localfusion.cli.terminal import json_text, printable, tail
from localfusion.config import ModelsFile, Surroundings, make_home
from localfusion.errors import ConfigError, LocalFusionError
from localfusion.messages import Json

_NAME_WIDTH = 40


@click.command("verify")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@models_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead.")
def verify_command(*, names: tuple[str, ...], models: Path | None, as_json: bool) -> None:
    """Hash installed models anew and say what changed.

    Compares each file with what was recorded when it was pulled or found, and with what models.yaml names: a file that
    was replaced, one that is damaged, a models.yaml that changed, a file that is gone. Files of other programs' stores
    that localfusion uses are among them. NAME is a model or a preset. Exit code 1 where anything is wrong.

    \b
    Examples:
      localfusion models verify
      localfusion models verify general-fast --json
    """
    surroundings = Surroundings.of_this_process()
    file = known_models(surroundings, models)
    meant = [model for name in names or file.models for model in named_models(file, name)]
    home = make_home(surroundings)
    with closing(Installed(home)) as installed:
        paths = {model: expanded(file.models[model].path or "") for model in meant if file.models[model].path}
        these = subjects(home, installed, wanted(file, names or file.models), paths=paths, is_all=not names)
        _check_said(file, names, these)
        verdicts = _verified(these, installed)
    if as_json:
        click.echo(json_text([_entry(verdict) for verdict in verdicts]))
    elif not verdicts:
        click.echo("no models of the hub are installed", err=True)
    for verdict in () if as_json else verdicts:
        click.echo(printable(f"{verdict.state:17s} {verdict.subject.path}: {SAID[verdict.state]}"))
    wrong = [verdict for verdict in verdicts if verdict.state in WRONG]
    if wrong:
        raise LocalFusionError(
            f"{len(wrong)} of {len(verdicts)} files are not what they should be",
            hint="`localfusion models pull` fetches again what was pulled; what you replaced yourself, `models add`",
        )


def _check_said(file: ModelsFile, names: tuple[str, ...], these: tuple[Subject, ...]) -> None:
    """Raise ConfigError for a name of which nothing can be said: nothing was recorded of any of its files."""
    said = {model for subject in these for model in subject.models}
    for name in names:
        if not said.intersection(named_models(file, name)):
            hint = "`localfusion models list` says where it is; `pull` and `add` record what they hash"
            raise ConfigError(f"nothing was recorded of {name} that could be verified", hint=hint)


def _verified(these: tuple[Subject, ...], installed: Installed) -> list[Verdict]:
    """Hash all, with a bar on stderr where that is a terminal."""
    columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    is_hidden = not sys.stderr.isatty()
    n_bytes = sum(one.path.stat().st_size for one in these if one.path.exists())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=is_hidden) as bar:
        task = bar.add_task("", total=n_bytes)

        def on_bytes(subject: Subject, n_more: int) -> None:
            bar.update(task, advance=n_more, description=tail(subject.path.name, _NAME_WIDTH))

        return verify(these, installed, on_bytes=on_bytes)


def _entry(verdict: Verdict) -> Json:
    recorded = verdict.subject.recorded
    return {
        "path": str(verdict.subject.path),
        "models": list(verdict.subject.models),
        "state": verdict.state,
        "said": SAID[verdict.state],
        "sha256": verdict.sha256 or None,
        "recorded_sha256": recorded.sha256 if recorded else None,
        "catalogue_sha256": verdict.subject.promised or None,
        "revision": recorded.revision if recorded else None,
    }
