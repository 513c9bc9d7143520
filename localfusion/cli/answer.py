"""A run's outcome as text: the answer with its sources, and the analysis behind it. Plain lines, no colours."""

from collections.abc import Iterator, Mapping
from itertools import chain

from localfusion.analysis import Analysis, Citation
from localfusion.cli.terminal import printable, printable_text
from localfusion.messages import FallbackReason, Substitution
from localfusion.outcome import CloudUse, Outcome

REASONS: Mapping[FallbackReason, str] = {
    "not_installed": "is not installed",
    "does_not_fit": "does not fit",
    "died": "failed",
    "timed_out": "took too long",
}
SUPPORT = {"verified": "", "weak": " (weak: not everything said stands there)"}


def answer_text(outcome: Outcome) -> str:
    """The answer, its sources, and who was sent anything; where the judge failed, every panelist's own answer."""
    if outcome.answer:
        blocks = [printable_text(outcome.answer), *_sources(outcome.citations)]
    else:
        blocks = list(_responses(outcome))
    if outcome.cloud:
        blocks.append(_block("Sent to providers", [_sent(use) for use in outcome.cloud]))
    return "\n\n".join(block for block in blocks if block)


def analysis_text(outcome: Outcome) -> str:
    """The parts of the analysis that say something, and the panelists that failed; "" where there is nothing."""
    blocks = [] if outcome.analysis is None else list(_parts(outcome.analysis))
    if outcome.substitutions:
        blocks.append(_block("Stepped in", [substitution_text(found) for found in outcome.substitutions]))
    if outcome.failed_models:
        failed = [f"{printable(f.id)} ({printable(f.model)}): {printable(f.error)}" for f in outcome.failed_models]
        blocks.append(_block("Failed", failed))
    if outcome.analysis is None and outcome.failure_reason is not None:
        blocks.append(_block("No analysis", [f"{outcome.error or ''} ({outcome.failure_reason})".strip()]))
    return "\n\n".join(blocks)


def substitution_text(found: Substitution) -> str:
    """Which model stepped in for which, and why, in one line."""
    return printable(f"{found.id}: {found.to} for {found.model}, which {REASONS[found.reason]}: {found.error}")


def _sent(use: CloudUse) -> str:
    requests = "1 request" if use.calls == 1 else f"{use.calls} requests"
    took = f"{use.usage.prompt_tokens + use.usage.completion_tokens} tokens, ${use.usage.cost:.4f}"
    return printable(f"{use.provider} ({use.base_url}): {_named(use)} for {use.id}, {requests}, {took}")


def _named(use: CloudUse) -> str:
    """The model, and how its provider calls it where that is another name."""
    return use.model if use.remote_model in ("", use.model) else f"{use.model} ({use.remote_model})"


def _responses(outcome: Outcome) -> Iterator[str]:
    for response in outcome.responses:
        yield f"{response.id} ({printable(response.model)}):\n{printable_text(response.content)}"
    yield from _sources(tuple(chain.from_iterable(response.citations for response in outcome.responses)))


def _sources(citations: tuple[Citation, ...]) -> Iterator[str]:
    """Each number once with its title and address, under it each quote once; then what no source holds."""
    quotes: dict[tuple[int, str, str], dict[str, Citation]] = {}
    for citation in citations:
        if citation.support == "not_found":
            continue
        quotes.setdefault((citation.number, citation.title, citation.url), {}).setdefault(citation.quote, citation)
    if quotes:
        yield "Sources\n" + "\n".join(
            line for source, found in sorted(quotes.items()) for line in _source_lines(*source, found)
        )
    missing = dict.fromkeys(
        f"[{c.number}] {c.quote}" if c.number else c.quote for c in citations if c.support == "not_found"
    )
    if missing:
        yield _block("Not found where it was cited", tuple(missing))


def _source_lines(number: int, title: str, url: str, found: Mapping[str, Citation]) -> Iterator[str]:
    yield f"[{number}] {printable(title)} {printable(url)}".replace("  ", " ")
    for quote, citation in found.items():
        yield f"    “{printable(quote)}”{SUPPORT[citation.support]}"


def _parts(analysis: Analysis) -> Iterator[str]:
    if analysis.consensus:
        yield _block("Consensus", analysis.consensus)
    if analysis.contradictions:
        lines = []
        for contradiction in analysis.contradictions:
            lines.append(f"{contradiction.topic}:")
            lines += [f"  {stance.model}: {stance.stance}" for stance in contradiction.stances]
        yield _block("Contradictions", lines)
    if analysis.partial_coverage:
        yield _block("Partial coverage", [f"{', '.join(p.models)}: {p.point}" for p in analysis.partial_coverage])
    if analysis.unique_insights:
        yield _block("Unique insights", [f"{u.model}: {u.insight}" for u in analysis.unique_insights])
    if analysis.blind_spots:
        yield _block("Blind spots", analysis.blind_spots)


def _block(heading: str, lines: list[str] | tuple[str, ...]) -> str:
    return "\n".join([heading, *(f"  {printable_text(line)}" for line in lines)])
