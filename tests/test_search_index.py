"""The index over time: interrupted, used by several at once, of an older version, on a full disk, and forgotten."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from localfusion.database import Database
from localfusion.errors import ConfigError
from localfusion.search.document_tables import MIGRATIONS, delete
from localfusion.search.documents import DocumentIndex, Stopped
from localfusion.search.local_documents import LocalDocuments, Scope
from localfusion.search.source import Search


def found(source: LocalDocuments, query: str) -> list[str]:
    return [result.url for result in asyncio.run(source.search(Search(query, 10, 200))).results]


def write_files(folder: Path, count: int, *, text: str = "The beacon of number {0} is grey.") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:04d}.txt").write_text(text.format(number))
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Iterator[DocumentIndex]:
    with closing(DocumentIndex(tmp_path / "home" / "index.db", clock=lambda: 7.0)) as opened:
        yield opened


def test_progress_names_every_file_once(index: DocumentIndex, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    folder = write_files(tmp_path / "docs", 40)
    index.add([folder], on_progress=lambda done, every, name: told.append((done, every, name)))
    assert [done for done, _, _ in told] == list(range(1, 41))
    assert {every for _, every, _ in told} == {40}
    assert {name for _, _, name in told} == {str(path) for path in folder.iterdir()}
    index.add([folder], on_progress=lambda *_: pytest.fail("nothing was to be read"))


def test_what_was_read_before_a_stop_is_kept(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 40)
    read: list[int] = []
    with pytest.raises(Stopped):
        index.add([folder], is_stopped=lambda: len(read) >= 10, on_progress=lambda done, _, __: read.append(done))
    assert index.add([folder]).read == 40 - len(read)


def test_an_interruption_from_within_keeps_what_was_read(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 40)

    def interrupt(done: int, _: int, __: str) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add([folder], on_progress=interrupt)
    assert index.add([folder]).read == 30


def add_command(index: Path, folder: Path) -> list[str]:
    program = (
        "import sys; from pathlib import Path; from localfusion.search.documents import DocumentIndex;"
        "DocumentIndex(Path(sys.argv[1])).add([Path(sys.argv[2])])"
    )
    return [sys.executable, "-c", program, str(index), str(folder)]


def test_a_killed_indexer_leaves_an_index_that_goes_on(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 400)
    killed = subprocess.Popen(add_command(tmp_path / "index.db", folder))
    for _ in range(600):
        if killed.poll() is not None or n_documents(tmp_path / "index.db"):
            break
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with closing(DocumentIndex(tmp_path / "index.db")) as index:
        kept = n_documents(tmp_path / "index.db")
        added = index.add([folder])
        assert added.read == 400 - kept
        assert found(added.source, "399") == ["doc://docs/0399.txt"]


def n_documents(path: Path) -> int:
    """As another program would look, which does no harm either."""
    if not path.exists():
        return 0
    try:
        with closing(apsw.Connection(str(path))) as connection:
            return int(next(connection.execute("SELECT count(*) FROM document"))[0])
    except (apsw.SQLError, apsw.BusyError):  # it has no tables yet
        return 0


def test_two_indexers_at_once(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 300)
    running = [subprocess.Popen(add_command(tmp_path / "index.db", folder)) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    with closing(DocumentIndex(tmp_path / "index.db")) as index:
        added = index.add([folder])
        assert (added.read, len(added.source.urls)) == (0, 300)
        assert found(added.source, "299") == ["doc://docs/0299.txt"]


def test_a_disk_that_takes_no_more_is_one_error_and_loses_nothing(tmp_path: Path) -> None:
    first = write_files(tmp_path / "first", 20)
    second = write_files(tmp_path / "second", 200, text="Number {0} " + "fills the disk with words of all kinds " * 200)
    with closing(DocumentIndex(tmp_path / "index.db")) as index:
        index.add([first])
    limit = resource.RLIMIT_FSIZE
    before = resource.getrlimit(limit)
    done = subprocess.run(
        add_command(tmp_path / "index.db", second),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(limit, (2**20, before[1])),
    )
    assert done.returncode == 1
    assert "LocalFusionError: the disk" in done.stderr
    with closing(DocumentIndex(tmp_path / "index.db")) as index:
        assert index.add([first]).read == 0
        assert len(index.add([first, second]).source.urls) == 220


def test_an_older_index_is_read_again_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    folder = write_files(tmp_path / "docs", 3)
    with closing(apsw.Connection(str(path))) as connection:
        for statement in (*MIGRATIONS[0], *MIGRATIONS[1], "PRAGMA user_version = 2"):
            connection.execute(statement)
        for number in range(3):
            row = (number + 1, str(folder / f"{number:04d}.txt"), 1, 1, "", "old", "old words", "", None)
            connection.execute("INSERT INTO document VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    (folder / "0002.txt").unlink()
    with closing(DocumentIndex(path)) as index:
        added = index.add([folder])
        assert (added.read, added.removed, len(added.source.urls)) == (2, 1, 2)
        assert added.warnings == ("3 documents were indexed by an earlier version, and are read again",)
        assert found(added.source, "beacon") == ["doc://docs/0000.txt", "doc://docs/0001.txt"]
        assert found(added.source, "old words") == []
        assert index.add([folder]).warnings == ()


def test_folders_are_registered_listed_and_refreshed(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 3)
    (folder / "torn.pdf").write_bytes(b"no")
    index.register([folder, folder])
    (root,) = index.roots()
    assert (root.path, root.n_files, root.refreshed) == (folder, 0, None)
    assert index.refresh().read == 4
    (root,) = index.roots()
    assert (root.n_files, root.n_unreadable, root.refreshed) == (3, 1, 7.0)
    assert root.n_bytes == sum(path.stat().st_size for path in folder.glob("*.txt"))


def test_a_registered_folder_that_is_away_is_said_so_and_kept(index: DocumentIndex, tmp_path: Path) -> None:
    here, away = write_files(tmp_path / "here", 2), write_files(tmp_path / "away", 2)
    index.register([here, away])
    index.refresh()
    away.rename(tmp_path / "elsewhere")
    added = index.refresh()
    assert added.warnings == (f"{away} was skipped: it is not there now",)
    assert (added.removed, len(added.source.urls)) == (0, 2)
    assert [root.n_files for root in index.roots()] == [2, 2]


def test_nothing_registered_and_nothing_there_are_the_users_mistakes(index: DocumentIndex, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no documents are registered"):
        index.refresh()
    with pytest.raises(ConfigError, match="does not exist"):
        index.register([tmp_path / "none"])
    with pytest.raises(ConfigError, match="nothing is known"):
        index.unregister(tmp_path / "none")


def test_what_is_unregistered_is_gone_from_the_disk(index: DocumentIndex, tmp_path: Path) -> None:
    secret = write_files(tmp_path / "secret", 5, text="Quillfeather paid {0} crowns to Zephyrine.")
    kept = write_files(tmp_path / "kept", 5)
    index.register([secret, kept])
    index.refresh()
    assert index.unregister(secret) == 5
    for path in (tmp_path / "home").iterdir():
        content = path.read_bytes().lower()
        assert b"quillf" not in content
        assert b"zephyrin" not in content
        assert b"secret" not in content
    assert [root.path for root in index.roots()] == [kept]
    assert found(index.refresh().source, "beacon 3")[0] == "doc://kept/0003.txt"


def test_what_another_registered_folder_holds_too_is_kept(index: DocumentIndex, tmp_path: Path) -> None:
    outer = write_files(tmp_path / "docs", 2)
    inner = write_files(outer / "inner", 2)
    index.register([outer, inner])
    index.refresh()
    assert index.unregister(outer) == 2
    assert [root.n_files for root in index.roots()] == [2]
    assert index.unregister(inner) == 2
    assert index.roots() == ()


def test_a_part_of_a_large_index_is_searched_alone(index: DocumentIndex, tmp_path: Path) -> None:
    one, two = write_files(tmp_path / "one", 150), write_files(tmp_path / "two", 150)
    index.add([one, two])
    part = index.add([two]).source
    assert {url.split("/")[2] for url in found(part, "grey beacon")} == {"two"}
    single = index.add([one / "0007.txt"]).source
    assert found(single, "beacon") == ["doc://one/0007.txt"]
    some = index.add([one / f"{number:04d}.txt" for number in range(70, 140)]).source
    assert len(found(some, "grey beacon")) == 10
    assert set(found(some, "grey beacon")) <= set(some.urls)
    assert found(some, "3") == []


def test_a_linked_file_and_folder_are_found_from_where_they_are_linked(index: DocumentIndex, tmp_path: Path) -> None:
    outside = write_files(tmp_path / "outside", 3)
    docs = write_files(tmp_path / "docs", 1, text="Only {0} here.")
    (docs / "link.txt").symlink_to(outside / "0001.txt")
    index.add([outside])
    source = index.add([docs]).source
    assert found(source, "beacon") == ["doc://docs/link.txt"]


def test_words_of_other_languages_are_found_by_their_stems(index: DocumentIndex, tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("Die Häuser an der Straße sind alt. Sie wurden von den Fischern gebaut.")
    (tmp_path / "en.txt").write_text("The houses on the street are old, and they were built by the fishermen.")
    (tmp_path / "ja.txt").write_text("灯台の高さは四十メートルです。色は白い。")
    source = index.add([tmp_path / name for name in ("de.txt", "en.txt", "ja.txt")]).source
    folder = tmp_path.name
    assert found(source, "Wie alt ist das Haus?")[0] == f"doc://{folder}/de.txt"
    assert found(source, "house in the streets")[0] == f"doc://{folder}/en.txt"
    assert found(source, "灯台") == [f"doc://{folder}/ja.txt"]


def kept_on_disk(home: Path, *words: str) -> set[str]:
    """Which words stand in any file of the index, in any case."""
    content = b"".join(path.read_bytes().lower() for path in home.iterdir())
    return {word for word in words if word.lower().encode() in content}


def test_a_document_of_another_language_than_when_a_run_began_is_found(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 2, text="The harbour of Berlin has the number {0}.")
    with closing(DocumentIndex(tmp_path / "index.db")) as index, closing(DocumentIndex(tmp_path / "index.db")) as other:
        source = index.add([folder]).source
        (folder / "0001.txt").write_text("Der Zoo in Berlin ist nicht so, und das ist die Katze, wir sind auch da.")
        other.add([folder])
        assert set(found(source, "Berlin")) == set(source.urls)


def test_named_files_of_a_large_folder_are_found(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 2200)
    index.add([folder])
    source = index.add([folder / f"{number:04d}.txt" for number in range(2100, 2200)]).source
    assert len(found(source, "grey beacon")) == 10
    assert found(source, "2150") == ["doc://docs/2150.txt"]
    assert found(source, "20") == []


@pytest.mark.parametrize("seconds", [10**10, 2**33 * 4, -(10**10)])
def test_a_file_of_a_distant_time_is_read_once(index: DocumentIndex, tmp_path: Path, seconds: int) -> None:
    folder = write_files(tmp_path / "docs", 1)
    os.utime(folder / "0000.txt", (seconds, seconds))
    assert index.add([folder]).read == 1
    assert index.add([folder]).read == 0


def test_what_is_gone_from_a_folder_is_gone_from_the_disk(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 3)
    write_files(folder / "hushed", 1, text="Quillfeather paid {0} crowns to Zephyrine.")
    index.add([folder])
    (folder / "hushed" / "0000.txt").unlink()
    (folder / "hushed").rmdir()
    assert index.add([folder]).removed == 1
    assert kept_on_disk(tmp_path / "home", "quillf", "zephyrin", "hushed", "beacon") == {"beacon"}


def test_what_cannot_be_looked_at_is_not_forgotten(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 1)
    inner = write_files(folder / "inner", 1)
    index.add([folder])
    inner.rename(tmp_path / "elsewhere")
    inner.symlink_to(inner)
    assert index.add([folder]).removed == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_nobody_may_open_keeps_its_documents(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 1)
    write_files(folder / "inner", 1)
    index.register([folder])
    index.refresh()
    for closed in (folder / "inner", folder, tmp_path / "docs"):
        closed.chmod(0)
        refreshed = index.refresh()
        closed.chmod(0o700)
        assert refreshed.removed == 0
        assert any(" was skipped: " in warning for warning in refreshed.warnings)
    assert len(index.refresh().source.urls) == 2


def test_what_links_lead_to_is_forgotten_with_their_folder(index: DocumentIndex, tmp_path: Path) -> None:
    outside = write_files(tmp_path / "outside", 1, text="Quillfeather paid {0} crowns.")
    docs, others = write_files(tmp_path / "docs", 1), write_files(tmp_path / "others", 1)
    for folder in (docs, others):
        (folder / "link.txt").symlink_to(outside / "0000.txt")
    index.register([docs, others])
    index.refresh()
    assert index.unregister(docs) == 1
    assert kept_on_disk(tmp_path / "home", "quillf") == {"quillf"}, "the other folder leads to it"
    assert index.unregister(others) == 2
    assert kept_on_disk(tmp_path / "home", "quillf", "outside") == set()


@pytest.mark.parametrize("lost", ["docs/link.txt", "outside/0000.txt"])
def test_a_link_or_a_target_that_is_gone_is_forgotten(index: DocumentIndex, tmp_path: Path, lost: str) -> None:
    outside = write_files(tmp_path / "outside", 1, text="Quillfeather paid {0} crowns.")
    docs = write_files(tmp_path / "docs", 1)
    (docs / "link.txt").symlink_to(outside / "0000.txt")
    index.register([docs])
    index.refresh()
    (tmp_path / lost).unlink()
    assert index.refresh().removed == 1
    assert kept_on_disk(tmp_path / "home", "quillf") == set()


def test_no_folder_above_what_is_forgotten_is_kept_by_name(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "topmost" / "docs", 1)
    index.register([folder])
    index.refresh()
    index.unregister(folder)
    assert kept_on_disk(tmp_path / "home", "topmost") == set()


def test_roots_that_are_away_or_empty_are_warnings_and_lose_nothing(index: DocumentIndex, tmp_path: Path) -> None:
    away, empty = write_files(tmp_path / "away", 1), write_files(tmp_path / "empty", 1)
    index.register([away, empty])
    index.refresh()
    away.rename(tmp_path / "elsewhere")
    (empty / "0000.txt").rename(tmp_path / "0000.txt")
    refreshed = index.refresh()
    assert refreshed.warnings == (
        f"{away} was skipped: it is not there now",
        f"{empty} is empty now: what was read from it is kept",
    )
    assert (refreshed.removed, refreshed.source.urls, found(refreshed.source, "beacon")) == (0, (), [])
    (tmp_path / "elsewhere").rename(away)
    (tmp_path / "0000.txt").rename(empty / "0000.txt")
    assert (refreshed := index.refresh()).read == 0
    assert len(found(refreshed.source, "beacon")) == 2


class _Vanishing(Mapping[int, str]):
    """The addresses of documents, of which another process forgets one as soon as anybody looks."""

    def __init__(self, urls: Mapping[int, str], other: Database) -> None:
        self._urls = urls
        self._other = other
        self._is_waiting = True

    def __getitem__(self, document: int) -> str:
        return self._urls[document]

    def __contains__(self, document: object) -> bool:
        if self._is_waiting:
            self._is_waiting = False
            with self._other.transaction() as transaction:
                delete(transaction, min(self._urls))
        return document in self._urls

    def __iter__(self) -> Iterator[int]:
        return iter(self._urls)

    def __len__(self) -> int:
        return len(self._urls)


def test_a_document_that_is_forgotten_during_a_search_does_not_end_it(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    folder = write_files(tmp_path / "docs", 5)
    with closing(DocumentIndex(path)) as index:
        index.add([folder])
    with closing(Database(path, MIGRATIONS)) as database, closing(Database(path, MIGRATIONS)) as other:
        urls = dict(database.rows(lambda id_, name: (id_, f"doc://{name}"), "SELECT id, path FROM document"))
        source = LocalDocuments(database, Scope(_Vanishing(urls, other), (), 5, ("english",)))
        assert len(found(source, "grey beacon")) == 5
        assert len(found(source, "grey beacon")) == 4


def test_single_characters_and_every_line_of_unparted_scripts_are_found(index: DocumentIndex, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "docs", 1, text="我家的猫很可爱。它喜欢喝水。苹果是红色的。")
    source = index.add([folder]).source
    for query in ("猫", "水", "猫 水", "可爱 喝水 苹果"):
        (result,) = source.find(Search(query, 5, 200))
        assert result.page is not None
        assert all(line in result.page.text for line in result.passage.splitlines())
    write_files(tmp_path / "more", 1, text="別の話です。")
    assert found(index.add([tmp_path / "more"]).source, "猫") == []


@pytest.mark.parametrize("query", ["item x-\u2474", "\u2474-x", "a.\u249c", "x-\u2100", "1:\u2487"])
def test_a_character_that_stands_for_several_is_no_syntax(index: DocumentIndex, tmp_path: Path, query: str) -> None:
    one = write_files(tmp_path / "one", 1, text=f"See {query} of the list.")
    index.add([one, write_files(tmp_path / "two", 1)])
    assert found(index.add([one]).source, query) == ["doc://one/0000.txt"]
