"""`localfusion search`: one search, as a panelist would make it, and what it would be told."""

from pathlib import Path

import click

from localfusion.cli.options import json_option, text_argument
from localfusion.cli.sources import NamedSources, source_options
from localfusion.cli.tool_call import call_tool, seat_options, tools_of_seat
from localfusion.config import Surroundings
from localfusion.messages import RESULT_CHARACTERS, SearchLimits, ToolCall, ToolOptions


@click.command()
@click.argument("query")
@source_options
@click.option(
    "--max-results", type=click.IntRange(1, 25), metavar="N", default=5, show_default=True, help="Results, at most."
)
@click.option(
    "--max-characters",
    type=click.IntRange(1, 100_000),
    metavar="N",
    default=RESULT_CHARACTERS,
    show_default=True,
    help="Characters of one result, at most.",
)
@seat_options
@json_option
def search(
    named: NamedSources,
    *,
    query: str,
    max_results: int,
    max_characters: int,
    preset: str | None,
    seat: str | None,
    models: Path | None,
    as_json: bool,
) -> None:
    """Search as a panelist does, and print what it would be told.

    The same tool with the same guards and numbers; its limits are those of a seat of --preset, else those given here.
    What went wrong with a source is said on stderr.

    \b
    Examples:
      localfusion search --docs examples/harbour "keeper of Skerry"
      localfusion search --web --excluded-domains example.com "height of the Eiffel tower"
      localfusion search --docs examples/harbour --preset micro --seat b "keeper of Skerry"
      localfusion search --zim wikipedia_en.zim --offline --json "Eiffel tower"
    """
    surroundings = Surroundings.of_this_process()
    options = tools_of_seat(surroundings, models, preset, seat) or ToolOptions(
        search=SearchLimits(max_results=max_results, max_characters=max_characters)
    )
    call = ToolCall("web_search", {"query": text_argument(query, "query")})
    call_tool(surroundings, named.spec(surroundings), options, call, question="", as_json=as_json)
