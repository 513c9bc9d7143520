"""`localfusion runs`: what is stored of earlier runs."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from localfusion.cli.cloud import NamedLeave, cloud_options
from localfusion.cli.live import Emit
from localfusion.cli.options import file_option, json_option, memory_option, vram_option
from localfusion.cli.running import Output, carry_out, check_writable, hand_over
from localfusion.cli.sources import go_offline, narrowed
from localfusion.cli.terminal import head, json_text
from localfusion.config import Surroundings, make_home
from localfusion.errors import ConfigError
from localfusion.messages import Json
from localfusion.outcome import Outcome
from localfusion.search.snapshots import FILE_NAME, Snapshots
from localfusion.session import STATES_FOLDER, open_session, stored_outcome
from localfusion.store import RunRequest, RunSummary, Store

LAST = "last"


@click.group()
def runs() -> None:
    """List, show, resume and remove stored runs.

    A RUN is the id that `runs list` prints, or the word last.

    \b
    Examples:
      localfusion runs list
      localfusion runs show last
      localfusion runs resume run_20260801T101500_1a2b3c4d
    """


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead.")
def list_command(*, as_json: bool) -> None:
    """List the stored runs, the newest first.

    \b
    Examples:
      localfusion runs list
      localfusion runs list --json
    """
    with _open_store() as store:
        found = store.list_runs()
    if as_json:
        click.echo(json_text([_summary(run) for run in found]))
    elif not found:
        click.echo("no runs are stored", err=True)
    for run in () if as_json else found:
        click.echo(_line(run, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000))


@runs.command("show")
@click.argument("run")
@json_option
@file_option
def show_command(*, run: str, as_json: bool, file: Path | None) -> None:
    """Show what a run came to: its analysis, its answer and its sources.

    \b
    Examples:
      localfusion runs show last
      localfusion runs show run_20260801T101500_1a2b3c4d --json
    """
    output = Output(as_json, file)
    check_writable(output)
    with _open_store() as store:
        outcome = stored_outcome(store, _find(store, run))
    if not as_json:
        click.echo(f"{outcome.run_id}: {outcome.status}: {head(outcome.question, 200)}", err=True)
    hand_over(outcome, output)


@runs.command("resume")
@click.argument("run")
@cloud_options
@memory_option
@vram_option
@json_option
@file_option
def resume_command(
    named: NamedLeave, *, run: str, memory: int | None, vram: int | None, as_json: bool, file: Path | None
) -> None:
    """Go on with a run that has no answer yet: what is finished is kept, what is missing is done.

    What the run might send to providers holds still, within what config.yaml says now; --allow-cloud allows it anew.

    \b
    Examples:
      localfusion runs resume last
      localfusion runs resume run_20260801T101500_1a2b3c4d --json
    """
    surroundings = Surroundings.of_this_process()
    with _open_store() as store:
        run_id = _find(store, run)
        history = store.events(run_id)
        narrow = partial(_narrowed, surroundings=surroundings, named=named)
        if narrow(store.request(run_id)).sources.offline:
            go_offline()

    async def start(emit: Emit) -> Outcome:
        async with open_session(surroundings, memory_bytes=memory, vram_bytes=vram) as session:
            return await session.resume(run_id, emit=emit, narrow=narrow)

    carry_out(start, Output(as_json, file), stored=True, history=history)


@runs.command("remove")
@click.argument("run", nargs=-1, required=True)
def remove_command(*, run: tuple[str, ...]) -> None:
    """Remove runs, with the pages that only they have read, all fetched pages and all kept states of prompts.

    \b
    Examples:
      localfusion runs remove last
      localfusion runs remove run_20260801T101500_1a2b3c4d run_20260801T101730_5e6f7a8b
    """
    with _open_store() as store:
        try:
            for run_id in dict.fromkeys([_find(store, name) for name in run]):
                store.remove(run_id)
                click.echo(f"removed {run_id}", err=True)
        finally:
            home = make_home(Surroundings.of_this_process())
            shutil.rmtree(home / STATES_FOLDER, ignore_errors=True)
            with closing(Snapshots(home / FILE_NAME)) as pages:
                pages.purge()


def _narrowed(request: RunRequest, *, surroundings: Surroundings, named: NamedLeave) -> RunRequest:
    """A stored request within what config.yaml allows today, and what is said of providers now."""
    sources = narrowed(request.sources, surroundings)
    cloud = named.renewed(request.cloud, surroundings, offline=sources.offline)
    return replace(request, sources=sources, cloud=cloud)


@contextmanager
def _open_store() -> Iterator[Store]:
    with closing(Store(make_home(Surroundings.of_this_process()))) as store:
        yield store


def _find(store: Store, name: str) -> str:
    if name != LAST:
        return store.summary(name).id
    found = store.list_runs()
    if not found:
        raise ConfigError("no runs are stored", hint="localfusion ask stores one")
    return found[0].id


def _summary(run: RunSummary) -> Json:
    return {
        "id": run.id,
        "created": run.created.isoformat(),
        "status": run.status,
        "question": run.question,
        "seconds": run.seconds,
    }


def _line(run: RunSummary, *, width: int) -> str:
    seconds = "" if run.seconds is None else f"{run.seconds:.1f} s"
    when = run.created.astimezone().strftime("%Y-%m-%d %H:%M")
    start = f"{run.id}  {when}  {run.status:<11}  {seconds:>9}  "
    return start + head(run.question, max(width - len(start), 20))
