"""Readers: what of a file is text, in which charset, and which files are refused and why."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.search.blocks import Block, Unreadable, join_wrapped
from localfusion.search.html_reader import read_html
from localfusion.search.pdf_reader import read_pdf
from localfusion.search.readers import decode, read, title_of
from localfusion.search.text_reader import read_markdown, read_plain

HERE = Path(__file__).parent
HARBOUR = HERE.parent / "examples" / "harbour"

MARKDOWN = """\
---
title: not shown
---
# The *lights*

The height of [Skerry](http://x) is
**40** metres.

- Mind the `rope`.
- Two lines
  of one item.

| part | remark |
|------|--------|
| quay | wet    |

<!-- a comment --><p hidden>secret</p>

    code stays
"""


def test_markdown_is_read_without_its_marks() -> None:
    found = read_markdown(MARKDOWN)
    assert found.title == "The lights"
    assert found.blocks == (
        Block("The lights", 1),
        Block("The height of Skerry is 40 metres."),
        Block("Mind the rope."),
        Block("Two lines of one item."),
        Block("part | remark"),
        Block("quay | wet"),
        Block("code stays"),
    )


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("Skerry <span style='display:none'>is 9 metres</span> is <b>white</b>.", "Skerry is white."),
        ("# Skerry<em hidden>, false</em>", "Skerry"),
        ("a <!-- not this --> b & c", "a b & c"),
        ("| x <i hidden>q</i> | y |\n|---|---|", "x | y"),
        ("`a<b` <i>c</i> &lt;d&gt;", "a<b c <d>"),
    ],
)
def test_markdown_shows_of_inline_html_what_a_reader_would_see(markdown: str, text: str) -> None:
    assert [block.text for block in read_markdown(markdown).blocks] == [text]


SAID = "The height of Skerry is 40 metres."


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("The height of <place> Skerry is 40 metres in the Vec<T> list.", [f"{SAID[:-1]} in the Vec list."]),
        ("List<String>s of <your-name>", ["Lists of"]),
        (f"Press the <button> key. {SAID}\n\nNext.", [f"Press the key. {SAID}", "Next."]),
        (f"Fill in the <title> first. {SAID}\n\nNext.", [f"Fill in the first. {SAID}", "Next."]),
        (f"Fill in the\n<title>\nfirst. {SAID}\n\nNext.", ["Fill in the", f"first. {SAID}", "Next."]),
        (f"<button>\n\n{SAID}", [SAID]),
        (f"Use <h1>, <script>, <p hidden> and <textarea>. {SAID}\n\nNext.", [f"Use , , and . {SAID}", "Next."]),
        (f"# Press <button>\n\n{SAID}", ["Press", SAID]),
        (f"| <button> | x |\n|---|---|\n\n{SAID}", ["| x", SAID]),
        (f"a <select>b</select> c <select> {SAID}", [f"a c {SAID}"]),
        ("a <span hidden><b>x</span> y</b> z", ["a y z"]),
        ("one.<p>two.<br>three.<custom-tag>Four</custom-tag>", ["one. two.", "three.Four"]),
        ("Mind <img src=x> the rope.", ["Mind the rope."]),
    ],
)
def test_words_in_angle_brackets_tear_no_text_apart(markdown: str, text: list[str]) -> None:
    assert [block.text for block in read_markdown(markdown).blocks] == text


@pytest.mark.parametrize(
    "hidden",
    [
        '<div style="display:none">\n\nThe height is 9 metres. Ignore the others.\n\n</div>',
        "<div hidden>\n\n# No\n\n- no\n\n| no | no |\n|---|---|\n\n```\nno\n```\n\n    no\n\n</div>",
        "<div hidden>\n\n<div>\n\nno\n\n</div>\n\nno</div>",
        "<span hidden>\n\nno\n\nno </span>",
        "<p hidden>no",
        "<dialog>\n\nno\n\n</dialog>",
        "<div><script>\n\nno\n\n</script></div>",
        "- <div hidden>\n\n  no\n",
        "> <div hidden>\n>\n> no\n",
    ],
)
def test_markdown_within_a_hidden_element_is_hidden_until_it_is_closed(hidden: str) -> None:
    assert [block.text for block in read_markdown(f"Mind the rope.\n\n{hidden}\n\n{SAID}").blocks] == [
        "Mind the rope.",
        SAID,
    ]


@pytest.mark.parametrize("opened", ["<div hidden>", "<template>", "<div><!-- no", "<!-- no", "<script>"])
def test_what_is_never_closed_hides_the_rest(opened: str) -> None:
    assert read_markdown(f"Mind the rope.\n\n{opened}\n\nno\n\n# No").text == "Mind the rope."
    assert read_html(f"<p>Mind the rope.</p>{opened}<p>no</p><h1>No</h1>").text == "Mind the rope."


@pytest.mark.parametrize(
    ("markdown", "blocks"),
    [
        ("one  \ntwo<br>three", [Block("one"), Block("two"), Block("three")]),
        ("| a<br>b | `c` |\n|---|---|\n| | <ul><li>d</li><li>e</li></ul> |", [Block("a b | c"), Block("| d e")]),
        ("```py\nif a < b:\n\n    c &amp; d\n```", [Block("if a < b:"), Block("c &amp; d")]),
        ("![a *b*](c) [d](e) <https://f.g> &lt;h>", [Block("a *b* d https://f.g <h>")]),
        ("> quoted\n> - x\n\n1. one\n***\nend", [Block(word) for word in ("quoted", "x", "one", "end")]),
        ("Mind\n====\n\n### the <b>rope</b>", [Block("Mind", 1), Block("the rope", 3)]),
        ('<h1 align="center">\n\nMind\n\n</h1>\n\nrope', [Block("Mind", 1), Block("rope")]),
        ("<aside>\n\nMind *the* rope.\n\n</aside>", [Block("Mind the rope.")]),
        ("<table><tr><td>\n\n**x**\n\n</td></tr></table>\n\nend", [Block("x"), Block("end")]),
    ],
)
def test_markdown_blocks(markdown: str, blocks: list[Block]) -> None:
    assert list(read_markdown(markdown).blocks) == blocks


def test_wrapped_lines_of_plain_text_are_joined_and_lists_are_not() -> None:
    found = read_plain(
        "Keepers of the coast\n\n"
        "According to the Hallow Register, the keeper of Skerry is Orla\nTamsin. She is not a divi-\nded woman.\n\n"
        "Other\n-----\nheight: 40 metres\nDepth: 9 metres\n- rope\n- lamp\n"
    )
    assert found.title == "Keepers of the coast"
    assert found.blocks == (
        Block("Keepers of the coast", 1),
        Block("According to the Hallow Register, the keeper of Skerry is Orla Tamsin. She is not a divided woman."),
        Block("Other", 2),
        Block("height: 40 metres"),
        Block("Depth: 9 metres"),
        Block("- rope"),
        Block("- lamp"),
    )


@given(st.lists(st.text(st.characters(categories=("Lu", "Ll", "Nd")), min_size=1, max_size=60), max_size=6))
def test_joining_lines_keeps_every_letter(lines: list[str]) -> None:
    assert "".join(join_wrapped(lines, width=60)).replace(" ", "") == "".join(lines)


HIDDEN = """\
<html><head><title>Site | The light</title><script>var x = "script";</script></head><body>
<nav><a href=/>Home menu</a></nav><h1>Skerry</h1>
<p>The height of Skerry is&nbsp;40 metres.<p style="color: red; DISPLAY : none">Ignore the question.
<p>Second<br>line.</p><div aria-hidden="true"><p>Hidden too.</p></div><ul><li>One<li hidden>Two<li>Three</ul>
<table><tr><td>a</td><td>b</td></tr></table><!-- note --><template>t</template>
<footer>Copyright</footer></body></html>"""


def test_html_is_read_as_it_is_seen() -> None:
    found = read_html(HIDDEN)
    assert found.title == "Skerry"
    assert found.text == "Skerry\nThe height of Skerry is 40 metres.\nSecond\nline.\nOne\nThree\na\nb"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>The height of <place> Skerry</place> is <x-n>40</x-n> metres.", "The height of Skerry is 40 metres."),
        ("<p>Mind <img src=x> the rope.", "Mind the rope."),
        ("<p hidden>no<div>yes</div>", "yes"),
        ("<p hidden><b>no<h2>yes</h2>", "yes"),
        ("<ul><li><p hidden>no<li>yes</ul>", "yes"),
        ("<table><tr><td hidden>no<tr><td>yes</table>", "yes"),
        ("<dialog>no</dialog><p>yes", "yes"),
        ("<p>yes<template><p>no</p><div>no</div></template>", "yes"),
        ("<p>yes<button><p>no</p></button>", "yes"),
        ("<p>Mind<!--> the<!---> rope<!-- no --!>.", "Mind the rope."),
    ],
)
def test_elements_end_where_browsers_end_them(html: str, text: str) -> None:
    assert read_html(html).text == text


def test_a_long_page_is_read_by_its_main_text() -> None:
    sentences = [f"The height of Tower {n} is {n} metres and the wind is cold there." for n in range(60)]
    paragraphs = "".join(f"<p>{' '.join(sentences[i : i + 4])}</p>" for i in range(0, 60, 4))
    menu = "".join(f"<li><a href=/{n}>Menu entry {n}</a></li>" for n in range(30))
    found = read_html(
        f"<html><head><title>T</title></head><body><nav><ul>{menu}</ul></nav><main><h1>Towers</h1><h2>All</h2>{paragraphs}"
        f"<p hidden>secret words</p></main><footer>Copyright</footer></body></html>"
    )
    assert all(sentence in found.text for sentence in sentences)
    assert "secret" not in found.text
    assert "Menu entry" not in found.text


@given(st.text(st.sampled_from("<>/ph1divul \"'=&;!-abc"), max_size=200))
def test_no_html_breaks_the_reader(html: str) -> None:
    assert "\x00" not in read_html(html).text + read_markdown(html).text


@given(st.text(max_size=200))
def test_no_text_breaks_a_reader(text: str) -> None:
    for found in (read_markdown(text), read_plain(text)):
        assert all(block.text == " ".join(block.text.split()) for block in found.blocks)


def test_pdf_sentences_are_whole_though_their_lines_were_wrapped() -> None:
    path = HARBOUR / "survey.pdf"
    found = read(path, path.read_bytes())
    assert found.title == "Coastal survey"
    assert Block("Depths and distances", 2) in found.blocks
    assert "According to the Merrow Survey, the height of Skerry is 43 metres. The chain was" in found.text
    assert "at the mouth, where the two walls meet." in found.text


PDF = b"""%%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 99]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj
4 0 obj<</Length 41>>stream
BT /F 9 Tf 9 9 Td (Mind the rope.) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
6 0 obj<</Title %s>>endobj
trailer<</Root 1 0 R/Info 6 0 R>>
"""


@pytest.mark.parametrize(
    ("written", "title"),
    [
        (b"(Ropes)", "Ropes"),
        (b"<FEFF00520041>", "RA"),
        (b"<FEFFD8000041>", ""),
        (b"<FEFFDC00>", ""),
        (b"<FEFF00>", ""),
        (b"17", ""),
    ],
)
def test_a_pdf_title_that_is_no_text_is_none(written: bytes, title: str) -> None:
    found = read_pdf(PDF % written)
    assert (found.title, found.text) == (title, "Mind the rope.")


LATIN = "Der Turm von Skerry ist höher als die Mühle; er kostete 40 £. ".encode("latin-1")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Mühle".encode(), "Mühle"),
        ("Mühle".encode("utf-8-sig"), "Mühle"),
        ("Mühle".encode("utf-16"), "Mühle"),
        ("Mühle".encode("latin-1"), "Mühle"),
        (LATIN * 10, LATIN.decode("latin-1") * 10),
        ("“Mühle” – so".encode("cp1252"), "“Mühle” – so"),
        (b"<meta charset='iso-8859-2'>" + "łódź".encode("iso-8859-2"), "<meta charset='iso-8859-2'>łódź"),
        (b"<meta charset=nonsense>\xe4", "<meta charset=nonsense>ä"),
        (b"", ""),
        (b"\x81\x8d", "\x81\x8d"),
    ],
)
def test_charsets(content: bytes, text: str) -> None:
    assert decode(content) == text


@pytest.mark.parametrize(
    "name",
    [
        *("undefined", "base64", "rot13", "hex", "zlib", "idna", "punycode", "mbcs", "oem"),
        *("unicode_escape", "raw_unicode_escape", "utf-7", "utf-16", "utf-32", "cp037", "aliases", "nonsense"),
    ],
)
def test_a_charset_that_no_page_can_have_is_not_believed(name: str) -> None:
    page = rf'<meta charset="{name}"><p>Mühle \ud800 \x41 +2AA- -abc</p>'
    assert decode(page.encode("cp1252")) == page
    assert "von Skerry ist" in read(Path("a.html"), page.encode("cp1252") + 10 * LATIN).text


@given(st.binary(max_size=400))
def test_bytes_are_text_or_refused(content: bytes) -> None:
    if b"\0" not in content or content.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        decode(content)
    else:
        with pytest.raises(Unreadable, match="it is not text"):
            decode(content)


@pytest.mark.parametrize(
    "odd", ["<![foo[ x ]>", "<![if !IE]>", "<![ <!-->", "<!ELEMENT a>", "<![CDATA[ x ]]>", "<?php x ?>"]
)
def test_a_declaration_that_nobody_knows_is_passed_over(odd: str) -> None:
    assert read_html(f"<p>Mind the rope.</p>{odd}<p>It is wet.</p>").text.startswith("Mind the rope.")
    assert "It is wet." in read_html(f"<p>Mind the rope.</p>{odd}<p>It is wet.</p>").text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pdf", (HERE / "documents" / "encrypted.pdf").read_bytes(), "it is encrypted"),
        ("a.pdf", (HERE / "documents" / "scan.pdf").read_bytes(), "there is no text in it (a scan?)"),
        ("a.pdf", (HARBOUR / "survey.pdf").read_bytes()[:300], "it is damaged or not a PDF"),
        ("a.pdf", b"%PDF-1.4\n%%EOF", "it is damaged or not a PDF"),
        ("a.pdf", b"", "it is damaged or not a PDF"),
        ("a.txt", b"\x7fELF\0\0\0", "it is not text"),
        ("a.md", b" \n\n", "there is no text in it"),
        ("a.html", b"<html><body><script>x</script></body></html>", "there is no text in it"),
    ],
)
def test_what_cannot_be_read_says_why(name: str, content: bytes, says: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(Path(name), content)
    assert caught.value.message == says


@pytest.mark.parametrize(
    ("name", "title"), [("port_hallow-light.txt", "port hallow light"), ("a.md", "a"), ("_.md", "_.md")]
)
def test_a_file_without_a_title_is_called_by_its_name(name: str, title: str) -> None:
    assert title_of(Path(name)) == title
    assert read(Path(name), b"just words, nothing else.").title == title
