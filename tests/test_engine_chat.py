"""Chat templates in the styles of known families: rendering, what they cannot take, their tool syntax, their bounds."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from localfusion.engine.chat import ChatTemplate
from localfusion.engine.template_sandbox import TemplateError, fixed_time
from localfusion.engine.tool_syntax import adapt_to_tools, derive_function_syntax
from localfusion.messages import FunctionSyntax, Message, ToolCall, ToolSpec

TOOLS = {"web_search": "query", "web_fetch": "url"}
SPECS = tuple(ToolSpec(name, f"does {name}", argument, "text") for name, argument in TOOLS.items())

HERMES = """\
{%- if messages[0].role == 'system' or tools %}<|im_start|>system
{{ messages[0].content if messages[0].role == 'system' }}
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}<|im_start|>user
{{ message.content }}<|im_end|>
{% elif message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{{ message.content }}
{%- for call in message.tool_calls %}
{%- if message.content or not loop.first %}
{{ '\n' }}
{%- endif %}
{{- '<tool_call>\n{"name": "' ~ call.function.name ~ '", "arguments": ' ~ (call.function.arguments | tojson) }}
{{- '}\n</tool_call>' }}
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is false %}<think>

</think>

{% endif %}
{%- endif %}"""

LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.tool_calls %}
{%- if not message.tool_calls | length == 1 %}{{ raise_exception("one call at a time") }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
{{- call.arguments | tojson }}{{ "}<|eot_id|>" }}
{%- elif message.role == "tool" %}
{{- "<|start_header_id|>ipython<|end_header_id|>\n\n" + (message.content | tojson) + "<|eot_id|>" }}
{%- else %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == "user" %}{{ "[INST] " + message.content + "[/INST]" }}
{%- elif message.tool_calls %}
{{- "[TOOL_CALLS] [" }}
{%- for call in message.tool_calls %}
{%- if call.id is not defined or call.id | length != 9 %}{{ raise_exception("ids have 9 characters") }}{% endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
{{- ', "id": "' + call.id + '"}' }}
{%- endfor %}{{ "]" + eos_token }}
{%- elif message.role == "assistant" %}{{ " " + message.content + eos_token }}
{%- elif message.role == "tool" %}
{{- '[TOOL_RESULTS] {"content": ' + message.content | tojson + ', "call_id": "' + message.tool_call_id }}
{{- '"}[/TOOL_RESULTS]' }}
{%- else %}{{ raise_exception("roles are user, assistant and tool") }}
{%- endif %}
{%- endfor %}"""

QWEN_XML = r"""\
{%- for message in messages %}<|im_start|>{{ 'user' if message.role == 'tool' else message.role }}
{%- if message.role == 'assistant' %}{{ '\n<think>\n\n</think>\n\n' + message.content }}
{%- else %}{{ '\n' + message.content }}
{%- endif %}
{%- for call in message.tool_calls %}
{{- '<tool_call>\n<function=' ~ call.function.name ~ '>\n' }}
{%- for name, value in call.function.arguments | items %}
{{- '<parameter=' ~ name ~ '>\n' ~ value ~ '\n</parameter>\n' }}
{%- endfor %}
{{- '</function>\n</tool_call>' }}
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}
{%- if not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}
{%- endif %}"""

PYTHONIC = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- if message.tool_calls %}{{ '<|tool_call_start|>[' }}
{%- for call in message.tool_calls %}{{ call.function.name + '(' }}
{%- for name, value in call.function.arguments.items() %}{{ name + '="' + value + '"' }}{% endfor %}{{ ')' }}
{%- endfor %}{{ ']<|tool_call_end|>' }}
{%- endif %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

ARGUMENTS_AS_TEXT = """\
{%- for m in messages %}{{ '<' + m.role + '>' + m.content }}
{%- for c in m.tool_calls %}{{ 'CALL ' + c.function.name + ' ' + c.function.arguments }}{% endfor %}{{ '</s>' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"""

GEMMA = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}
{{- message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

ENDS = ("</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>")


@dataclass(frozen=True)
class Case:
    source: str
    before: str
    after: str
    escaped: bool


CASES = {
    "hermes": Case(
        HERMES, '<tool_call>\n{"name": "web_search", "arguments": {"query": "', '"}}\n</tool_call>', escaped=True
    ),
    "llama3": Case(LLAMA3, '{"name": "web_search", "parameters": {"query": "', '"}}', escaped=True),
    "mistral": Case(
        MISTRAL,
        '[TOOL_CALLS] [{"name": "web_search", "arguments": {"query": "',
        '"}, "id": "call00001"}]',
        escaped=True,
    ),
    "qwen_xml": Case(
        QWEN_XML,
        "<tool_call>\n<function=web_search>\n<parameter=query>\n",
        "\n</parameter>\n</function>\n</tool_call>",
        escaped=False,
    ),
    "pythonic": Case(PYTHONIC, '<|tool_call_start|>[web_search(query="', '")]<|tool_call_end|>', escaped=False),
    "arguments_as_text": Case(ARGUMENTS_AS_TEXT, 'CALL web_search {"query": "', '"}', escaped=True),
}


def make(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>", special_tokens=[*ENDS, "<s>", "<|im_start|>"], limit_s=0.5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tool_syntax(case: Case) -> None:
    template = make(case.source)
    syntax = adapt_to_tools(template, TOOLS, ends=ENDS)
    assert syntax is not None
    assert syntax.before["web_search"] == case.before
    assert syntax.after["web_search"] == case.after
    assert syntax.before["web_fetch"] == case.before.replace("web_search", "web_fetch").replace("query", "url")
    assert syntax.escaped == case.escaped


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_conversation_with_tools_only_grows(case: Case) -> None:
    template = make(case.source)
    syntax = adapt_to_tools(template, TOOLS, ends=ENDS)
    assert syntax is not None
    start = [Message("user", "What?")]
    steps = [
        Message("assistant", tool_calls=(ToolCall("web_search", {"query": "height"}),)),
        Message("tool", "40 metres", fields={"name": "web_search"}),
    ]
    before = template.render_prompt(start, tools=SPECS, thinking=False).text
    after = template.render_prompt([*start, *steps], tools=SPECS, thinking=False).text
    called = f"{syntax.before['web_search']}height{syntax.after['web_search']}"
    assert called in after
    assert "40 metres" in after
    assert len(after) > len(before)


FUNCTION_SYNTAXES: dict[str, FunctionSyntax | None] = {
    HERMES: FunctionSyntax(
        '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", '}\n</tool_call>\n<tool_call>\n{"name": "'
    ),
    LLAMA3: FunctionSyntax('{"name": "', '", "parameters": ', "}"),
    MISTRAL: FunctionSyntax(
        '[TOOL_CALLS] [{"name": "', '", "arguments": ', ', "id": "call00001"}]', ', "id": "call00001"}{"name": "'
    ),
    ARGUMENTS_AS_TEXT: FunctionSyntax("CALL ", " ", "", "CALL "),
    QWEN_XML: None,
    PYTHONIC: None,
    GEMMA: None,
}


@pytest.mark.parametrize("source", FUNCTION_SYNTAXES)
def test_function_syntax(source: str) -> None:
    template = make(source)
    adapt_to_tools(template, TOOLS, ends=ENDS)
    assert derive_function_syntax(template, ends=ENDS) == FUNCTION_SYNTAXES[source]


@pytest.mark.parametrize("source", [GEMMA, None], ids=["gemma", "no template"])
def test_templates_without_tools(source: str | None) -> None:
    template = make(source)
    assert adapt_to_tools(template, TOOLS, ends=ENDS) is None
    told = [
        Message("system", "Be brief."),
        Message("user", "What?"),
        Message("assistant", "CALL web_search"),
        Message("user", "a result"),
        Message("tool", "another result"),
    ]
    text = template.render_prompt(told, tools=SPECS, thinking=False).text
    for part in ("Be brief.", "What?", "CALL web_search", "a result\n\nanother result"):
        assert part in text


def test_a_system_turn_is_folded_where_the_template_refuses_it() -> None:
    template = make(GEMMA)
    text = template.render([Message("system", "Be brief."), Message("user", "What?")])
    assert text == "<s><start_of_turn>user\nBe brief.\n\nWhat?<end_of_turn>\n<start_of_turn>model\n"


def test_turns_of_one_role_are_joined_where_the_template_refuses_them() -> None:
    told = [Message("user", "What?"), Message("user", "Say it now.")]
    assert "What?\n\nSay it now.<end_of_turn>" in make(GEMMA).render(told)
    assert "What?<|im_end|>\n<|im_start|>user\nSay it now." in make(None).render(told)


SYSTEM_AT_THE_END = """\
{%- for m in messages if m.role != 'system' %}[{{ m.role }}]
{%- if loop.last and messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}{{ m.content }}{% endfor %}"""


def test_a_system_turn_that_moves_is_folded_where_it_stands() -> None:
    told = [
        Message("system", "Be brief."),
        Message("user", "What?"),
        Message("assistant", "It."),
        Message("user", "Why?"),
    ]
    assert make(SYSTEM_AT_THE_END).render(told) == "[user]Be brief.\n\nWhat?[assistant]It.[user]Why?"


NO_LIST = """\
{%- for m in messages %}<{{ m.role }}>
{%- if m.content is none %}{% for c in m.tool_calls %}CALL {{ c.function.name }} {{ c.function.arguments }}{% endfor %}
{%- else %}{{ m.content }}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""


def test_tools_are_told_where_the_template_does_not_list_them() -> None:
    template = make(NO_LIST)
    syntax = adapt_to_tools(template, TOOLS, ends=ENDS)
    assert syntax is not None
    assert syntax.before["web_search"] == 'CALL web_search {"query": "'
    assert template.abilities.no_content
    for told in ([Message("user", "What?")], [Message("system", "Be brief."), Message("user", "What?")]):
        text = template.render(told, tools=SPECS)
        assert text.startswith("<system>")
        assert all(spec.description in text for spec in SPECS)
        assert text.count("<system>") == 1


CHANNELS = """\
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}<|start|>{{ m.role }}
{%- if m.tool_calls %}{% for c in m.tool_calls %} to={{ c.function.name }}<|message|>{{ c.function.arguments | tojson }}
{%- endfor %}<|call|>{% elif m.role == 'assistant' %}<|channel|>final<|message|>{{ m.content }}<|end|>
{%- else %}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""


def test_what_stands_before_an_answer_is_written_unless_it_might_be_a_call() -> None:
    template = ChatTemplate(CHANNELS, special_tokens=["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>"])
    syntax = adapt_to_tools(template, TOOLS, ends=["<|call|>"])
    assert syntax is not None
    assert syntax.before["web_search"] == ' to=web_search<|message|>{"query": "'
    assert syntax.answer == "<|channel|>final<|message|>"
    assert template.turn_end.startswith("<|end|>")
    user = [Message("user", "What?")]
    assert template.render_prompt(user, tools=(), thinking=False).text.endswith("assistant<|channel|>final<|message|>")
    assert template.render_prompt(user, tools=SPECS, thinking=False).text.endswith("<|start|>assistant")
    thinking = template.render_prompt(user, tools=(), thinking=True)
    assert thinking.text.endswith("<|channel|>analysis<|message|>")
    assert thinking.tags is not None
    assert thinking.tags.gap == "<|start|>assistant<|channel|>final<|message|>"


def test_no_template_is_chatml() -> None:
    text = make(None).render([Message("user", "Hi")])
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_thinking_is_opened_and_closed_as_asked() -> None:
    user = [Message("user", "Hi")]
    hermes, qwen = make(HERMES), make(QWEN_XML)
    assert hermes.render_prompt(user, tools=(), thinking=False).text.endswith("<think>\n\n</think>\n\n")
    thinking = hermes.render_prompt(user, tools=(), thinking=True)
    assert thinking.inside
    assert thinking.text.endswith("assistant\n<think>")
    thinking = qwen.render_prompt(user, tools=(), thinking=True)
    assert thinking.inside
    assert thinking.text.endswith("<think>\n")
    always = make("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n")
    closed = always.render_prompt(user, tools=(), thinking=False)
    assert not closed.inside
    assert closed.text == "Hi<think>\n\n</think>\n\n"


def test_fields_reach_the_template_and_control_tokens_in_them_do_not() -> None:
    template = make("{% for m in messages %}{{ m.results[0].text if m.results else m.content }}{% endfor %}")
    message = Message("tool", "plain", fields={"results": [{"text": "a<|im_end|>b</s>"}]})
    assert template.render([message]) == "a< |im_end|>b< /s>"
    assert template.render([Message("assistant", "a<|im_end|>b")]) == "a< |im_end|>b"
    called = make("{% for m in messages %}{{ m.tool_calls[0].function.arguments.query }}{% endfor %}")
    call = ToolCall("web_search", {"query": "a<|im_end|>b"})
    assert called.render([Message("assistant", tool_calls=(call,))]) == "a< |im_end|>b"


def test_what_transformers_offers() -> None:
    template = make(
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y') | length }}"
    )
    assert template.render([Message("user", "no"), Message("user", "<é'>")]) == '"<é\'>"4'


def test_a_clock_of_the_callers_own() -> None:
    source = "{{ strftime_now('%d %b %Y %H:%M') }}, {{ datetime }}: {{ messages[-1].content }}"
    text = ChatTemplate(source, now=fixed_time).render([Message("user", "Q")])
    assert text == "01 Jan 2025 00:00, 2025-01-01: Q"
    assert fixed_time() == fixed_time()
    assert make(source).render([Message("user", "Q")]) != text


def test_lists_of_a_template_and_of_its_own_making() -> None:
    template = make(
        "{% set seen = [] %}{% for m in messages %}{% set _ = seen.append(m.content) %}{% endfor %}"
        "{{ messages | map(attribute='role') | tojson }}{{ seen | join('+') }}"
    )
    told = [Message("user", "a"), Message("assistant", "b")]
    assert template.render(told) == template.render(told) == '["user", "assistant"]a+b'


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(90000) %}{% for b in range(90000) %}{% if a %}{% endif %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{% for a in range(90000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 1 / 0 }}",
        "{{ nothing.nothing }}",
        "{{ cycler() }}",
    ],
)
def test_a_hostile_template_is_stopped(source: str) -> None:
    template = make("{% if messages | length == 7 %}" + source + "{% endif %}")
    with pytest.raises(TemplateError):
        template.render([Message("user", "x"), Message("assistant", "y")] * 3 + [Message("user", "x")])


DOUBLING = (
    "{% set n = namespace(s='x' * 1000000) %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
)
GREEDY_TEMPLATE = """
import resource
import psutil
from localfusion.engine.chat import ChatTemplate
from localfusion.engine.template_sandbox import RENDER_LIMIT_BYTES, TemplateError
from localfusion.messages import Message
before_limit = psutil.Process().rlimit(psutil.RLIMIT_AS)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
try:
    ChatTemplate(SOURCE, limit_s=300).render([Message("user", "x")])
except TemplateError as error:
    print(error)
taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
print(taken < 2 * RENDER_LIMIT_BYTES, psutil.Process().rlimit(psutil.RLIMIT_AS) == before_limit)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a rendering")
def test_a_template_cannot_take_the_memory() -> None:
    script = GREEDY_TEMPLATE.replace("SOURCE", repr(DOUBLING))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=True)
    said, bounded = ended.stdout.splitlines()
    assert "bounds" in said
    assert bounded == "True True"


def test_a_template_that_does_not_parse() -> None:
    with pytest.raises(TemplateError, match="does not parse"):
        make("{% for %}")
