"""States on disk: found again by what they stand for, never believed without a checksum, never more than allowed."""

import errno
import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfusion.engine.llama import send_log_to
from localfusion.engine.loop import Loop, open_states
from localfusion.engine.state_cache import (
    ABANDONED_S,
    HEAD_BYTES,
    MAGIC,
    MINIMUM_TOKENS,
    RELEASE_S,
    SUFFIX,
    UNFINISHED,
    YOUNG_S,
    StateCache,
    content_key,
)
from localfusion.messages import GenerateRequest, Message, ModelSpec
from tests.test_engine_loop import TOOLS, run_all
from tests.tiny_gguf import Architecture, TinyModel, write_tiny_gguf

KEY, OTHER_KEY = bytes(32), bytes([1] * 32)
IDS = [index % 251 for index in range(2000)]
SIZE = 5000


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    send_log_to(lambda _: None)


def make_cache(folder: Path, key: bytes = KEY, *, max_bytes: int = 1 << 20) -> StateCache:
    cache = StateCache(folder, key, max_bytes)
    cache.note_reading(1, 1.0)
    return cache


def content(ids: list[int], n_bytes: int = SIZE) -> bytes:
    return bytes((len(ids) + index) % 256 for index in range(n_bytes))


def keep(cache: StateCache, ids: list[int], *, n_bytes: int = SIZE, is_whole: bool = False) -> bool:
    def write(target: memoryview) -> bool:
        target[:] = content(ids, n_bytes)
        return True

    is_kept = cache.offer(ids, is_whole=is_whole, n_bytes=n_bytes, write=write)
    cache.wait()
    return is_kept


def read_back(cache: StateCache, ids: list[int], *, n_known: int = 0, is_whole: bool = False) -> tuple[bytes, int]:
    """What is restored for a prompt, and how many of its tokens that is."""
    found = cache.find(ids, n_known=n_known, is_whole=is_whole)
    restored: list[bytes] = []

    def read(source: memoryview) -> bool:
        restored.append(bytes(source))
        return True

    if found is None or not cache.restore(found[0], read):
        return b"", 0
    return restored[0], found[1]


def test_what_is_kept_is_found_by_the_tokens_it_stands_for(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "deep" / "states")
    assert cache.find(IDS, n_known=0, is_whole=False) is None
    assert keep(cache, IDS[:1000])
    for finder in (cache, make_cache(tmp_path / "deep" / "states")):
        assert read_back(finder, IDS) == (content(IDS[:1000]), 1000)
        assert read_back(finder, IDS, is_whole=True) == (content(IDS[:1000]), 1000)
        assert read_back(finder, IDS[:1000]) == (content(IDS[:1000]), 999)
        assert read_back(finder, IDS[:1000], is_whole=True) == (b"", 0)
        assert read_back(finder, [*IDS[:700], 255, *IDS[700:]]) == (content(IDS[:1000]), 700)
        assert read_back(finder, [*IDS[:700], 255], is_whole=True) == (b"", 0)
        assert read_back(finder, IDS, n_known=1000 - MINIMUM_TOKENS + 1) == (b"", 0)
        assert read_back(finder, [255, *IDS]) == (b"", 0)
    assert read_back(make_cache(tmp_path / "deep" / "states", OTHER_KEY), IDS) == (b"", 0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_what_is_kept_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    assert keep(make_cache(folder), IDS)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_only_what_is_worth_it_is_kept(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    assert not keep(cache, IDS[: MINIMUM_TOKENS - 1])
    assert not keep(cache, IDS, n_bytes=1 << 20)
    assert not keep(StateCache(tmp_path, KEY), IDS)
    assert keep(cache, IDS[:1500])
    assert not keep(cache, IDS[:1500])
    assert not keep(cache, IDS[:1200])
    assert keep(cache, IDS[:1200], is_whole=True)
    assert not keep(cache, IDS[:1800])
    assert keep(cache, IDS)
    hasty = make_cache(tmp_path, OTHER_KEY)
    hasty.note_reading(10**9, 0.0)
    assert not keep(hasty, IDS)


def test_a_state_that_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    assert not cache.offer(IDS, is_whole=False, n_bytes=SIZE, write=lambda _: False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = make_cache(tmp_path / "file")
    assert not keep(cache, IDS)
    assert read_back(cache, IDS) == (b"", 0)


def held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_bound_holds_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, max_bytes=40_000)
    prompts = [[first, *IDS[:999]] for first in range(4)]
    for age, ids in enumerate(prompts[:3]):
        assert keep(cache, ids)
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (age, age))
    assert read_back(cache, prompts[0])[1] == 999
    for ids in [prompts[3], *([9, first, *IDS[:998]] for first in range(5))]:
        assert keep(cache, ids)
        assert held_bytes(tmp_path) <= 40_000
    fresh = make_cache(tmp_path)
    assert read_back(fresh, prompts[1]) == read_back(fresh, prompts[2]) == (b"", 0)


def test_the_least_used_goes_and_the_used_stays(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, max_bytes=30_000)
    for age, first in enumerate((1, 2, 3)):
        assert keep(cache, [first, *IDS[:999]])
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (age, age))
    assert read_back(cache, [1, *IDS[:999]])[1] == 999
    assert keep(cache, [4, *IDS[:999]])
    assert [read_back(cache, [first, *IDS[:999]])[1] for first in (1, 2, 3, 4)] == [999, 0, 999, 999]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = (f"a-{os.getpid()}-old", f"a-{os.getpid()}-young", f"a-{gone.pid}-x", f"a-{gone.pid}-y", f"a-{'9' * 40}-x")
    old, young, dead, far, nameless = (tmp_path / f"{name}{UNFINISHED}" for name in names)
    for path in (old, young, dead, far, nameless):
        path.write_bytes(b"x" * 100)
    now = young.stat().st_mtime
    for path, age in ((old, 2 * ABANDONED_S), (dead, 2 * YOUNG_S)):
        os.utime(path, (now - age, now - age))
    assert keep(make_cache(tmp_path), IDS)
    assert [path.exists() for path in (old, young, dead, far, nameless)] == [False, True, False, True, True]


def test_an_unfinished_file_names_its_writer(tmp_path: Path) -> None:
    names: list[str] = []

    def write(_: memoryview) -> bool:
        names.extend(path.name for path in tmp_path.iterdir())
        return False

    assert not make_cache(tmp_path).offer(IDS, is_whole=False, n_bytes=SIZE, write=write)
    (name,) = names
    assert name.split("-")[1] == f"{os.getpid()}"
    assert name.endswith(UNFINISHED)


def test_a_state_that_is_refused_stays_for_a_better_moment(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    assert keep(cache, IDS)
    found = cache.find(IDS, n_known=0, is_whole=False)
    assert found is not None
    assert not cache.restore(found[0], lambda _: False)
    assert cache.find(IDS, n_known=0, is_whole=False) is None
    assert read_back(make_cache(tmp_path), IDS) == (content(IDS), len(IDS) - 1)


def test_a_slow_disk_holds_nobody_up(tmp_path: Path) -> None:
    is_on_disk = threading.Event()

    def slowly(raw: mmap.mmap) -> None:
        is_on_disk.wait()
        raw.flush()

    cache = StateCache(tmp_path, KEY, to_disk=slowly)
    cache.note_reading(1, 1.0)
    written: list[int] = []

    def write(target: memoryview) -> bool:
        written.append(len(target))
        return True

    assert cache.offer(IDS[:1000], is_whole=False, n_bytes=SIZE, write=write)
    assert not cache.offer(IDS, is_whole=False, n_bytes=SIZE, write=write)
    assert cache.find(IDS, n_known=0, is_whole=False) is None
    is_on_disk.set()
    cache.wait()
    assert written == [SIZE]
    assert read_back(cache, IDS)[1] == 1000


def test_a_disk_that_is_full_in_the_end_is_done_without(tmp_path: Path) -> None:
    def fail(_: mmap.mmap) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    cache = StateCache(tmp_path, KEY, to_disk=fail)
    cache.note_reading(1, 1.0)
    assert keep(cache, IDS[:1000])
    assert list(tmp_path.iterdir()) == []
    assert not keep(cache, IDS)


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are counted as Linux counts them")
def test_a_large_state_is_never_held_as_a_whole(tmp_path: Path) -> None:
    whole, piece = 96 << 20, 4 << 20
    most = [0]

    def resident() -> int:
        return psutil.Process().memory_info().rss

    before = resident()

    def note(_: object = None) -> None:
        most[0] = max(most[0], resident() - before)

    def write(target: memoryview) -> bool:
        for start in range(0, whole, piece):
            target[start : start + piece] = bytes([start // piece]) * piece
            note()
            time.sleep(4 * RELEASE_S)
        return True

    seen: list[bytes] = []

    def read(source: memoryview) -> bool:
        source[:8] = b"patched!"
        for start in range(0, whole, piece):
            seen.append(bytes(source[start + piece - 1 : start + piece]))
            assert sum(source[start : start + piece : mmap.PAGESIZE]) >= 0
            note()
            time.sleep(4 * RELEASE_S)
        return bytes(source[:8]) == b"patched!"

    cache = StateCache(tmp_path, KEY)
    cache.note_reading(1, 1.0)
    assert cache.offer(IDS, is_whole=False, n_bytes=whole, write=write)
    cache.wait()
    note()
    found = cache.find(IDS, n_known=0, is_whole=False)
    assert found is not None
    assert cache.restore(found[0], read)
    assert seen == [bytes([number]) for number in range(whole // piece)]
    assert most[0] < whole // 2


def test_two_workers_in_one_folder(tmp_path: Path) -> None:
    one, two = make_cache(tmp_path), make_cache(tmp_path)
    assert keep(one, IDS[:1000])
    assert not keep(two, IDS[:1000])
    assert read_back(two, IDS)[1] == 1000
    assert keep(two, IDS)
    found = one.find(IDS, n_known=0, is_whole=False)
    assert found is not None
    found[0].path.unlink()
    assert not one.restore(found[0], lambda _: True)
    assert read_back(one, IDS)[1] == 1000


@pytest.fixture(scope="module")
def sound() -> bytes:
    with TemporaryDirectory() as folder:
        assert keep(make_cache(Path(folder)), IDS[:300])
        return next(Path(folder).iterdir()).read_bytes()


NAME = f"{KEY.hex()[:16]}-{'0' * 32}{SUFFIX}"
PLACES = {"magic": 0, "checksum": len(MAGIC), "head": HEAD_BYTES - 8, "last token": HEAD_BYTES + 4 * 299, "state": 3000}


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_anywhere_is_noticed_and_the_file_removed(tmp_path: Path, sound: bytes, place: str) -> None:
    damaged = bytearray(sound)
    damaged[PLACES[place]] ^= 4
    assert_refused(tmp_path, bytes(damaged))


@settings(max_examples=150)
@given(at=st.integers(0, 6000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(sound: bytes, at: int, bit: int) -> None:
    damaged = bytearray(sound)
    damaged[at % len(damaged)] ^= 1 << bit
    with TemporaryDirectory() as folder:
        (Path(folder) / NAME).write_bytes(bytes(damaged))
        assert read_back(make_cache(Path(folder)), IDS) == (b"", 0)


@given(
    st.one_of(
        st.integers(0, 6000).map(lambda n: ("cut", n)),
        st.binary(min_size=1, max_size=50).map(lambda tail: ("longer", tail)),
        st.binary(max_size=200).map(lambda other: ("other", other)),
    )
)
def test_files_that_are_none_of_ours_are_removed(sound: bytes, change: tuple[str, int | bytes]) -> None:
    match change:
        case "cut", int(n):
            content = sound[: n % len(sound)]
        case "longer", bytes(tail):
            content = sound + tail
        case _, other:
            content = bytes(other)
    with TemporaryDirectory() as folder:
        assert_refused(Path(folder), content)


def assert_refused(folder: Path, content: bytes) -> None:
    path = folder / NAME
    path.write_bytes(content)
    assert read_back(make_cache(folder), IDS) == (b"", 0)
    assert not path.exists()


def test_a_file_changed_after_it_was_found_is_noticed(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / NAME
    for damaged in (sound[:-1], b"", sound[:-1] + b"x"):
        path.write_bytes(sound)
        cache = make_cache(tmp_path)
        found = cache.find(IDS, n_known=0, is_whole=False)
        assert found is not None
        path.write_bytes(damaged)
        assert not cache.restore(found[0], lambda _: True)
        assert not path.exists()


def test_the_key_follows_the_content_and_the_settings(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.gguf", tmp_path / "b.gguf"
    path.write_bytes(b"GGUF" * 100)
    key = content_key(path, "f16")
    assert key != content_key(path, "q8_0")
    path.rename(copy)
    assert content_key(copy, "f16") == key
    times = copy.stat().st_mtime_ns
    copy.write_bytes(b"GGUf" * 100)
    os.utime(copy, ns=(times, times))
    assert content_key(copy, "f16") != key
    parts = [tmp_path / f"m-0000{part}-of-00002.gguf" for part in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF")
    whole = content_key(parts[0], "f16")
    parts[1].write_bytes(b"GGUG")
    assert content_key(parts[0], "f16") != whole


ARCHITECTURES: tuple[Architecture, ...] = ("llama", "gemma2", "mamba", "jamba")
QUESTION = "A question of some length, asked again. " * 12
ASKED = GenerateRequest("s", (Message("user", QUESTION),), max_tokens=12)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = TinyModel(architecture=request.param, scale=0.2)
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / f"{request.param}.gguf", model)


def make_loop(path: Path, folder: Path, *, n_seq_max: int = 2) -> tuple[Loop, StateCache]:
    spec = ModelSpec("tiny", path, n_seq_max=n_seq_max, n_batch=128)
    states = open_states(folder, spec)
    assert states is not None
    states.note_reading(1, 1.0)
    return Loop(spec, TOOLS, states=states), states


def test_a_prompt_of_an_earlier_run_is_read_back(path: Path, tmp_path: Path) -> None:
    loop, states = make_loop(path, tmp_path)
    (first,) = run_all(loop, ASKED)
    states.wait()
    loop, _ = make_loop(path, tmp_path, n_seq_max=3)
    (again,) = run_all(loop, ASKED)
    assert again.content == first.content
    assert first.usage.cached_tokens == 0
    assert again.usage.prompt_tokens - again.usage.cached_tokens <= len("<|im_start|>assistant\n")
    others = [GenerateRequest(f"{i}", (Message("user", f"{QUESTION}{i}"),), max_tokens=12) for i in range(2)]
    together = run_all(make_loop(path, tmp_path)[0], *others)
    alone = [run_all(Loop(ModelSpec("tiny", path, n_batch=128), TOOLS), other)[0] for other in others]
    assert [done.content for done in together] == [done.content for done in alone]


def test_a_state_is_not_read_over_a_beginning_that_another_is_about_to_start_from(path: Path, tmp_path: Path) -> None:
    other = "Something else that was asked in an earlier run. " * 12
    loop, states = make_loop(path, tmp_path)
    run_all(loop, GenerateRequest("s", (Message("user", other),), max_tokens=12))
    states.wait()
    wanted = [
        GenerateRequest("new", (Message("user", f"{QUESTION}And now?"),), max_tokens=12),
        GenerateRequest("kept", (Message("user", f"{other}And now?"),), max_tokens=12),
    ]
    loop, _ = make_loop(path, tmp_path)
    run_all(loop, GenerateRequest("kept", (Message("user", QUESTION),), max_tokens=12))
    together = run_all(loop, *wanted)
    alone = [run_all(Loop(ModelSpec("tiny", path, n_batch=128), TOOLS), request)[0] for request in wanted]
    assert [done.content for done in together] == [done.content for done in alone]


def test_damaged_states_cost_an_evaluation_and_nothing_else(path: Path, tmp_path: Path) -> None:
    loop, states = make_loop(path, tmp_path)
    (first,) = run_all(loop, ASKED)
    states.wait()
    (kept,) = tmp_path.iterdir()
    sound = kept.read_bytes()
    for at in (0, 20, HEAD_BYTES - 1, HEAD_BYTES + 40, len(sound) // 2, len(sound) - 1):
        kept.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        loop, states = make_loop(path, tmp_path)
        (again,) = run_all(loop, ASKED)
        states.wait()
        assert again.content == first.content
        assert again.usage.cached_tokens == 0
    (again,) = run_all(make_loop(path, tmp_path)[0], ASKED)
    assert again.content == first.content
    assert again.usage.cached_tokens > 0


def test_a_state_longer_than_the_window_is_left_alone(path: Path, tmp_path: Path) -> None:
    loop, states = make_loop(path, tmp_path)
    run_all(loop, GenerateRequest("s", (Message("user", QUESTION * 2),), max_tokens=5))
    states.wait()
    (kept,) = tmp_path.iterdir()
    spec = ModelSpec("tiny", path, n_ctx=512)
    loop = Loop(spec, TOOLS, states=open_states(tmp_path, spec))
    (done,) = run_all(loop, ASKED)
    assert done.usage.cached_tokens == 0
    assert kept.exists()


def test_texts_are_written_while_the_disk_is_busy_with_a_state(path: Path, tmp_path: Path) -> None:
    is_on_disk = threading.Event()
    loop, states = make_loop(path, tmp_path)
    states.to_disk = lambda _: is_on_disk.wait()
    other = GenerateRequest("other", (Message("user", QUESTION[::-1]),), max_tokens=12)
    (first,) = run_all(loop, ASKED)
    (second,) = run_all(loop, other)
    assert [kept.suffix for kept in tmp_path.iterdir()] == [UNFINISHED]
    is_on_disk.set()
    states.wait()
    assert [kept.suffix for kept in tmp_path.iterdir()] == [SUFFIX]
    without = Loop(ModelSpec("tiny", path, n_batch=128), TOOLS)
    assert [first.content, second.content] == [run_all(without, request)[0].content for request in (ASKED, other)]
