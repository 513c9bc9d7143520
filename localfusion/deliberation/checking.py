"""Which of a run's stored texts an answer may cite, and whether it says what stands there."""

from collections.abc import Mapping
from dataclasses import replace

from localfusion import citations
from localfusion.analysis import Citation, Response
from localfusion.citations import StoredText
from localfusion.deliberation.desk import looked_up
from localfusion.deliberation.run import Run
from localfusion.errors import ModelError
from localfusion.tool_calls import read_passages


async def checked_response(run: Run, response: Response) -> Response:
    sources: dict[int, StoredText] = {}
    for passage in read_passages(response.steps):
        known = sources.get(passage.number) or StoredText(passage.url, passage.title, _page(run, passage.url))
        sources[passage.number] = _with(known, passage.text, is_seen=not passage.is_snippet)
    return replace(response, citations=await checked_citations(run, response.content, sources))


def run_sources(run: Run) -> Mapping[int, StoredText]:
    found: dict[int, StoredText] = {}
    for response in run.responses:
        for citation in response.citations:
            if citation.support != "not_found":
                known = found.get(citation.number) or StoredText(citation.url, citation.title, _page(run, citation.url))
                found[citation.number] = _with(known, citation.quote, is_seen=citation.support == "verified")
    for passage in read_passages(looked_up(run)):
        known = found.get(passage.number) or StoredText(passage.url, passage.title, _page(run, passage.url))
        found[passage.number] = _with(known, passage.text, is_seen=not passage.is_snippet)
    return found


async def checked_citations(run: Run, answer: str, sources: Mapping[int, StoredText]) -> tuple[Citation, ...]:
    """The checked citations of an answer; by words, then by meaning where that can be."""
    checked = citations.check(answer, sources)
    if run.world.closest is None or all(citation.support != "not_found" for citation in checked):
        return checked
    try:
        return await citations.check_meaning(answer, checked, sources, run.world.closest)
    except ModelError as error:
        run.warn(f"citations were checked by words alone: {error.message}")
        return checked


def _page(run: Run, url: str) -> str:
    return run.world.stored_text(url) or ""


def _with(source: StoredText, read: str, *, is_seen: bool) -> StoredText:
    """`source` with the lines of `read` that it lacks: a page that changed during the run is kept as it was first.

    What was not seen in the page itself is a snippet.
    """
    known = source.text if is_seen else f"{source.text}\n{source.snippets}"
    new = [line for line in read.splitlines() if line not in known]
    if not new:
        return source
    if is_seen:
        return replace(source, text="\n".join([source.text, *new]))
    return replace(source, snippets="\n".join([source.snippets, *new]))
