"""Readers of office documents, tables, books, mail and reStructuredText: files of real libraries, and hostile ones."""

import io
import re
import zipfile
import zlib
from datetime import date, datetime
from email.message import EmailMessage
from pathlib import Path
from random import Random

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from hypothesis import given
from hypothesis import strategies as st
from openpyxl.worksheet.worksheet import Worksheet
from pptx.util import Emu

from localfusion.search.blocks import Block, Unreadable
from localfusion.search.extraction import extract
from localfusion.search.formats import BINARY, SUFFIXES, TEXT
from localfusion.search.pdf_reader import read_pdf
from localfusion.search.readers import BINARY_READERS, TEXT_READERS, read
from localfusion.search.rst_reader import read_rst
from localfusion.search.table_reader import MAX_CELLS, read_csv

HERE = Path(__file__).parent
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
DOCUMENT = "word/document.xml"
SHEET = "xl/worksheets/sheet1.xml"
SECRET = "The rope is rotten."


def blocks(name: str, content: bytes) -> list[tuple[int, str]]:
    return [(block.level, block.text) for block in read(Path(name), content).blocks]


def refusal(name: str, content: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        read(Path(name), content)
    return caught.value.message


def word() -> bytes:
    document = docx.Document()
    document.add_heading("The light", 0)
    document.add_heading("Ropes", 1)
    paragraph = document.add_paragraph("Mind ")
    paragraph.add_run("the").bold = True
    paragraph.add_run(" not this").font.hidden = True
    paragraph.add_run(" rope.\tTwice")
    table = document.add_table(2, 2)
    for number, cell in enumerate(table._cells):  # noqa: SLF001  the quickest way to all of them
        cell.text = f"cell {number}"
    document.add_paragraph("An item", style="List Bullet")
    document.element.body.insert(
        0,
        parse_xml(
            f"<w:sdt {W}><w:sdtContent><w:p><w:r><w:t>In a control</w:t></w:r>"
            "<w:ins><w:r><w:t>, added</w:t></w:r></w:ins>"
            "<w:del><w:r><w:delText>, removed</w:delText></w:r></w:del></w:p></w:sdtContent></w:sdt>"
        ),
    )
    return saved(document)


def slides() -> bytes:
    presentation = pptx.Presentation()
    first = presentation.slides.add_slide(presentation.slide_layouts[1])
    assert first.shapes.title is not None
    first.shapes.title.text = "The light"
    first.placeholders[1].text = "Mind the rope.\nIt is wet."
    notes = first.notes_slide.notes_text_frame
    assert notes is not None
    notes.text = "Say it twice."
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(Emu(0), Emu(0), Emu(9), Emu(9)).text_frame.text = "In a group"
    table = second.shapes.add_table(1, 2, Emu(0), Emu(0), Emu(9), Emu(9)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b"
    return saved(presentation)


def workbook() -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    sheet.title = "Lights"
    for row in (
        ["Name", "Height", "Built", "Lit"],
        ["Skerry", 40, date(1900, 1, 2), True],
        [],
        ["Hallow", 40.5, datetime(1900, 1, 2, 3, 4)],  # noqa: DTZ001  a cell has no time zone
    ):
        sheet.append(row)
    hidden = book.create_sheet("Hidden")
    hidden.append(["no"])
    hidden.sheet_state = "hidden"
    book.create_sheet("Empty")
    book.create_sheet("Plain").append([1, "two"])
    return saved(book)


def saved(document: object) -> bytes:
    stream = io.BytesIO()
    getattr(document, "save")(stream)  # noqa: B009  the libraries share no type
    return stream.getvalue()


def zipped(entries: dict[str, str | bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def changed(content: bytes, entries: dict[str, str | bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive with some entries replaced or added."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        kept: dict[str, str | bytes] = {name: archive.read(name) for name in archive.namelist()}
    return zipped(kept | entries, method=method)


CONTAINER = "<container><rootfiles><rootfile full-path='OPS/book.opf'/></rootfiles></container>"
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title>The light</dc:title></metadata><manifest>
<item id="b" href="text/two.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="text/one%20a.xhtml" media-type="application/xhtml+xml"/>
<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="x" href="../../../../etc/passwd" media-type="text/html"/>
<item id="y" href="/etc/passwd" media-type="text/html"/>
<item id="z" href="file:///etc/passwd" media-type="text/html"/>
<item id="p" href="light.png" media-type="image/png"/></manifest>
<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/><itemref idref="a"/><itemref idref="x"/>
<itemref idref="y"/><itemref idref="z"/><itemref idref="p"/><itemref idref="none"/></spine></package>"""
EPUB: dict[str, str | bytes] = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": CONTAINER,
    "OPS/book.opf": PACKAGE,
    "OPS/nav.xhtml": "<p>Contents</p>",
    "OPS/text/two.xhtml": "<h1>Two</h1><p>Mind the rope.<p hidden>no",
    "OPS/text/one a.xhtml": "<html><head><title>no</title></head><body><h1>One</h1><p>It is wet.",
    "OPS/light.png": b"\x89PNG",
}
ODS = zipped(
    {
        "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
        "META-INF/manifest.xml": "<manifest/>",
        "content.xml": """<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0">
<office:body><office:spreadsheet><table:table table:name="Lights">
<table:table-row><table:table-cell office:value-type="string"><text:p>Name</text:p></table:table-cell>
<table:table-cell office:value-type="string"><text:p>Height</text:p></table:table-cell></table:table-row>
<table:table-row><table:table-cell office:value-type="string"><text:p>Skerry</text:p></table:table-cell>
<table:table-cell office:value-type="float" office:value="40"><text:p>40</text:p></table:table-cell></table:table-row>
</table:table></office:spreadsheet></office:body></office:document-content>""".replace(">\n", ">"),
    }
)


def test_word_is_read_in_its_order_without_what_is_hidden() -> None:
    content = word()
    assert read(Path("a.docx"), content).title == "The light"
    assert blocks("a.docx", content) == [
        (0, "In a control, added"),
        (1, "The light"),
        (1, "Ropes"),
        (0, "Mind the rope. Twice"),
        (0, "cell 0 | cell 1"),
        (0, "cell 2 | cell 3"),
        (0, "An item"),
    ]


def test_notes_of_word_stand_at_the_end() -> None:
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    with zipfile.ZipFile(io.BytesIO(word())) as archive:
        relations = archive.read("word/_rels/document.xml.rels").decode()
        types = archive.read("[Content_Types].xml").decode()
    override = '<Override PartName="/word/footnotes.xml" ContentType="application/vnd.a+xml"/></Types>'
    relation = f'<Relationship Id="rId99" Type="{kind}/footnotes" Target="footnotes.xml"/></Relationships>'
    notes = (
        f'<w:footnotes {W}><w:footnote w:type="separator"><w:p><w:r><w:t>--</w:t></w:r></w:p></w:footnote>'
        f"<w:footnote><w:p><w:r><w:t>{SECRET}</w:t></w:r></w:p></w:footnote></w:footnotes>"
    )
    parts: dict[str, str | bytes] = {
        "word/footnotes.xml": notes,
        "[Content_Types].xml": types.replace("</Types>", override),
        "word/_rels/document.xml.rels": relations.replace("</Relationships>", relation),
    }
    assert blocks("a.docx", changed(word(), parts))[-2:] == [(0, "An item"), (0, SECRET)]


def test_slides_have_headings_and_notes() -> None:
    assert blocks("a.pptx", slides()) == [
        (1, "The light"),
        (0, "Mind the rope."),
        (0, "It is wet."),
        (0, "Say it twice."),
        (2, "Slide 2"),
        (0, "In a group"),
        (0, "a | b"),
    ]


def test_sheets_are_rows_under_their_names() -> None:
    assert blocks("a.xlsx", workbook()) == [
        (1, "Lights"),
        (0, "Name | Height | Built | Lit"),
        (0, "Name: Skerry; Height: 40; Built: 1900-01-02; Lit: yes"),
        (0, "Name: Hallow; Height: 40.5; Built: 1900-01-02 03:04:00"),
        (1, "Plain"),
        (0, "1 | two"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "last"),
    [
        ("a.ods", ODS, "Name: Skerry; Height: 40"),
        ("a.xls", (HERE / "documents" / "lights.xls").read_bytes(), "Name: Hallow; Height: 40.5"),
    ],
)
def test_other_spreadsheets(name: str, content: bytes, last: str) -> None:
    found = blocks(name, content)
    assert found[:2] == [(1, "Lights"), (0, "Name | Height")]
    assert found[-1] == (0, last)


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.csv", "Name,Height\nSkerry,40\n", ["Name | Height", "Name: Skerry; Height: 40"]),
        ("a.csv", "Name;Height\nSkerry;40,5", ["Name | Height", "Name: Skerry; Height: 40,5"]),
        ("a.csv", 'Name|Note\nSkerry|"a\nb, c"', ["Name | Note", "Name: Skerry; Note: a b, c"]),
        ("a.csv", "1,2\r\n\r\n3,\r\n", ["1 | 2", "3"]),
        ("a.csv", "one\ntwo\n", ["one", "two"]),
        ("a.csv", "Name,Name\na,b", ["Name | Name", "a | b"]),
        ("a.csv", "Name,,Height\nSkerry,x,40,more", ["Name | | Height", "Name: Skerry; x; Height: 40; more"]),
        ("a.csv", "Name,Height", ["Name | Height"]),
        ("a.tsv", "Name\tHeight, m\nSkerry\t40\n", ["Name | Height, m", "Name: Skerry; Height, m: 40"]),
    ],
)
def test_separated_values(name: str, text: str, rows: list[str]) -> None:
    assert blocks(name, text.encode()) == [(0, row) for row in rows]


def test_a_book_is_read_in_the_order_of_its_spine() -> None:
    assert read(Path("a.epub"), zipped(EPUB)).title == "The light"
    assert blocks("a.epub", zipped(EPUB)) == [(1, "One"), (0, "It is wet."), (1, "Two"), (0, "Mind the rope.")]


def mail(*, html: bool = False) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Örla <orla@a.example>"
    message["To"] = "bo@a.example"
    message["Subject"] = "The røpe"
    message["Date"] = "Mon, 02 Jan 2023 03:04:05 +0000"
    if html:
        message.set_content("<p>Mind the <b>rope</b>.<p hidden>no", subtype="html")
    else:
        message.set_content("Mind the rope – it\nis wet.\n")
        message.add_alternative("<p>not this</p>", subtype="html")
    message.add_attachment(b"\0", maintype="application", subtype="pdf", filename="röpe.pdf")
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content(SECRET)
    message.add_attachment(inner)
    return message


@pytest.mark.parametrize(("html", "text"), [(False, "Mind the rope – it is wet."), (True, "Mind the rope.")])
def test_mail(html: bool, text: str) -> None:
    assert blocks("a.eml", mail(html=html).as_bytes()) == [
        (1, "The røpe"),
        (0, "From: Örla <orla@a.example>"),
        (0, "To: bo@a.example"),
        (0, "Date: Mon, 02 Jan 2023 03:04:05 +0000"),
        (0, text),
        (0, "Attachment: röpe.pdf"),
        (0, "Attachment: message/rfc822"),
    ]


@pytest.mark.parametrize(
    "header",
    [
        "Subject: =?nonsense?q?a?=",
        "Subject: =?utf-8?b?a?=",
        "Subject: =?utf-8?q?=FF?=",
        "Subject: \udcff\udcfe",
        "Content-Type: text/plain; charset=nonsense",
        "Content-Type: multipart/mixed",
        "Content-Type: multipart/mixed; boundary=x\n\n--x",
        "Content-Type: application/pdf; name*=nonsense''%FF",
        "Content-Type: application/pdf; name*0*=a; name*x=b",
        "Content-Transfer-Encoding: base64\n\n!!!",
        "Content-Transfer-Encoding: uuencode\n\nbegin",
        'Content-Type: ;;;="',
    ],
)
def test_odd_mail_is_read_as_far_as_it_goes(header: str) -> None:
    content = f"From: bo@a.example\nDate: today\n{header}\n\nMind the rope.".encode("utf-8", "surrogateescape")
    assert (0, "From: bo@a.example") in blocks("a.eml", content)


RST = """\
=====
Light
=====

:Author: Bo

Mind the *rope* of :class:`~a.b.Skerry`, :ref:`the mole <mole>` |wet|.

.. |wet| replace:: today

.. no comment

.. function:: light(on)
   :module: a

   Turns it *on*.

   .. versionadded:: 3.1

.. toctree::
   no

One
===

- an item
  of two lines

term
    definition

Two
---

+---+---+
| a | b |
+---+---+

::

    code  stays
    here

.. note:: Take care.

A note [1]_.

.. [1] At the end.
"""


def test_rst_is_read_as_it_is_shown() -> None:
    assert blocks("a.rst", RST.encode()) == [
        (1, "Light"),
        (0, "Bo"),
        (0, "Mind the rope of Skerry, the mole today."),
        (0, "light(on)"),
        (0, "Turns it on."),
        (0, "3.1"),
        (2, "One"),
        (0, "an item of two lines"),
        (0, "term"),
        (0, "definition"),
        (3, "Two"),
        (0, "a | b"),
        (0, "code stays"),
        (0, "here"),
        (0, "Take care."),
        (0, "A note 1."),
        (0, "At the end."),
    ]


@pytest.mark.parametrize(
    "directive",
    [
        *("include:: {}", "literalinclude:: {}", "raw:: html\n   :file: {}", "raw:: html\n   :url: file://{}"),
        *("csv-table::\n   :file: {}", "csv-table::\n   :url: file://{}", "figure:: {}\n   :figwidth: image"),
        *("include:: {}\n   :literal:", "include:: {}\n   :code:", "image:: {}", "|a| image:: {}"),
    ],
)
def test_rst_reads_no_other_file_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], directive: str
) -> None:
    (tmp_path / "secret.txt").write_text(SECRET, encoding="utf-8")
    text = f"Mind the rope.\n\n.. {directive.format(tmp_path / 'secret.txt')}\n\n.. nonsense\n   \n `\n\n*x |y| z_\n"
    assert SECRET not in read_rst(text).text
    assert capfd.readouterr() == ("", "")


@given(st.text(st.sampled_from(" \n\t-=*`:|._\\[]<>+#ab1"), max_size=120))
def test_no_text_breaks_rst_and_csv(text: str) -> None:
    for found in (read_rst(text), read_csv(text)):
        assert all(block.text == " ".join(block.text.split()) for block in found.blocks)


def paragraphs(inner: str, *, dtd: str = "") -> dict[str, str | bytes]:
    return {DOCUMENT: f"{dtd}<w:document {W}><w:body>{inner}</w:body></w:document>"}


def sheet(rows: str, *, dtd: str = "") -> dict[str, str | bytes]:
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return {SHEET: f'{dtd}<worksheet xmlns="{space}"><sheetData>{rows}</sheetData></worksheet>'}


def cells(n_rows: int, n_columns: int) -> str:
    return ("<row>" + "<c><v>1</v></c>" * n_columns + "</row>") * n_rows


def nested_tables(depth: int) -> dict[str, str | bytes]:
    return paragraphs("<w:tbl><w:tr><w:tc>" * depth + SAID + "</w:tc></w:tr></w:tbl>" * depth)


def locked() -> bytes:
    uri = "OPS/text/two.xhtml"
    reference = f'<e:encryption xmlns:e="e"><e:CipherReference URI="{uri}"/></e:encryption>'
    return zipped(EPUB | {"META-INF/encryption.xml": reference})


def flagged(content: bytes) -> bytes:
    """An archive whose entries say that they are encrypted, here and in the directory."""
    marked = bytearray(content)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = marked.find(signature)
        while start >= 0:
            marked[start + offset] |= 1
            start = marked.find(signature, start + 4)
    return bytes(marked)


def lying(content: bytes) -> bytes:
    """An archive that says of each entry that it expands to one byte."""
    marked = bytearray(content)
    start = marked.find(b"PK\1\2")
    while start >= 0:
        marked[start + 24 : start + 28] = b"\1\0\0\0"
        start = marked.find(b"PK\1\2", start + 4)
    return bytes(marked)


SAID = "<w:p><w:r><w:t>Mind the rope&g;</w:t></w:r></w:p>".replace("&g;", "")
TOLD = "<w:p><w:r><w:t>Mind the rope&g;</w:t></w:r></w:p>"
LAUGHS = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
LAUGHS = f'<!DOCTYPE l [<!ENTITY a "ha">{LAUGHS}<!ENTITY g "&j;">]>'
ABROAD = '<!DOCTYPE l [<!ENTITY g SYSTEM "file:///etc/passwd">]>'
REMOTE = '<!DOCTYPE l SYSTEM "http://127.0.0.1:9/l.dtd">'
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
WORD, SLIDES, BOOK = word(), slides(), workbook()
NO_WORD, NO_SLIDES = "it is damaged or not a Word document", "it is damaged or not a PowerPoint presentation"
NO_SHEET, NO_EPUB = "it is damaged or not a spreadsheet", "it is damaged or not an EPUB"
NO_MAIL, HUGE = "it is damaged or not an email message", "it is larger than 256 MiB once expanded"
BOMB = b"\0" * (2**28 + 1)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        *((f"a{suffix}", b"", NO_SHEET) for suffix in (".xlsx", ".xls", ".ods", ".xlsb", ".xlsm")),
        *((name, b"", says) for name, says in (("a.docx", NO_WORD), ("a.pptx", NO_SLIDES), ("a.epub", NO_EPUB))),
        *((name, b"", says) for name, says in (("a.eml", NO_MAIL), ("a.csv", "there is no text in it"))),
        *((f"a{suffix}", b"", "there is no text in it") for suffix in (".rst", ".tsv")),
        *(("a.docx", content, NO_WORD) for content in (WORD[:9000], SLIDES, BOOK, zipped(EPUB), b"Mind the rope.")),
        *(("a.pptx", content, NO_SLIDES) for content in (SLIDES[:9000], WORD, BOOK, b"%PDF-1.4")),
        *(("a.xlsx", content, NO_SHEET) for content in (BOOK[:3000], WORD, SLIDES, zipped({}), b"Mind the rope.")),
        *(("a.epub", content, NO_EPUB) for content in (zipped(EPUB)[:900], WORD, b"<p>Mind the rope.")),
        *(("a.eml", content, NO_MAIL) for content in (WORD, b"Mind the rope.", b"From: bo\n\nMind", b"%PDF-1.4")),
        *(("a.csv", content, "it is not text") for content in (WORD, BOOK)),
        ("a.rst", WORD, "it is not text"),
        *(
            (f"a{suffix}", OLE + "EncryptedPackage".encode("utf-16-le"), "it is encrypted")
            for suffix in (".docx", ".pptx")
        ),
        *(
            (f"a{suffix}", OLE + "EncryptedPackage".encode("utf-16-le"), "it is encrypted")
            for suffix in (".xlsx", ".xls")
        ),
        *((name, flagged(content), "it is encrypted") for name, content in (("a.docx", WORD), ("a.xlsx", BOOK))),
        *(
            (name, flagged(content), "it is encrypted")
            for name, content in (("a.pptx", SLIDES), ("a.epub", zipped(EPUB)))
        ),
        ("a.epub", locked(), "it is encrypted"),
        ("a.docx", OLE * 100, NO_WORD),
        ("a.docx", changed(WORD, {"a": BOMB}), HUGE),
        ("a.pptx", changed(SLIDES, {"a": BOMB}), HUGE),
        ("a.xlsx", changed(BOOK, {SHEET: BOMB}), HUGE),
        ("a.ods", changed(ODS, {"content.xml": BOMB}), HUGE),
        ("a.epub", zipped(EPUB | {"OPS/text/two.xhtml": BOMB}), HUGE),
        ("a.epub", zipped({f"{n}": "" for n in range(20_001)}), "it holds more than 20000 files"),
        ("a.docx", lying(WORD), NO_WORD),
        ("a.epub", lying(zipped(EPUB)), NO_EPUB),
        ("a.docx", changed(WORD, {}, method=zipfile.ZIP_BZIP2), "it is compressed in a way that is not read"),
        ("a.xlsx", changed(BOOK, {}, method=zipfile.ZIP_LZMA), "it is compressed in a way that is not read"),
        ("a.docx", changed(WORD, paragraphs(TOLD, dtd=LAUGHS)), NO_WORD),
        ("a.epub", zipped(EPUB | {"OPS/book.opf": LAUGHS + PACKAGE.replace("The light", "&g;")}), NO_EPUB),
        ("a.xlsx", changed(BOOK, sheet('<row><c t="str"><v>&g;</v></c></row>', dtd=LAUGHS)), NO_SHEET),
        ("a.docx", changed(WORD, nested_tables(5000)), NO_WORD),
        ("a.docx", changed(WORD, {DOCUMENT: "<a>"}), NO_WORD),
        ("a.docx", changed(WORD, {"_rels/.rels": "<a/>"}), NO_WORD),
        ("a.docx", changed(WORD, {"word/styles.xml": "<a/>"}), NO_WORD),
        ("a.epub", zipped(EPUB | {"META-INF/container.xml": "<a/>"}), NO_EPUB),
        ("a.epub", zipped(EPUB | {"META-INF/container.xml": CONTAINER.replace("OPS", "../../etc")}), NO_EPUB),
        ("a.epub", zipped(EPUB | {"OPS/book.opf": "<a/>"}), "there is no text in it"),
        ("a.xlsx", changed(BOOK, sheet(cells(1025, 1024))), f"it has more than {MAX_CELLS} cells"),
        ("a.csv", b"1,2,3,4\n" * 262_145, f"it has more than {MAX_CELLS} cells"),
        ("a.csv", b'a,b\n"' + b"x" * 200_000, "it has a cell that does not end"),
        (
            "a.eml",
            b"From: a\nDate: b\n"
            + b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(2000)),
            "it is nested too deeply",
        ),
        ("a.rst", b"".join(b" " * n + b"- x\n\n" for n in range(300)), "it is nested too deeply"),
    ],
)
def test_what_is_damaged_hostile_or_something_else_says_so(name: str, content: bytes, says: str) -> None:
    assert refusal(name, content) == says


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.docx", changed(WORD, paragraphs(TOLD, dtd=ABROAD)), "Mind the rope"),
        ("a.docx", changed(WORD, paragraphs(SAID, dtd=REMOTE)), "Mind the rope"),
        ("a.docx", changed(WORD, nested_tables(60)), "Mind the rope"),
        ("a.docx", changed(WORD, paragraphs(SAID) | {"../../evil.sh": "x", "/etc/evil": "x"}), "Mind the rope"),
        ("a.epub", zipped(EPUB | {"OPS/book.opf": ABROAD + PACKAGE}), "One\nIt is wet.\nTwo\nMind the rope."),
        ("a.epub", zipped(EPUB | {"OPS/text/two.xhtml": f"{LAUGHS}<p>&g;"}), "One\nIt is wet.\n]>\n&g;"),
        ("a.epub", zipped(EPUB | {"OPS/text/two.xhtml": f"{ABROAD}<p>&g;"}), "One\nIt is wet.\n]>\n&g;"),
        ("a.epub", zipped(EPUB | {"OPS/text/two.xhtml": "<div>" * 20_000 + "x"}), "One\nIt is wet.\nx"),
    ],
)
def test_nothing_is_expanded_and_no_other_file_is_read(name: str, content: bytes, text: str) -> None:
    assert read(Path(name), content).text == text


@given(st.sampled_from([("a.docx", WORD), ("a.pptx", SLIDES), ("a.epub", zipped(EPUB))]), st.data())
def test_an_archive_with_a_changed_byte_is_read_or_refused(named: tuple[str, bytes], data: st.DataObject) -> None:
    name, content = named
    position = data.draw(st.integers(0, len(content) - 1))
    changed_byte = bytes([content[position] ^ data.draw(st.integers(1, 255))])
    try:
        read(Path(name), content[:position] + changed_byte + content[position + 1 :])
    except Unreadable as error:
        assert error.message  # noqa: PT017  either way is right


PDF = b"""%%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[%s]/Count %d>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 99]/Contents 4 0 R>>endobj
4 0 obj<</Length %d/Filter[/FlateDecode/FlateDecode]>>stream
%s
endstream endobj
trailer<</Root 1 0 R>>
"""


def test_a_pdf_of_too_many_pages_is_refused() -> None:
    with pytest.raises(Unreadable, match="it has more than 20000 pages"):
        read_pdf(PDF % (b"3 0 R " * 20_001, 20_001, 0, b""))


def expanding_pdf() -> bytes:
    """A few kilobytes that are three gigabytes of a page."""
    once = spaces(n_blocks=192)
    twice = zlib.compress(once, 9)
    return PDF % (b"3 0 R", 1, len(twice), twice)


def spaces(*, n_blocks: int) -> bytes:
    """What zlib makes of so many times 16 MiB of spaces, each block flushed: all but the first are the same bytes."""
    n = n_blocks << 24
    compressor = zlib.compressobj(9)
    content = b" " * 2**24
    first = compressor.compress(content) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(content) + compressor.flush(zlib.Z_FULL_FLUSH)
    sums = ((n + 32 * n * (n + 1) // 2) % 65521, (1 + 32 * n) % 65521)  # Adler-32 of n spaces
    end = b"\x01\x00\x00\xff\xff"  # an empty last block
    return first + block * (n_blocks - 1) + end + b"".join(one.to_bytes(2, "big") for one in sums)


def test_spaces_are_what_zlib_reads() -> None:
    assert zlib.decompress(spaces(n_blocks=2)) == b" " * 2**25


def test_hostile_files_cost_themselves_alone(tmp_path: Path) -> None:
    sparse = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    contents = {
        "sparse.xlsx": changed(BOOK, sheet(sparse)),
        "expanding.pdf": expanding_pdf(),
        "bomb.docx": changed(WORD, {"a": BOMB}),
        "good.docx": WORD,
        "good.xlsx": BOOK,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = {each.path.name: each.problem for each in extract([tmp_path / name for name in contents], n_processes=1)}
    assert (found["bomb.docx"], found["good.docx"], found["good.xlsx"]) == (HUGE, None, None)
    for name in ("sparse.xlsx", "expanding.pdf"):
        assert re.search("broke down|of memory|longer than", found[name] or ""), found[name]


def test_damaged_workbooks_are_read_or_refused(tmp_path: Path) -> None:
    """Damage may end the process that reads one; so they are read where that does no harm."""
    random = Random(0)
    plain = changed(BOOK, {}, method=zipfile.ZIP_STORED)
    for number in range(40):
        content = bytearray(plain)
        for _ in range(9):
            content[random.randrange(len(content))] = random.randrange(256)
        (tmp_path / f"{number}.xlsx").write_bytes(content)
    found = list(extract(tmp_path.iterdir(), n_processes=2))
    assert len(found) == 40
    assert all(each.problem or each.passages for each in found)


def test_every_suffix_has_a_reader() -> None:
    assert {".rst", ".docx", ".pptx", ".xlsx", ".xls", ".ods", ".csv", ".tsv", ".epub", ".eml", ".pdf"} <= SUFFIXES
    assert set(TEXT_READERS) == TEXT
    assert set(BINARY_READERS) == BINARY
    assert Block("Light", 1) in read(Path("A.RST"), RST.encode()).blocks
