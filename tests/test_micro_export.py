"""The micro panel's tokenizer, template and export, against llama.cpp; nothing is trained here."""

import random
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tokenizers")

import gguf
import llama_cpp
import numpy as np
import torch

from scripts.micro import data, judge_data, lexicon, names, tokenizer
from scripts.micro.batches import collate
from scripts.micro.export import Card, export
from scripts.micro.importing import read_network
from scripts.micro.network import Network, Shape
from scripts.micro.panel import reshaped
from scripts.micro.rendering import ChatMessage, chat_template, render
from scripts.micro.world import fact

PIECES = [*"ab Cz09“”’—.,'\"[]{}:;!?-é日\n\t  ", ". ", " [", *tokenizer.CONTROL]


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(Shape(len(tokenizer.vocabulary().tokens)))


@pytest.fixture(scope="module")
def exported(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("micro") / "untrained.gguf"
    export(network, path, Card("untrained", "a test", {"tokens_seen": 0, "seconds": 0.5, "note": "none"}), "f16")
    return path


@pytest.fixture(scope="module")
def loaded(exported: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(exported), n_ctx=512, logits_all=True, verbose=False, n_threads=1)


def test_a_file_is_read_back_as_the_network_that_was_written(network: Network, exported: Path) -> None:
    again, facts = read_network(exported)
    ids = torch.tensor([tokenizer.encode("<|user|>What is the height of Port Hallow?<|turn|>")])
    with torch.no_grad():
        for before, after in zip(network(ids), again(ids), strict=True):
            torch.testing.assert_close(after, before, atol=0.02, rtol=0.01)
    assert facts == {"tokens_seen": 0}


def random_text(rng: random.Random) -> str:
    makers = (
        lambda: rng.choice(lexicon.whole_words()),
        lambda: " " + names.entity(rng),
        lambda: names.word(rng),
        lambda: str(rng.randrange(10 ** rng.randrange(1, 6))),
        lambda: rng.choice(PIECES),
    )
    return "".join(rng.choice(makers)() for _ in range(30))


def test_llama_cpp_splits_texts_into_the_same_tokens(loaded: llama_cpp.Llama) -> None:
    rng = random.Random(3)
    for text in (random_text(rng) for _ in range(200)):
        assert loaded.tokenize(text.encode(), add_bos=False, special=True) == tokenizer.encode(text)


def test_llama_cpp_computes_the_same_logits(network: Network, loaded: llama_cpp.Llama) -> None:
    ids = tokenizer.encode("<|user|>What is the height of Skerry?<|turn|>“Port Hallow's age is 412 years.” [1]")
    loaded.eval(ids)
    with torch.no_grad():
        stream, _, matrix = network(torch.tensor([ids]))
    difference = np.abs(np.array(loaded.scores[: len(ids)]) - (stream @ matrix.T)[0].numpy())
    assert difference.max() < 0.02


def test_the_file_says_what_it_is(exported: Path) -> None:
    reader = gguf.GGUFReader(exported)
    found = {key: field.contents() for key, field in reader.fields.items()}
    assert found["general.license"] == "apache-2.0"
    assert found["tokenizer.chat_template"] == chat_template()
    assert found["micro.tokens_seen"] == 0


@pytest.mark.parametrize("name", ["Skerry", "Port Hallow", "The Merriden", "412", "height"])
def test_a_word_splits_the_same_with_and_without_a_space(name: str) -> None:
    plain, spaced = (tokenizer.encode(text) for text in (name, " " + name))
    assert len(plain) == len(spaced)
    assert plain[1:] == spaced[1:]


def test_each_of_the_models_turns_follows_its_prompt() -> None:
    rng = random.Random(5)
    newline = tokenizer.encode("\n")[0]
    drawn = [data.panelist_example(rng, data.LEVELS[-1], rng.choice(data.STYLES)) for _ in range(30)]
    drawn += [judge_data.judge_example(rng, data.LEVELS[-1]) for _ in range(30)]
    for example in drawn:
        assert [own for _, own in example.pieces] == [False, True, False, True]
        encoded = data.encode(example)
        assert [label for at, label in encoded.marks if encoded.ids[at] == newline] == list(example.labels)
        assert not any(encoded.predicted[at] for at, _ in encoded.marks)
        assert encoded.ids == tokenizer.encode("".join(text for text, _ in example.pieces))


def test_a_search_without_results_is_told() -> None:
    call: ChatMessage = {"function": {"name": "web_search", "arguments": {"query": "height"}}}
    text = render(
        [
            {"role": "system", "content": "ignored"},
            {"role": "user", "content": "What?", "question": "What?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "Nothing\nwas found.", "results": []},
        ]
    )
    opening = "<|user|>What?<|turn|><|call|>web_search<|arg|>height<|end|>"
    assert text == opening + "<|results|>\nNothing was found.\n<|turn|>"


def test_analysis_sorts_facts_by_who_states_them() -> None:
    rng = random.Random(1)
    height, colour, depth = (lexicon.ATTRIBUTES[index] for index in (0, 10, 1))
    tall, taller = (fact(rng, "Skerry", height, value, 0) for value in ("40 metres", "45 metres"))
    red, deep = fact(rng, "Skerry", colour, "red", 0), fact(rng, "Skerry", depth, "9 feet", 0)
    cited = {name: judge_data.Cited(one, 1) for name, one in zip("abcd", (tall, taller, red, deep), strict=True)}
    answers = [
        judge_data.Answer("a", (cited["a"], cited["c"])),
        judge_data.Answer("b", (cited["b"], cited["c"])),
        judge_data.Answer("c", (cited["d"],)),
    ]
    assert judge_data.conclude(answers) == (
        "“The colour of Skerry is red.” [1] “The depth of Skerry is 9 feet.” [1] The sources disagree: "
        "“The height of Skerry is 40 metres.” [1] “The height of Skerry is 45 metres.” [1]"
    )
    analysis = judge_data.analyse(answers)
    assert '"partial_coverage":[{"models":["a","b"],"point":"“The colour' in analysis
    assert '"unique_insights":[{"model":"c","insight":"“The depth' in analysis
    assert '"topic":"height"' in analysis


@pytest.mark.parametrize("layers", [-1, 0, 1])
def test_members_grow_out_of_the_base(network: Network, layers: int) -> None:
    made = reshaped(network, layers, seed=1)
    assert len(made.blocks) == 6 + layers
    if layers >= 0:
        ids = torch.tensor([[5, 6, 7]])
        with torch.no_grad():
            assert torch.allclose(network(ids)[0], made(ids)[0], atol=1e-5)


def test_a_batch_predicts_the_models_own_tokens() -> None:
    rng = random.Random(2)
    encoded = [data.encode(data.panelist_example(rng, data.LEVELS[1], "b")) for _ in range(4)]
    batch = collate(encoded)
    assert len(batch.targets) == sum(sum(example.predicted) for example in encoded)
    flat = batch.ids.reshape(-1)
    assert (flat[batch.positions + 1] == batch.targets).all()
    assert batch.turns.max() == 2 * len(encoded) - 1
