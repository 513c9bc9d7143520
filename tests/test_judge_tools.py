"""The judge's own searches: what it is told, what it may quote, which numbers they get, and when there are none."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest

from localfusion.deliberation import Question, World, deliberate
from localfusion.events import Event, ToolCalled, ToolReturned
from localfusion.messages import JudgeSpec, PanelistSpec, ToolSyntax
from localfusion.outcome import Outcome
from localfusion.search.documents import DocumentIndex
from localfusion.search.local_documents import LocalDocuments
from localfusion.store import Store
from localfusion.tools import CountTokens, Toolbox
from tests.harbour import HARBOUR, request
from tests.obedient import Obedient, is_judge, panel_of, scheduler_of

QUESTION = "Who keeps Skerry?"


@pytest.fixture(scope="module")
def harbour() -> Iterator[LocalDocuments]:
    with closing(DocumentIndex(None)) as index:
        yield index.add([HARBOUR]).source


def judged(source: LocalDocuments, model: Obedient, *, calls: int) -> tuple[Outcome, list[Event]]:
    heard: list[Event] = []
    panel = panel_of(max_tool_calls=1, judge_calls=calls)

    def toolbox(seat: PanelistSpec | JudgeSpec, count_tokens: CountTokens) -> Toolbox:
        tools = partial(Toolbox, source, seat.tools, question=QUESTION, max_calls=seat.max_tool_calls)
        return tools(remember=lambda _: None, count_tokens=count_tokens)

    async def scenario() -> Outcome:
        scheduler = scheduler_of(model)
        with closing(Store(None)) as store:
            run_id = store.create_run(replace(request(), panel=panel))
            world = World(scheduler, toolbox, lambda _: None, heard.append)
            try:
                return await deliberate(Question(QUESTION, panel, 0), world, run_id=run_id)
            finally:
                await scheduler.close()

    return asyncio.run(scenario()), heard


def of_judge(heard: list[Event]) -> list[ToolReturned]:
    return [event for event in heard if isinstance(event, ToolReturned) and event.id == "judge"]


def test_the_judge_looks_up_what_it_wants_before_it_compares(harbour: LocalDocuments) -> None:
    model = Obedient(words="keeper of Skerry")
    outcome, heard = judged(harbour, model, calls=2)
    assert outcome.status == "ok"
    assert outcome.analysis is not None
    returned = of_judge(heard)
    assert [event.step for event in returned] == [1, 2]
    assert [step.call.name for step in outcome.judge_steps] == ["web_search", "web_fetch"]
    assert outcome.judge_steps[0].passages[0].url == "doc://harbour/keepers.txt"
    last = [asked for asked in model.asked if is_judge(asked)][-1]
    assert "Orla Tamsin" in "".join(message.content for message in last.messages)
    assert '"Orla", " ", "Tamsin"' in (last.grammar or "")


def test_without_calls_the_judge_is_told_of_no_tools(harbour: LocalDocuments) -> None:
    model = Obedient()
    outcome, heard = judged(harbour, model, calls=0)
    assert outcome.status == "ok"
    assert not of_judge(heard)
    systems = {asked.messages[0].content for asked in model.asked if is_judge(asked)}
    assert len(systems) == 1
    assert "web_search" not in systems.pop()


def test_a_judge_without_room_is_offered_no_tool(harbour: LocalDocuments) -> None:
    outcome, heard = judged(harbour, Obedient(n_ctx=400), calls=2)
    assert outcome.analysis is not None
    assert not [event for event in heard if isinstance(event, ToolCalled) and event.id == "judge"]


def test_a_result_that_leaves_no_room_is_not_shown(harbour: LocalDocuments) -> None:
    outcome, _ = judged(harbour, Obedient(words="keeper of Skerry", n_ctx=800), calls=1)
    assert [step.error for step in outcome.judge_steps] == [
        "there is no room left for this result; compare the answers now"
    ]
    assert outcome.analysis is not None


def test_the_judges_template_is_given_the_tools_it_can_write(harbour: LocalDocuments) -> None:
    frames = {name: f'{{"name": "{name}", "arguments": {{"{key}": "' for name, key in (("web_search", "query"),)}
    syntax = ToolSyntax(frames, dict.fromkeys(frames, '"}}'), escaped=True)
    model = Obedient(words="keeper of Skerry", syntax=syntax)
    outcome, _ = judged(harbour, model, calls=1)
    assert [step.call.name for step in outcome.judge_steps] == ["web_search"]
    for asked in model.asked:
        if is_judge(asked):
            assert [spec.name for spec in asked.tools] == ["web_search", "web_fetch"]
