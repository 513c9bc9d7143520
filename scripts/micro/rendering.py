"""Messages rendered by the micro panel's own chat template, as a run of localfusion renders them."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from localfusion.messages import Json

TEMPLATE = Path(__file__).parent / "templates" / "panel.jinja"
Value = Json | Sequence["Value"] | Mapping[str, "Value"]
ChatMessage = Mapping[str, Value]


def chat_template(style: str = "") -> str:
    """The template as it is stored in a file, without a newline at its end; `style` tells a panelist how to search."""
    opening = f"{{%- set style = '{style} ' -%}}" if style else "{%- set style = '' -%}"
    return "\n".join([opening, *TEMPLATE.read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]])


@cache
def _template(style: str) -> Template:
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(chat_template(style))


def render(messages: Sequence[ChatMessage], style: str = "") -> str:
    """The prompt of the model's next turn."""
    return _template(style).render(messages=messages, add_generation_prompt=True)
