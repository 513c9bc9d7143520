"""`localfusion models pull`: models from the hub, planned and said first, then fetched with what a terminal shows."""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from localfusion.catalog.hub import Hub, open_hub
from localfusion.catalog.installed import Installed
from localfusion.catalog.pulling import Fetch, Plan, check_plan, plan, pull
from localfusion.catalog.wanted import Wanted, wanted
from localfusion.cli.known_models import known_models
from localfusion.cli.options import models_option
from localfusion.cli.pull_progress import pull_progress
from localfusion.cli.sizes import size_text
from localfusion.cli.terminal import printable
from localfusion.config import DEFAULT, Surroundings, load_settings, make_home
from localfusion.errors import ConfigError, LocalFusionError, RunInterrupted


@click.command("pull")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@models_option
@click.option("--with-fallbacks", is_flag=True, help="Also the models that step in for those of a preset.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and fetch nothing.")
@click.option("--yes", is_flag=True, help="Do not ask about licences that restrict.")
def pull_command(
    *, names: tuple[str, ...], models: Path | None, with_fallbacks: bool, dry_run: bool, yes: bool
) -> None:
    """Fetch models from the hub, checked before they count.

    NAME is a model or a preset of models.yaml (its panel and judge); without one, the default preset. A pull that was
    cut off, killed or interrupted goes on from there. A model is where models lie only once all of it is there and
    has the hash that the hub and models.yaml name. HF_ENDPOINT, HF_TOKEN and `hf auth login` are respected.

    \b
    Examples:
      localfusion models pull
      localfusion models pull general-fast
      localfusion models pull qwen3.5-4b --dry-run
    """
    surroundings = Surroundings.of_this_process()
    meant = wanted(known_models(surroundings, models), names or (DEFAULT,), with_fallbacks=with_fallbacks)
    fetch(surroundings, meant, names, is_dry_run=dry_run, is_asked=not yes and sys.stdin.isatty())


def fetch(
    surroundings: Surroundings,
    meant: Sequence[Wanted],
    names: tuple[str, ...],
    *,
    is_dry_run: bool = False,
    is_asked: bool = True,
) -> None:
    """Fetch models of the hub that are not here, said and shown; `names` are what the user called them.

    Where `is_asked`, a person is asked about licences that restrict. Raises what went wrong, RunInterrupted too.
    """
    home, offline = make_home(surroundings), load_settings(surroundings).settings.offline
    hubs: list[Hub] = []

    def hub() -> Hub:
        hubs[:] = hubs or [open_hub(offline=offline)]
        return hubs[0]

    try:
        with closing(Installed(home)) as installed:
            found = plan(home, meant, installed, hub)
            _say_plan(found)
            check_plan(found, home)
            if found.fetches and not is_dry_run:
                _agree(found, is_asked=is_asked)
                found = _pulled(home, found, installed, hub())
    except KeyboardInterrupt as error:
        again = " ".join(["localfusion models pull", *names])
        hint = f"`{again}` goes on from there"
        raise RunInterrupted("interrupted; what was fetched is kept", hint=hint) from error
    _end(found, names)


def _pulled(home: Path, found: Plan, installed: Installed, hub: Hub) -> Plan:
    """The plan carried out: what is here now, and what failed."""
    with pull_progress(found.fetches) as watch:
        paths = pull(home, found.fetches, installed, hub, watch)
    pairs = list(zip(found.fetches, paths, strict=True))
    for fetch, path in pairs:
        if isinstance(path, Path):
            click.echo(printable(f"{fetch.model.name}  {path}"))
    failed = tuple((fetch.model.name, error) for fetch, error in pairs if isinstance(error, LocalFusionError))
    return Plan((), found.present, (*found.failures, *failed))


def _say_plan(found: Plan) -> None:
    """What will be done, licences that ask for something among it."""
    for model, path in found.present:
        click.echo(printable(f"{model.name} is here: {path}"), err=True)
    for fetch in found.fetches:
        click.echo(printable(_fetch_text(fetch)), err=True)
        if fetch.model.licence_note:
            licence = fetch.model.licence or "not named"
            click.echo(printable(f"licence of {fetch.model.name}: {licence}: {fetch.model.licence_note}"), err=True)
    if not (found.present or found.fetches or found.failures):
        click.echo("nothing to fetch: none of these models is the hub's", err=True)


def _fetch_text(fetch: Fetch) -> str:
    kept = f", {size_text(fetch.kept_bytes)} of them from an earlier pull" if fetch.kept_bytes else ""
    first = fetch.files[0]
    parts = f" in {len(fetch.files)} parts" if len(fetch.files) > 1 else ""
    return f"{fetch.model.name}: {size_text(fetch.n_bytes)}{parts} of {first.repo} at {first.commit[:12]}{kept}"


def _agree(found: Plan, *, is_asked: bool) -> None:
    """Ask about licences that restrict; raises ConfigError where the answer is no."""
    restricted = [fetch.model.name for fetch in found.fetches if fetch.model.licence_note]
    if restricted and is_asked and not click.confirm(f"fetch {', '.join(map(printable, restricted))}?", err=True):
        raise ConfigError("nothing was fetched", hint="name other models, or a preset without these")


def _end(found: Plan, names: tuple[str, ...]) -> None:
    """Raise what went wrong; of several, all but the last are said before."""
    for name, error in found.failures[:-1]:
        click.echo(printable(f"error: {name}: {error.message}"), err=True)
        click.echo(printable(f"hint: {error.hint}"), err=True)
    if found.failures:
        name, error = found.failures[-1]
        if isinstance(error, ConfigError):
            raise error
        hint = error.hint or f"try `{' '.join(['localfusion models pull', *names])}` again"
        raise LocalFusionError(f"{name}: {error.message}", hint=hint) from error
