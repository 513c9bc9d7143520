"""Real chat templates: every conversation of a run is rendered without loss, and what each template knows is found.

The table names how each writes a call, what opens its thinking, and what it writes before an answer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from localfusion import panel
from localfusion.analysis import Passage, ToolStep
from localfusion.engine.chat import ChatTemplate
from localfusion.engine.tool_syntax import adapt_to_tools, derive_function_syntax
from localfusion.messages import (
    FunctionCall,
    FunctionSpec,
    Json,
    Message,
    ModelInfo,
    ToolCall,
    ToolSpec,
    ToolSyntax,
)
from tests.byte_tokenizer import admits

SPECS = (
    ToolSpec("web_search", "Finds passages in sources.", "query", "the words to look for"),
    ToolSpec("web_fetch", "Reads one whole page.", "url", "the address of that page"),
)
TOOLS = {spec.name: spec.parameter for spec in SPECS}


@dataclass(frozen=True)
class Native:
    """A template that writes calls: the text before the argument of a search, what opens thinking, and the rest."""

    call: str
    thinking: str | None
    answer: str = ""
    lists_tools: bool = True


@dataclass(frozen=True)
class Generic:
    """A template with which calls are told as text, and why."""

    reason: str
    thinking: str | None


HERMES = '<tool_call>\n{"name": "web_search", "arguments": {"query": "'
FUNCTION_TAGS = "<tool_call>\n<function=web_search>\n<parameter=query>\n"
KIMI = '<|tool_calls_section_begin|><|tool_call_begin|>functions.web_search:0<|tool_call_argument_begin|>{"query": "'
GLM = "<tool_call>web_search\n<arg_key>query</arg_key>\n<arg_value>"
GLM_DENSE = "<tool_call>web_search<arg_key>query</arg_key><arg_value>"
LLAMA = '{"name": "web_search", "parameters": {"query": "'
MISTRAL = '[TOOL_CALLS]web_search[ARGS]{"query": "'
COMMAND = '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "web_search", "parameters": {"query": "'
APRIEL = '<tool_calls>[{"name": "web_search", "arguments": {"query": "'
DEEPSEEK_R1 = '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>web_search\n```json\n{"query": "'
DEEPSEEK_V4 = '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="web_search">\n<｜DSML｜parameter name="query" string="true">'
GEMMA = '<|tool_call>call:web_search{query:<|"|>'
KIMI_K3 = (
    '<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="web_search" index="1"<|sep|>'
    '<|open|>argument key="query" type="string"<|sep|>'
)
MUSE = ' to=web_search<|message|><atem:function_calls>\n<atem:invoke name="web_search">\n<atem:parameter name="query">'
NATIVE: dict[str, Native] = {
    "Apertus-8B-Instruct": Native('<|tools_prefix|>[{"web_search": {"query": "', "<|inner_prefix|>"),
    "Apriel-1.6-15b-Thinker-fixed": Native(APRIEL, "Here are my reasoning steps:\n"),
    "Bielik-11B-v3.0-Instruct": Native(HERMES, "<think>"),
    "ByteDance-Seed-OSS": Native("<seed:tool_call>\n<function=web_search>\n<parameter=query>", "<seed:think>"),
    "Cohere2MoE": Native(COMMAND, "<|START_THINKING|>", answer="<|START_TEXT|>"),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": Native(COMMAND, "<|START_THINKING|>", answer="<|START_RESPONSE|>"),
    "GLM-4.6": Native(GLM, "<think>"),
    "GLM-4.7-Flash": Native(GLM_DENSE, "<think>"),
    "GigaChat3-10B-A1.8B": Native(
        '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "web_search", "arguments": {"query": "', None
    ),
    "GigaChat3.1-10B-A1.8B": Native('<|function_call|>{"name": "web_search", "arguments": {"query": "', None),
    "Kimi-K2-Instruct": Native(KIMI, None),
    "Kimi-K2-Thinking": Native(KIMI, "<think>"),
    "Kimi-K3": Native(
        KIMI_K3,
        "<|open|>think<|sep|>",
    ),
    "LFM2.5-8B-A1B": Native("<|tool_call_start|>[web_search(query='", "<think>"),
    "MiMo-VL": Native(HERMES, None),
    "MiniMax-M1": Native('<tool_calls>\n{"name": "web_search", "arguments": {"query": "', None),
    "MiniMax-M2": Native('<minimax:tool_call>\n<invoke name="web_search">\n<parameter name="query">', "<think>"),
    "MiniMax-M3": Native(
        ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="web_search">]<]minimax[>[<query>', "<mm:think>"
    ),
    "Mistral-Small-3.2-24B-Instruct-2506": Native('[TOOL_CALLS]web_search[CALL_ID]call00001[ARGS]{"query": "', None),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": Native(FUNCTION_TAGS, "<think>"),
    "NVIDIA-Nemotron-Nano-v2": Native('<TOOLCALL>[{"name": "web_search", "arguments": {"query": "', "<think>"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": Native(HERMES, None),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": Native(HERMES, None),
    "Qwen-QwQ-32B": Native(HERMES, "<think>"),
    "Qwen-Qwen2.5-7B-Instruct": Native(HERMES, None),
    "Qwen-Qwen3-0.6B": Native(HERMES, "<think>"),
    "Qwen3-Coder": Native(FUNCTION_TAGS, None),
    "Qwen3.5-4B": Native(FUNCTION_TAGS, "<think>"),
    "Reka-Edge": Native(' <tool_call>\n{"name": "web_search", "arguments": {"query": "', "<think>"),
    "Spark2.5": Native(GLM_DENSE, "<think>"),
    "StepFun3.5-Flash": Native(FUNCTION_TAGS, "<think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": Native(DEEPSEEK_R1, "<think>", lists_tools=False),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": Native(DEEPSEEK_R1, "<think>", lists_tools=False),
    "deepseek-ai-DeepSeek-V3.1": Native(
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>web_search<｜tool▁sep｜>{"query": "', "<think>", lists_tools=False
    ),
    "deepseek-ai-DeepSeek-V3.2": Native(
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="web_search">\n<｜DSML｜parameter name="query" string="true">',
        "<think>",
    ),
    "deepseek-ai-DeepSeek-V4-Flash-0731": Native(DEEPSEEK_V4, "<think>"),
    "deepseek-ai-DeepSeek-V4": Native(DEEPSEEK_V4, "<think>"),
    "fireworks-ai-llama-3-firefunction-v2": Native(' functools[{"name": "web_search", "arguments": {"query": "', None),
    "google-gemma-4-31B-it-interleaved": Native(GEMMA, "<|channel>thought"),
    "google-gemma-4-31B-it": Native(GEMMA, "<|channel>thought"),
    "ibm-granite-granite-4.0": Native(HERMES, None),
    "ibm-granite-granite-4.1": Native(HERMES, None),
    "inclusionai-ling-3.0-flash": Native(GLM, "<think>"),
    "llama-cpp-deepseek-r1": Native(DEEPSEEK_R1, "<think>"),
    "meetkai-functionary-medium-v3.1": Native('<function=web_search>{"query": "', None),
    "meetkai-functionary-medium-v3.2": Native('web_search\n{"query": "', None, answer="all\n"),
    "meta-llama-Llama-3.1-8B-Instruct": Native(LLAMA, None),
    "meta-llama-Llama-3.2-3B-Instruct": Native(LLAMA, None),
    "meta-llama-Llama-3.3-70B-Instruct": Native(LLAMA, None),
    "mistralai-Ministral-3-14B-Reasoning-2512": Native(MISTRAL, "[THINK]"),
    "mistralai-Mistral-Nemo-Instruct-2407": Native(
        '[TOOL_CALLS][{"name": "web_search", "arguments": {"query": "', None
    ),
    "moonshotai-Kimi-K2": Native(KIMI, None),
    "muse-glimmer": Native(
        MUSE,
        " to=self<|message|>",
        answer=" to=user<|message|>",
    ),
    "openai-gpt-oss-120b": Native(
        ' to=functions.web_search<|channel|>commentary json<|message|>{"query": "',
        "<|channel|>analysis<|message|>",
        answer="<|channel|>final<|message|>",
    ),
    "openbmb-MiniCPM5-1B": Native('<function name="web_search"><param name="query">', "<think>"),
    "poolside-Laguna-S-2.1": Native(GLM_DENSE, "<think>"),
    "poolside-Laguna-XS-2.1": Native(GLM, "<think>"),
    "poolside-Laguna-XS.2": Native(GLM, "<think>"),
    "tencent-Hy3": Native(
        "<tool_calls:opensource>\n<tool_call:opensource>web_search<tool_sep:opensource>\n<arg_key:opensource>query</arg_key:opensource>\n<arg_value:opensource>",
        "<think:opensource>",
    ),
    "unsloth-Apriel-1.5": Native(APRIEL, "<thinking>"),
    "unsloth-mistral-Devstral-Small-2507": Native(MISTRAL, None),
    "upstage-Solar-Open-100B": Native(
        '<|tool_calls|><|tool_call:begin|>call00001<|tool_call:name|>web_search<|tool_call:args|>{"query": "',
        "<|think|>",
        answer="<|content|>",
    ),
}
GENERIC: dict[str, Generic] = {
    "CohereForAI-c4ai-command-r-plus-tool_use": Generic(
        "what it puts behind the last turn is no part of a conversation that grows", None
    ),
    "HuggingFaceTB-SmolLM3-3B": Generic("it renders neither tools nor calls", "<think>"),
    "LFM2-8B-A1B": Generic("it renders no calls", None),
    "LFM2.5-Instruct": Generic("it renders no calls", None),
    "google-gemma-2-2b-it": Generic("it knows no tools", None),
    "ibm-granite-granite-3.3-2B-Instruct": Generic("it renders no calls", "<think>"),
    "llama-cpp-rwkv-world": Generic("it knows no tools", "<think>"),
    "microsoft-Phi-3.5-mini-instruct": Generic("it knows no tools", None),
}


EVERY = [*NATIVE, *GENERIC]
BIT = "the words of the first search"
SYSTEM, QUESTION = (
    Message("system", "Instructions stand here."),
    Message("user", "What is it?", fields={"question": "?"}),
)
SEARCH, FETCH = ToolCall("web_search", {"query": BIT}), ToolCall("web_fetch", {"url": "doc://a/b.md"})
ANSWER, MORE, LAST = Message("assistant", "It is tall."), Message("user", "How tall?"), Message("user", "Say it now.")


def load(real_models: Path, name: str) -> tuple[ChatTemplate, ToolSyntax | None]:
    template = ChatTemplate((real_models / f"{name}.jinja").read_text(encoding="utf-8"), bos="<BOS>", eos="</s>")
    return template, adapt_to_tools(template, TOOLS, ends=[template.turn_end.strip()[:12] or "</s>"])


def steps_of(syntax: ToolSyntax | None) -> list[Message]:
    """Two calls and their results, as a panelist tells them."""
    if syntax is None:
        told = [json.dumps({"name": call.name, **call.arguments}) for call in (SEARCH, FETCH)]
        return [
            Message("assistant", told[0]),
            Message("user", "found [1] this"),
            Message("assistant", told[1]),
            Message("user", "read [2] that"),
        ]
    return [
        Message("assistant", tool_calls=(SEARCH,)),
        Message("tool", "found [1] this", fields={"name": "web_search"}),
        Message("assistant", tool_calls=(FETCH,)),
        Message("tool", "read [2] that", fields={"name": "web_fetch"}),
    ]


def texts_of(messages: Sequence[Message]) -> list[str]:
    return [
        text for m in messages for text in [m.content, *(v for c in m.tool_calls for v in c.arguments.values())] if text
    ]


def test_every_template_is_named_here(real_models: Path) -> None:
    assert {path.stem for path in real_models.glob("*.jinja")} == set(EVERY)
    assert not set(NATIVE) & set(GENERIC)


@pytest.mark.parametrize("name", EVERY)
def test_nothing_that_was_said_is_lost(real_models: Path, name: str) -> None:
    template, syntax = load(real_models, name)
    steps = steps_of(syntax)
    conversations = [
        [SYSTEM, QUESTION],
        [QUESTION],
        [SYSTEM, QUESTION, *steps[:2]],
        [SYSTEM, QUESTION, *steps],
        [SYSTEM, QUESTION, ANSWER, MORE],
        [SYSTEM, QUESTION, ANSWER, MORE, Message("assistant", "41 metres."), LAST],
        [SYSTEM, QUESTION, *steps, ANSWER, MORE],
        [SYSTEM, QUESTION, LAST],
    ]
    specs = SPECS if syntax else ()
    for conversation in conversations:
        for tools in ((), specs):
            for thinking in (False, True):
                text = template.render_prompt(conversation, tools=tools, thinking=thinking).text
                places = [text.find(part) for part in texts_of(conversation)]
                assert -1 not in places, (conversation, text)
                assert places == sorted(places), (conversation, text)
                shown = [spec for spec in tools if all(part in text for part in (spec.name, spec.description))]
                assert len(shown) == len(tools), text


@pytest.mark.parametrize("name", EVERY)
def test_thinking_is_opened_or_not_as_asked(real_models: Path, name: str) -> None:
    template, _ = load(real_models, name)
    expected = (NATIVE.get(name) or GENERIC[name]).thinking
    assert (template.tags.open if template.tags else None) == expected
    for tools in ((), SPECS):
        without = template.render_prompt([SYSTEM, QUESTION], tools=tools, thinking=False)
        within = template.render_prompt([SYSTEM, QUESTION], tools=tools, thinking=True)
        assert not without.inside
        assert within.inside is (expected is not None)
        if expected is not None:
            assert within.text.rstrip().endswith(expected.rstrip())
            assert not without.text.rstrip().endswith(expected.rstrip())


@pytest.mark.parametrize("name", NATIVE)
def test_the_native_syntax_of_a_call(real_models: Path, name: str) -> None:
    template, syntax = load(real_models, name)
    assert syntax is not None
    assert syntax.before["web_search"] == NATIVE[name].call
    assert set(syntax.before) == set(TOOLS)
    assert syntax.answer == template.answer_start == NATIVE[name].answer
    assert template.abilities.lists_tools is NATIVE[name].lists_tools
    text = template.render([QUESTION, *steps_of(syntax)[:2]], tools=SPECS)
    assert f"{syntax.before['web_search']}{BIT}" in text


@pytest.mark.parametrize("name", NATIVE)
def test_a_panelist_can_write_what_the_template_writes(real_models: Path, name: str) -> None:
    _, syntax = load(real_models, name)
    assert syntax is not None
    info = ModelInfo("", 1024, 1024, 300, 0, 0, {}, syntax)
    call = f"{syntax.before['web_search']}{BIT}{syntax.after['web_search']}"
    lark = panel.step_grammar(info, Told(), (), may_call=True)
    assert admits(lark, call)
    assert panel.parse_turn(call, syntax, SPECS, model="m") == panel.Turn(SEARCH, "")
    step = ToolStep(SEARCH, (Passage(1, "doc://a", "A", "The tower stands 41 metres high."),))
    answer = f"{syntax.answer}It is “41 metres” [1] high."
    lark = panel.step_grammar(info, Told(), (step,), may_call=True)
    assert admits(lark, answer)
    assert not admits(lark, answer.replace("41", "42"))
    assert panel.parse_turn(answer, syntax, SPECS, model="m") == panel.Turn(None, "It is “41 metres” [1] high.")


@pytest.mark.parametrize("name", GENERIC)
def test_where_a_template_writes_no_calls_they_are_told(real_models: Path, name: str) -> None:
    template, syntax = load(real_models, name)
    assert syntax is None, GENERIC[name].reason
    assert not template.abilities.tool_turns


class Told:
    """The tools of a panelist, of which only the names are asked."""

    specs = SPECS
    addresses = ("doc://a/b.md",)

    async def run(self, call: ToolCall) -> ToolStep:
        raise NotImplementedError(call)

    def result_message(self, step: ToolStep) -> Message:
        raise NotImplementedError(step)

    def restore(self, steps: Sequence[ToolStep]) -> None:
        raise NotImplementedError(steps)


WITHOUT_JSON = {
    "ByteDance-Seed-OSS",
    "GLM-4.6",
    "GLM-4.7-Flash",
    "Kimi-K3",
    "LFM2.5-8B-A1B",
    "MiniMax-M2",
    "MiniMax-M3",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "Qwen3-Coder",
    "Qwen3.5-4B",
    "Spark2.5",
    "StepFun3.5-Flash",
    "deepseek-ai-DeepSeek-V3.2",
    "deepseek-ai-DeepSeek-V4-Flash-0731",
    "deepseek-ai-DeepSeek-V4",
    "google-gemma-4-31B-it-interleaved",
    "google-gemma-4-31B-it",
    "inclusionai-ling-3.0-flash",
    "meetkai-functionary-medium-v3.2",
    "muse-glimmer",
    "openbmb-MiniCPM5-1B",
    "poolside-Laguna-S-2.1",
    "poolside-Laguna-XS-2.1",
    "poolside-Laguna-XS.2",
    "tencent-Hy3",
}
"""Templates that write the arguments of a call in tags, or as code: functions are told in text."""


@pytest.mark.parametrize("name", EVERY)
def test_functions_of_a_caller(real_models: Path, name: str) -> None:
    template, _ = load(real_models, name)
    syntax = derive_function_syntax(template, ends=[template.turn_end.strip()[:12] or "</s>"])
    assert (syntax is None) == (name in WITHOUT_JSON or name in GENERIC)
    if syntax is None:
        return
    schema: dict[str, Json] = {"type": "object", "properties": {"a": {"type": "array"}}}
    functions = (FunctionSpec("first_one", "does the first", schema), FunctionSpec("second_one", "does the second"))
    arguments = '{"a": [1, {"b": "c"}]}'
    call = FunctionCall("call_abc", "first_one", arguments)
    turns = [
        SYSTEM,
        QUESTION,
        Message("assistant", function_calls=(call,)),
        Message("tool", "41 metres", call_id=call.id),
    ]
    text = template.render_prompt(turns, tools=(), functions=functions, thinking=False).text
    assert f"{syntax.before}first_one{syntax.between}{arguments}" in text or '"a": [' in text
    places = [text.find(part) for part in ("is it?", "41 metres")]
    assert -1 not in places
    assert all(function.name in text and function.description in text for function in functions)
