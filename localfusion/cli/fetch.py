"""`localfusion fetch`: one page, as a panelist would be given it."""

from pathlib import Path

import click

from localfusion.cli.options import json_option, text_argument
from localfusion.cli.sources import NamedSources, source_options
from localfusion.cli.tool_call import call_tool, seat_options, tools_of_seat
from localfusion.config import Surroundings
from localfusion.errors import ConfigError
from localfusion.messages import FetchLimits, ToolCall, ToolOptions
from localfusion.tools import named_addresses


@click.command()
@click.argument("url")
@source_options
@click.option(
    "--max-content-tokens",
    type=click.IntRange(1, 1_048_576),
    metavar="N",
    help="Tokens of the page, at most, taken as four characters each.  [default: 8000 characters]",
)
@seat_options
@json_option
def fetch(
    named: NamedSources,
    *,
    url: str,
    max_content_tokens: int | None,
    preset: str | None,
    seat: str | None,
    models: Path | None,
    as_json: bool,
) -> None:
    """Fetch one address as a panelist does, and print what it would be told.

    The same tool with the same guards: http and https pages of public addresses, doc:// and zim:// addresses of the
    sources named here.

    \b
    Examples:
      localfusion fetch https://example.com/page.html
      localfusion fetch --docs examples/harbour doc://harbour/council.md
      localfusion fetch --json https://example.com/report.pdf
    """
    surroundings = Surroundings.of_this_process()
    address = text_argument(url, "address")
    if named_addresses(address) != (address,):
        raise ConfigError(
            f"{address!r} is no address that can be fetched",
            hint="write it like https://example.com/page, doc://folder/file.md or zim://archive/Article",
        )
    options = tools_of_seat(surroundings, models, preset, seat) or ToolOptions(
        fetch=FetchLimits(max_content_tokens=max_content_tokens)
    )
    call = ToolCall("web_fetch", {"url": address})
    call_tool(surroundings, named.spec(surroundings), options, call, question=address, as_json=as_json)
