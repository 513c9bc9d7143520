"""ZIM archives as a source: real archives, written by libzim; whole ones, cut ones and damaged ones."""

import asyncio
import hashlib
import os
import random
import shutil
import struct
import sys
import venv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from libzim.writer import ContentProvider, Creator, Hint, Item, StringProvider

from localfusion.analysis import Link
from localfusion.domains import ANYWHERE, parse_domains
from localfusion.errors import ConfigError, NotHere, WebError
from localfusion.messages import SourcesSpec
from localfusion.search.documents import DocumentIndex
from localfusion.search.opening import Sources
from localfusion.search.source import Fetched, Found, Search, Source
from localfusion.search.zim import ZimArchives, links_within
from tests.reading import read_in_thread

FRONT = {Hint["FRONT_ARTICLE"]: 1}
"""What has its title indexed."""


@dataclass(frozen=True)
class Entry:
    path: str
    title: str
    html: str
    media_type: str = "text/html"


class Written(Item):
    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self._entry = entry

    def get_path(self) -> str:
        return self._entry.path

    def get_title(self) -> str:
        return self._entry.title

    def get_mimetype(self) -> str:
        return self._entry.media_type

    def get_contentprovider(self) -> ContentProvider:
        return StringProvider(self._entry.html)

    def get_hints(self) -> dict[Hint, int]:
        return FRONT if self._entry.media_type == "text/html" else {}


def html(title: str, *paragraphs: str) -> str:
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1>{body}</body></html>"


SKERRY = Entry(
    "A/Skerry_light",
    "Skerry light",
    html(
        "Skerry light",
        "The Skerry light stands on a rock. The height of Skerry is 40 metres. Seals live there.",
        'Its keeper was from <a href="../A/Merrow">Merrow</a> (<a href="https://merrow.example/">site</a>).',
    ),
)
ENTRIES = (
    Entry("home", "Coast", html("Coast", "An archive of the coast.")),
    SKERRY,
    Entry("A/Merrow", "Merrow", html("Merrow", "Merrow is a village. The harbour of Merrow is deep.")),
    Entry("A/Größe und Maß", "Größe und Maß", html("Größe und Maß", "Die Größe der Insel ist 5 Kilometer.")),
    Entry("A/What?#1 100%", "What?", html("What?", "An oddly named article about barnacles.")),
    Entry("style.css", "style", "body {}", "text/css"),
    Entry("notes.txt", "Notes", "Plain notes about the coast.", "text/plain"),
    *(Entry(f"A/Rock_{i}", f"Rock {i}", html(f"Rock {i}", f"Rock {i} is a rock of the coast.")) for i in range(20)),
)
REDIRECTS = {"A/Lighthouse": "A/Skerry_light", "A/Beacon": "A/Lighthouse"}


def write(path: Path, *entries: Entry, full_text: bool = True, redirects: dict[str, str] | None = None) -> Path:
    creator = Creator(path).config_indexing(full_text, "eng").config_nbworkers(1).config_verbose(False)
    with creator:
        creator.set_mainpath("home")
        for entry in entries or ENTRIES:
            creator.add_item(Written(entry))
        for name, target in (REDIRECTS if redirects is None else redirects).items():
            creator.add_redirection(name, name.rpartition("/")[2], target, FRONT)
        creator.add_metadata("Title", "Coast")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("zim") / "coast_en.zim")


@pytest.fixture(scope="module")
def titles_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("zim") / "titles.zim", full_text=False)


@pytest.fixture(scope="module")
def coast(whole: Path) -> Iterator[ZimArchives]:
    with ZimArchives([whole], read=read_in_thread) as opened:
        yield opened


def search(source: Source, words: str, n: int = 3, characters: int = 500) -> Found:
    return asyncio.run(source.search(Search(words, max_results=n, max_characters=characters)))


def fetch(source: Source, url: str) -> Fetched:
    return asyncio.run(source.fetch(url, ANYWHERE))


@pytest.mark.parametrize(
    ("words", "url", "passage"),
    [
        ("height Skerry", "zim://coast_en/A/Skerry_light", "The height of Skerry is 40 metres."),
        ("What is the height of Skerry?", "zim://coast_en/A/Skerry_light", "The height of Skerry is 40 metres."),
        ("the xyzzy harbour", "zim://coast_en/A/Merrow", "The harbour of Merrow is deep."),
        ("harbours", "zim://coast_en/A/Merrow", "The harbour of Merrow is deep."),
        ("Größe", "zim://coast_en/A/Gr%C3%B6%C3%9Fe%20und%20Ma%C3%9F", "Die Größe der Insel ist 5 Kilometer."),
        ("barnacles", "zim://coast_en/A/What%3F%231%20100%25", "An oddly named article about barnacles."),
    ],
)
def test_the_full_text_is_searched(coast: ZimArchives, words: str, url: str, passage: str) -> None:
    found = search(coast, words)
    result = found.results[0]
    assert (result.url, result.source) == (url, "zim")
    assert passage in result.passage
    assert result.page is not None
    assert result.page.url == url
    assert all(line in result.page.text for line in result.passage.splitlines())
    assert found.warnings == ()


def test_articles_with_all_words_come_first_and_those_with_the_rarest_next(coast: ZimArchives) -> None:
    found = search(coast, "deep rock coast", n=4)
    assert found.results[0].url == "zim://coast_en/A/Merrow"
    assert len({result.url for result in found.results}) == len(found.results) == 1
    found = search(coast, "rock coast", n=7)
    assert len(found.results) == 7
    assert [result.score for result in found.results] == sorted((r.score for r in found.results), reverse=True)


@pytest.mark.parametrize("words", ["", "?!", "xyzzy", '"', "NOT", "title:", "*", "\x00", "(" * 200])
def test_nothing_is_found_for_what_is_not_there(coast: ZimArchives, words: str) -> None:
    assert search(coast, words) == Found()


def test_a_passage_is_within_its_limit(coast: ZimArchives) -> None:
    assert search(coast, "height Skerry", characters=40).results[0].passage == "The height of Skerry is 40 metres."


def test_without_a_full_text_index_titles_are_searched_and_a_warning_says_so(titles_only: Path) -> None:
    with ZimArchives([titles_only], read=read_in_thread) as source:
        found = search(source, "where is the Skerry light")
        assert [result.url for result in found.results] == ["zim://titles/A/Skerry_light"]
        assert found.warnings == ("zim: titles has no full-text index, only its titles were searched",)
        assert search(source, "Lighthouse").results[0].url == "zim://titles/A/Skerry_light"
        assert search(source, "harbour").results == ()


def test_several_archives_are_told_apart_and_fused(whole: Path, titles_only: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / whole.name
    other.parent.mkdir()
    write(
        other,
        Entry("home", "Home", html("Home", "Skerry")),
        Entry("S", "S", html("S", "Skerry once more")),
        redirects={},
    )
    with ZimArchives([whole, other, titles_only], read=read_in_thread) as source:
        assert source.archives == ("coast_en", "coast_en-2", "titles")
        found = search(source, "Skerry", n=4)
        assert {result.url.split("/")[2] for result in found.results} == {"coast_en", "coast_en-2", "titles"}
        assert fetch(source, "zim://coast_en-2/S").page.text == "S\nSkerry once more"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("zim://coast_en/A/Skerry_light", "zim://coast_en/A/Skerry_light"),
        ("ZIM://coast_en/A/Skerry%5Flight", "zim://coast_en/A/Skerry_light"),
        ("zim://coast_en/A/Lighthouse", "zim://coast_en/A/Skerry_light"),
        ("zim://coast_en/A/Beacon", "zim://coast_en/A/Skerry_light"),
        ("zim://coast_en/A/Größe und Maß", "zim://coast_en/A/Gr%C3%B6%C3%9Fe%20und%20Ma%C3%9F"),
        ("zim://coast_en/A/What%3F%231%20100%25", "zim://coast_en/A/What%3F%231%20100%25"),
        ("zim://coast_en/A/What?%231%20100%25", "zim://coast_en/A/What%3F%231%20100%25"),
        ("zim://coast_en/", "zim://coast_en/home"),
        ("zim://coast_en", "zim://coast_en/home"),
        ("zim://coast_en/notes.txt", "zim://coast_en/notes.txt"),
    ],
)
def test_an_article_is_fetched(coast: ZimArchives, url: str, shown: str) -> None:
    page = fetch(coast, url).page
    assert page.url == shown
    assert page.text
    assert page.retrieved_at == ""
    assert len(page.sha256) == 64


def test_rules_about_the_web_are_not_about_archives(coast: ZimArchives) -> None:
    url = "zim://coast_en/A/Merrow"
    assert asyncio.run(coast.fetch(url, parse_domains(["a.example"]))).page.title == "Merrow"


@pytest.mark.parametrize(
    "url",
    [
        "zim://other/A/Skerry_light",
        "https://coast_en/A/Merrow",
        "doc://coast_en/A",
        "coast_en/A",
        "",
        "zim:///A/Merrow",
    ],
)
def test_an_address_of_another_kind_is_not_here(coast: ZimArchives, url: str) -> None:
    with pytest.raises(NotHere, match="only what is below zim://coast_en/"):
        fetch(coast, url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("zim://coast_en/A/Nothing", "is not in that archive"),
        ("zim://coast_en/A/../home", "is not in that archive"),
        ("zim://coast_en/%00", "is not in that archive"),
        ("zim://coast_en/" + "x" * 100_000, "is not in that archive"),
        ("zim://coast_en/\udce9", "is not in that archive"),
        ("zim://coast_en/style.css", "cannot be read: it is of a type that is not read"),
    ],
)
def test_what_cannot_be_fetched(coast: ZimArchives, url: str, message: str) -> None:
    with pytest.raises(WebError, match=message) as caught:
        fetch(coast, url)
    assert not isinstance(caught.value, NotHere)


def test_redirects_are_followed_so_far_and_no_further(tmp_path: Path) -> None:
    chain = {f"r{i}": f"r{i + 1}" for i in range(12)} | {"r12": "home"}
    archive = write(tmp_path / "chain.zim", Entry("home", "Home", html("Home", "Here.")), redirects=chain)
    with ZimArchives([archive], read=read_in_thread) as source:
        assert fetch(source, "zim://chain/r4").page.url == "zim://chain/home"
        with pytest.raises(WebError, match="without end"):
            fetch(source, "zim://chain/r0")


def test_an_article_that_is_too_large(tmp_path: Path) -> None:
    huge = Entry("huge", "Huge", html("Huge", "word " * 4_000_000))
    archive = write(tmp_path / "huge.zim", Entry("home", "Home", html("Home", "Here.")), huge, full_text=False)
    with ZimArchives([archive], read=read_in_thread) as source, pytest.raises(WebError, match="larger than 16 MiB"):
        fetch(source, "zim://huge/huge")


def test_links_within_an_archive_are_addresses_of_it() -> None:
    inside = "https://archive.invalid/"
    links = (
        Link(f"{inside}A/Merrow", "Merrow"),
        Link(f"{inside}A/Merrow#history", "its history"),
        Link(f"{inside}A/Gr%C3%B6%C3%9Fe%20und%20Ma%C3%9F", "Größe"),
        Link(f"{inside}", "home"),
        Link("https://merrow.example/", "site"),
        Link("https://archive.invalid.example/x", "another host"),
    )
    assert links_within(links, "coast en") == (
        Link("zim://coast%20en/A/Merrow", "Merrow"),
        Link("zim://coast%20en/A/Gr%C3%B6%C3%9Fe%20und%20Ma%C3%9F", "Größe"),
        Link("zim://coast%20en/", "home"),
        Link("https://merrow.example/", "site"),
        Link("https://archive.invalid.example/x", "another host"),
    )


LENGTHS = (0, 1, 4, 79, 80, 81, 200, 1_000, 4_096, 10_000, -20_000, -10_000, -1_000, -100, -17, -16, -15, -1)


@pytest.mark.parametrize("length", LENGTHS)
def test_an_archive_that_is_cut_short_is_named(whole: Path, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "cut.zim"
    cut.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(ConfigError, match=r"cut\.zim is (no ZIM archive|cut short)") as caught:
        ZimArchives([whole, cut], read=read_in_thread).open()
    assert "download it again" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an archive at all" * 10, "is no ZIM archive"),
        (struct.pack("<I68xQ", 72173914, 64), "cannot be opened"),
        (struct.pack("<I68xQ", 72173914, 0) + b"\xff" * 1000, "is cut short or damaged"),
        (struct.pack("<I68xQ", 72173914, 2**63), "is cut short or damaged"),
        (b"", "it has 0 bytes"),
    ],
)
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "wrong.zim"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"wrong\.zim {message}|wrong\.zim.*{message}"):
        ZimArchives([path], read=read_in_thread).open()


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zim")
    for path in (tmp_path / "missing.zim", tmp_path, tmp_path / "pipe.zim"):
        with pytest.raises(ConfigError, match=r"cannot be opened|is no file"):
            ZimArchives([path], read=read_in_thread).open()


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_archive_is_refused_by_its_checksum(whole: Path, tmp_path: Path, seed: int) -> None:
    content = bytearray(whole.read_bytes())
    random_ = random.Random(seed)
    for _ in range(20):
        content[random_.randrange(80, len(content) - 16)] ^= 1 << random_.randrange(8)
    path = tmp_path / "damaged.zim"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"damaged\.zim (cannot be opened: )"):
        ZimArchives([path], read=read_in_thread).open()


@pytest.mark.parametrize("seed", range(24))
def test_a_forged_archive_ends_in_errors_and_never_in_a_crash(whole: Path, tmp_path: Path, seed: int) -> None:
    """Its checksum is right, so that libzim reads what is wrong with it."""
    random_ = random.Random(seed)
    content = bytearray(whole.read_bytes()[:-16])
    for _ in range(random_.choice([1, 4, 64])):
        content[random_.randrange(80, random_.choice([6000, len(content)]))] = random_.randrange(256)
    path = tmp_path / "forged.zim"
    path.write_bytes(content + hashlib.md5(content, usedforsecurity=False).digest())
    try:
        source = ZimArchives([path], timeout_s=10, read=read_in_thread)
        source.open()
    except ConfigError:
        return
    with source:
        for carry_out in (lambda: search(source, "rock coast"), lambda: fetch(source, "zim://forged/A/Merrow")):
            with suppress(WebError):
                carry_out()


def test_damage_that_is_met_later_is_told_and_the_rest_goes_on(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "coast.zim"
    shutil.copy(whole, path)
    with ZimArchives([path, whole], read=read_in_thread) as source:
        content = path.read_bytes()
        with path.open("r+b") as file:  # libzim maps the file: this reaches what it has open
            file.seek(80)
            file.write(b"\xff" * (len(content) - 96))
        found = search(source, "height Skerry")
        assert "zim://coast_en/A/Skerry_light" in [result.url for result in found.results]
        with pytest.raises(WebError):
            fetch(source, "zim://coast/A/Merrow")
        assert fetch(source, "zim://coast_en/A/Merrow").page.title == "Merrow"


def test_an_archive_that_is_gone_while_it_is_read(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.zim"
    shutil.copy(whole, path)
    with ZimArchives([path], read=read_in_thread) as source:
        with path.open("r+b") as file:
            file.truncate(100)  # a read of mapped pages behind the end ends a process by a signal
        with pytest.raises(WebError, match="gone"):
            search(source, "height Skerry")
        with pytest.raises(WebError, match="gone"):
            fetch(source, "zim://gone/A/Merrow")


def test_a_file_name_is_utf_8(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "Küste 100%?#.zim"
    shutil.copy(whole, path)
    with ZimArchives([path], read=read_in_thread) as source:
        (result,) = search(source, "height Skerry", n=1).results
        assert result.url == "zim://K%C3%BCste%20100%25%3F%23/A/Skerry_light"
        assert fetch(source, result.url).page == result.page
    other = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.zim"))
    shutil.copy(whole, other)
    with pytest.raises(ConfigError, match="its name is not UTF-8"):
        ZimArchives([other], read=read_in_thread).open()


def test_a_missing_libzim_is_told_with_the_line_that_installs_it(whole: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    with pytest.raises(ConfigError, match="libzim, which is missing") as caught:
        ZimArchives([whole], python=str(tmp_path / "bare" / "bin" / "python"), read=read_in_thread).open()
    assert "pip install 'localfusion[zim]'" in caught.value.hint


def test_an_archive_that_takes_too_long_is_left(whole: Path, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(ConfigError, match=r"coast_en\.zim cannot be opened|missing"):
        ZimArchives([whole], python=str(slow), timeout_s=0.1, read=read_in_thread).open()


def test_a_closed_source_is_of_no_use_and_leaves_no_process(whole: Path) -> None:
    source = ZimArchives([whole], read=read_in_thread)
    source.open()
    source.close()
    source.close()
    with pytest.raises(WebError, match="coast_en gave nothing: it is closed"):
        search(source, "height Skerry")
    with pytest.raises(WebError, match="cannot be read: it is closed"):
        fetch(source, "zim://coast_en/A/Merrow")


def test_many_searches_at_once(coast: ZimArchives) -> None:
    async def all_at_once() -> list[Found]:
        return await asyncio.gather(*(coast.search(Search(f"Rock {i}", max_results=1)) for i in range(8)))

    found = asyncio.run(all_at_once())
    assert [one.results[0].url for one in found] == [f"zim://coast_en/A/Rock_{i}" for i in range(8)]


def test_the_process_of_an_archive_has_a_small_environment_no_network_and_little_memory(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    before = set(psutil.Process().children())
    with ZimArchives([whole], read=read_in_thread):
        (process,) = set(psutil.Process().children()) - before
        assert "HF_TOKEN" not in process.environ()
        if sys.platform == "linux":
            assert process.rlimit(psutil.RLIMIT_DATA)[1] < 2**31
            assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)


def test_an_open_that_is_given_up_leaves_no_process(whole: Path) -> None:
    async def given_up() -> None:
        store = DocumentIndex(None)
        sources = Sources(store, None, keep_pages_s=0)

        async def use() -> None:
            async with sources.open(SourcesSpec(zim=(whole,) * 4), names_pages=False):
                await asyncio.sleep(60)

        for pause_s in (0.0, 0.01, 0.1, 0.3, 1.0):
            opening = asyncio.create_task(use())
            await asyncio.sleep(pause_s)
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        await sources.aclose()
        store.close()

    before = psutil.Process().children()
    asyncio.run(given_up())
    assert psutil.Process().children() == before
