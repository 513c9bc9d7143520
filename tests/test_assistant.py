"""One turn of a model that a caller talks to: JSON of schemas, calls of the caller's functions, logprobs, stops."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfusion.assistant import Ask, JsonFormat, Written, write
from localfusion.engine.chat import ChatTemplate
from localfusion.engine.client import Model, load
from localfusion.errors import InvalidRequest, MalformedOutput
from localfusion.function_calls import GENERIC, Calling, Choice, TurnReader, arguments_rules, as_told, turn_rules
from localfusion.messages import (
    Completion,
    Delta,
    FunctionCall,
    FunctionSpec,
    FunctionSyntax,
    GenerateRequest,
    Json,
    Message,
    ModelInfo,
    ModelSpec,
    Progress,
    Sampling,
    TokenLogprobs,
)
from tests.byte_tokenizer import SPECIAL_TOKENS, admits
from tests.harbour import SHIPPED
from tests.test_engine_chat import HERMES
from tests.tiny_gguf import TinyModel, write_tiny_gguf

WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
ASKED = (Message("user", "What is the height of Skerry?"),)
WEATHER = FunctionSpec(
    "get_weather",
    "The weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Lund", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 3}},
        "required": ["city"],
    },
)
CLOCK = FunctionSpec("clock", "The time.", {"type": "object", "properties": {"utc": {"type": "boolean"}}})
SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "metres": {"type": "integer", "maximum": 99}},
    "required": ["name", "metres"],
    "additionalProperties": False,
}
SYNTAXES = {
    "generic": GENERIC,
    "hermes": FunctionSyntax(
        '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", '}\n</tool_call>\n<tool_call>\n{"name": "'
    ),
    "llama": FunctionSyntax('{"name": "', '", "parameters": ', "}"),
    "mistral": FunctionSyntax("[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]"),
    "channels": FunctionSyntax(" to=functions.", " json:", "", answer="final:"),
}
CALLS = [("get_weather", '{"city": "Oslo", "days": 2}'), ("clock", "{}"), ("clock", '{"utc": true}')]


@asynccontextmanager
async def loaded(path: Path) -> AsyncIterator[Model]:
    model = await load(ModelSpec("model", path, n_ctx=2048))
    try:
        yield model
    finally:
        await model.close()


async def turn(model: Model, ask: Ask) -> tuple[Written, list[Delta], list[FunctionCall]]:
    items = [item async for item in write(model, ask, name="model") if not isinstance(item, Progress)]
    written = items[-1]
    assert isinstance(written, Written)
    deltas = [item for item in items if isinstance(item, Delta) and item.kind == "content"]
    assert "".join(delta.text for delta in deltas) == written.content
    assert tuple(mark for delta in deltas for mark in delta.logprobs) == written.logprobs
    calls = [item for item in items if isinstance(item, FunctionCall)]
    assert tuple(calls) == written.calls
    return written, deltas, calls


def run(path: Path, *asks: Ask) -> list[Written]:
    async def all_of_them() -> list[Written]:
        async with loaded(path) as model:
            return [(await turn(model, ask))[0] for ask in asks]

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that writes noise, with a template of Hermes' style."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "t.gguf", TinyModel(n_ctx=4096, chat_template=HERMES))


MICRO = SHIPPED / "micro-a.gguf"


def test_json_is_of_its_schema() -> None:
    some = [Ask(ASKED, output=JsonFormat(dict(SCHEMA)), sampling=replace(WARM, seed=seed)) for seed in range(3)]
    for written in run(MICRO, *some):
        assert written.finish_reason == "stop"
        jsonschema_rs.validate(SCHEMA, json.loads(written.content))
    (cut,) = run(MICRO, Ask(ASKED, output=JsonFormat(), sampling=WARM, max_tokens=12))
    assert cut.content.startswith("{")


def test_calls_are_of_their_functions(hermes: Path) -> None:
    schemas = {spec.name: spec.schema for spec in (WEATHER, CLOCK)}
    ask = Ask(ASKED, functions=(WEATHER, CLOCK), choice="required", sampling=WARM, stop=('"', "}"))
    for path in (MICRO, hermes):
        for written in run(path, *(replace(ask, sampling=replace(WARM, seed=seed)) for seed in range(3))):
            assert written.calls
            assert not written.content
            for call in written.calls:
                assert call.id.startswith("call_")
                jsonschema_rs.validate(dict(schemas[call.name]), json.loads(call.arguments))


def test_json_beside_functions_is_a_call_or_of_its_schema(hermes: Path) -> None:
    ask = Ask(ASKED, functions=(CLOCK,), output=JsonFormat(dict(SCHEMA)))
    for path in (MICRO, hermes):
        for written in run(path, *(replace(ask, sampling=replace(WARM, seed=seed)) for seed in range(3))):
            assert written.calls or jsonschema_rs.is_valid(SCHEMA, json.loads(written.content))


def test_one_call_where_several_are_not_wanted_and_none_where_none_is(hermes: Path) -> None:
    one = Ask(ASKED, functions=(CLOCK,), choice="required", is_parallel=False, sampling=WARM)
    (written, silent) = run(hermes, one, replace(one, choice="none", max_tokens=30))
    assert len(written.calls) == 1
    assert not silent.calls
    assert "<tool_call>" not in silent.content


def test_calls_and_results_are_told_in_the_templates_way_or_as_text() -> None:
    calls = (FunctionCall("one", "clock", '{"utc": true}'), FunctionCall("two", "get_weather", '{"city": "Oslo"}'))
    results = (Message("tool", "rain<|im_end|>", call_id="two"), Message("tool", "noon", call_id="one"))
    told = (*ASKED, Message("assistant", "Let me see.", function_calls=calls), *results)
    template = ChatTemplate(HERMES, special_tokens=["<|im_end|>"])
    text = template.render(told, functions=(WEATHER, CLOCK))
    assert '"name": "get_weather", "description": "The weather of a city."' in text
    assert written_by(SYNTAXES["hermes"], [(call.name, call.arguments) for call in calls]) in text
    assert "<tool_response>\nrain< |im_end|>\n" in text
    info = ModelInfo("m", 1, 1, 1, 1, 1, {}, None)
    system, _, called, *returned = as_told(told, info, Calling((WEATHER, CLOCK), "auto", True, GENERIC))
    assert (system.role, called.role) == ("system", "assistant")
    assert '"description": "The weather of a city."' in system.content
    assert called.content.splitlines()[1:] == [
        '{"name": "clock", "arguments": {"utc": true}}',
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
    ]
    assert [turn.content for turn in returned] == ["get_weather returned: rain<|im_end|>", "clock returned: noon"]


MANY: list[Json] = [*range(3000)]
REFUSED: dict[str, tuple[Ask, str, str]] = {
    "output": (Ask(ASKED, output=JsonFormat({"not": {}})), "response_format", "not"),
    "output beside functions": (
        Ask(ASKED, output=JsonFormat({"uniqueItems": True}), functions=(CLOCK,)),
        "response_format",
        "uniqueItems",
    ),
    "a function": (
        Ask(ASKED, functions=(CLOCK, FunctionSpec("f", "", {"propertyNames": {}})), output=JsonFormat()),
        "tools",
        "the schema of f cannot be followed",
    ),
    "a field of another name": (
        Ask(ASKED, output=JsonFormat({"not": {}}, param="text.format"), functions=(CLOCK,)),
        "text.format",
        "not",
    ),
    "a function of another name": (
        Ask(ASKED, functions=(CLOCK, FunctionSpec("f", "", {"propertyNames": {}}, "tools[1].parameters"))),
        "tools[1].parameters",
        "the schema of f",
    ),
    "a multiple": (
        Ask(ASKED, output=JsonFormat({"items": {"type": "integer", "multipleOf": 300_007}})),
        "response_format",
        "common multiple of more than 10000",
    ),
    "multiples that are put together": (
        Ask(ASKED, output=JsonFormat({"allOf": [{"multipleOf": 10.3}, {"multipleOf": 107}, {"multipleOf": 101}]})),
        "response_format",
        "common multiple",
    ),
    "patterns that are held against each other": (
        Ask(ASKED, output=JsonFormat({"patternProperties": {f"^{'a' * n}$": {} for n in range(33)}})),
        "response_format",
        "more than 32 patternProperties",
    ),
    "values in all schemas": (
        Ask(ASKED, output=JsonFormat({"enum": MANY}), functions=(FunctionSpec("f", "", {"enum": MANY}),)),
        "tools",
        "the schema of f cannot be followed: it has more than 5000",
    ),
    "alternatives of alternatives": (
        Ask(
            ASKED,
            output=JsonFormat(
                {
                    "allOf": [
                        {"anyOf": [{"type": "object", "properties": {f"p{i}{j}": {}}} for j in range(3)]}
                        for i in range(7)
                    ]
                }
            ),
        ),
        "response_format",
        "too big",
    ),
    "no object": (Ask(ASKED, functions=(FunctionSpec("f", "", {"type": "string"}),)), "tools", "no object"),
    "a name": (Ask(ASKED, functions=(FunctionSpec('f"'),)), "tools", "name"),
    "two of a name": (Ask(ASKED, functions=(CLOCK, CLOCK)), "tools", "name"),
    "no function": (Ask(ASKED, choice="required"), "tool_choice", "none"),
    "no schema": (Ask(ASKED, output=JsonFormat("text")), "response_format", "no JSON Schema"),
}


def test_what_cannot_be_followed_is_refused_by_name() -> None:
    async def refuse_all() -> None:
        async with loaded(MICRO) as model:
            for ask, param, part in REFUSED.values():
                with pytest.raises(InvalidRequest, match=part) as refused:
                    await turn(model, ask)
                assert refused.value.param == param, ask
            assert (await turn(model, Ask(ASKED, max_tokens=3)))[0].usage.completion_tokens <= 3

    asyncio.run(refuse_all())


def joined(marks: Sequence[TokenLogprobs]) -> bytes:
    return b"".join(mark.chosen.token for mark in marks)


def test_logprobs_are_those_of_the_content(hermes: Path) -> None:
    greedy = Ask(ASKED, n_logprobs=3, max_tokens=20, sampling=Sampling(temperature=0.0))
    (plain,) = run(MICRO, greedy)
    assert joined(plain.logprobs) == plain.content.encode()
    for mark in plain.logprobs:
        assert len(mark.top) == 3
        assert mark.top[0] == mark.chosen
        assert [likely.logprob for likely in mark.top] == sorted((x.logprob for x in mark.top), reverse=True)
        assert mark.chosen.logprob <= 0.0
    stop = plain.content[6:9]
    held, drawn, thought = run(
        MICRO,
        replace(greedy, output=JsonFormat(dict(SCHEMA)), max_tokens=None, n_logprobs=0),
        replace(greedy, sampling=WARM, max_tokens=40, n_logprobs=20),
        replace(greedy, stop=(stop,)),
    )
    assert joined(held.logprobs) == held.content.encode()
    assert len(held.logprobs) == held.usage.completion_tokens
    assert joined(drawn.logprobs).decode("utf-8", "replace").startswith(drawn.content.rstrip("\ufffd"))
    assert joined(thought.logprobs).startswith(thought.content.encode())
    assert thought.content == plain.content[: plain.content.index(stop)]
    (mixed,) = run(hermes, replace(greedy, functions=(CLOCK,), sampling=WARM, max_tokens=300, thinking=True))
    assert mixed.calls or joined(mixed.logprobs).decode("utf-8", "replace").strip() == mixed.content.strip()


def test_thinking_ends_at_its_budget(hermes: Path) -> None:
    ask = Ask(ASKED, thinking=True, sampling=WARM, max_tokens=120, max_thinking_tokens=10)
    short, none, usual = run(hermes, ask, replace(ask, max_thinking_tokens=0), replace(ask, max_thinking_tokens=None))
    assert none.usage.reasoning_tokens < short.usage.reasoning_tokens <= usual.usage.reasoning_tokens
    assert short.usage.reasoning_tokens < 60


def test_a_seed_is_a_text(hermes: Path) -> None:
    one, same, other = run(
        hermes, *(Ask(ASKED, sampling=replace(WARM, seed=seed), max_tokens=20) for seed in (1, 1, 2))
    )
    assert one.content == same.content != other.content


def written_by(syntax: FunctionSyntax, calls: Sequence[tuple[str, str]]) -> str:
    bodies = [f"{name}{syntax.between}{arguments}" for name, arguments in calls]
    return syntax.before + (syntax.joint or "").join(bodies) + syntax.after


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_the_grammar_admits_calls_and_text_and_nothing_between(syntax: FunctionSyntax) -> None:
    info = ModelInfo("m", 1, 1, 1, 1, 1, {}, None, syntax)
    calling = Calling((WEATHER, CLOCK), "auto", True, syntax)

    def grammar_of(calling: Calling) -> str:
        return "".join([*arguments_rules(calling), *turn_rules(calling, info, output=None)])

    auto, none = grammar_of(calling), grammar_of(replace(calling, choice="none"))
    required, single = grammar_of(replace(calling, choice="required")), grammar_of(replace(calling, is_parallel=False))
    one, several = written_by(syntax, CALLS[:1]), written_by(syntax, CALLS)
    wrong = written_by(syntax, [("clock", '{"utc": 1}')])
    text = f"{syntax.answer}It is <b>noon</b> {{1}}\n"
    assert admits(auto, one)
    assert admits(auto, text)
    assert not admits(auto, wrong)
    assert admits(auto, several) == admits(required, several) == (syntax.joint is not None)
    assert not admits(single, several)
    assert admits(single, one)
    assert admits(required, one)
    assert not admits(required, text)
    assert admits(none, text)
    assert not admits(none, one)
    assert admits(auto, f"Text first. {one}") == (not syntax.answer)
    assert admits(auto, f"Text first. {wrong}") == (not syntax.answer and not syntax.is_anywhere)


def read(reader: TurnReader, text: str, cuts: Sequence[int]) -> tuple[str, list[tuple[str, str]]]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    items = [item for at, end in pairwise(places) for item in reader.feed(text[at:end])]
    items += reader.finish()
    shown = "".join(item for item in items if isinstance(item, str))
    return shown, [(item.name, item.arguments) for item in items if isinstance(item, FunctionCall)]


@settings(max_examples=60)
@given(
    syntax=st.sampled_from(list(SYNTAXES.values())),
    text=st.text(alphabet="ab <{[\n", max_size=12),
    n_calls=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_a_turn_is_read_alike_however_it_arrives(
    syntax: FunctionSyntax, text: str, n_calls: int, cuts: list[int]
) -> None:
    calling = Calling((WEATHER, CLOCK), "auto", True, syntax)
    calls = CALLS[: n_calls if syntax.joint is not None else min(n_calls, 1)]
    lead = text if syntax.is_anywhere and not syntax.answer else ""
    if calls:
        told = read(TurnReader(calling, is_json=False, model="m"), lead + written_by(syntax, calls), cuts)
        assert told == (lead.rstrip(), calls)
    told = read(TurnReader(calling, is_json=False, model="m"), syntax.answer + text, cuts)
    assert told == (text, [])


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_a_call_that_breaks_off_is_none(syntax: FunctionSyntax) -> None:
    whole = written_by(syntax, CALLS[:1])
    for end in range(len(syntax.before), whole.index("}")):
        reader = TurnReader(Calling((WEATHER,), "auto", True, syntax), is_json=False, model="m")
        assert not reader.feed(whole[:end])
        with pytest.raises(MalformedOutput, match="breaks off"):
            reader.finish()
        assert not reader.finish(is_cut=True)


CHOICES: list[tuple[Choice, bool]] = [("auto", False), ("auto", True), ("required", False), ("required", True)]


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_of_a_call_that_is_cut_nothing_is_text(syntax: FunctionSyntax) -> None:
    whole = written_by(syntax, CALLS[:1])
    may_be_json = syntax.mark.startswith(("{", "["))
    begun = len(whole) - len(whole.lstrip()) + 1
    for end in range(begun, whole.index("}")):
        for choice, is_json in CHOICES:
            if choice == "auto" and is_json and may_be_json:
                continue
            reader = TurnReader(Calling((WEATHER,), choice, True, syntax), is_json=is_json, model="m")
            assert not reader.feed(whole[:end])
            assert not reader.finish(is_cut=True)
            assert reader.is_call_cut
        if syntax.is_anywhere and not syntax.answer:
            reader = TurnReader(Calling((WEATHER,), "auto", True, syntax), is_json=False, model="m")
            assert [*reader.feed(f"Text. {whole[:end]}"), *reader.finish(is_cut=True)] == ["Text."]


def test_text_that_is_cut_is_whole_where_it_can_be_no_call() -> None:
    for calling, is_json, text in (
        (None, False, '{"n'),
        (Calling((CLOCK,), "none", True, GENERIC), False, '{"n'),
        (Calling((CLOCK,), "auto", True, GENERIC), True, '{"n'),
        (Calling((CLOCK,), "auto", True, SYNTAXES["hermes"]), False, "a < b"),
    ):
        reader = TurnReader(calling, is_json=is_json, model="m")
        assert "".join(map(str, [*reader.feed(text), *reader.finish(is_cut=True)])) == text
        assert not reader.is_call_cut


def test_a_turn_that_is_cut_in_its_first_call_is_empty(hermes: Path) -> None:
    ask = Ask(ASKED, functions=(CLOCK, WEATHER), choice="required", sampling=WARM, n_logprobs=0)
    for path in (MICRO, hermes):
        for written in run(path, *(replace(ask, max_tokens=n_tokens) for n_tokens in (1, 3, 5))):
            assert (written.content, written.calls, written.logprobs) == ("", (), ())
            assert written.finish_reason == "length"


def test_json_that_looks_like_a_call_is_told_apart_at_its_end() -> None:
    calling = Calling((CLOCK,), "auto", True, GENERIC)
    for text, expected in (
        ('{"name": "Tom"}', ('{"name": "Tom"}', [])),
        ('{"name": "clock", "arguments": {}}', ("", [("clock", "{}")])),
        ('{"name": "clock", "arguments": {}, "more": 1}', ('{"name": "clock", "arguments": {}, "more": 1}', [])),
    ):
        assert read(TurnReader(calling, is_json=True, model="m"), text, range(0, 90, 7)) == expected


def test_stop_strings_end_text_and_no_call(hermes: Path) -> None:
    async def both() -> Completion:
        async with loaded(hermes) as model:
            syntax = model.info.function_syntax
            assert syntax == SYNTAXES["hermes"]
            text = json.dumps('ab <tool_call>\n{"name": "a b')
            request = GenerateRequest("s", ASKED, grammar=f"start: {text}", stop=("\n", " b"), calls=syntax)
            return await model.complete(request)

    assert asyncio.run(both()).content == 'ab <tool_call>\n{"name": "a b'


def test_a_control_token_begins_a_call_anywhere() -> None:
    name = next(iter(SPECIAL_TOKENS))
    syntax = FunctionSyntax(f"{name}[", ":", "]", "; ")
    calling = Calling((WEATHER, CLOCK), "auto", True, syntax)
    info = ModelInfo("m", 1, 1, 1, 1, 1, SPECIAL_TOKENS, None, syntax)
    lark = "".join([*arguments_rules(calling), *turn_rules(calling, info, output=None)])
    several = written_by(syntax, CALLS)
    for text in ("", "Text.", several, f"Text first.\n{several}"):
        assert admits(lark, text)
        assert read(TurnReader(calling, is_json=False, model="m"), text, range(0, 200, 3))[1] == CALLS * (
            several in text
        )
    for text in (f"{several}Text.", name, f"{name}[clock:1]", f"{several}{several}"):
        assert not admits(lark, text)
