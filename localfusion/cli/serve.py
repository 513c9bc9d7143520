"""`localfusion serve`: the server in front of this home's models, and the keys of those who may ask it."""

import asyncio
import logging
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from localfusion.cli.cloud import NamedLeave, cloud_options
from localfusion.cli.known_models import known_models
from localfusion.cli.options import memory_option, models_option, vram_option
from localfusion.cli.sources import NamedSources, go_offline, source_options
from localfusion.cli.terminal import printable
from localfusion.config import Surroundings, home_directory, load_settings, make_home
from localfusion.config.settings import ServerSettings
from localfusion.errors import ConfigError
from localfusion.server.hosts import host_name, is_loopback
from localfusion.server.keys import KeyRing, load_keys, new_key, save_keys
from localfusion.server.opening import Opening, log_to, run_server
from localfusion.server.running import bound_socket
from localfusion.session import open_session


@click.group(invoke_without_command=True)
@cloud_options
@source_options
@click.option("--host", metavar="ADDRESS", help="The address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="N", help="The port; 0 is any.  [default: 8484]")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A further name that requests may name in `Host`. Repeatable.",
)
@models_option
@memory_option
@vram_option
@click.option("--no-store", is_flag=True, help="Keep nothing of what is asked and answered.")
@click.pass_context
def serve(
    context: click.Context,
    named: NamedSources,
    leave: NamedLeave,
    *,
    host: str | None,
    port: int | None,
    allowed_hosts: tuple[str, ...],
    models: Path | None,
    memory: int | None,
    vram: int | None,
    no_store: bool,
) -> None:
    """Serve this home's models over OpenAI's and OpenRouter's protocols.

    What is searched, and whether providers may be asked, is as with `ask`, for every request. Ctrl-C lets what is under
    way finish for a while (`stop_s` of config.yaml), a second one ends it. Once there are keys each request needs one;
    off the loopback the server does not start without.

    \b
    Examples:
      localfusion serve
      localfusion serve --offline --docs ~/notes --port 9000
      localfusion serve keys add laptop && localfusion serve --host 0.0.0.0 --allowed-host box.lan
    """
    if context.invoked_subcommand is not None:
        return
    surroundings = Surroundings.of_this_process()
    sources = named.spec(surroundings)
    opening = Opening(
        settings=_settings(surroundings, {"host": host, "port": port, "allowed_hosts": allowed_hosts}),
        models=known_models(surroundings, models),
        home=home_directory(surroundings),
        sources=sources,
        cloud=leave.leave(surroundings, offline=sources.offline),
        keys=KeyRing(home_directory(surroundings)),
        is_stored=not no_store,
    )
    _check_keys(opening)
    log_to([_log_handler()])

    async def run() -> None:
        with closing(bound_socket(opening.settings.host, opening.settings.port)) as listening:
            if sources.offline:  # what listens already may; nothing is reached from here
                go_offline()
            async with open_session(
                surroundings,
                stored=not no_store,
                memory_bytes=memory,
                vram_bytes=vram,
                parallel=opening.settings.parallel,
                max_runs=opening.settings.max_queue,
            ) as session:
                _say_where(opening.settings.host, listening.getsockname()[1], has_keys=opening.keys.is_closed)
                await run_server(opening, session, listening)

    asyncio.run(run())


@serve.group()
def keys() -> None:
    """Add, list and remove keys. A running server knows of a change with the next request.

    \b
    Examples:
      localfusion serve keys add laptop --requests-per-minute 60
      localfusion serve keys list
    """


@keys.command("add")
@click.argument("name")
@click.option(
    "--requests-per-minute", type=click.IntRange(1, 1_000_000), metavar="N", help="Requests a minute, at most."
)
@click.option("--max-queue", type=click.IntRange(1, 100_000), metavar="N", help="Requests at a time, at most.")
def add_command(*, name: str, requests_per_minute: int | None, max_queue: int | None) -> None:
    """Make a key and print it, this once: only its hash is kept.

    \b
    Examples:
      localfusion serve keys add laptop
      localfusion serve keys add ci --requests-per-minute 30 --max-queue 2
    """
    home = make_home(Surroundings.of_this_process())
    created = datetime.now(UTC).isoformat(timespec="seconds")
    secret, entry = new_key(name, created=created, requests_per_minute=requests_per_minute, max_queue=max_queue)
    save_keys(home, load_keys(home).added(entry))
    click.echo("this key is shown once; send it as `Authorization: Bearer KEY`:", err=True)
    click.echo(secret)


@keys.command("list")
def list_command() -> None:
    """List the keys by name, with their limits."""
    found = load_keys(home_directory(Surroundings.of_this_process()))
    table = Table("key", "created", "requests a minute", "at a time", box=None, pad_edge=False)
    for entry in found.entries:
        limits = (entry.requests_per_minute, entry.max_queue)
        table.add_row(entry.name, Text(entry.created), *("-" if limit is None else str(limit) for limit in limits))
    if found:
        Console(highlight=False).print(table)
    else:
        click.echo("no keys: the server asks nobody for one, and listens on the loopback only", err=True)


@keys.command("remove")
@click.argument("name")
def remove_command(*, name: str) -> None:
    """Remove a key; whoever has it may not ask any more."""
    home = home_directory(Surroundings.of_this_process())
    save_keys(home, load_keys(home).removed(name))
    click.echo(f"removed {name}", err=True)


def _settings(surroundings: Surroundings, options: Mapping[str, object]) -> ServerSettings:
    """What config.yaml says, where an option says nothing. Raises ConfigError for a host that is none."""
    settings = load_settings(surroundings).settings.server
    said = {name: value for name, value in options.items() if value not in (None, ())}
    if "allowed_hosts" in said:
        said["allowed_hosts"] = (*settings.allowed_hosts, *options["allowed_hosts"])  # type: ignore[misc]
    settings = settings.model_copy(update=said)
    for name in (settings.host, *settings.allowed_hosts):
        if host_name(name if ":" not in name or name.startswith("[") else f"[{name}]") is None:
            raise ConfigError(f"{name!r} is no host", hint="write a name or an address, without a port")
    return settings


def _check_keys(opening: Opening) -> None:
    if not is_loopback(opening.settings.host) and not opening.keys.is_closed:
        raise ConfigError(
            f"on {opening.settings.host} others could ask this server, and no key is demanded of them",
            hint="make a key: localfusion serve keys add NAME",
        )


def _say_where(host: str, port: int, *, has_keys: bool) -> None:
    """Where the server is, as a program and as a shell want it."""
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    key = " -H 'Authorization: Bearer KEY'" if has_keys else ""
    body = '{"model": "localfusion/fusion", "messages": [{"role": "user", "content": "What is the height of Skerry?"}]}'
    for line in (
        f"serving on {address} (Ctrl-C ends it)",
        f"base_url: {address}/v1",
        f"try: curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
    ):
        click.echo(line, err=True)


class _Lines(logging.Formatter):
    """A line for each entry, whatever files or clients have put into it."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _log_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(asctime)s %(message)s"))
    return handler
