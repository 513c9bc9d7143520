"""Runs a chat template, data from a file of unknown origin, in a sandbox; what it is given is the caller's business.

Only in the worker process, compiled and run with bounded time (an asynchronous exception raised in the rendering
thread by a timer, which stops any loop of the template), bounded memory (on Linux), bounded repetition and bounded
output. What still holds the interpreter in one long step, as a regular expression may, is ended with its process.
"""

import ctypes
import datetime as dt
import faulthandler
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import GeneratorType
from typing import Literal, NoReturn

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from localfusion.machine import limited_memory

RENDER_LIMIT_S = 5.0
RENDER_LIMIT_BYTES = 1 << 29
"""Address space that a rendering may take beyond what the process has."""
GRACE_S = 10.0
"""How long after its time a template may go on before its process is ended."""
SOURCE_LIMIT_CHARACTERS = 1_000_000
OUTPUT_LIMIT_CHARACTERS = 8_000_000
REPEAT_LIMIT = 1_000_000
NUMBER_LIMIT_BITS = 4096
DIGITS_LIMIT = 300


class TemplateError(Exception):
    """The template refused the conversation, failed, or ran beyond its bounds; the message says which."""


class TemplateBoundsError(TemplateError):
    """The template ran beyond its time, its memory, its depth or its output."""


class _OutOfTime(BaseException):
    """Raised inside a template that runs too long; no template can catch it."""


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks text for training; for rendering it is its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(jinja2.sandbox.SandboxedEnvironment):
    """The sandbox, with repetition bounded too. Lists may be appended to: what a template is given is made for it."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: object, right: object) -> object:
        numbers = [side for side in (left, right) if isinstance(side, int)]
        sequences = [side for side in (left, right) if isinstance(side, str | list | tuple)]
        is_long = len(numbers) == 2 and sum(n.bit_length() for n in numbers) > NUMBER_LIMIT_BITS
        is_repeated = any(abs(n) * max(len(s), 1) > REPEAT_LIMIT for n in numbers for s in sequences)
        if operator == "**" or is_long or is_repeated:
            raise jinja2.TemplateRuntimeError("the template multiplies beyond its bounds")
        return super().call_binop(context, operator, left, right)


def _round(value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    """Jinja's own, which would compute ten to the power of whatever it is told."""
    if abs(precision) > DIGITS_LIMIT:
        raise jinja2.TemplateRuntimeError("the template rounds beyond its bounds")
    return jinja2.filters.do_round(value, precision, method)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    shown = list(value) if isinstance(value, GeneratorType) else value  # what `map` and `select` make in a template
    return json.dumps(shown, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


FIXED = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
"""What the time is to a template whose text may depend on nothing but the conversation."""


def local_time() -> dt.datetime:
    """What the time is here."""
    return dt.datetime.now().astimezone()


def fixed_time() -> dt.datetime:
    """FIXED, always."""
    return FIXED


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the calling thread when the block runs longer; needs bytecode to run, not a signal."""
    thread = ctypes.c_ulong(threading.get_ident())
    lock, over = threading.Lock(), threading.Event()

    def interrupt() -> None:
        with lock:
            if not over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_OutOfTime))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over.set()
        timer.cancel()


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End this process when the block runs longer; needs neither a signal nor the interpreter's attention."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def _bounded(limit_s: float) -> Iterator[None]:
    """Whatever goes wrong with a template, in the block, is a TemplateError."""
    try:
        with _ended_after(limit_s + GRACE_S), limited_memory(RENDER_LIMIT_BYTES), limited_time(limit_s):
            yield
    except TemplateError:
        raise
    except _OutOfTime as error:
        raise TemplateBoundsError(f"the chat template ran for more than {limit_s} s") from error
    except (RecursionError, MemoryError) as error:
        raise TemplateBoundsError("the chat template ran beyond its bounds") from error
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the chat template does not parse: {error}") from error
    except SyntaxError as error:
        raise TemplateError("the chat template nests too deeply") from error
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        RuntimeError,
        OSError,
    ) as error:
        raise TemplateError(f"the chat template failed: {error}") from error


def compile_template(
    source: str, now: Callable[[], dt.datetime] = local_time, *, limit_s: float = RENDER_LIMIT_S
) -> jinja2.Template:
    """The template with what transformers offers it, and `now` for its clock; raises TemplateError.

    Bounded as running it is: what a template says of constants is computed while it is compiled.
    """

    def strftime_now(form: str) -> str:
        return now().strftime(form)

    if len(source) > SOURCE_LIMIT_CHARACTERS:
        raise TemplateError("the chat template is impossibly long")
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
    environment.filters.update(tojson=_to_json, round=_round)
    environment.globals.update(raise_exception=_raise_exception, strftime_now=strftime_now)
    with _bounded(limit_s):
        return environment.from_string(source)


def run_template(template: jinja2.Template, variables: Mapping[str, object], *, limit_s: float) -> str:
    """The rendered text; raises TemplateError for whatever goes wrong inside the template."""
    parts: list[str] = []
    size = 0
    with _bounded(limit_s):
        for part in template.generate(**variables):
            size += len(part)
            if size > OUTPUT_LIMIT_CHARACTERS:
                raise TemplateBoundsError("the chat template writes without end")
            parts.append(part)
    return "".join(parts)
