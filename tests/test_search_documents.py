"""The index of local documents: what it finds, what it reads again, what it drops, and what it refuses."""

import asyncio
import os
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.domains import Domains
from localfusion.errors import ConfigError, WebError
from localfusion.search.candidates import match_any
from localfusion.search.documents import DocumentIndex
from localfusion.search.folders import find_files
from localfusion.search.local_documents import LocalDocuments
from localfusion.search.query import parse_query
from localfusion.search.sentences import split_sentences
from localfusion.search.source import Search, SearchResult, Source

HERE = Path(__file__).parent
HARBOUR = HERE.parent / "examples" / "harbour"


def search(source: Source, query: str, *, results: int = 3, characters: int = 260) -> tuple[SearchResult, ...]:
    return asyncio.run(source.search(Search(query, results, characters))).results


def text_of(result: SearchResult) -> str:
    assert result.page
    return result.page.text


def fetch(source: Source, url: str) -> str:
    return asyncio.run(source.fetch(url, Domains())).page.text


@pytest.fixture
def index() -> Iterator[DocumentIndex]:
    with closing(DocumentIndex(None)) as opened:
        yield opened


@pytest.fixture(scope="module")
def harbour() -> Iterator[LocalDocuments]:
    with closing(DocumentIndex(None)) as opened:
        yield opened.add([HARBOUR]).source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "a.md").write_text("# Skerry\n\nThe height of Skerry is 40 metres.\n")
    (docs / "deep" / "b.txt").write_text("The depth of Port Hallow is 9 metres.\n")
    return docs


@pytest.mark.parametrize(
    ("query", "url", "sentence"),
    [
        ("height of Skerry", "doc://harbour/skerry-light.md", "The height of Skerry is 40 metres."),
        (
            "height of Skerry survey",
            "doc://harbour/survey.pdf",
            "According to the Merrow Survey, the height of Skerry is 43 metres.",
        ),
        (
            "Who is the keeper of Skerry?",
            "doc://harbour/keepers.txt",
            "According to the Hallow Register, the keeper of Skerry is Orla Tamsin.",
        ),
        ("architect of Skerry", "doc://harbour/history.html", "The architect of Skerry is Tamsin Marrow."),
        ("What speed does The Merriden have?", "doc://harbour/merriden.md", "The Merriden has a speed of 11 knots."),
        ("capacity of The Kestrel", "doc://harbour/boats/kestrel.txt", "The Kestrel has a capacity of 60 passengers."),
        (
            "weight of The Merriden",
            "doc://harbour/pilot-book.pdf",
            "The Merriden has a weight of 240 tonnes, and she turns slowly.",
        ),
    ],
)
def test_the_document_that_says_it_is_found_first(harbour: LocalDocuments, query: str, url: str, sentence: str) -> None:
    first = search(harbour, query)[0]
    assert first.url == url
    assert sentence in split_sentences(first.passage)


def test_both_sides_of_the_contradiction_are_found(harbour: LocalDocuments) -> None:
    found = " ".join(result.passage for result in search(harbour, "What is the height of Skerry?"))
    assert "40 metres" in found
    assert "43 metres" in found


def test_facts_of_one_thing_come_from_several_documents(harbour: LocalDocuments) -> None:
    found = search(harbour, "What do the sources say about Skerry?", results=10)
    assert len({result.url for result in found}) == len(found) >= 8
    assert all("Skerry" in result.passage for result in found)


def test_what_is_hidden_in_a_page_is_not_there(harbour: LocalDocuments) -> None:
    assert "900" not in "".join(text_of(result) for result in search(harbour, "height Skerry 900 metres", results=20))


@given(st.text(max_size=80), st.integers(1, 5), st.integers(1, 600))
def test_any_query_gives_whole_lines_of_known_documents(
    harbour: LocalDocuments, query: str, results: int, characters: int
) -> None:
    found = search(harbour, query, results=results, characters=characters)
    assert len(found) <= results
    for result in found:
        assert 0 < len(result.passage) <= characters
        assert all(line in text_of(result) for line in result.passage.splitlines())
    assert [result.score for result in found] == sorted((result.score for result in found), reverse=True)


@pytest.mark.parametrize(
    "query",
    ['"', "a OR b", "NEAR(x y)", "title:Skerry", "Skerry*", "x AND NOT", "^a", "{a b}", "-", "\0", "'", "\ud800"],
)
def test_query_syntax_is_only_words(harbour: LocalDocuments, query: str) -> None:
    found = search(harbour, query)
    assert len({result.url for result in found}) == len(found)
    assert all(line in text_of(result) for result in found for line in result.passage.splitlines())


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5))
def test_every_word_is_quoted(words: list[str]) -> None:
    expression = match_any(words)
    inside = expression.replace('""', "")
    assert inside.count('"') % 2 == 0
    assert expression.startswith('"')
    assert expression.endswith('"')


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("Straße", "Die Straße ist neun Meter breit."),
        ("straße", "Die STRAßE ist neun Meter breit."),
        ("Größe", "Die Größe beträgt neun Meter."),
        ("Fluß", "Am Fluß steht ein Turm."),
        ("Район", "Это старый район города."),
        ("Район", unicodedata.normalize("NFD", "Это старый район города.")),
        (unicodedata.normalize("NFD", "район"), "Это старый район города."),
        ("한국", "우리는 한국 사람입니다."),
        ("한국", unicodedata.normalize("NFD", "우리는 한국 사람입니다.")),
        ("हिन्दी", "यह हिन्दी है."),
        ("İstanbul", "The ferry to İstanbul is late."),
        ("istanbul", "The ferry to İstanbul is late."),
        ("naive", "The naïve sailor slept."),
        ("naïve", "The naive sailor slept."),
        ("nai\u0308ve", "The naïve sailor slept."),
        ("\uff26\uff55\uff4c\uff4c", "The moon is \uff26\uff55\uff4c\uff4c tonight."),
        ('the "Merriden"', "Aboard the Merriden it rained."),
        ('Merr"iden Merriden', "Aboard the Merriden it rained."),
        ("Merriden AND", "Aboard the Merriden it rained."),
        ("NEAR(Merriden x, 2)", "Aboard the Merriden it rained."),
        ("Merriden*", "Aboard the Merriden it rained."),
        ("near", "Nobody came near him."),
    ],
)
def test_words_are_found_as_they_are_written(index: DocumentIndex, tmp_path: Path, query: str, sentence: str) -> None:
    (tmp_path / "a.txt").write_text(f"Rain fell all day. {sentence} Rope is kept dry.")
    (tmp_path / "b.txt").write_text("Gulls wait for bread.")
    (result,) = search(index.add([tmp_path]).source, query)
    assert result.passage == unicodedata.normalize("NFC", sentence)


def test_a_star_is_no_wildcard(index: DocumentIndex, folder: Path) -> None:
    assert search(index.add([folder]).source, "Sker*") == ()


def test_a_query_without_words_finds_nothing(harbour: LocalDocuments) -> None:
    assert search(harbour, "?!") == ()
    assert parse_query("?!").words == ()


def test_addresses_are_fetched_and_unknown_ones_refused(harbour: LocalDocuments) -> None:
    assert "The Merriden has a speed of 11 knots." in fetch(harbour, "doc://harbour/merriden.md")
    assert len(harbour.urls) == 15
    for url in ("doc://harbour/none.md", "doc://harbour/../questions.txt", "https://example.org", "", "doc://"):
        with pytest.raises(WebError):
            fetch(harbour, url)


def test_names_are_percent_encoded_and_read_either_way(index: DocumentIndex, tmp_path: Path) -> None:
    docs = tmp_path / "my notes"
    docs.mkdir()
    (docs / "höhe & #1?.md").write_text("The height is 40 metres.")
    source = index.add([docs]).source
    assert source.urls == ("doc://my%20notes/h%C3%B6he%20%26%20%231%3F.md",)
    assert fetch(source, source.urls[0]) == fetch(source, "doc://my notes/höhe & #1?.md")


def test_folders_of_one_name_are_told_apart(index: DocumentIndex, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "docs").mkdir(parents=True)
        (tmp_path / name / "docs" / "a.md").write_text(f"This is {name}.")
    source = index.add([tmp_path / "one" / "docs", tmp_path / "two" / "docs"]).source
    assert source.urls == ("doc://docs-2/a.md", "doc://docs/a.md")
    assert fetch(source, "doc://docs-2/a.md") == "This is two."


def test_a_file_is_named_under_its_folder(index: DocumentIndex, folder: Path) -> None:
    source = index.add([folder / "a.md", folder / "deep" / "b.txt", folder / "a.md"]).source
    assert source.urls == ("doc://deep/b.txt", "doc://docs/a.md")


def test_a_named_file_may_have_any_suffix(index: DocumentIndex, folder: Path) -> None:
    (folder / "LOGBOOK").write_text("The age of the boat is 9 years.")
    assert index.add([folder / "LOGBOOK"]).source.urls == ("doc://docs/LOGBOOK",)


def test_a_run_sees_only_what_it_was_given(index: DocumentIndex, folder: Path) -> None:
    index.add([folder])
    source = index.add([folder / "deep"]).source
    assert source.urls == ("doc://deep/b.txt",)
    assert search(source, "height of Skerry") == ()
    with pytest.raises(WebError):
        fetch(source, "doc://docs/a.md")


def test_unchanged_files_are_not_read_twice(index: DocumentIndex, folder: Path) -> None:
    assert (index.add([folder]).read, index.add([folder]).read) == (2, 0)
    seen = (folder / "a.md").stat()
    (folder / "a.md").write_text("# Skerry\n\nThe height of Skerry is 41 metres.\n")
    os.utime(folder / "a.md", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert index.add([folder]).read == 0
    os.utime(folder / "a.md", ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    assert index.add([folder]).read == 1
    os.utime(folder / "a.md", ns=(seen.st_atime_ns, seen.st_mtime_ns + 2))
    assert index.add([folder]).read == 0


def test_a_changed_file_is_found_by_its_new_words_only(index: DocumentIndex, folder: Path) -> None:
    source = index.add([folder]).source
    (folder / "a.md").write_text("The colour of the beacon is crimson red.\n")
    again = index.add([folder])
    assert again.read == 1
    assert search(again.source, "height Skerry") == ()
    assert search(source, "crimson")[0].passage == "The colour of the beacon is crimson red."


def test_deleted_files_are_dropped(index: DocumentIndex, folder: Path) -> None:
    before = index.add([folder]).source
    (folder / "a.md").unlink()
    added = index.add([folder])
    assert (added.removed, added.source.urls) == (1, ("doc://docs/deep/b.txt",))
    assert search(before, "height Skerry") == ()
    with pytest.raises(WebError, match="was deleted"):
        fetch(before, "doc://docs/a.md")


def test_the_index_outlives_its_process(tmp_path: Path, folder: Path) -> None:
    for read in (2, 0):
        with closing(DocumentIndex(tmp_path / "home" / "index.db")) as index:
            assert index.add([folder]).read == read


def test_two_runs_at_once_on_one_index(tmp_path: Path) -> None:
    found: list[str] = []

    def run() -> None:
        with closing(DocumentIndex(tmp_path / "index.db")) as index:
            source = index.add([HARBOUR]).source
            found.append(search(source, "keeper of Skerry")[0].url)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["doc://harbour/keepers.txt"] * 4


def test_searches_of_several_panelists_at_once(harbour: LocalDocuments) -> None:
    async def ask() -> list[str]:
        searches = (harbour.search(Search("keeper of Skerry", 1, 99)) for _ in range(8))
        return [found.results[0].url for found in await asyncio.gather(*searches)]

    assert set(asyncio.run(ask())) == {"doc://harbour/keepers.txt"}


def test_hidden_and_foreign_files_are_left_out_and_links_followed_once(index: DocumentIndex, folder: Path) -> None:
    (folder / ".hidden.md").write_text("no")
    (folder / ".git").mkdir()
    (folder / ".git" / "c.md").write_text("no")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    (folder / "a_loop").symlink_to(folder, target_is_directory=True)
    (folder / "a_link").symlink_to(folder / "deep", target_is_directory=True)
    (folder / "self.md").symlink_to(folder / "self.md")
    (folder / "again.md").symlink_to(folder / "a.md")
    (folder / "nowhere.md").symlink_to(folder / "none.md")
    added = index.add([folder])
    assert added.source.urls == ("doc://docs/a.md", "doc://docs/deep/b.txt")
    assert added.warnings == ()


def test_a_linked_folder_outside_is_followed(index: DocumentIndex, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "c.md").write_text("The age of the boat is 9 years.")
    (folder / "more").symlink_to(outside, target_is_directory=True)
    assert "doc://docs/more/c.md" in index.add([folder]).source.urls


def test_files_that_cannot_be_read_are_skipped_with_a_warning_each_time(index: DocumentIndex, folder: Path) -> None:
    (folder / "locked.pdf").write_bytes((HERE / "documents" / "encrypted.pdf").read_bytes())
    (folder / "torn.pdf").write_bytes((HARBOUR / "survey.pdf").read_bytes()[:400])
    (folder / "noise.txt").write_bytes(bytes(range(256)))
    for read in (5, 0):
        added = index.add([folder])
        assert added.read == read
        assert added.warnings == (
            f"{folder / 'locked.pdf'} was skipped: it is encrypted",
            f"{folder / 'noise.txt'} was skipped: it is not text",
            f"{folder / 'torn.pdf'} was skipped: it is damaged or not a PDF",
        )
        assert len(added.source.urls) == 2


def test_a_huge_file_is_skipped(index: DocumentIndex, folder: Path) -> None:
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(65 * 2**20)
    assert index.add([folder]).warnings == (f"{folder / 'huge.txt'} was skipped: it is larger than 64 MiB",)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_the_user_may_not_open_is_skipped(index: DocumentIndex, folder: Path) -> None:
    (folder / "a.md").chmod(0)
    (folder / "deep").chmod(0)
    (folder / "c.md").write_text("The age of the boat is 9 years.")
    warnings = index.add([folder]).warnings
    (folder / "deep").chmod(0o700)
    assert len(warnings) == 2
    assert all("cannot be opened" in warning for warning in warnings)
    (folder / "a.md").chmod(0o600)
    assert index.add([folder]).warnings == ()


def test_a_name_that_is_no_text_is_skipped(index: DocumentIndex, folder: Path) -> None:
    try:
        (folder / os.fsdecode(b"\xff.md")).write_text("The age of the boat is 9 years.")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only text as names")
    assert "its name is not UTF-8" in index.add([folder]).warnings[0]


def test_a_pipe_is_no_document_and_is_not_waited_for(index: DocumentIndex, folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    with pytest.raises(ConfigError, match="it is no file"):
        index.add([folder / "pipe.txt"])


@pytest.mark.parametrize("make", ["empty", "foreign", "broken"])
def test_a_folder_with_nothing_readable_is_the_users_mistake(index: DocumentIndex, tmp_path: Path, make: str) -> None:
    if make == "foreign":
        (tmp_path / "a.xyz").write_text("no")
    if make == "broken":
        (tmp_path / "a.pdf").write_text("no")
    with pytest.raises(ConfigError, match=r"nothing under .* can be read") as caught:
        index.add([tmp_path])
    assert "pdf" in caught.value.hint
    assert ("damaged" in caught.value.message) == (make == "broken")


def test_a_path_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        find_files([tmp_path / "none"])


def test_the_example_is_what_its_questions_need(harbour: LocalDocuments) -> None:
    text = "\n".join(fetch(harbour, url) for url in harbour.urls)
    assert {Path(url).suffix for url in harbour.urls} == {".md", ".txt", ".html", ".pdf"}
    assert "cost of Skerry" not in text
    questions = (HARBOUR.parent / "questions.txt").read_text().splitlines()
    assert all(question.endswith(("?", ".")) and search(harbour, question) for question in questions)
