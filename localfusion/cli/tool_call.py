"""One tool call for a person: the session's own tools, what a panelist would be told on stdout, the rest on stderr."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from localfusion import codec
from localfusion.analysis import ToolStep
from localfusion.catalog import Choice, locate, resolve
from localfusion.cli.known_models import known_models
from localfusion.cli.options import models_option
from localfusion.cli.sources import go_offline
from localfusion.cli.terminal import json_text, printable, printable_text
from localfusion.config import Surroundings, home_directory
from localfusion.errors import ConfigError, WebError
from localfusion.messages import CloudLeave, Json, SourcesSpec, ToolCall, ToolOptions
from localfusion.session import open_session
from localfusion.tools import result_message

P = ParamSpec("P")
R = TypeVar("R")


def seat_options(command: Callable[P, R]) -> Callable[P, R]:
    """--preset, --seat and --models: whose limits the tools have."""
    for option in (
        models_option,
        click.option("--seat", metavar="ID", help="The panelist of --preset.  [default: its first]"),
        click.option("--preset", metavar="NAME", help="Use the tools of a panelist of this preset, with its limits."),
    ):
        command = option(command)
    return command


def tools_of_seat(
    surroundings: Surroundings, models: Path | None, preset: str | None, seat: str | None
) -> ToolOptions | None:
    """The tools of a panelist of a preset, None where none is named. Raises ConfigError for one that there is not."""
    if preset is None:
        if seat is not None:
            raise ConfigError("--seat names a panelist of a preset", hint="name the preset with --preset")
        return None
    choice = Choice(preset, cloud=CloudLeave(is_allowed=True))  # no model is asked for its tools
    panel = resolve(known_models(surroundings, models), choice, path_of=locate(home_directory(surroundings)))
    seats = {panelist.id: panelist.tools for panelist in panel.panelists}
    if seat is not None and seat not in seats:
        raise ConfigError(f"the preset {preset} has no seat {seat}", hint=f"its seats are {', '.join(seats)}")
    return seats[seat or next(iter(seats))]


def call_tool(
    surroundings: Surroundings,
    sources: SourcesSpec,
    options: ToolOptions,
    call: ToolCall,
    *,
    question: str,
    as_json: bool,
) -> None:
    """Make the call and print its result. Raises WebError where the model would be told an error."""
    if sources.offline:
        go_offline()
    step = asyncio.run(_call(surroundings, sources, options, call, question))
    for warning in step.warnings:
        if step.error is None or not warning.endswith(step.error):
            click.echo(f"warning: {printable(warning)}", err=True)
    if as_json:
        click.echo(json_text(_document(step)))
    if step.error is not None:
        raise WebError(next(iter(call.arguments.values())), step.error, hint=step.hint)
    if not as_json:
        click.echo(printable_text(result_message(step).content))


async def _call(
    surroundings: Surroundings, sources: SourcesSpec, options: ToolOptions, call: ToolCall, question: str
) -> ToolStep:
    async with open_session(surroundings) as session:
        return await session.call_tool(sources, options, call, question=question)


def _document(step: ToolStep) -> Json:
    return {
        "tool": step.call.name,
        "arguments": dict(step.call.arguments),
        "error": step.error,
        "results": [codec.to_json(passage) for passage in step.passages],
        "links": [codec.to_json(link) for link in step.links],
        "warnings": list(step.warnings),
        "content": result_message(step).content,
    }
