"""A panelist's step: which texts its grammar admits, and how they are read back."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from localfusion import panel, tool_calls
from localfusion.analysis import Passage, Response, ToolStep
from localfusion.engine import client
from localfusion.errors import MalformedOutput
from localfusion.events import Event, ResultsLeftOut
from localfusion.messages import Message, ModelInfo, ModelSpec, PanelistSpec, ToolCall, ToolSpec, ToolSyntax
from localfusion.tools import result_message
from tests.byte_tokenizer import SPECIAL_TOKENS, admits
from tests.harbour import SHIPPED

SPECS = (
    ToolSpec("web_search", "search the sources", "query", "what to look for"),
    ToolSpec("web_fetch", "read a page", "url", "its address"),
)
OWN_TOKENS = ToolSyntax(
    before={"web_search": "<call>web_search<arg>", "web_fetch": "<call>web_fetch<arg>"},
    after={"web_search": "", "web_fetch": ""},
    escaped=False,
)
PLAIN_JSON = ToolSyntax(
    before={"web_search": '{"name": "web_search", "q": "', "web_fetch": '{"name": "web_fetch", "q": "'},
    after={"web_search": '"}', "web_fetch": '"}'},
    escaped=True,
)
OWN_CHANNELS = ToolSyntax(
    before={"web_search": " to=web_search<arg>", "web_fetch": " to=web_fetch<arg>"},
    after={"web_search": "<call>", "web_fetch": "<call>"},
    escaped=False,
    answer=" to=user<arg>",
)
STEP = ToolStep(
    ToolCall("web_search", {"query": "height"}),
    (Passage(1, "doc://h/a.md", "A", "The height of Skerry is 40 metres."),),
)


class Tools:
    """Two tools over one page; nothing is searched."""

    specs: tuple[ToolSpec, ...] = SPECS

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def run(self, call: ToolCall) -> ToolStep:
        assert call == STEP.call
        return STEP

    def result_message(self, step: ToolStep) -> Message:
        return Message("tool", step.passages[0].text)

    def restore(self, steps: Sequence[ToolStep]) -> None:
        assert all(step == STEP for step in steps)


def info(syntax: ToolSyntax | None) -> ModelInfo:
    return ModelInfo("", 1024, 1024, 300, 0, 0, {} if syntax is PLAIN_JSON else SPECIAL_TOKENS, syntax)


@pytest.mark.parametrize(
    ("syntax", "text", "admitted"),
    [
        (None, '{"name": "web_search", "arguments": {"query": "height of Skerry"}}', True),
        (None, '{"name": "web_search", "arguments": {"query": ""}}', False),
        (None, '{"name": "web_search", "arguments": {"query": "height', False),
        (None, '{"name": "web_fetch", "arguments": {"url": "doc://h/a.md"}}', True),
        (None, '{"name": "web_fetch", "arguments": {"url": "doc://h/b.md"}}', False),
        (None, "ANSWER: forty metres", True),
        (None, "forty metres", False),
        (OWN_TOKENS, "<call>web_search<arg>height of Skerry", True),
        (OWN_TOKENS, "<call>web_fetch<arg>doc://h/a.md", True),
        (OWN_TOKENS, "<call>web_shell<arg>rm", False),
        (OWN_TOKENS, "forty metres", True),
        (PLAIN_JSON, '{"name": "web_search", "q": "height"}', True),
        (PLAIN_JSON, '{"name": "web_search", "q": "height"', False),
        (PLAIN_JSON, "forty metres", True),
        (OWN_CHANNELS, " to=web_search<arg>height<call>", True),
        (OWN_CHANNELS, " to=user<arg>forty metres", True),
        (OWN_CHANNELS, " to=user<arg> to be forty metres", True),
        (OWN_CHANNELS, "forty metres", False),
    ],
)
def test_first_step(syntax: ToolSyntax | None, text: str, admitted: bool) -> None:
    lark = panel.step_grammar(info(syntax), Tools("doc://h/a.md"), (), may_call=True)
    assert admits(lark, text) is admitted


@pytest.mark.parametrize(
    ("syntax", "call"),
    [
        (None, '{"name": "web_search", "arguments": {"query": "more"}}'),
        (OWN_TOKENS, "<call>web_search<arg>more"),
        (PLAIN_JSON, '{"name": "web_search", "q": "more"}'),
    ],
)
def test_the_last_step_is_the_answer_and_may_quote_what_was_read(syntax: ToolSyntax | None, call: str) -> None:
    lark = panel.step_grammar(info(syntax), Tools(), (STEP,), may_call=False)
    marker = "ANSWER: " if syntax is None else ""
    assert admits(lark, marker + "“Skerry is 40 metres.” [1]")
    assert not admits(lark, marker + "“Skerry is 41 metres.” [1]")
    assert not admits(lark, call)


@pytest.mark.parametrize(
    ("syntax", "text", "turn"),
    [
        (None, "ANSWER: forty [1]", panel.Turn(None, "forty [1]")),
        (
            None,
            '{"name": "web_search", "arguments": {"query": "a \\u00e9 b"}}',
            panel.Turn(ToolCall("web_search", {"query": "a é b"}), ""),
        ),
        (OWN_TOKENS, "<call>web_fetch<arg> 2 ", panel.Turn(ToolCall("web_fetch", {"url": "2"}), "")),
        (OWN_TOKENS, " forty ", panel.Turn(None, "forty")),
        (OWN_CHANNELS, "to=user<arg>forty", panel.Turn(None, "forty")),
        (OWN_CHANNELS, " to=web_search<arg>more<call>", panel.Turn(ToolCall("web_search", {"query": "more"}), "")),
    ],
)
def test_a_step_is_read_back(syntax: ToolSyntax | None, text: str, turn: panel.Turn) -> None:
    assert panel.parse_turn(text, syntax, SPECS, model="m") == turn


def test_a_tool_that_the_template_cannot_write_is_not_called() -> None:
    search_alone = ToolSyntax(before={"web_search": "<call>search<arg>"}, after={"web_search": ""}, escaped=False)
    told = replace(info(search_alone), special_tokens=SPECIAL_TOKENS)
    lark = panel.step_grammar(told, Tools("doc://h/a.md"), (), may_call=True)
    assert admits(lark, "<call>search<arg>height")
    assert panel.parse_turn("<call>search<arg>height", search_alone, SPECS, model="m").call is not None


@pytest.mark.parametrize("text", ['{"name": "web_search", "arguments": {"query": "a\\', '{"name": "web_se'])
def test_a_call_that_breaks_off_is_malformed(text: str) -> None:
    with pytest.raises(MalformedOutput):
        panel.parse_turn(text, None, SPECS, model="m")


def test_the_conversation_only_grows_at_its_end() -> None:
    spec = PanelistSpec("a", ModelSpec("m", Path("m.gguf")), persona="You are terse.")
    for syntax in (None, OWN_TOKENS):
        short = panel.conversation(spec, info=info(syntax), tools=Tools(), asked=panel.Asked("How high?"), steps=())
        grown = panel.conversation(
            spec, info=info(syntax), tools=Tools(), asked=panel.Asked("How high?"), steps=(STEP,)
        )
        assert grown[: len(short)] == short
        assert "You are terse." in short[0].content
        assert STEP.passages[0].text not in grown[0].content
    assert (
        "web_search(query)"
        in panel.conversation(spec, info=info(None), tools=Tools(), asked=panel.Asked("?"), steps=())[0].content
    )


def read(number: int, sentences: int) -> ToolStep:
    """A step that brought back one long page."""
    text = " ".join(f"The height of Beacon{index} is {number}{index} metres." for index in range(sentences))
    call = ToolCall("web_search", {"query": "height of Skerry"})
    return ToolStep(call, (Passage(number, f"doc://{number}.md", "A", text),))


class AsShown(Tools):
    """Results as a run shows them."""

    def result_message(self, step: ToolStep) -> Message:
        return result_message(step)

    def restore(self, steps: Sequence[ToolStep]) -> None:
        """Any steps will do."""


NEWEST = ToolStep(
    ToolCall("web_search", {"query": "height of Skerry"}),
    (Passage(9, "doc://9.md", "A", "The height of Skerry is 40 metres."),),
)


@pytest.mark.parametrize(
    ("steps", "left_out"),
    [
        ((NEWEST,), ()),
        ((read(1, 6), NEWEST), ()),
        ((read(1, 14), read(2, 6), NEWEST), (1,)),
        ((read(1, 14), read(2, 14), NEWEST), (1, 2)),
    ],
)
def test_the_oldest_results_make_room_for_the_newest(steps: tuple[ToolStep, ...], left_out: tuple[int, ...]) -> None:
    """On the real engine: the micro panelist answers from the newest result whatever had to go."""
    events: list[Event] = []

    async def run() -> Response:
        model = await client.load(ModelSpec("micro-a", SHIPPED / "micro-a.gguf", n_ctx=512))
        spec = PanelistSpec("a", model.spec, max_tool_calls=len(steps))
        try:
            return await panel.answer(
                spec,
                model=model,
                tools=AsShown(),
                question="What is the height of Skerry?",
                emit=events.append,
                done=steps,
            )
        finally:
            await model.close()

    response = asyncio.run(run())
    assert [event.steps for event in events if isinstance(event, ResultsLeftOut)] == ([left_out] if left_out else [])
    assert "40 metres" in response.content
    assert response.steps == steps
    assert response.usage.prompt_tokens < 512 * 3 // 4


def test_only_what_is_shown_can_be_quoted() -> None:
    old, new = read(1, 2), read(2, 2)
    spec = PanelistSpec("a", ModelSpec("m", Path("m.gguf")))
    steps = tool_calls.leave_out((old, new), 1)
    request = panel.next_request(spec, info=info(None), tools=AsShown(), asked=panel.Asked("?"), steps=steps)
    assert request.grammar is not None
    assert admits(request.grammar, "ANSWER: “The height of Beacon0 is 20 metres.” [2]")
    assert not admits(request.grammar, "ANSWER: “The height of Beacon0 is 10 metres.” [1]")
    assert [tool_calls.LEFT_OUT in message.content for message in request.messages] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]
