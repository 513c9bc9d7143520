"""The header reader takes whole GGUF files and refuses everything else with one sentence and a hint."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localfusion.engine.gguf_header import read_header, weights_bytes
from localfusion.errors import ModelLoadError
from tests.tiny_gguf import N_EMBD, vocabulary, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_reads_metadata_and_tensors(tiny: Path) -> None:
    header = read_header(tiny, model="tiny")
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.embedding_length"] == N_EMBD
    assert header.metadata["tokenizer.ggml.tokens"] == tuple(vocabulary())
    embedding = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    assert embedding.shape == (N_EMBD, len(vocabulary()))
    assert embedding.n_bytes == 4 * N_EMBD * len(vocabulary())
    assert max(tensor.offset + tensor.n_bytes for tensor in header.tensors) <= tiny.stat().st_size
    assert 0 < weights_bytes(header, on_cpu=True) <= tiny.stat().st_size


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "is not a GGUF file"),
        (b"GG", "is not a GGUF file"),
        (b"GGUF", "is damaged: it ends within its header"),
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
