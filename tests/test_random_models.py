"""The models that benches make themselves: their vocabulary reads text, their parts are whole, their limits named."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from localfusion.engine import client
from localfusion.gguf_header import read_header
from localfusion.messages import GenerateRequest, Message, ModelSpec, ToolCall
from scripts.engine_bench.random_models import RandomModel, write_random_model

SMALL = RandomModel(n_vocab=32_000, n_embd=64, n_layer=2, n_head=2, n_head_kv=1, n_ff=128, quantization="f16")
TEXT = "The keeper of the lighthouse wrote 40 letters; each said: “it is 46 metres tall”.\n" * 4
CONVERSATION = (
    Message("system", "You answer briefly."),
    Message("user", "How tall is it?"),
    Message("assistant", "", tool_calls=(ToolCall("web_search", {"query": "height"}),)),
    Message("tool", "46 metres"),
)


def test_ordinary_text_is_read_in_pieces_and_every_role_is_rendered(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "small.gguf", SMALL)

    async def run() -> None:
        model = await client.load(ModelSpec("small", path, n_ctx=512))
        try:
            (count,) = await model.count_tokens([TEXT])
            assert len(TEXT) / 4 < count < len(TEXT) / 1.5
            assert model.info.n_vocab == 32_000
            assert model.info.tool_syntax is not None
            assert model.info.tool_syntax.before.keys() == {"web_search", "web_fetch"}
            whole = await model.count_prompt(CONVERSATION)
            assert whole > sum(await model.count_tokens([message.content for message in CONVERSATION]))
            done = await model.complete(GenerateRequest("s", CONVERSATION, max_tokens=4))
            assert done.usage.prompt_tokens == whole
        finally:
            await model.close()

    asyncio.run(run())


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    paths = [write_random_model(tmp_path / name, replace(SMALL, n_vocab=1000)) for name in ("a.gguf", "b.gguf")]
    other = write_random_model(tmp_path / "c.gguf", replace(SMALL, n_vocab=1000, seed=1))
    assert paths[0].read_bytes() == paths[1].read_bytes() != other.read_bytes()


def test_parts_hold_the_same_model_and_nothing_else_is_left(tmp_path: Path) -> None:
    model = replace(SMALL, n_vocab=1000)
    whole, first = (
        write_random_model(tmp_path / "m.gguf", model),
        write_random_model(tmp_path / "p.gguf", model, n_parts=3),
    )
    assert first.name == "p-00001-of-00003.gguf"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"m.gguf", *(f"p-0000{part}-of-00003.gguf" for part in (1, 2, 3))}
    one, parts = read_header(whole, model="one"), read_header(first, model="parts")
    assert [(t.name, t.shape, t.n_bytes) for t in one.tensors] == [(t.name, t.shape, t.n_bytes) for t in parts.tensors]


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parts"):
        write_random_model(tmp_path / "x.gguf", SMALL, n_parts=1000)
    for n_vocab in (100, 10_000_000):
        with pytest.raises(ValueError, match="vocabulary"):
            write_random_model(tmp_path / "x.gguf", replace(SMALL, n_vocab=n_vocab))
    assert list(tmp_path.iterdir()) == []
