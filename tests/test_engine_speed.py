"""What is timed, and the model of random weights that it is timed on; no time is asserted."""

from pathlib import Path

import pytest

from localfusion.engine.client import WAITING
from localfusion.engine.llama import send_log_to
from localfusion.engine.loop import Loop
from localfusion.engine.protocol import Generate
from localfusion.engine.random_model import byte_texts, write_random_model
from localfusion.engine.speed import POLICIES, Rate, Way, ways
from localfusion.gguf_header import read_header
from localfusion.messages import Delta, GenerateRequest, Message, ModelSpec
from tests import tiny_gguf
from tests.test_engine_loop import items


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    send_log_to(lambda _: None)
    return write_random_model(tmp_path_factory.mktemp("models") / "random.gguf", n_layer=1)


@pytest.mark.parametrize(
    ("cores", "wanted"),
    [
        (1, [Way(1, None)]),
        (2, [*(Way(2, policy) for policy in POLICIES), Way(1, None)]),
        (4, [*(Way(n, policy) for n in (4, 3, 2) for policy in POLICIES), Way(1, None)]),
    ],
)
def test_each_number_of_threads_with_each_way_of_waiting(cores: int, wanted: list[Way]) -> None:
    assert ways(cores) == wanted


@pytest.mark.parametrize("policy", POLICIES)
def test_a_way_of_waiting_leaves_nothing_of_another(policy: str) -> None:
    assert set(POLICIES[policy]) == set(WAITING)


@pytest.mark.parametrize(
    ("mine", "best", "is_as_fast"),
    [((10.0,), (10.0,), True), ((9.0, 8.0), (8.5, 12.0), True), ((8.0, 7.0), (8.5, 12.0), False)],
)
def test_noise_is_what_tries_differ_by(mine: tuple[float, ...], best: tuple[float, ...], *, is_as_fast: bool) -> None:
    assert Rate(mine).is_as_fast_as(Rate(best)) is is_as_fast


def test_every_token_is_a_letter_and_none_ends_the_text(path: Path) -> None:
    loop = Loop(ModelSpec("random", path, n_ctx=256), {})
    loop.submit(Generate(1, GenerateRequest("s", (Message("user", "a"),), max_tokens=40)))
    pieces = [item.text for _ in range(60) for item in items(loop.step()) if isinstance(item, Delta)]
    assert len(pieces) == 40
    assert all(len(piece) == 1 and "a" <= piece <= "z" for piece in pieces)


def test_the_file_is_a_whole_gguf(path: Path) -> None:
    header = read_header(path, model="random")
    ends = [tensor.offset + tensor.n_bytes for tensor in header.tensors]
    assert -(-max(ends) // 32) * 32 == path.stat().st_size == header.file_bytes
    assert byte_texts() == tiny_gguf.byte_alphabet()
