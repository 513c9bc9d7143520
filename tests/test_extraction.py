"""Extraction: files read in real processes, some of which break down, hang or eat memory; nothing is left behind."""

import asyncio
import hashlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.analysis import Link
from localfusion.errors import LocalFusionError
from localfusion.search.blocks import Unreadable
from localfusion.search.extraction import Extracted, extract
from localfusion.search.extractor_protocol import (
    FileRead,
    Frame,
    Limits,
    Malformed,
    file_frame,
    page_frame,
    read_frame,
    to_file,
    to_page,
    write_frame,
)
from localfusion.search.page_readers import PageReaders
from localfusion.search.passages import Piece, cut_passages
from localfusion.search.read_page import ReadPage
from localfusion.search.readers import read
from tests.breaking_extractor import COMMAND

HARBOUR = Path(__file__).parent.parent / "examples" / "harbour"
TIGHT = Limits(time_s=1.5, memory_bytes=2**28, max_characters=2**16)


def held() -> tuple[int, int]:
    """The child processes and the descriptors of this one."""
    own = psutil.Process()
    return len(own.children()), own.num_fds() if hasattr(own, "num_fds") else 0


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = held()
    yield
    assert held() == before


def write_files(folder: Path, *names: str) -> list[Path]:
    """A file of one sentence for each name."""
    paths = [folder / name for name in names]
    for path in paths:
        path.write_text(f"Mind the rope of {path.stem}.", encoding="utf-8")
    return paths


def by_name(found: Iterator[Extracted]) -> dict[str, Extracted]:
    return {each.path.name: each for each in found}


@pytest.mark.parametrize("n_processes", [1, 2])
def test_files_are_read_as_they_are_here(n_processes: int) -> None:
    paths = sorted(path for path in HARBOUR.iterdir() if path.is_file())
    found = {each.path: each for each in extract(paths, n_processes=n_processes)}
    assert set(found) == set(paths)
    for path, each in found.items():
        content = path.read_bytes()
        here = read(path, content)
        assert (each.title, each.text, each.problem) == (here.title, here.text, None)
        assert each.passages == cut_passages(here.blocks)
        assert each.content_sha256 == hashlib.sha256(content).hexdigest()
        assert (each.size, each.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


def test_many_small_files_and_no_file(tmp_path: Path) -> None:
    paths = write_files(tmp_path, *(f"{n}.txt" for n in range(500)))
    found = by_name(extract(paths, n_processes=2))
    assert {name: each.text for name, each in found.items()} == {
        path.name: f"Mind the rope of {path.stem}." for path in paths
    }
    assert list(extract([], n_processes=2)) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "binary.txt").write_bytes(b"\0\1")
    (tmp_path / "large.txt").touch()
    os.truncate(tmp_path / "large.txt", 2**26 + 1)
    os.mkfifo(tmp_path / "pipe.txt")
    names = ["folder.txt", "binary.txt", "large.txt", "pipe.txt", "gone.txt"]
    found = by_name(extract([tmp_path / name for name in names], n_processes=1))
    assert {name: (each.size, each.problem) for name, each in found.items()} == {
        "folder.txt": (-1, "it is no file"),
        "binary.txt": (2, "it is not text"),
        "large.txt": (2**26 + 1, "it is larger than 64 MiB"),
        "pipe.txt": (-1, "it is no file"),
        "gone.txt": (-1, "it cannot be opened (No such file or directory)"),
    }


BREAKING = {
    "crash": "the process that read it broke down (SIGSEGV)",
    "raise": "the process that read it broke down (exit 1)",
    "loop": "reading it takes longer than 1.5 s",
    "sleep": "reading it takes longer than 1.5 s",
    "eat": "reading it takes more than 256 MiB of memory",
    "close": "the process that read it broke down (SIGKILL)",
    "end": "the process that read it broke down (exit 0)",
    "lie": "the process that read it wrote what makes no sense (it is no file that was read)",
    "shout": "the process that read it wrote what makes no sense (it is larger than it may be)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="ended by signals")
@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_file_that_breaks_its_reader_costs_itself_alone(tmp_path: Path, n_processes: int) -> None:
    names = [f"{name}.txt" for breaking in BREAKING for name in (f"before {breaking}", breaking, f"after {breaking}")]
    paths = write_files(tmp_path, *names)
    found = by_name(extract(paths, n_processes=n_processes, limits=TIGHT, command=COMMAND))
    assert set(found) == set(names)
    for path in paths:
        each = found[path.name]
        assert each.problem == BREAKING.get(path.stem)
        assert each.size == (-1 if path.stem in BREAKING else path.stat().st_size), "so that it is tried again"
        assert each.text == ("" if path.stem in BREAKING else f"Mind the rope of {path.stem}.")


def test_a_process_that_has_grown_is_replaced(tmp_path: Path) -> None:
    paths = write_files(tmp_path, "grow.txt", *(f"{n}.txt" for n in range(150)))
    found = by_name(extract(paths, n_processes=1, limits=TIGHT, command=COMMAND))
    assert len({each.title for each in found.values()}) == 2
    assert all(each.problem is None for each in found.values())


def test_a_text_that_is_too_long_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("Mind the rope. " * 5000, encoding="utf-8")
    (found,) = extract([path], n_processes=1, limits=TIGHT)
    assert found.problem == "it has more than 65536 characters of text"


def test_a_closed_iterator_ends_its_processes(tmp_path: Path) -> None:
    paths = write_files(tmp_path, "a.txt", "sleep.txt", "b.txt")
    with closing(extract(paths, n_processes=1, command=COMMAND)) as found:
        assert [each.path.name for each in islice(found, 1)] == ["a.txt"]
        assert len(psutil.Process().children()) == 1


def test_being_stopped_ends_the_processes(tmp_path: Path) -> None:
    paths = write_files(tmp_path, "a.txt", "sleep.txt", "b.txt")
    asked = iter([False] * 3)
    found = extract(paths, n_processes=1, is_stopped=lambda: next(asked, True), command=COMMAND)
    assert {each.path.name for each in found} <= {"a.txt"}


def test_files_are_asked_for_as_they_are_read(tmp_path: Path) -> None:
    asked = 0

    def endless() -> Iterator[Path]:
        nonlocal asked
        while True:
            asked += 1
            yield path

    (path,) = write_files(tmp_path, "a.txt")
    with closing(extract(endless(), n_processes=1)) as found:
        assert len(list(islice(found, 100))) == 100
    assert asked < 1000


PARENT = """
import sys
from pathlib import Path
from localfusion.search.extraction import extract
from tests.breaking_extractor import COMMAND
for found in extract(map(Path, sys.argv[1:]), n_processes=1, command=COMMAND):
    print(found.path.name, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="ended by a signal")
@pytest.mark.parametrize("kind", ["loop", "sleep"])
def test_the_processes_end_with_their_parent(tmp_path: Path, kind: str) -> None:
    paths = write_files(tmp_path, "a.txt", f"{kind}.txt")
    with subprocess.Popen([sys.executable, "-c", PARENT, *paths], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"a.txt\n"
        (child,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()


def test_a_process_that_does_not_start_is_nobodys_fault(tmp_path: Path) -> None:
    paths = write_files(tmp_path, "a.txt")
    with pytest.raises(LocalFusionError, match=r"files cannot be read: .* \(exit 1\)") as caught:
        list(extract(paths, n_processes=2, command=(sys.executable, "-c", "raise SystemExit('no room here')")))
    assert caught.value.hint == "no room here"
    with pytest.raises(LocalFusionError, match="cannot be started: No such file"):
        list(extract(paths, n_processes=2, command=(str(tmp_path / "none"),)))


@pytest.mark.skipif(sys.platform != "linux", reason="told by /proc")
def test_the_process_has_no_keys_no_files_to_write_and_goes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    paths = write_files(tmp_path, "a.txt", "sleep.txt")
    with closing(extract(paths, n_processes=1, command=COMMAND)) as found:
        next(found)
        (child,) = psutil.Process().children()
        assert "SOME_API_KEY" not in child.environ()
        assert child.nice() >= 10
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert child.net_connections() == []


async def read_fetched(readers: PageReaders, content: bytes, media_type: str = "text/html") -> ReadPage:
    return await readers.read(content, media_type=media_type, charset=None, url="https://a.example/b")


def test_pages_are_read_in_processes_that_are_kept() -> None:
    async def ask() -> None:
        readers = PageReaders()
        for _ in range(3):
            pages = [read_fetched(readers, f"<h1>Skerry</h1><p>{n} metres.".encode()) for n in range(8)]
            found = await asyncio.gather(*pages)
            assert [page.text for page in found] == [f"Skerry\n{n} metres." for n in range(8)]
            assert len(psutil.Process().children()) == 2
        with pytest.raises(Unreadable, match="it is damaged or not a PDF"):
            await read_fetched(readers, b"%PDF", "application/pdf")
        await readers.close()
        await readers.close()

    asyncio.run(ask())


def test_a_page_that_takes_too_much_is_unreadable_and_the_next_is_read() -> None:
    async def ask() -> None:
        readers = PageReaders(Limits(time_s=0.2, max_characters=100))
        with pytest.raises(Unreadable, match=r"takes longer than 0.2 s"):
            await read_fetched(readers, b"<p>a</p>" * 2**20)
        with pytest.raises(Unreadable, match="more than 100 characters"):
            await read_fetched(readers, b"<p>Mind the rope</p>" * 10)
        assert (await read_fetched(readers, b"<p>Mind the rope</p>")).text == "Mind the rope"
        await readers.close()

    asyncio.run(ask())


def test_a_page_that_is_given_up_leaves_no_process() -> None:
    async def ask() -> None:
        readers = PageReaders()
        await read_fetched(readers, b"<p>a</p>")
        reading = asyncio.create_task(read_fetched(readers, b"<p>a</p>" * 2**20))
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (await read_fetched(readers, b"<p>b</p>")).text == "b"
        await readers.close()

    asyncio.run(ask())


def test_what_reads_files_has_no_network(tmp_path: Path) -> None:
    found = by_name(extract(write_files(tmp_path, "dial.txt"), n_processes=1, limits=TIGHT, command=COMMAND))
    assert found["dial.txt"].problem == "192.0.2.1 is not reached: this process is offline"


def test_a_process_that_somebody_ended_costs_no_page() -> None:
    async def ask() -> None:
        readers = PageReaders()
        for n in range(3):
            assert (await read_fetched(readers, f"<p>{n}</p>".encode())).text == f"{n}"
            for process in psutil.Process().children():
                process.kill()
        await readers.close()

    asyncio.run(ask())


@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.002, 0.004, 0.008, 0.5])
def test_a_page_that_is_given_up_at_any_moment_costs_no_other(pause_s: float) -> None:
    async def ask() -> None:
        readers = PageReaders()
        for n in range(4):
            given_up = [asyncio.create_task(read_fetched(readers, b"<p>a</p>")) for _ in range(4)]
            await asyncio.sleep(pause_s)
            for reading in given_up[: n + 1]:
                reading.cancel()
            kept = await asyncio.gather(*given_up[n + 1 :], read_fetched(readers, b"<p>a</p>"))
            assert {page.text for page in kept} == {"a"}
            await asyncio.gather(*given_up, return_exceptions=True)
        await readers.close()

    asyncio.run(ask())


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
FILES = st.builds(
    FileRead,
    size=INTEGERS,
    mtime_ns=INTEGERS,
    content_sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True) | st.just(""),
    problem=st.none() | TEXTS,
    title=TEXTS,
    text=TEXTS,
    passages=st.lists(st.builds(Piece, TEXTS, TEXTS), max_size=3).map(tuple),
)
PAGES = st.builds(
    ReadPage,
    TEXTS,
    TEXTS,
    st.lists(st.builds(Link, TEXTS, TEXTS), max_size=3).map(tuple),
    st.lists(TEXTS, max_size=3).map(tuple),
)


def sent(frame: Frame) -> Frame | None:
    stream = io.BytesIO()
    write_frame(stream, frame)
    stream.seek(0)
    return read_frame(stream)


@given(FILES, PAGES | TEXTS)
def test_what_is_sent_arrives(file: FileRead, page: ReadPage | str) -> None:
    assert to_file(sent(file_frame(file)) or ()) == file
    assert to_page(sent(page_frame(page)) or ()) == page


@given(st.binary(max_size=60), st.lists(st.binary(max_size=9) | st.sampled_from([b"0", b"1", b"2", b""]), max_size=9))
def test_any_bytes_are_a_frame_or_refused(content: bytes, parts: list[bytes]) -> None:
    for read_parts in (to_file, to_page):
        try:
            read_parts(tuple(parts))
        except Malformed:
            continue
    try:
        frame = read_frame(cast(BinaryIO, io.BytesIO(content)), max_parts=100, max_bytes=100)
    except Malformed:
        return
    assert frame is None or sum(map(len, frame)) <= 100
