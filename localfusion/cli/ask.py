"""`localfusion ask`: one question, one panel, one answer."""

from itertools import chain
from pathlib import Path

import click

from localfusion.catalog import Choice, locate
from localfusion.catalog import named as named_panel
from localfusion.cli.cloud import NamedLeave, cloud_options
from localfusion.cli.first_run import with_default
from localfusion.cli.known_models import known_models
from localfusion.cli.live import Emit
from localfusion.cli.options import (
    file_option,
    json_option,
    memory_option,
    models_option,
    read_question,
    vram_option,
)
from localfusion.cli.running import Output, carry_out
from localfusion.cli.sources import NamedSources, go_offline, source_options
from localfusion.config import Surroundings, home_directory
from localfusion.outcome import Outcome
from localfusion.session import open_session
from localfusion.store import RunRequest

MAX_SEED = 2**32 - 1 - 8
"""Every seat's own seed still fits 32 bits."""


@click.command()
@click.argument("question")
@cloud_options
@source_options
@click.option("--preset", metavar="NAME", help="A panel and judge of models.yaml.  [default: default]")
@click.option(
    "--panel",
    multiple=True,
    metavar="A,B,C",
    help="1 to 8 panelists instead of the preset's: names of models.yaml or .gguf files. The same may come twice.",
)
@click.option("--judge", metavar="NAME", help="The judge instead of the preset's: a name, or a .gguf file.")
@models_option
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), metavar="N", default=0, show_default=True, help="The run's seed."
)
@click.option("--max-tool-calls", type=click.IntRange(1, 16), metavar="N", help="Tool calls of each panelist, 1 to 16.")
@memory_option
@vram_option
@click.option(
    "--deterministic", is_flag=True, help="The same seed gives the same bytes: one text at a time, fixed threads; slow."
)
@click.option("--no-store", is_flag=True, help="Keep nothing of this run; it cannot be resumed.")
@json_option
@file_option
def ask(
    named: NamedSources,
    leave: NamedLeave,
    *,
    question: str,
    preset: str | None,
    panel: tuple[str, ...],
    judge: str | None,
    models: Path | None,
    seed: int,
    max_tool_calls: int | None,
    memory: int | None,
    vram: int | None,
    deterministic: bool,
    no_store: bool,
    as_json: bool,
    file: Path | None,
) -> None:
    """Ask a panel of local models one question.

    Each panelist searches and answers with citations; the judge compares the answers, then writes the final one. What
    is searched is what --docs, --zim, --web, --searxng and --kiwix name, and nothing else; where none is given, what
    config.yaml names, then the folders of `docs add`, then the web. The answer and its sources go to stdout,
    everything else to stderr. A QUESTION of - is read from stdin. Nothing is sent to a provider's model without
    --allow-cloud.

    \b
    Examples:
      localfusion ask --docs examples/harbour "What do the sources say about Skerry?"
      localfusion ask --docs notes --docs report.pdf --json "Who is the keeper of Skerry?"
      localfusion ask --web "What is the height of the Eiffel tower?"
      localfusion ask --docs notes --offline --panel a.gguf,b.gguf --judge a.gguf "What is the height of Skerry?"
      localfusion ask --docs notes --allow-cloud --max-cost 0.20 --preset mixed "What is the height of Skerry?"
      localfusion ask --docs notes - < question.txt
    """
    surroundings = Surroundings.of_this_process()
    sources = named.spec(surroundings)
    cloud = leave.leave(surroundings, offline=sources.offline)
    text = read_question(question)
    if sources.offline:
        go_offline()
    names = tuple(name.strip() for name in chain.from_iterable(entry.split(",") for entry in panel))
    known = known_models(surroundings, models)
    if preset is None and not names:
        may_ask = not (sources.offline or no_store or question == "-")
        known = with_default(surroundings, known, models, may_ask=may_ask, memory_bytes=memory, vram_bytes=vram)
    request = RunRequest(
        question=text,
        panel=named_panel(
            known,
            Choice(
                preset,
                names,
                judge,
                seed=seed,
                max_tool_calls=max_tool_calls,
                deterministic=deterministic,
                cloud=cloud,
            ),
            path_of=locate(home_directory(surroundings)),
        ),
        sources=sources,
        seed=seed,
        cloud=cloud,
    )

    async def start(emit: Emit) -> Outcome:
        async with open_session(surroundings, stored=not no_store, memory_bytes=memory, vram_bytes=vram) as session:
            return await session.ask(request, emit=emit)

    carry_out(start, Output(as_json, file), stored=not no_store)
