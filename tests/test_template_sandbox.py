"""Chat templates that attack: each is stopped within its bounds, at the latest with the process that runs it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from localfusion.engine import client
from localfusion.engine.template_sandbox import TemplateError, compile_template, run_template
from localfusion.errors import ModelError, ModelLoadError
from localfusion.messages import Completion, GenerateRequest, Message, ModelSpec
from tests.tiny_gguf import CHATML, TinyModel, write_tiny_gguf

HOSTILE = {
    "a range of a thousand millions": "{% for i in range(1000000000) %}{% endfor %}",
    "a range to a power": "{% for i in range(10**9) %}{% endfor %}",
    "loops in loops": "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "a long text": "{{ 'a' * 10**10 }}",
    "a long text by turns": "{{ ('a' * 999999) * 999999 }}",
    "a text that doubles": "{% set n = namespace(s='a') %}{% for i in range(88) %}{% set n.s=n.s ~ n.s %}{% endfor %}",
    "a list that doubles": "{% set n = namespace(s=[1]) %}{% for i in range(88) %}{% set n.s=n.s + n.s %}{% endfor %}",
    "a number that doubles": (
        "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}"
    ),
    "a power of powers": "{{ 9**9**9**9 }}",
    "rounding to a power": "{{ 1|round(1000000000, 'ceil') }}",
    "rounding by a power": "{{ 1|round(-1000000000) }}",
    "a wide text": "{{ 'x'|center(100000000000) }}",
    "a wide text that is known early": "{% if false %}{{ 'x'|center(100000000000) }}{% endif %}{{ 1 / 0 }}",
    "a wide number": "{{ '%100000000000d' % 1 }}",
    "a wide format": "{{ '{:100000000000}'.format(1) }}",
    "a wide batch": "{{ [1]|batch(100000000000, 'x')|list }}",
    "every place replaced": "{{ ('a' * 999999)|replace('', 'a' * 999999) }}",
    "lines indented": "{{ ('\\n' * 999999)|indent('a' * 99999, blank=true) }}",
    "macros in macros": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "callers in callers": "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
    "blocks of itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a loop of itself": "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
    "deep blocks": "{% for x in [1] %}" * 60 + "{% endfor %}" * 60 + "{{ 1 / 0 }}",
    "deep brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "a long sum": "{{ " + "+".join(["x"] * 50_000) + " }}",
    "a number of many digits": "{{ " + "9" * 9_000 + " }}",
    "a long template": "x" * 1_000_001,
    "a class": "{{ ''.__class__.__mro__ }}{{ 1 / 0 }}",
    "a class by format": "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "a class by format_map": "{{ '{x.__class__.__mro__}'.format_map({'x': cycler}) }}",
    "a class by a filter of format": "{{ ['{0.__class__.__mro__}'.format]|map('call', 1)|list }}",
    "a class by attr": "{{ (''|attr('__class__')).__mro__ }}",
    "format by attr": "{{ ('{0.__class__.__mro__}'|attr('format'))(cycler).nothing.nothing }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "a namespace that is a class": "{% set n = namespace() %}{% set n.__class__ = 1 %}{{ n.__init__.__globals__.x }}",
    "code of a generator": "{{ (x for x in []).gi_code }}",
    "a file": "{% include '/etc/passwd' %}",
    "a module": "{% import 'os' as os %}{{ os.getcwd() }}",
    "a parent": "{% extends '/etc/passwd' %}",
    "a debugger": "{% debug %}",
    "lorem ipsum without end": "{{ lipsum(100000, true, 1000, 100000) }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_an_error_of_the_template(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        run_template(compile_template(source, limit_s=2), {}, limit_s=2)
    assert str(caught.value).startswith("the chat template")


LEAKS = ("{{ '{0.__class__}'.format(1) }}", "{{ ('{0.__class__}'|attr('format'))(1) }}", "{{ ''|attr('__class__') }}")


@pytest.mark.parametrize("source", LEAKS)
def test_nothing_of_python_is_shown(source: str) -> None:
    try:
        shown = run_template(compile_template(source), {}, limit_s=5)
    except TemplateError:
        return
    assert "class" not in shown


UNTOUCHABLE = """
import sys
from localfusion.engine import template_sandbox
from localfusion.engine.template_sandbox import compile_template, run_template
template_sandbox.GRACE_S = 0.5
made = compile_template("{% for i in range(99) %}{{ x|sum(start=[])|length }}{% endfor %}")
print("runs", flush=True)
run_template(made, {"x": [[1]] * 3_000_000}, limit_s=0.5)
print("has ended", flush=True)
"""


def test_what_cannot_be_interrupted_ends_its_process() -> None:
    """One addition of millions of lists is one step of the interpreter, which no exception gets into."""
    done = subprocess.run([sys.executable, "-c", UNTOUCHABLE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "runs\n")


NOT_NOW = "{% if messages | length == 7 %}"


def write(folder: Path, template: str) -> Path:
    return write_tiny_gguf(folder / "hostile.gguf", TinyModel(chat_template=template))


@pytest.mark.parametrize(
    "name", ["a text that doubles", "a wide text", "deep blocks", "a long template", "a list that doubles"]
)
def test_a_worker_refuses_to_load_a_hostile_template(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        asyncio.run(client.load(ModelSpec("m", write(tmp_path, HOSTILE[name]))))
    assert "the chat template" in caught.value.message
    assert caught.value.hint


def test_a_template_that_attacks_later_costs_only_the_request_that_it_attacks(tmp_path: Path) -> None:
    hostile = NOT_NOW + HOSTILE["a text that doubles"] + "{% endif %}" + CHATML

    async def run() -> tuple[Completion, ModelError]:
        model = await client.load(ModelSpec("m", write(tmp_path, hostile), n_seq_max=2, n_threads=1))
        try:
            plain = (Message("user", "Hello"),)
            long = asyncio.create_task(model.complete(GenerateRequest("a", plain, max_tokens=40)))
            attacked = (*plain, *((Message("assistant", "Hi"), Message("user", "More")) * 3))
            with pytest.raises(ModelError) as caught:
                await model.complete(GenerateRequest("b", attacked, max_tokens=4))
            return await long, caught.value
        finally:
            await model.close()

    written, refused = asyncio.run(run())
    assert written.finish_reason in ("stop", "length")
    assert "the chat template" in refused.message
