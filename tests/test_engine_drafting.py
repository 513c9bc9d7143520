"""Drafts: what is guessed, and that it changes nothing but the number of steps."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.engine.drafting import LONGEST, N_GRAM, SHORTEST, Lookup
from localfusion.engine.llama import send_log_to
from localfusion.engine.loop import Loop
from localfusion.engine.pace import Pace
from localfusion.engine.protocol import Generate, Output
from localfusion.messages import GREEDY, Completion, GenerateRequest, Json, Message, ModelSpec, Sampling
from tests.harbour import SHIPPED
from tests.tiny_gguf import TinyModel, write_tiny_gguf

ANSWERS: list[Json] = [
    {"id": "a", "text": "“The height of Skerry is 40 metres.” [1] “Skerry's material is granite.” [1]"},
    {"id": "b", "text": "“According to the Merrow Survey, the height of Skerry is 43 metres.” [2]"},
    {"id": "c", "text": "“Records give the year of completion of Skerry as 1871.” [3]"},
]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    send_log_to(lambda _: None)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 20), st.integers(0, 30))
def test_a_draft_is_what_followed_the_same_tokens_last(ids: list[int], n_max: int, cut: int) -> None:
    lookup = Lookup()
    lookup.follow(ids[:cut])
    lookup.follow(ids)
    draft = lookup.draft(n_max)
    tail = ids[-N_GRAM:]
    starts = [at for at in range(N_GRAM, len(ids)) if ids[at - N_GRAM : at] == tail]
    assert draft == (ids[starts[-1] :][: min(n_max, SHORTEST)] if starts else [])


@given(st.lists(st.tuples(st.integers(1, LONGEST), st.floats(0, 1))))
def test_drafts_grow_while_they_hold_and_shrink_when_they_fail(tries: list[tuple[int, float]]) -> None:
    lookup = Lookup()
    lookup.follow([1, 2, 3, *range(10, 90), 1, 2, 3])
    for n_drafted, share in tries:
        before = len(lookup.draft(100))
        n_accepted = int(share * n_drafted)
        lookup.learn(n_drafted, n_accepted)
        after = len(lookup.draft(100))
        assert SHORTEST <= after <= LONGEST
        assert after >= before if n_accepted == n_drafted else after <= max(SHORTEST, n_accepted)


def write(loop: Loop, request: GenerateRequest) -> tuple[Completion, int]:
    """What comes of a request, and in how many steps."""
    replies = loop.submit(Generate(1, request))
    n_steps = 0
    while not loop.is_idle:
        replies += loop.step()
        n_steps += 1
    (done,) = [r.item for r in replies if isinstance(r, Output) and isinstance(r.item, Completion)]
    return done, n_steps


QUESTION = "What do the sources say about Skerry?"
ASKED = Message("user", QUESTION, fields={"question": QUESTION, "answers": ANSWERS})


def judged(loop: Loop, *, drafts: bool, sampling: Sampling = GREEDY) -> tuple[Completion, int]:
    """What the micro judge writes, and in how many steps."""
    name = "drafted" if drafts else "plain"
    return write(loop, GenerateRequest(name, (ASKED,), sampling=sampling, max_tokens=400, drafts=drafts))


@pytest.fixture
def judge() -> Loop:
    spec = ModelSpec("judge", SHIPPED / "micro-judge.gguf", n_ctx=2048, n_seq_max=2)
    return Loop(spec, {}, draft_pace=Pace((True,)))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.5, seed=4), Sampling(temperature=1.0, seed=5)])
def test_drafts_change_the_steps_and_not_the_text(judge: Loop, sampling: Sampling) -> None:
    plain, n_plain = judged(judge, drafts=False, sampling=sampling)
    drafted, n_drafted = judged(judge, drafts=True, sampling=sampling)
    assert drafted.content == plain.content
    assert drafted.usage.completion_tokens == plain.usage.completion_tokens > 50
    assert n_drafted < n_plain * 0.8, (n_drafted, n_plain)


def test_what_was_guessed_wrongly_is_not_kept(judge: Loop) -> None:
    first, _ = judged(judge, drafts=True)
    messages = (ASKED, Message("assistant", first.content), Message("user", "", fields={"task": "answer"}))
    kept, fresh = (write(judge, GenerateRequest(name, messages, max_tokens=200))[0] for name in ("drafted", "fresh"))
    assert kept.content == fresh.content


def test_a_recurrent_model_does_without(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "mamba.gguf", TinyModel(architecture="mamba"))
    loop = Loop(ModelSpec("mamba", path, n_ctx=512), {})
    done, n_steps = write(loop, GenerateRequest("s", (Message("user", "ab " * 30),), max_tokens=40, drafts=True))
    assert n_steps >= done.usage.completion_tokens
