"""The marks of an answer as annotations: which [n] stands where, and which checked citation it is. Pure."""

from collections.abc import Sequence

from localfusion.analysis import Citation
from localfusion.citations import Mark, find_marks
from localfusion.wire.annotations import UrlCitation


def annotations(content: str, citations: Sequence[Citation]) -> list[UrlCitation]:
    """One for each [n] that is bound to a source, in order; what a source does not say is not quoted."""
    taken: set[Citation] = set()
    found: list[UrlCitation] = []
    for mark in find_marks(content):
        citation = _citation(mark, [one for one in citations if one.number == mark.number and one.url], taken)
        if citation is not None:
            taken.add(citation)
            found.append(_annotation(mark, citation))
    return found


def _citation(mark: Mark, among: Sequence[Citation], taken: set[Citation]) -> Citation | None:
    """The citation of the very quotation, else the next of that number: they stand in the order of the marks."""
    same = next((one for one in among if mark.quote is not None and one.quote == mark.quote), None)
    fresh = next((one for one in among if one not in taken), None)
    return same or fresh or (among[-1] if among else None)


def _annotation(mark: Mark, citation: Citation) -> UrlCitation:
    return UrlCitation(
        url=citation.url,
        title=citation.title,
        start_index=mark.start,
        end_index=mark.end,
        content=None if citation.support == "not_found" else citation.quote,
        support=citation.support,
    )
