"""The header reader takes whole GGUF files and refuses everything else with one sentence and a hint."""

import struct
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localfusion.errors import ModelLoadError
from localfusion.gguf_header import (
    LENGTH_BYTES,
    PARTS_LIMIT,
    Header,
    ListSize,
    header_length,
    part_paths,
    read_header,
)
from tests.harbour import SHIPPED
from tests.tiny_gguf import N_EMBD, vocabulary, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_reads_metadata_and_tensors(tiny: Path) -> None:
    header = read_header(tiny, model="tiny")
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.embedding_length"] == N_EMBD
    assert "tokenizer.ggml.tokens" not in header.metadata
    texts = [text.encode() for text in vocabulary()]
    assert header.lists["tokenizer.ggml.tokens"] == ListSize(len(texts), sum(LENGTH_BYTES + len(t) for t in texts))
    embedding = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    assert embedding.shape == (N_EMBD, len(vocabulary()))
    assert embedding.n_bytes == 4 * N_EMBD * len(vocabulary())
    assert max(tensor.offset + tensor.n_bytes for tensor in header.tensors) <= tiny.stat().st_size
    assert header.paths == (tiny,)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "is not a GGUF"),
        (b"GG", "is not a GGUF"),
        (b"GGUF", "is damaged: .*: it ends within its header"),
        (b"GGUF\x01\x00\x00\x00" + bytes(16), "GGUF version 1"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 16, "impossible number of entries"),
        (b"GGUF\x03\x00\x00\x00" + bytes(16), "it holds no model"),
    ],
)
def test_refuses(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=says) as caught:
        read_header(path, model="broken")
    assert str(path) in caught.value.message
    assert path.name in caught.value.brief
    assert str(tmp_path) not in caught.value.brief + caught.value.hint
    assert caught.value.hint
    assert caught.value.model == "broken"


def test_refuses_missing_and_directories(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="does not exist"):
        read_header(tmp_path / "none.gguf", model="none")
    with pytest.raises(ModelLoadError, match="is not a file"):
        read_header(tmp_path, model="folder")


def test_refuses_truncated_weights(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match="bytes are named in its header"):
        read_header(path, model="cut")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 9000), flips=st.lists(st.tuples(st.integers(4, 9000), st.integers(0, 255)), max_size=4))
def test_damage_is_a_load_error_or_harmless(tiny: Path, tmp_path: Path, cut: int, flips: list[tuple[int, int]]) -> None:
    raw = bytearray(tiny.read_bytes())
    for at, byte in flips:
        raw[at] = byte
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw[:cut] if cut % 2 else raw)
    with suppress(ModelLoadError):
        assert read_header(path, model="damaged").tensors


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_refuses_a_file_cut_anywhere(tiny: Path, tmp_path: Path, share: float) -> None:
    whole = tiny.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelLoadError, match="is damaged") as caught:
        read_header(path, model="cut")
    assert caught.value.hint == "fetch the file again or choose another"


def read_lists(folder: Path, *, cut: int | None = None) -> Header:
    """The header of a file with a list of each kind before the last value; `cut` leaves so many bytes of it."""
    path = folder / "lists.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("texts", ["", "a", "ä" * 300])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("nested", [["b", "c"], ["d"]])
    writer.add_array("flags", [True, False])
    writer.add_string("last", "seen")
    writer.add_tensor("weight", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.write_bytes(path.read_bytes()[:cut])
    return read_header(path, model="lists")


def test_lists_are_walked_over(tmp_path: Path) -> None:
    assert dict(read_lists(tmp_path).metadata) == {"general.architecture": "llama", "last": "seen"}


@pytest.mark.parametrize("cut", range(24, 800, 7))
def test_a_list_that_is_cut_short_is_damage(tmp_path: Path, cut: int) -> None:
    with pytest.raises(ModelLoadError, match="is damaged"):
        read_lists(tmp_path, cut=cut)


def write_split(folder: Path, *, first_is_small: bool) -> list[Path]:
    """A split GGUF of six tensors, two in each part; a small first part holds none."""
    writer = gguf.GGUFWriter(folder / "big.gguf", "llama", split_max_tensors=2, small_first_shard=first_is_small)
    writer.add_context_length(256)
    for number in range(6):
        writer.add_tensor(f"blk.{number}.weight", np.ones((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("big-*.gguf"))


@pytest.mark.parametrize("first_is_small", [False, True])
def test_the_parts_of_a_split_are_one_model(tmp_path: Path, *, first_is_small: bool) -> None:
    parts = write_split(tmp_path, first_is_small=first_is_small)
    assert len(parts) == (4 if first_is_small else 3)
    header = read_header(parts[0], model="big")
    assert [tensor.name for tensor in header.tensors] == [f"blk.{number}.weight" for number in range(6)]
    assert header.file_bytes == sum(part.stat().st_size for part in parts)
    assert sum(tensor.n_bytes for tensor in header.tensors) == 6 * 32 * 32 * 4
    assert header.paths == tuple(parts)
    first = 1 if first_is_small else 0
    assert [tensor.part - first for tensor in header.tensors] == [0, 0, 1, 1, 2, 2]


def test_refuses_a_split_that_is_not_whole(tmp_path: Path) -> None:
    first, second, third = write_split(tmp_path, first_is_small=False)
    with pytest.raises(ModelLoadError, match="is a later part of 3") as caught:
        read_header(second, model="big")
    assert "-00001-of-00003.gguf" in caught.value.hint
    with pytest.raises(ModelLoadError, match="under another name"):
        read_header(first.rename(tmp_path / "other.gguf"), model="big")
    (tmp_path / "other.gguf").rename(first)
    third.write_bytes(third.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match=f"is damaged: {third}"):
        read_header(first, model="big")
    second.unlink()
    with pytest.raises(ModelLoadError, match=f"does not exist: {second}"):
        read_header(first, model="big")


@pytest.mark.parametrize("count", [PARTS_LIMIT + 1, 2**32 - 1])
def test_refuses_an_impossible_number_of_parts(tmp_path: Path, count: int) -> None:
    path = tmp_path / f"big-00001-of-{count:05}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("split.count", count)
    writer.add_tensor("x", np.ones((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="impossible number of parts"):
        read_header(path, model="big")


def test_parts_are_looked_for_up_to_what_can_be(tmp_path: Path) -> None:
    names = [f"m-{part:05}-of-99999.gguf" for part in (1, 2, PARTS_LIMIT, PARTS_LIMIT + 1)]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in part_paths(tmp_path / names[0])] == names[:3]


def test_the_header_is_whole_just_from_its_length_on() -> None:
    content = (SHIPPED / "micro-b.gguf").read_bytes()
    length = header_length(content, file_bytes=len(content), model="m")
    assert length is not None
    assert header_length(content[:length], file_bytes=len(content), model="m") == length
    for n_bytes in (*range(64), *range(64, length, 997), length - 1):
        assert header_length(content[:n_bytes], file_bytes=len(content), model="m") is None


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_a_beginning_of_anything_is_more_wanted_or_refused(noise: bytes, n_kept: int) -> None:
    start = (SHIPPED / "micro-b.gguf").read_bytes()[:n_kept] + noise
    with suppress(ModelLoadError):
        found = header_length(start, file_bytes=1 << 30, model="m")
        assert found is None or 24 <= found <= len(start)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"<!doctype html>", "not a GGUF"),
        (b"GG\0F", "not a GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "impossible number"),
        (b"GGUF" + struct.pack("<IQQ", 9, 1, 1), "version 9"),
    ],
)
def test_a_beginning_that_no_gguf_has_is_refused_at_once(start: bytes, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        header_length(start, file_bytes=1 << 30, model="m")


def test_a_whole_file_that_ends_within_its_header_is_damaged() -> None:
    content = (SHIPPED / "micro-b.gguf").read_bytes()[:1000]
    with pytest.raises(ModelLoadError, match="ends within its header"):
        header_length(content, file_bytes=len(content), model="m")
