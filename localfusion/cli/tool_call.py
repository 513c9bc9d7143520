"""One tool call for a person: the session's own tools, what a panelist would be told on stdout, the rest on stderr."""

import asyncio
import json

import click

from localfusion import codec
from localfusion.analysis import ToolStep
from localfusion.cli.terminal import printable, printable_text
from localfusion.config import Surroundings
from localfusion.errors import WebError
from localfusion.messages import Json, SourcesSpec, ToolCall, ToolOptions
from localfusion.offline import close_network
from localfusion.session import open_session
from localfusion.tools import result_message


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
        close_network()
    step = asyncio.run(_call(surroundings, sources, options, call, question))
    for warning in step.warnings:
        if step.error is None or not warning.endswith(step.error):
            click.echo(f"warning: {printable(warning)}", err=True)
    if as_json:
        click.echo(json.dumps(_document(step), ensure_ascii=False, indent=2))
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
