"""Whole deliberations in which a panelist, or the judge, is a provider's: what left, and what became of the answer."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from localfusion.deliberation import Question, World, deliberate
from localfusion.events import CloudCalled, CloudCharged, Event, Generated, TextWritten
from localfusion.messages import (
    AnyModel,
    CloudLeave,
    JudgeSpec,
    ModelSpec,
    PanelistSpec,
    PanelSpec,
    Prices,
    Usage,
    with_model,
)
from localfusion.outcome import Outcome
from localfusion.providers import Spending, open_endpoint
from localfusion.search.documents import DocumentIndex
from localfusion.search.local_documents import LocalDocuments
from localfusion.session import open_session
from localfusion.store import Store
from localfusion.tools import CountTokens, Toolbox
from tests.asking import ENVIRON, remote
from tests.harbour import HARBOUR, OPEN_QUESTION, micro_panel, request, surroundings
from tests.obedient import Obedient, scheduler_of
from tests.provider_server import (
    ProviderServer,
    Reply,
    Sent,
    called,
    delta,
    events,
    http,
    provider,
    refused,
    spoken,
    usage,
)

QUESTION = "Who keeps Skerry?"
INVENTED = "forty cats live in the tower"
LOCAL = ModelSpec("obedient", Path("obedient.gguf"))


@pytest.fixture(scope="module")
def harbour() -> Iterator[LocalDocuments]:
    with closing(DocumentIndex(None)) as index:
        yield index.add([HARBOUR]).source


def scripted(sent: Sent) -> Reply:
    """A model that searches, fetches the first address it is offered, and then says what it was asked for."""
    read = "\n".join(sent.texts[1:])
    if "web_search" in sent.calls and "<<<" not in read:
        return calling(sent, "web_search", "query", "keeper of Skerry")
    if "web_fetch" in sent.calls and "keepers.txt" in read and "Read" not in read:
        return calling(sent, "web_fetch", "url", "doc://harbour/keepers.txt")
    quote = found.group() if (found := re.search(r"Orla Tamsin[\w ]*", read)) else "nothing"
    if "Now write the final answer" in read:
        return answering(sent, f"She does: “{quote}” [1]. And “{INVENTED}” [1].")
    if sent.texts[0].startswith("You compare"):
        return concluding(sent, f"Both name her: “{quote}” [1].")
    return answering(sent, f"It is Orla Tamsin: “{quote}” [1]. There “{INVENTED}” [1].")


def calling(sent: Sent, name: str, parameter: str, argument: str) -> Reply:
    if "tools" in sent.body:
        return called(name, json.dumps({parameter: argument}))
    return spoken(json.dumps({"step": {"call": name, parameter: argument}}))


def answering(sent: Sent, text: str) -> Reply:
    is_step = "response_format" in sent.body
    return spoken(json.dumps({"step": {"answer": text}}) if is_step else text)


def concluding(sent: Sent, point: str) -> Reply:
    analysis = {"consensus": [point], "contradictions": [], "partial_coverage": [], "unique_insights": []}
    analysis["blind_spots"] = []
    if "tools" in sent.body:
        return called("write_result", json.dumps(analysis))
    has_tools = "web_search" in sent.texts[0]
    return spoken(json.dumps({"step": {"result": analysis}} if has_tools else analysis))


def run(
    source: LocalDocuments, server: ProviderServer, *, who: str, is_tools: bool, judge_calls: int = 2
) -> tuple[Outcome, list[Event]]:
    heard: list[Event] = []
    far: AnyModel = remote(server.url, tools=is_tools, n_ctx=32_768)
    seats = tuple(PanelistSpec(id, far if id == who else LOCAL, max_tool_calls=2) for id in ("a", "b"))
    panel = PanelSpec(seats, JudgeSpec(far if who == "judge" else LOCAL, max_tool_calls=judge_calls))
    spending = Spending(CloudLeave(is_allowed=True, max_tokens=100_000))

    def toolbox(seat: PanelistSpec | JudgeSpec, count_tokens: CountTokens) -> Toolbox:
        tools = partial(Toolbox, source, seat.tools, question=QUESTION, max_calls=seat.max_tool_calls)
        return tools(remember=lambda _: None, count_tokens=count_tokens)

    async def scenario() -> Outcome:
        scheduler = scheduler_of(Obedient(words="keeper of Skerry"))
        with closing(Store(None)) as store:
            run_id = store.create_run(replace(request(), panel=panel))
            world = World(
                scheduler,
                toolbox,
                lambda _: None,
                heard.append,
                lambda model, id, say: open_endpoint(model, id=id, environ=ENVIRON, spending=spending, emit=say),
            )
            try:
                return await deliberate(Question(QUESTION, panel, 0), world, run_id=run_id)
            finally:
                await scheduler.close()

    return asyncio.run(scenario()), heard


def left(heard: list[Event]) -> list[CloudCalled]:
    return [event for event in heard if isinstance(event, CloudCalled)]


def sum_of(heard: list[Event]) -> Usage:
    """What the generations here and the requests to providers took."""
    here = [event.usage for event in heard if isinstance(event, Generated) and not event.provider]
    return sum([*here, *(event.usage for event in heard if isinstance(event, CloudCharged))], Usage())


@pytest.mark.parametrize("is_tools", [False, True], ids=["json_schema", "tools"])
def test_a_panelist_may_be_a_providers(harbour: LocalDocuments, is_tools: bool) -> None:
    with provider(scripted) as server:
        outcome, heard = run(harbour, server, who="a", is_tools=is_tools)
    assert outcome.status == "ok"
    mine, other = outcome.responses
    assert [step.call.name for step in mine.steps] == ["web_search", "web_fetch"]
    assert all(step.ok for step in mine.steps)
    support = {citation.quote: citation.support for citation in mine.citations}
    assert support.pop(INVENTED) == "not_found"
    assert set(support.values()) == {"verified"}
    assert any(INVENTED in warning for warning in outcome.warnings)
    shown = "".join(event.text for event in heard if isinstance(event, TextWritten) and event.id == "a")
    assert shown.strip() == mine.content
    assert {event.id for event in left(heard)} == {"a"}
    assert len(left(heard)) == len(server.sent) == 3
    for said, sent in zip(left(heard), server.sent, strict=True):
        assert said.prompt_characters >= sum(map(len, sent.texts))
        assert QUESTION in sent.texts
        assert "exactly as the source has them" in sent.texts[0]
        assert other.content not in "".join(sent.texts)
    assert [sorted(sent.calls) for sent in server.sent] == [["web_search"], ["web_fetch", "web_search"], []]
    assert mine.usage.completion_tokens == 15
    (use,) = outcome.cloud
    assert (use.id, use.model, use.remote_model, use.calls) == ("a", "far", "maker/far-1", 3)
    assert use.usage == mine.usage
    assert outcome.usage == sum_of(heard)


def test_a_panelist_whose_provider_refused_says_with_what_status(harbour: LocalDocuments) -> None:
    with provider(refused(402)) as server:
        outcome, _ = run(harbour, server, who="a", is_tools=False)
    assert [(failed.id, failed.status_code) for failed in outcome.failed_models] == [("a", 402)]


@pytest.mark.parametrize("is_tools", [False, True], ids=["json_schema", "tools"])
@pytest.mark.parametrize("judge_calls", [0, 2])
def test_the_judge_may_be_a_providers(harbour: LocalDocuments, is_tools: bool, judge_calls: int) -> None:
    with provider(scripted) as server:
        outcome, heard = run(harbour, server, who="judge", is_tools=is_tools, judge_calls=judge_calls)
    assert outcome.status == "ok"
    assert outcome.analysis is not None
    assert outcome.analysis.consensus[0].startswith("Both name her")
    assert [step.call.name for step in outcome.judge_steps] == ["web_search", "web_fetch"][:judge_calls]
    assert {event.id for event in left(heard)} == {"judge"}
    assert len(left(heard)) == len(server.sent) == judge_calls + 2
    asked = server.sent[-2].body
    assert '"enum": ["a", "b"]' in json.dumps([asked.get("response_format"), asked.get("tools")])
    assert outcome.answer.startswith("She does: “")
    assert any(INVENTED in warning for warning in outcome.warnings)
    if judge_calls:
        support = {citation.quote: citation.support for citation in outcome.citations}
        assert support.pop(INVENTED) == "not_found"
        assert set(support.values()) == {"verified"}


def test_a_run_without_leave_sends_nothing_and_says_why(harbour: LocalDocuments) -> None:
    far = remote("http://127.0.0.1:1/v1")
    panel = PanelSpec((PanelistSpec("a", far), PanelistSpec("b", LOCAL)), JudgeSpec(LOCAL))
    heard: list[Event] = []

    def toolbox(seat: PanelistSpec | JudgeSpec, count_tokens: CountTokens) -> Toolbox:
        del count_tokens
        return Toolbox(harbour, seat.tools, question=QUESTION, max_calls=1, remember=lambda _: None)

    async def scenario() -> Outcome:
        scheduler = scheduler_of(Obedient())
        world = World(
            scheduler,
            toolbox,
            lambda _: None,
            heard.append,
            lambda model, id, say: open_endpoint(model, id=id, environ={}, spending=Spending(CloudLeave()), emit=say),
        )
        try:
            return await deliberate(Question(QUESTION, panel, 0), world, run_id="run_x")
        finally:
            await scheduler.close()

    outcome = asyncio.run(scenario())
    assert [failed.id for failed in outcome.failed_models] == ["a"]
    assert "--allow-cloud" in outcome.failed_models[0].hint
    assert not left(heard)


def test_what_failed_before_a_resume_is_spent(tmp_path: Path) -> None:
    """The judge's first request breaks off and costs nearly all that the run may: after the resume none is sent."""
    broken = http(events(delta(content="O"), usage(10, 5, cost=0.4), {"error": {"code": 502}}))
    leave = CloudLeave(is_allowed=True, max_cost=0.4001)

    async def scenario(judge: AnyModel) -> tuple[Outcome, Outcome]:
        panel = with_model(micro_panel(), "judge", judge)
        async with open_session(surroundings(tmp_path)) as session:
            first = await session.ask(replace(request(OPEN_QUESTION, panel), cloud=leave), emit=lambda _: None)
            return first, await session.resume(first.run_id, emit=lambda _: None)

    with provider(broken) as server:
        first, second = asyncio.run(scenario(remote(server.url, key="", prices=Prices(1, 1), n_ctx=32_768)))
        assert len(server.sent) == 1
    assert (first.error or "").startswith("cloud failed")
    assert "may spend 0.4001 dollars" in (second.error or "")
    (use,) = second.cloud
    assert (use.id, use.calls, use.usage.cost) == ("judge", 1, 0.4)
    assert second.usage.cost == second.judge_usage.cost == 0.4
