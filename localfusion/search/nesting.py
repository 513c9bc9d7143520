"""Which elements are open where: those that a page closes, and those that browsers close for it. Knows no styles."""

from itertools import islice

from localfusion.search.blocks import word_set

VOID = word_set("area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr")
"""Elements without content."""
HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = word_set(
    "address article aside blockquote body br caption center col colgroup dd details dialog dir div dl dt fieldset "
    "figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li listing main "
    "marquee menu nav ol optgroup option p plaintext pre search section summary table tbody td tfoot th thead tr ul xmp"
)
"""The elements that begin a new line; any other, known or not, stands within one."""
_SPECIAL = BLOCKS | word_set("applet button iframe noscript object script select style template textarea title")
"""What an end tag of an element within a line does not reach across."""
_SCOPES = word_set("applet button caption html marquee object select svg math table td template th")
"""What an end tag of a block does not reach across."""
_TABLE_PARTS = word_set("caption colgroup table tbody td tfoot th thead tr")
_IN_HEAD = word_set("head base basefont bgsound link meta noframes noscript script style template title")
_CLOSES_P = (BLOCKS - word_set("br body head html option optgroup caption col colgroup td th tr tbody thead tfoot")) | {
    "p"
}
_ITEMS = {"li": word_set("li"), "dt": word_set("dt dd"), "dd": word_set("dt dd"), "option": word_set("option")}
_PASSED_BY_ITEMS = word_set("address div p")
_CELLS = word_set("td th caption")
_ROWS = word_set("tr")
_TABLE_CLOSES = {
    "td": _CELLS,
    "th": _CELLS,
    "tr": _CELLS | _ROWS,
    **dict.fromkeys(("tbody", "thead", "tfoot", "caption"), _CELLS | _ROWS | word_set("tbody thead tfoot colgroup")),
}
_FOREIGN = ("svg", "math")
_OUT_OF_FOREIGN = (BLOCKS | word_set("b big code em embed i img s small span strong strike sub sup tt u var ruby")) - {
    "title",
    "form",
}
_TABLES = word_set("table template")
_LISTS = word_set("ul ol select datalist") | _SCOPES
_REACH = 64
"""So many open elements are looked through for one that a start tag ends; a limit against hostile depth."""


class Nesting:
    """The names of the open elements, outermost first; says how many of the innermost ones a tag ends.

    Names are counted apart for each scope and for each run within a line, so that no tag looks far.
    """

    def __init__(self, *, across_paragraphs: bool = False) -> None:
        """`across_paragraphs`: end tags reach out of a paragraph, as authors of Markdown mean them; not in browsers."""
        self._special = _SPECIAL - {"p"} if across_paragraphs else _SPECIAL
        self._open: list[str] = []
        self._scopes: list[dict[str, int]] = [{}]
        self._runs: list[dict[str, int]] = [{}]

    @property
    def is_foreign(self) -> bool:
        """Whether the innermost elements are SVG or MathML."""
        return any(self._scopes[-1].get(tag) for tag in _FOREIGN)

    def push(self, tag: str) -> None:
        """Open an element."""
        self._open.append(tag)
        if tag in _SCOPES:
            self._scopes.append({})
        if tag in self._special or tag in _SCOPES:
            self._runs.append({})
        for counted in (self._scopes[-1], self._runs[-1]):
            counted[tag] = counted.get(tag, 0) + 1

    def pop(self) -> None:
        """Close the innermost element."""
        tag = self._open.pop()
        for counted in (self._scopes[-1], self._runs[-1]):
            counted[tag] -= 1
        if tag in _SCOPES:
            self._scopes.pop()
        if tag in self._special or tag in _SCOPES:
            self._runs.pop()

    def ended_by_start(self, tag: str) -> int:
        """How many elements end where `tag` starts."""
        ended = [0]
        scope, run = self._scopes[-1], self._runs[-1]
        if scope.get("head") and tag not in _IN_HEAD:
            ended.append(self._distance("head"))
        if tag in _OUT_OF_FOREIGN and self.is_foreign:
            ended.append(self._distance(*_FOREIGN))
        if tag in _CLOSES_P and scope.get("p"):
            ended.append(self._distance("p"))
        if tag in HEADINGS and self._open[-1:] and self._open[-1] in HEADINGS:
            ended.append(1)
        if tag in ("a", "nobr") and run.get(tag):
            ended.append(self._distance(tag))
        if tag in _ITEMS:
            ended.append(self._near(_ITEMS[tag], until=self._special - _PASSED_BY_ITEMS))
        if tag in _TABLE_CLOSES:
            ended.append(self._last_of(_TABLE_CLOSES[tag]))
        return max(ended)

    def ended_by_text(self) -> int:
        """How many elements end where a text stands: there is none in a head."""
        return 1 if self._open[-1:] == ["head"] else 0

    def ended_by_end(self, tag: str) -> int:
        """How many elements an end tag ends; 0 for one that browsers pass over."""
        if tag in ("html", "body"):
            return 0
        if tag in _TABLE_PARTS or tag == "template":
            return self._near(frozenset((tag,)), until=word_set("template") if tag == "template" else _TABLES - {tag})
        if tag in ("li", "option"):
            return self._near(frozenset((tag,)), until=_LISTS)
        counted = self._scopes[-1] if tag in _SPECIAL and tag != "form" else self._runs[-1]
        if tag in HEADINGS:
            open_headings = [name for name in HEADINGS if counted.get(name)]
            return self._distance(*open_headings) if open_headings else 0
        return self._distance(tag) if counted.get(tag) else 0

    def _distance(self, *tags: str) -> int:
        """How many elements there are from the innermost to the first of `tags`, which is open; these included."""
        return next(n for n, name in enumerate(reversed(self._open), 1) if name in tags)

    def _near(self, tags: frozenset[str], *, until: frozenset[str]) -> int:
        for n, name in enumerate(islice(reversed(self._open), _REACH), 1):
            if name in tags:
                return n
            if name in until:
                return 0
        return 0

    def _last_of(self, tags: frozenset[str]) -> int:
        """How many elements there are to the outermost of `tags` within the table."""
        last = 0
        for n, name in enumerate(islice(reversed(self._open), _REACH), 1):
            if name in _TABLES:
                return last
            if name in tags:
                last = n
        return 0
