"""reStructuredText as blocks, by docutils, Sphinx's directives and roles included. No other file is read or run."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles
from docutils.parsers.rst.languages import en
from docutils.parsers.rst.states import Inliner
from docutils.utils import SystemMessage

from localfusion.search.blocks import Block, Readable, first_heading, readable, word_set
from localfusion.search.text_reader import read_plain

_SETTINGS = {
    "_disable_config": True,
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,
    "halt_level": 5,
    "warning_stream": False,
    "traceback": True,
    "syntax_highlight": "none",
    "smart_quotes": False,
}
"""No file of settings is read, no other file is inserted, nothing is printed, and no error ends this process."""

_DIRECTIVE = re.compile(r"^\s*\.\. +(?:\|[^|\n]+\| +)?([\w:+.-]+?)::(?:\s|$)", re.MULTILINE)
_ROLE = re.compile(r":([\w+.-]+(?::[\w+.-]+)*):`")
_TARGET = re.compile(r"\s*<[^<>]*>$")
_UNSEEN = word_set("toctree index highlight currentmodule module tabularcolumns sectionauthor codeauthor testsetup")
_LITERAL = word_set("doctest testcode testoutput productionlist graphviz mermaid prompt literalinclude")
_UNSHOWN = (
    *(nodes.comment, nodes.system_message, nodes.substitution_definition, nodes.raw, nodes.pending, nodes.meta),
    *(nodes.label, nodes.target),
)
_MAX_LEVEL = 6


def read_rst(text: str) -> Readable:
    """The text as Sphinx or docutils would show it; plain text where it is too far from reStructuredText."""
    _know_names(text)
    try:
        document = publish_doctree(text, settings_overrides=_SETTINGS)
    except SystemMessage:
        return read_plain(text)
    blocks = list(_blocks(document, 1))
    if not blocks:
        return read_plain(text)
    return readable(document.get("title", "") or first_heading(blocks), blocks)


class _AnyOption(dict[str, Callable[[str], str]]):
    def __missing__(self, _: str) -> Callable[[str], str]:
        return directives.unchanged


class _Unknown(Directive):
    """A directive of Sphinx or of an extension: its argument and what stands in it are shown, its options are not."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True

    option_spec: ClassVar = _AnyOption({"class": directives.unchanged})

    def run(self) -> list[nodes.Node]:
        if self.name in _UNSEEN:
            return []
        shown: list[nodes.Node] = [
            nodes.paragraph(line, line) for argument in self.arguments for line in argument.splitlines()
        ]
        if self.name in _LITERAL:
            return [*shown, nodes.literal_block("", "\n".join(self.content))]
        within = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, within)
        return [*shown, *within.children]


def _unknown_role(
    _name: str,
    rawtext: str,
    text: str,
    _lineno: int,
    _inliner: Inliner,
    _options: Mapping[str, object] | None = None,
    _content: Sequence[str] = (),
) -> tuple[list[nodes.reference], list[nodes.reference]]:
    """A role of Sphinx: the title of what it refers to, or its name; of `~a.b.C` the last part."""
    shown = _TARGET.sub("", nodes.unescape(text)) or text
    shown = shown.rpartition(".")[2] if shown.startswith("~") else shown.removeprefix("!")
    return [nodes.reference(rawtext, shown)], []


def _know_names(text: str) -> None:
    """Tell docutils of each directive and role that is used and that it does not know."""
    for name in {match.lower() for match in _DIRECTIVE.findall(text)} - en.directives.keys():
        directives.register_directive(name, _Unknown)
    for name in {match.lower() for match in _ROLE.findall(text)} - en.roles.keys():
        roles.register_local_role(name, _unknown_role)


def _blocks(node: nodes.Node, level: int) -> Iterator[Block]:
    """The blocks of an element in order; `level` is that of a title right in it."""
    for child in node.children:
        if isinstance(child, _UNSHOWN):
            continue
        match child:
            case nodes.title() | nodes.subtitle() | nodes.rubric():
                yield Block(child.astext(), min(level, _MAX_LEVEL))
            case nodes.row():
                yield Block(" | ".join(_joined(cell) for cell in child.children))
            case nodes.literal_block() | nodes.doctest_block() | nodes.line_block():
                yield from (Block(line) for line in child.astext().splitlines())
            case nodes.field():
                yield Block(": ".join(part.astext() for part in child.children))
            case nodes.TextElement():
                yield Block(child.astext())
            case nodes.Element():
                is_below = isinstance(child, nodes.section) and isinstance(node.children[0], nodes.title)
                yield from _blocks(child, level + is_below)


def _joined(node: nodes.Node) -> str:
    return " ".join(block.text for block in _blocks(node, 1))
