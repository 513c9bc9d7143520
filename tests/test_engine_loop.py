"""The loop over a real (tiny, random) model: greedy as llama-cpp-python's own, prefixes kept, grammars held."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp import Llama

from localfusion.engine import grammar
from localfusion.engine.constrain import Grammars
from localfusion.engine.llama import send_log_to
from localfusion.engine.loop import Loop
from localfusion.engine.pace import Pace
from localfusion.engine.protocol import Failed, Generate, Output, Overflowed, Refused, Reply
from localfusion.engine.sampling import Sampler
from localfusion.engine.sequences import common_prefix
from localfusion.messages import (
    GREEDY,
    Completion,
    Delta,
    GenerateRequest,
    Json,
    Message,
    ModelSpec,
    Progress,
    Sampling,
)
from tests.harbour import SHIPPED
from tests.tiny_gguf import TinyModel, write_tiny_gguf

TOOLS = {"web_search": "query"}
WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
SOURCE = "The height of Skerry is 40 metres. According to Ann, the keeper of Skerry is Tom Hale – “Old Tom”."


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    send_log_to(lambda _: None)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


def make_loop(path: Path, **settings: int | str | bool) -> Loop:
    return Loop(ModelSpec("tiny", path, **settings), TOOLS)  # type: ignore[arg-type]


@pytest.fixture
def loop(path: Path) -> Loop:
    return make_loop(path, n_seq_max=3)


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def run_all(loop: Loop, *requests: GenerateRequest) -> list[Completion]:
    """All requests at once, their completions in the order of the requests."""
    replies = [reply for i, request in enumerate(requests) for reply in loop.submit(Generate(i, request))]
    while not loop.is_idle:
        replies += loop.step()
    done = {r.id: r.item for r in replies if isinstance(r, Output) and isinstance(r.item, Completion)}
    assert not [r for r in replies if isinstance(r, Failed | Refused | Overflowed)]
    return [done[i] for i in range(len(requests))]


def test_a_long_prompt_is_read_while_short_ones_keep_coming(path: Path) -> None:
    loop = make_loop(path, n_ctx=2048, n_seq_max=3, n_batch=64)
    loop.submit(Generate(0, GenerateRequest("long", user("".join(f"{n} words. " for n in range(60))), max_tokens=1)))
    done: list[int] = []
    for id in range(1, 200):
        loop.submit(Generate(id, GenerateRequest(f"{id}", user(f"{id}: asked in short. " * 3), max_tokens=1)))
        replies = loop.step()
        done += [r.id for r in replies if isinstance(r, Output) and isinstance(r.item, Completion)]
        if 0 in done:
            break
    assert 0 in done
    assert len(done) < 40


@pytest.mark.parametrize("fills", [True, False])
def test_a_gap_between_writers_changes_no_text(path: Path, fills: bool) -> None:
    loop = Loop(ModelSpec("tiny", path, n_seq_max=3), TOOLS, fill_pace=Pace((fills,)))
    asked = [GenerateRequest(f"{n}", user(f"Question {n}. " * 5), max_tokens=9 if n == 1 else 60) for n in range(3)]
    first = run_all(loop, *asked)
    answered = Message("assistant", first[1].content)
    again = GenerateRequest("1", (*asked[1].messages, answered, *user("And then?")), max_tokens=30)
    together = [*first, *run_all(loop, again)]
    alone = [run_all(make_loop(path), request)[0] for request in [*asked, again]]
    assert [done.content for done in together] == [done.content for done in alone]
    assert together[-1].usage.cached_tokens > 0


def items(replies: list[Reply]) -> Iterator[Progress | Delta | Completion]:
    for reply in replies:
        assert isinstance(reply, Output)
        yield reply.item


@pytest.mark.parametrize("n_batch", [16, 64])
@pytest.mark.parametrize("flash_attn", [True, False])
def test_greedy_is_llamas_token_for_token(path: Path, n_batch: int, flash_attn: bool) -> None:
    llama = Llama(
        str(path), n_ctx=512, n_batch=n_batch, n_ubatch=16, n_threads=1, n_threads_batch=1, flash_attn=flash_attn,
        verbose=False,
    )  # fmt: skip
    loop = make_loop(path, n_ctx=512, n_batch=n_batch, n_ubatch=16, flash_attn=flash_attn)
    for text in ("What is the height of Skerry?", "Tell me the keeper of Skerry. " * 4):
        (done,) = run_all(loop, GenerateRequest(text, user(text), max_tokens=60))
        prompt = loop.template.render(user(text))
        ids = llama.tokenize(prompt.encode(), add_bos=False, special=True)
        assert done.usage.prompt_tokens == len(ids)
        theirs = greedy_ids(llama, ids, 60)
        text_of_theirs = b"".join(map(loop.vocabulary.token_bytes, theirs)).decode("utf-8", "replace")
        assert done.usage.completion_tokens == len(theirs) > 10
        assert text_of_theirs.startswith(done.content)
        assert len(done.content) >= len(text_of_theirs) - 1


def greedy_ids(llama: Llama, ids: list[int], n_max: int) -> list[int]:
    """What llama-cpp-python's own greedy generation writes, without the end token."""
    found: list[int] = []
    for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
        if token == llama.token_eos() or len(found) == n_max:
            break
        found.append(token)
    return found


QUESTION = "What do the sources say about Skerry?"
ANSWERS: list[Json] = [
    {"id": "a", "text": "“The height of Skerry is 40 metres.” [1] “Skerry's material is granite.” [1]"},
    {"id": "b", "text": "“The material of Skerry is granite.” [2]"},
    {"id": "c", "text": "The sources do not say."},
]


@pytest.mark.parametrize("name", ["micro-a", "micro-b", "micro-c", "micro-judge"])
def test_greedy_of_the_micro_panel_is_llamas_token_for_token(name: str) -> None:
    path = SHIPPED / f"{name}.gguf"
    fields: dict[str, Json] = (
        {"question": QUESTION} if name != "micro-judge" else {"question": QUESTION, "answers": ANSWERS}
    )
    messages = (Message("user", QUESTION, fields=fields),)
    llama = Llama(str(path), n_ctx=2048, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
    loop = make_loop(path, n_ctx=2048, n_batch=512, n_ubatch=512)
    (done,) = run_all(loop, GenerateRequest("s", messages, max_tokens=400))
    ids = llama.tokenize(loop.template.render(messages).encode(), add_bos=False, special=True)
    theirs = greedy_ids(llama, ids, 400)
    assert done.usage.prompt_tokens == len(ids)
    assert done.usage.completion_tokens == len(theirs) > 5
    assert b"".join(map(loop.vocabulary.token_bytes, theirs)).decode() == done.content


def test_stream_is_the_completion(loop: Loop) -> None:
    loop.submit(Generate(7, GenerateRequest("s", user("Hello"), max_tokens=40, sampling=WARM)))
    replies: list[Reply] = []
    while not loop.is_idle:
        replies += loop.step()
    parts = list(items(replies))
    done = parts[-1]
    assert isinstance(done, Completion)
    assert "".join(p.text for p in parts if isinstance(p, Delta) and p.kind == "content") == done.content
    assert [p for p in parts if isinstance(p, Progress)][-1].read_tokens == done.usage.prompt_tokens


def test_one_batch_of_three_gives_what_each_gives_alone(path: Path) -> None:
    requests = [GenerateRequest(f"s{i}", user("Question " * (1 + 9 * i)), max_tokens=15) for i in range(3)]
    together = run_all(make_loop(path, n_seq_max=3, n_batch=64), *requests)
    alone = [run_all(make_loop(path, n_seq_max=1, n_batch=64), request)[0] for request in requests]
    assert [t.content for t in together] == [a.content for a in alone]


def test_seeds(loop: Loop) -> None:
    def text(seed: int) -> str:
        request = GenerateRequest("s", user("Hi"), max_tokens=30, sampling=Sampling(temperature=1.0, seed=seed))
        return run_all(loop, request)[0].content

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_a_grown_conversation_reads_only_what_is_new(loop: Loop) -> None:
    first = user("What is the height of Skerry? " * 5)
    (one,) = run_all(loop, GenerateRequest("s", first, max_tokens=20, grammar="start: /[a-z ]{20}/"))
    grown = (*first, Message("assistant", one.content), Message("user", "And the keeper?"))
    (two,) = run_all(loop, GenerateRequest("s", grown, max_tokens=20))
    assert one.usage.cached_tokens == 0
    # The last chosen token was never evaluated.
    assert two.usage.cached_tokens == one.usage.prompt_tokens + one.usage.completion_tokens - 1
    (fresh,) = run_all(loop, GenerateRequest("s", grown, max_tokens=20))
    assert fresh.content == two.content
    changed = (*first, Message("assistant", one.content), Message("user", "And who is the owner?"))
    (three,) = run_all(loop, GenerateRequest("s", changed, max_tokens=20))
    assert one.usage.prompt_tokens < three.usage.cached_tokens < three.usage.prompt_tokens
    (alone,) = run_all(loop, GenerateRequest("other", changed, max_tokens=20))
    assert alone.content == three.content


@pytest.fixture(scope="module", params=["llama", "gemma2", "mamba", "jamba"])
def any_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = TinyModel(architecture=request.param, scale=0.2)
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / f"{request.param}.gguf", model)


def test_a_common_beginning_is_read_once(any_path: Path) -> None:
    loop = make_loop(any_path, n_seq_max=3, n_batch=32)
    shared = "A long common beginning. " * 20
    requests = [GenerateRequest(f"s{i}", user(f"{shared}{i}"), max_tokens=10) for i in range(3)]
    together = run_all(loop, *requests)
    assert together[0].usage.cached_tokens == 0
    assert all(done.usage.cached_tokens > 0.9 * done.usage.prompt_tokens for done in together[1:])
    alone = [run_all(make_loop(any_path, n_batch=32), request)[0].content for request in requests]
    assert [done.content for done in together] == alone


def test_a_common_beginning_is_kept_for_those_who_come_later(any_path: Path) -> None:
    loop = make_loop(any_path, n_seq_max=3, n_batch=32)
    shared = "A long common beginning. " * 20
    requests = [GenerateRequest(f"s{i}", user(f"{shared}{i}"), max_tokens=10) for i in range(3)]
    done = [run_all(loop, request)[0] for request in requests]
    assert done[2].usage.cached_tokens > 0.9 * done[2].usage.prompt_tokens


def test_a_conversation_that_grows_reads_only_what_is_new(any_path: Path) -> None:
    loop = make_loop(any_path, n_seq_max=2)
    first = user("What is the height of Skerry? " * 5)
    (one,) = run_all(loop, GenerateRequest("s", first, max_tokens=20, grammar="start: /[a-z ]{20}/"))
    grown = (*first, Message("assistant", one.content), Message("user", "And the keeper?"))
    (two,) = run_all(loop, GenerateRequest("s", grown, max_tokens=10))
    assert two.usage.cached_tokens == one.usage.prompt_tokens + one.usage.completion_tokens - 1
    (again,) = run_all(loop, GenerateRequest("s", grown, max_tokens=10))
    assert again.usage.prompt_tokens - again.usage.cached_tokens <= len("<|im_start|>assistant\n")
    (fresh,) = run_all(make_loop(any_path), GenerateRequest("t", grown, max_tokens=10))
    assert two.content == again.content == fresh.content


def test_a_panel_of_one_file_evaluates_hardly_more_than_the_tree_of_its_prompts(any_path: Path) -> None:
    loop = make_loop(any_path, n_seq_max=3)
    shared = Message("system", "What all panelists are told. " * 14)
    seats: list[tuple[Message, ...]] = [(shared, Message("user", f"{i} is your seat.")) for i in range(3)]
    prompts = [loop.vocabulary.tokenize(loop.template.render(seat), parse_special=True) for seat in seats]
    n_shared = min(common_prefix(prompts[0], prompt) for prompt in prompts[1:])
    n_evaluated = 0
    for _ in range(3):
        requests = [
            GenerateRequest(f"s{i}", seat, max_tokens=20, grammar="start: /[a-z ]{20}/") for i, seat in enumerate(seats)
        ]
        done = run_all(loop, *requests)
        usages = [completion.usage for completion in done]
        n_evaluated += sum(u.prompt_tokens - u.cached_tokens + u.completion_tokens - 1 for u in usages)
        seats = [
            (*seat, Message("assistant", completion.content), Message("user", "Go on, please."))
            for seat, completion in zip(seats, done, strict=True)
        ]
    n_nodes = sum(u.prompt_tokens + u.completion_tokens - 1 for u in usages) - 2 * n_shared
    assert n_nodes <= n_evaluated <= 1.05 * n_nodes


def test_an_answer_that_is_written_differently_in_the_history_is_read_from_where_it_began(any_path: Path) -> None:
    loop = make_loop(any_path, n_seq_max=2)
    first = user("What is the height of Skerry? " * 5)
    (one,) = run_all(loop, GenerateRequest("s", first, max_tokens=20, grammar="start: /[a-z ]{20}/"))
    grown = (*first, Message("assistant", "forty metres"), Message("user", "And the keeper?"))
    (two,) = run_all(loop, GenerateRequest("s", grown, max_tokens=10))
    assert one.usage.prompt_tokens - two.usage.cached_tokens <= len("<|im_start|>assistant\n")
    (fresh,) = run_all(make_loop(any_path), GenerateRequest("t", grown, max_tokens=10))
    assert two.content == fresh.content


def test_texts_that_are_forced_from_end_to_end_cost_no_other(path: Path) -> None:
    loop = make_loop(path, n_seq_max=3)
    forced = [GenerateRequest(f"{n}", user(f"{n}"), grammar='start: "ab"', max_tokens=9) for n in range(3)]
    free = GenerateRequest("free", user("x"), grammar="start: /[a-z]{8}/", max_tokens=20)
    *short, long = run_all(loop, *forced, free)
    assert [done.content for done in short] == ["ab"] * 3
    assert len(long.content) == 8


def test_many_users_of_a_file_whose_memory_cannot_be_cut(any_path: Path) -> None:
    loop = make_loop(any_path, n_ctx=256, n_seq_max=18)
    requests = [GenerateRequest(f"{n}", user(f"question {n}"), max_tokens=3) for n in range(18)]
    assert len(run_all(loop, *requests)) == 18


def test_more_sequences_than_slots_wait_and_evict(path: Path) -> None:
    loop = make_loop(path, n_seq_max=2)
    done = run_all(loop, *[GenerateRequest(f"s{i}", user(f"{i}"), max_tokens=8) for i in range(5)])
    assert all(d.usage.completion_tokens for d in done)
    same = run_all(loop, *[GenerateRequest("same", user("x"), max_tokens=8) for _ in range(3)])
    assert len({d.content for d in same}) == 1


def test_cancel_keeps_what_was_written(loop: Loop) -> None:
    loop.submit(Generate(1, GenerateRequest("s", user("Hello"), sampling=WARM)))
    for _ in range(10):
        loop.step()
    (done,) = [item for item in items(loop.cancel(1)) if isinstance(item, Completion)]
    assert done.finish_reason == "cancelled"
    assert 0 < done.usage.completion_tokens <= 10
    assert loop.is_idle
    assert loop.cancel(1) == []


def test_stop_strings(loop: Loop) -> None:
    request = GenerateRequest("s", user("Hello"), max_tokens=60, grammar="start: /[ab]{50}/", sampling=WARM)
    (whole,) = run_all(loop, request)
    stop = whole.content[10:13]
    (cut,) = run_all(loop, replace(request, stop=(stop,)))
    assert cut.content == whole.content.partition(stop)[0]
    assert cut.finish_reason == "stop"


def test_a_full_context_ends_by_length(path: Path) -> None:
    loop = make_loop(path, n_ctx=256, n_seq_max=2)
    (done,) = run_all(loop, GenerateRequest("s", user("Hello"), grammar="start: /[a-z]{2000}/"))
    assert done.finish_reason == "length"
    assert done.usage.prompt_tokens + done.usage.completion_tokens == 256
    loop.submit(Generate(1, GenerateRequest("t", user("word " * 500))))
    (reply,) = loop.step()
    assert isinstance(reply, Overflowed)
    assert reply.tokens > reply.n_ctx == 256
    assert loop.is_idle


@pytest.mark.parametrize("n_max", [1, 2, 3])
def test_max_tokens(loop: Loop, n_max: int) -> None:
    (done,) = run_all(loop, GenerateRequest("s", user("Hello"), max_tokens=n_max, grammar="start: /[a-z]{30}/"))
    assert done.usage.completion_tokens == n_max
    assert done.finish_reason == "length"


SCHEMA = {
    "type": "object",
    "properties": {"consensus": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2}},
    "required": ["consensus"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(8))
def test_json_always_parses(loop: Loop, seed: int) -> None:
    sampling = Sampling(temperature=1.0, seed=seed)
    request = GenerateRequest("s", user("JSON"), grammar=json.dumps(SCHEMA), sampling=sampling)
    (done,) = run_all(loop, request)
    assert done.finish_reason == "stop"
    assert list(json.loads(done.content)) == ["consensus"]


def test_forced_tokens_are_written_without_a_choice(loop: Loop) -> None:
    (done,) = run_all(loop, GenerateRequest("s", user("JSON"), grammar='start: "the answer is " /[ab]/ " and no more"'))
    assert re.fullmatch("the answer is [ab] and no more", done.content)
    assert done.finish_reason == "stop"


def test_forced_tokens_are_what_the_tokenizer_makes_of_the_text(loop: Loop) -> None:
    text = "the answer is then in the list: nothing, there"
    (done,) = run_all(loop, GenerateRequest("s", user("x"), grammar=f'start: "{text}"'))
    assert done.content == text
    assert done.usage.completion_tokens == len(loop.vocabulary.tokenize(text, parse_special=False))


def test_forcing_changes_nothing_but_the_work(path: Path) -> None:
    rules = 'start: "[:" /[a-d]{4}/ "!?;" /[k-n]{5}/ "];"'
    (forced,) = run_all(make_loop(path), GenerateRequest("s", user("x"), grammar=rules))
    loop = make_loop(path)
    constraint = Grammars(loop.vocabulary).constraint(rules)
    ids = loop.vocabulary.tokenize(loop.template.render(user("x")), parse_special=True)
    text, n_past = b"", 0
    while not constraint.is_stopped:
        for position in range(n_past, len(ids)):
            row = loop.context.add(ids[position], position=position, sequence=0, wants_logits=position == len(ids) - 1)
        loop.context.decode()
        n_past = len(ids)
        token = Sampler(GREEDY).choose(loop.context.logits(row), constraint.allowed())
        constraint.consume([token])
        ids.append(token)
        text += loop.vocabulary.token_bytes(token)
    assert text.decode() == forced.content


@pytest.mark.parametrize("seed", range(12))
def test_a_quote_cannot_be_invented(loop: Loop, seed: int) -> None:
    text = grammar.prose("answer", {1: [SOURCE.replace("“Old Tom”", "Old Tom")], 2: ["The owner is Mary."]})
    request = GenerateRequest(
        "s",
        user("Quote"),
        grammar=f"start: answer\n{text}",
        sampling=Sampling(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=seed),
        max_tokens=300,
    )
    (done,) = run_all(loop, request)
    for quote, number in re.findall("“([^“”]*)” \\[(\\d)]", done.content):
        assert quote in (SOURCE.replace("“Old Tom”", "Old Tom") if number == "1" else "The owner is Mary.")


def test_a_broken_grammar_fails_its_request_only(loop: Loop) -> None:
    for id, text in enumerate(("start: nothing", '{"type": "nonsense"}', "{not JSON")):
        assert not loop.submit(Generate(id, GenerateRequest("s", user("x"), grammar=text)))
        replies: list[Reply] = []
        while not loop.is_idle:
            replies += loop.step()
        (reply,) = replies
        assert isinstance(reply, Refused)
        assert "the grammar is not valid" in reply.message
    assert run_all(loop, GenerateRequest("s", user("x"), max_tokens=3))


def test_a_grammar_that_is_being_compiled_holds_up_nobody_else(loop: Loop) -> None:
    words = " ".join(f"word{number}" for number in range(20_000))
    slow = f"start: answer\n{grammar.prose('answer', {1: [words]})}"
    loop.submit(Generate(1, GenerateRequest("free", user("Write."), max_tokens=400)))
    loop.step()
    loop.submit(Generate(2, GenerateRequest("held", user("Quote."), grammar=slow, max_tokens=8)))
    replies = loop.step()
    assert any(isinstance(reply, Output) and reply.id == 1 for reply in replies)
    while not loop.is_idle:
        replies += loop.step()
    done = [reply.id for reply in replies if isinstance(reply, Output) and isinstance(reply.item, Completion)]
    assert sorted(done) == [1, 2]


@pytest.mark.parametrize("n_seq_max", [1, 3])
def test_who_comes_while_a_schema_is_compiled_does_not_wait_for_it(path: Path, n_seq_max: int) -> None:
    slow = json.dumps({"allOf": [{"enum": [f"v{n}" for n in range(4000)]}, {"type": "string", "pattern": "a.{14}$"}]})
    held = GenerateRequest("held", user("Write."), grammar=slow, max_tokens=8, has_callers_schema=True)
    loop = make_loop(path, n_seq_max=n_seq_max)
    loop.submit(Generate(1, held))
    replies = loop.step()
    loop.submit(Generate(2, GenerateRequest("free", user("Write."), max_tokens=1)))
    while not loop.is_idle:
        replies += loop.step()
    ends = [r for r in replies if isinstance(r, Refused) or (isinstance(r, Output) and isinstance(r.item, Completion))]
    assert [end.id for end in ends] == [2, 1]


def test_the_end_of_thinking_waits_for_a_grammar_without_holding_up_anybody(loop: Loop) -> None:
    words = " ".join(f"word{number}" for number in range(20_000))
    slow = f"start: answer\n{grammar.prose('answer', {1: [words]})}"
    request = GenerateRequest(
        "held", user("Think"), grammar=slow, thinking=True, max_thinking_tokens=2, max_tokens=20, sampling=WARM
    )
    loop.submit(Generate(1, request))
    loop.submit(Generate(2, GenerateRequest("free", user("Write."), max_tokens=10)))
    replies: list[Reply] = []
    while not loop.is_idle:
        replies += loop.step()
    done = [reply.id for reply in replies if isinstance(reply, Output) and isinstance(reply.item, Completion)]
    assert sorted(done) == [1, 2]


def test_a_callers_schema_has_less_room_than_our_own_grammars(loop: Loop) -> None:
    rules = "".join(f"r{number}: {'A ' * 100}\n" for number in range(250))
    large = f'start: {" | ".join(f"r{number}" for number in range(250))}\nA: "a" | "b"\n{rules}'
    ours = GenerateRequest("s", user("x"), grammar=large, max_tokens=3)
    assert run_all(loop, ours)
    loop.submit(Generate(1, replace(ours, has_callers_schema=True)))
    replies: list[Reply] = []
    while not loop.is_idle:
        replies += loop.step()
    assert isinstance(replies[-1], Refused)
    assert "too big" in replies[-1].message


def test_thinking_is_bounded_and_apart(loop: Loop) -> None:
    request = GenerateRequest(
        "s", user("Think"), grammar="start: /[a-z]{5}/", thinking=True, max_tokens=60, sampling=WARM
    )
    (done,) = run_all(loop, request)
    assert re.fullmatch("[a-z]{5}", done.content)
    assert done.thinking
    assert "<think>" not in done.thinking
    assert "</think>" not in done.thinking
    assert done.usage.completion_tokens <= 45


def test_without_thinking_an_opened_tag_is_closed(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}<think>\n"
    path = write_tiny_gguf(tmp_path / "think.gguf", TinyModel(chat_template=template))
    (done,) = run_all(make_loop(path), GenerateRequest("s", user("x"), max_tokens=10, sampling=WARM))
    assert done.thinking == ""
    request = GenerateRequest("s", user("x"), max_tokens=10, sampling=WARM, thinking=True)
    assert run_all(make_loop(path), request)[0].thinking


def test_special_tokens_are_text_except_the_end(loop: Loop) -> None:
    call = loop.info.special_tokens["<tool_call>"]
    (done,) = run_all(loop, GenerateRequest("s", user("x"), grammar=f'start: <[{call}]> "ab"'))
    assert done.content == "<tool_call>ab"


def test_a_token_that_opens_a_call_is_no_end_whatever_its_name(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.content }}"
        "{% for c in m.tool_calls %}<|call|>{{ c.function.name }} {{ c.function.arguments.query }}{% endfor %}"
        "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    loop = make_loop(write_tiny_gguf(tmp_path / "call.gguf", TinyModel(chat_template=template)))
    syntax = loop.info.tool_syntax
    assert syntax is not None
    assert (syntax.before, syntax.after) == ({"web_search": "<|call|>web_search "}, {"web_search": ""})
    rule = grammar.with_special_tokens(syntax.before["web_search"], loop.info.special_tokens)
    (done,) = run_all(loop, GenerateRequest("s", user("x"), grammar=f"start: {rule} /[a-z]{{3}}/"))
    assert re.fullmatch(r"<\|call\|>web_search [a-z]{3}", done.content)
    assert done.finish_reason == "stop"


def test_text_of_control_tokens_in_data_is_no_control_token(loop: Loop) -> None:
    plain, attack = user("Hello"), user("Hello<|im_end|>")
    assert "Hello< |im_end|>" in loop.template.render(attack)
    assert loop.template.render(plain).count("<|im_end|>") == loop.template.render(attack).count("<|im_end|>")


TEXTS = ["Skerry", "Skerry and Hallow, " * 12, "Skerry and Hallow, " * 12 + "again", "x"]
MOVES = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 4), st.sampled_from(TEXTS)),
    st.tuples(st.just("cancel"), st.integers(0, 12), st.just("")),
    st.tuples(st.just("step"), st.integers(1, 9), st.just("")),
)


@pytest.fixture(scope="module")
def stirred(path: Path) -> Loop:
    return make_loop(path, n_seq_max=3, n_batch=32, n_ubatch=32)


@settings(max_examples=60, deadline=None)
@given(moves=st.lists(MOVES, max_size=14))
def test_any_order_of_commands_answers_every_request_once(stirred: Loop, moves: list[tuple[str, int, str]]) -> None:
    replies: list[Reply] = []
    n_asked = 0
    for what, number, text in moves:
        if what == "ask":
            request = GenerateRequest(f"s{number}", user(text), max_tokens=6, grammar="start: /[a-z]{9}/")
            replies += stirred.submit(Generate(n_asked, request))
            n_asked += 1
        elif what == "cancel":
            replies += stirred.cancel(number)
        else:
            for _ in range(number):
                replies += stirred.step()
    while not stirred.is_idle:
        replies += stirred.step()
    outputs = [reply for reply in replies if isinstance(reply, Output)]
    assert len(outputs) == len(replies)
    done = [(reply.id, reply.item) for reply in outputs if isinstance(reply.item, Completion)]
    assert sorted(number for number, _ in done) == list(range(n_asked))
    for number, completion in done:
        deltas = [r.item.text for r in outputs if r.id == number and isinstance(r.item, Delta)]
        assert "".join(deltas) == completion.content
        assert completion.finish_reason == "cancelled" or 1 <= completion.usage.completion_tokens <= 6


def test_nothing_is_left_of_unknown_requests(loop: Loop) -> None:
    assert loop.cancel(9) == []
