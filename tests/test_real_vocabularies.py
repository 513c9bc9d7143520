"""Real vocabularies: tokenized as llama.cpp's references say, and constrained decoding on every one of them."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from localfusion.engine import client, grammar
from localfusion.engine.chat import ChatTemplate
from localfusion.engine.constrain import Constraint, GrammarError, Grammars
from localfusion.engine.llama import PROBE, Vocabulary
from localfusion.errors import ModelLoadError
from localfusion.messages import ModelSpec
from tests.real_models import VocabularyFile

SMALL = (
    "baichuan",
    "deepseek-coder",
    "falcon",
    "gpt-2",
    "gpt-neox",
    "llama-spm",
    "mpt",
    "phi-3",
    "refact",
    "starcoder",
)
LARGE = ("aquila", "command-r", "deepseek-llm", "gemma-4", "llama-bpe", "qwen2", "qwen35")
ENCODERS = ("bert-bge", "nomic-bert-moe")
"""Vocabularies of models that write nothing: they have no tokens for single bytes, so no grammar can be followed."""
GENERATORS = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
WITHOUT_REFERENCE = {"aquila", "baichuan", "gpt-neox", "nomic-bert-moe"}
SEPARATOR = "\n__ggml_vocab_test__\n"

ENDS_OF_TURNS = {
    "command-r": {"CohereForAI-c4ai-command-r-plus-tool_use": "<|END_OF_TURN_TOKEN|>"},
    "gemma-4": {"google-gemma-4-31B-it": "<turn|>"},
    "llama-bpe": {
        "meta-llama-Llama-3.1-8B-Instruct": "<|eot_id|>",
        "meetkai-functionary-medium-v3.2": "<|eot_id|>",
        "fireworks-ai-llama-3-firefunction-v2": "<|eot_id|>",
    },
    "phi-3": {"microsoft-Phi-3.5-mini-instruct": "<|end|>"},
    "qwen2": {"Qwen-Qwen2.5-7B-Instruct": "<|im_end|>", "Qwen-Qwen3-0.6B": "<|im_end|>", "MiMo-VL": "<|im_end|>"},
    "qwen35": {"Qwen3.5-4B": "<|im_end|>"},
}
"""Template and the token that ends its turns, by a vocabulary that has the token."""

SOURCES = {
    1: [
        "The harbour’s light stands 41.5 metres high — “Old Tom”, as sailors say.",
        "It was built in 1,890 of grey stone.",
    ],
    2: ["The harbour light is tall: el faro mide 41 metros, größer als jeder andere."],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["harbour light", "pier", "größe"]},
        "years": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2100}, "maxItems": 3},
        "known": {"type": "boolean"},
    },
    "required": ["name", "kind", "years", "known"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=GENERATORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vocabulary(name: str, real_models: Path) -> Iterator[Vocabulary]:
    file = VocabularyFile(real_models / f"ggml-vocab-{name}.gguf")
    yield file.vocabulary
    file.close()


@pytest.fixture(scope="module")
def grammars(vocabulary: Vocabulary) -> Grammars:
    return Grammars(vocabulary)


def test_every_vocabulary_is_named_here(real_models: Path) -> None:
    found = {path.stem.removeprefix("ggml-vocab-") for path in real_models.glob("*.gguf")}
    assert found == {*SMALL, *LARGE, *ENCODERS}
    without = {name for name in found if not (real_models / f"ggml-vocab-{name}.gguf.inp").exists()}
    assert without == WITHOUT_REFERENCE


def check_reference(vocabulary: Vocabulary, path: Path) -> None:
    texts = path.with_suffix(".gguf.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = path.with_suffix(".gguf.out").read_text(encoding="utf-8").split("\n")
    tokenized = [vocabulary.tokenize(text, parse_special=False) for text in texts]
    assert tokenized == [[int(id) for id in line.split()] for line in lines[: len(texts)]]
    assert len(tokenized) > 40


def test_text_becomes_the_tokens_of_the_reference(vocabulary: Vocabulary, name: str, real_models: Path) -> None:
    if name not in WITHOUT_REFERENCE:
        check_reference(vocabulary, real_models / f"ggml-vocab-{name}.gguf")


def test_pieces_and_ends(vocabulary: Vocabulary) -> None:
    pieces = vocabulary.all_bytes()
    assert len(pieces) == vocabulary.n_tokens
    random = np.random.default_rng(0)
    assert all(
        pieces[token] == vocabulary.token_bytes(token) for token in random.integers(0, len(pieces), 500).tolist()
    )
    assert vocabulary.can_read(PROBE)
    assert vocabulary.eos in vocabulary.eog
    assert vocabulary.eog <= set(vocabulary.special_tokens().values())


def decode(vocabulary: Vocabulary, ids: list[int]) -> str:
    return b"".join(map(vocabulary.token_bytes, ids)).decode("utf-8")


def walk(constraint: Constraint, vocabulary: Vocabulary, *, seed: int, likely: list[int]) -> list[int]:
    """Tokens chosen at random of those allowed, the likely ones where they are, and the end as soon as it may come."""
    random = np.random.default_rng(seed)
    ids: list[int] = []
    while len(ids) < 400:
        forced = constraint.take_forced()
        ids += [token for token in forced if token not in vocabulary.eog]
        mask = constraint.allowed()
        assert mask.any()
        if constraint.is_stopped or (len(ids) > 40 and any(token in mask for token in vocabulary.eog)):
            return ids
        choices = [token for token in likely if token in mask]
        if not choices or random.random() < 0.1:
            choices = [token for token in mask.ids().tolist() if token not in vocabulary.eog] or choices
        if not choices:
            return ids
        token = int(random.choice(choices))
        constraint.consume([token])
        ids.append(token)
    raise AssertionError(f"no end after {decode(vocabulary, ids)!r}")


@pytest.mark.parametrize("seed", range(3))
def test_json_fits_its_schema_whatever_is_chosen(vocabulary: Vocabulary, grammars: Grammars, seed: int) -> None:
    ids = walk(grammars.constraint(json.dumps(SCHEMA)), vocabulary, seed=seed, likely=[])
    value = json.loads(decode(vocabulary, ids))
    assert list(value) == ["name", "kind", "years", "known"]
    assert len(value["name"]) <= 12
    assert value["kind"] in {"harbour light", "pier", "größe"}
    assert all(0 <= year <= 2100 for year in value["years"])
    assert isinstance(value["known"], bool)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_quoted_stands_in_its_source(vocabulary: Vocabulary, grammars: Grammars, seed: int) -> None:
    lark = "start: answer\n" + grammar.prose("answer", {n: [plain(t) for t in texts] for n, texts in SOURCES.items()})
    texts = ["He said “The harbour light” [1]. It is 41.5", "“ “", "” [1]", "” [2]", *map(" ".join, SOURCES.values())]
    likely = sorted({token for text in texts for token in vocabulary.tokenize(text, parse_special=False)})
    ids = walk(grammars.constraint(lark), vocabulary, seed=seed, likely=likely)
    text = decode(vocabulary, ids)
    quotes = re.findall("“([^”]*)” \\[(\\d)]", text)
    assert len(quotes) == text.count("“")
    for quote, number in quotes:
        assert any(quote in plain(source) for source in SOURCES[int(number)])


def plain(text: str) -> str:
    return text.replace("“", "").replace("”", "")


def test_a_wrong_word_in_a_quote_is_impossible(vocabulary: Vocabulary, grammars: Grammars) -> None:
    source = "The harbour light stands 41.5 metres high."
    constraint = grammars.constraint("start: answer\n" + grammar.prose("answer", {1: [source]}))
    constraint.consume(vocabulary.tokenize("So: “harbour light stands", parse_special=False))
    pieces = [vocabulary.token_bytes(token) for token in constraint.allowed().ids().tolist()]
    close = "” [1]".encode()
    runs = [
        b"",
        b" ",
        b" 41.5",
        b" 41.5 ",
        b" 41.5 metres",
        b" 41.5 metres ",
        b" 41.5 metres high",
        b" 41.5 metres high.",
    ]
    assert pieces
    for piece in pieces:
        assert any((run + close).startswith(piece) or piece.startswith(run + close) for run in runs)


def test_forced_tokens_are_those_that_the_mask_admits(vocabulary: Vocabulary, grammars: Grammars) -> None:
    lark = 'start: "{\\"harbour\\": [" /[a-z]{2}/ ", 1890, größer]}"'
    forced, masked = grammars.constraint(lark), grammars.constraint(lark)
    written: list[int] = []
    while True:
        for token in forced.take_forced():
            assert token in masked.allowed()
            if token not in vocabulary.eog:
                masked.consume([token])
                written.append(token)
        if forced.is_stopped:
            break
        token = int(forced.allowed().ids()[-1])
        for constraint in (forced, masked):
            constraint.consume([token])
        written.append(token)
    assert re.fullmatch(r'\{"harbour": \[[a-z]{2}, 1890, größer]}', decode(vocabulary, written))
    assert any(token in masked.allowed() for token in vocabulary.eog)


def test_control_tokens_are_no_text(vocabulary: Vocabulary, grammars: Grammars) -> None:
    """Ends may come where a text may end, as ends; "</s>" is a plain piece of text to some vocabularies."""
    may_end, may_not = grammars.constraint("start: /(?s:.)*/"), grammars.constraint("start: /(?s:.)+/")
    specials = set(vocabulary.special_tokens().values())
    assert specials & set(may_end.allowed().ids().tolist()) == vocabulary.eog
    assert not specials & set(may_not.allowed().ids().tolist())


def test_a_long_source_can_be_quoted(vocabulary: Vocabulary, grammars: Grammars) -> None:
    random = np.random.default_rng(1)
    words = ["".join(map(chr, random.integers(97, 123, random.integers(2, 9)))) for _ in range(8000)]
    texts = [" ".join(words[at : at + 250]) for at in range(0, len(words), 250)]
    lark = "start: answer\n" + grammar.prose("answer", {number + 1: [text] for number, text in enumerate(texts)})
    constraint = grammars.constraint(lark)
    text = f"So “{' '.join(words[5000:5012])}” [21], or “{words[7]}” [1]."
    for token in vocabulary.tokenize(text, parse_special=False):
        assert token in constraint.allowed()
        constraint.consume([token])
    assert any(token in constraint.allowed() for token in vocabulary.eog)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_vocabulary_of_an_encoder_follows_no_grammar(real_models: Path, encoder: str) -> None:
    path = real_models / f"ggml-vocab-{encoder}.gguf"
    file = VocabularyFile(path)
    if encoder not in WITHOUT_REFERENCE:
        check_reference(file.vocabulary, path)
    with pytest.raises(GrammarError, match="vocabulary"):
        Grammars(file.vocabulary).constraint("start: /a+/").allowed()
    file.close()


def test_the_end_of_a_turn_ends_a_generation(vocabulary: Vocabulary, name: str, real_models: Path) -> None:
    for template, end in ENDS_OF_TURNS.get(name, {}).items():
        source = (real_models / f"{template}.jinja").read_text(encoding="utf-8")
        made = ChatTemplate(
            source, special_tokens=vocabulary.control_texts(), eos=vocabulary.token_text(vocabulary.eos)
        )
        guessed, vocabulary.eog = vocabulary.eog, frozenset({vocabulary.eos})  # as if llama.cpp had guessed nothing
        vocabulary.end_at(made.turn_end)
        assert {vocabulary.token_text(token) for token in vocabulary.eog} == {
            end,
            vocabulary.token_text(vocabulary.eos),
        }
        vocabulary.eog = guessed


@pytest.mark.parametrize("alone", ["llama-spm", "gpt-2", "bert-bge"])
def test_a_vocabulary_alone_is_no_model(real_models: Path, alone: str) -> None:
    spec = ModelSpec(alone, real_models / f"ggml-vocab-{alone}.gguf")

    async def load() -> None:
        model = await client.load(spec)
        await model.close()

    with pytest.raises(ModelLoadError):
        asyncio.run(load())
