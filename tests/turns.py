"""What the tests of replies share: an order, and turns as the outer model tells them, with and without a panel."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from localfusion import events
from localfusion.analysis import (
    Analysis,
    Citation,
    Contradiction,
    FailedModel,
    PartialCoverage,
    Passage,
    Response,
    Stance,
    ToolStep,
    UniqueInsight,
)
from localfusion.assistant import Ask
from localfusion.messages import Delta, FunctionCall, Likely, ModelSpec, Progress, TokenLogprobs, ToolCall, Usage
from localfusion.outcome import Outcome
from localfusion.outer import Turned, TurnItem, TurnRequest
from localfusion.server.heard import Heard, hear
from localfusion.server.orders import Order

ORDER = Order(TurnRequest(ModelSpec("outer", Path("outer.gguf")), Ask(())))
"""One reply, whole, of a model without a panel."""

TOKENS = (
    TokenLogprobs(Likely(b"caf", -0.5), (Likely(b"caf", -0.5), Likely(b" ", -1.5))),
    TokenLogprobs(Likely(b"\xc3", -0.25)),
    TokenLogprobs(Likely(b"\xa9", 0.0)),
)
CALLS = (FunctionCall("call_1", "weather", '{"city":"Oslo"}'), FunctionCall("call_2", "clock", "{}"))

PLAIN: list[TurnItem] = [
    Progress(5, 10),
    Delta("thinking", "Hm"),
    Delta("thinking", "m."),
    Delta("content", "caf", TOKENS[:1]),
    Delta("content", "é", TOKENS[1:]),
    Turned("outer", "café", "Hmm.", usage=Usage(10, 4, 6, 0.5, 0.0, 2), logprobs=TOKENS),
]
CALLING: list[TurnItem] = [
    Delta("content", "Let me look."),
    *CALLS,
    Turned("outer", "Let me look.", calls=CALLS, finish_reason="tool_calls", usage=Usage(10, 0, 8, 0.5)),
]

NOTHING = Usage()
SEARCH = ToolCall("web_search", {"query": "Skerry"})
FOUND = ToolStep(SEARCH, (Passage(1, "doc://a.md", "A", "Skerry is 40 metres high."),))
REFUSED = ToolStep(ToolCall("web_fetch", {"url": "doc://x"}), error="there is no such page")
LOOKED_UP = ToolStep(SEARCH, (Passage(1, "doc://j.md", "J", "Skerry."), Passage(2, "doc://a.md", "A again", "40")))
HEIGHT = Citation(1, "doc://a.md", "A", "40 metres", "verified")
KEEPER = Citation(1, "doc://a.md", "A", "Ann keeps it", "weak")
LOST = Citation(2, "doc://b.md", "B", "it is red", "not_found")
UNKNOWN = Citation(9, "", "", "nobody knows", "not_found")

ANALYSIS = Analysis(
    consensus=("It is 40 metres.",),
    contradictions=(Contradiction("keeper", (Stance("a", "Ann"), Stance("b", "Bo"))),),
    partial_coverage=(PartialCoverage(("a", "b"), "the height"),),
    unique_insights=(UniqueInsight("b", "It is red."),),
    blind_spots=("The depth.",),
)
A = Response("a", "twin", "“40 metres” [1]", (FOUND,), (HEIGHT,), Usage(10, 4, 3, 0.5))
B = Response("b", "twin", "It is red. [1]", (), (replace(LOST, number=1),), Usage(12, 0, 4, 0.5))
C = FailedModel("c", "far", "the provider is out of money", status_code=402)
ANSWER = "“40 metres” [1] high. Ann keeps it [1]. It is red [2]. “40 metres” [1]"

STARTED = events.RunStarted("run_1", "How high?", {"a": "twin", "b": "twin", "c": "far"}, "judge-model", 7)
PANEL: list[TurnItem] = [
    events.DocumentsRead("run_1", 0, 3, ""),
    events.DocumentsRead("run_1", 3, 3, "c.md"),
    STARTED,
    events.ModelLoading("a", "twin"),
    events.ModelReady("a", "twin", 0.1),
    events.PromptRead("a", 5, 10),
    events.TextWritten("a", "thinking", "Search."),
    events.ToolCalled("a", 1, SEARCH),
    events.ToolReturned("a", 1, FOUND),
    events.TextWritten("b", "content", "It is "),
    events.TextWritten("a", "content", A.content),
    events.TextWritten("b", "content", "red. [1]"),
    events.Generated("a", "twin", A.usage),
    events.PanelistCompleted(A),
    events.Generated("b", "twin", B.usage),
    events.PanelistCompleted(B),
    events.CloudCharged("c", "cloud", "far", Usage(9, 0, 0, 1.0, 0.25)),
    events.ToolCalled("c", 1, REFUSED.call),
    events.ToolReturned("c", 1, REFUSED),
    events.PanelistFailed(C),
]
JUDGED: list[TurnItem] = [
    events.AnalysisStarted("judge-model"),
    events.ToolCalled("judge", 1, SEARCH),
    events.ToolReturned("judge", 1, LOOKED_UP),
    events.TextWritten("judge", "analysis", "{"),
    events.Generated("judge", "judge-model", Usage(100, 50, 20, 1.5)),
    events.AnalysisCompleted(ANALYSIS, "{}", Usage(100, 50, 20, 1.5)),
]
WRITTEN: list[TurnItem] = [
    events.AnswerStarted("judge-model"),
    Delta("content", ANSWER[:20]),
    Delta("content", ANSWER[20:]),
    events.Generated("judge", "judge-model", Usage(130, 120, 30, 1.0)),
    events.AnswerCompleted(ANSWER, (HEIGHT, KEEPER, LOST, UNKNOWN), Usage(130, 120, 30, 1.0)),
    events.RunEnded("ok"),
]


def turned(items: Sequence[TurnItem], *, outer: Usage = NOTHING) -> Turned:
    """The end of a turn whose deliberation said `items`."""
    heard = Heard()
    content = ""
    for item in items:
        if isinstance(item, Delta):
            content += item.text if item.kind == "content" else ""
        elif not isinstance(item, Progress | FunctionCall | Turned):
            heard = hear(heard, item)
    outcome: Outcome = heard.outcome
    usage = outcome.usage + outer
    return Turned("judge-model", content, usage=usage, outer_usage=outer, outcome=outcome)


def ended(items: list[TurnItem], *, outer: Usage = NOTHING) -> list[TurnItem]:
    """The items of a deliberation, with the end of its turn."""
    return [*items, turned(items, outer=outer)]


FUSED = ended([*PANEL, *JUDGED, *WRITTEN])
UNJUDGED = ended(
    [
        *PANEL,
        events.AnalysisStarted("judge-model"),
        events.AnalysisFailed("judge_not_valid_json", "the judge wrote no JSON", Usage(3, 0, 1, 0.5)),
        events.RunEnded("ok"),
    ]
)
NOBODY = ended(
    [
        STARTED,
        *(events.PanelistFailed(replace(C, id=id, model=model)) for id, model in STARTED.panelists.items()),
        events.RunEnded("error", "all_panels_failed", "no panelist answered (a: the provider is out of money)"),
    ]
)
