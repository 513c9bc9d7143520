"""Stored values: what is written is read back as it was, and nothing else is taken for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion import codec
from localfusion.analysis import Response, Stance, ToolStep
from localfusion.errors import LocalFusionError
from localfusion.events import Event, PanelistCompleted, RunEnded
from localfusion.messages import Json, ModelSpec, ToolCall, Usage

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
EVENTS: tuple[type[Event], ...] = get_args(Event)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@given(content=st.data())
def test_every_event_is_read_back_as_it_was(kind: type[Event], content: st.DataObject) -> None:
    event = content.draw(st.from_type(kind))
    text = codec.to_text(event)
    assert "\n" not in text
    assert codec.from_text(kind, text) == event
    assert codec.to_text(codec.from_text(kind, text)) == text


@dataclass(frozen=True, slots=True)
class Everything:
    path: Path
    choice: int | Literal["auto"]
    pair: tuple[int, str]
    nested: Mapping[str, tuple[float, ...]]
    maybe: Stance | None = None


def test_every_kind_of_field() -> None:
    for value in (
        Everything(Path("a/b"), "auto", (1, "x"), {"k": (1.0, 2.5)}),
        Everything(Path("/"), 7, (0, ""), {}, Stance("a", "yes")),
    ):
        assert codec.from_text(Everything, codec.to_text(value)) == value


def test_nested_values_come_back_as_their_classes() -> None:
    step = ToolStep(ToolCall("web_search", {"query": "Skerry"}), error="no")
    event = PanelistCompleted(Response("a", "small", "text", (step,), usage=Usage(1, 2, 3, 0.5)))
    assert (
        codec.from_text(PanelistCompleted, codec.to_text(event)).response.steps[0].call.arguments["query"] == "Skerry"
    )


def test_a_field_with_a_default_may_be_missing() -> None:
    assert codec.from_json(RunEnded, {"status": "ok"}) == RunEnded("ok")


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (Stance, {"model": "a"}, ".stance is not there"),
        (Stance, {"model": "a", "stance": "s", "mood": "m"}, ".mood is not a field"),
        (Stance, {"model": "a", "stance": 1}, ".stance is not str"),
        (Stance, {"model": "a", "stance": None}, ".stance is not str"),
        (Stance, [], "the value is not a Stance"),
        (Usage, {"prompt_tokens": True}, ".prompt_tokens is not int"),
        (Usage, {"prompt_tokens": 1.0}, ".prompt_tokens is not int"),
        (RunEnded, {"status": "fine"}, ".status is not one of ok, error, interrupted"),
        (ToolCall, {"name": "n", "arguments": {"q": 1}}, ".arguments.q is not str"),
        (ToolCall, {"name": "n", "arguments": []}, ".arguments is not a mapping"),
        (ModelSpec, {"name": "n", "path": "p", "n_ctx": "all"}, ".n_ctx is not"),
        (Everything, {"path": "p", "choice": 1, "pair": [1], "nested": {}}, ".pair is not a list of 2"),
    ],
)
def test_anything_else_is_refused_with_its_place(kind: type[object], value: Json, says: str) -> None:
    with pytest.raises(LocalFusionError) as caught:
        codec.from_json(kind, value)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "nul", "{'model': 1}"])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(LocalFusionError, match="is not JSON"):
        codec.from_text(Stance, text)


def test_what_json_cannot_hold_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        codec.to_text(Usage(seconds=float("nan")))
    with pytest.raises(TypeError, match="bytes"):
        codec.to_json(b"x")
