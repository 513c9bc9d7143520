"""Citations as both protocols write them: where a mark stands in the text, and the page that it names. Checks nothing.

`support` is an extra of ours: whether the page says what it is cited for; where it does not, there is no `content`.
"""

from typing import Literal

from localfusion.analysis import Support
from localfusion.wire.document import Part
from localfusion.wire.sparse import Sparse


class UrlCitation(Part):
    """The mark is `text[start_index:end_index]`, in characters; `content` is what is quoted of the page."""

    url: str
    title: str
    start_index: int
    end_index: int
    content: Sparse[str] = None
    support: Support


class ChatAnnotation(Part):
    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation


class ResponsesAnnotation(UrlCitation):
    """The same, flat."""

    type: Literal["url_citation"] = "url_citation"
