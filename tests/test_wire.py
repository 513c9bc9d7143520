"""The document of `ask --json`: its keys, their order, and what is derived."""

import json

from localfusion.analysis import (
    Analysis,
    Citation,
    Contradiction,
    FailedModel,
    PartialCoverage,
    Response,
    Stance,
    ToolStep,
    UniqueInsight,
)
from localfusion.messages import Substitution, ToolCall, Usage
from localfusion.outcome import CloudUse, Outcome
from localfusion.wire.document import RunDocument, document

FOUND = Citation(1, "doc://a.md", "A", "40 metres", "verified")
WEAK = Citation(2, "doc://b.md", "B", "41 metres", "weak")
LOST = Citation(3, "doc://c.md", "C", "42 metres", "not_found")

OUTCOME = Outcome(
    run_id="run_1",
    status="ok",
    question="What is the height of Skerry?",
    seed=5,
    judge_model="micro-judge",
    answer="“40 metres” [1]",
    citations=(FOUND, LOST),
    analysis=Analysis(
        consensus=("“40 metres” [1]",),
        contradictions=(Contradiction("height", (Stance("a", "40"), Stance("b", "41"))),),
        partial_coverage=(PartialCoverage(("a", "b"), "point"),),
        unique_insights=(UniqueInsight("a", "insight"),),
        blind_spots=("spot",),
    ),
    responses=(
        Response(
            "a",
            "micro-a",
            "“40 metres” [1] “41 metres” [2]",
            steps=(
                ToolStep(ToolCall("web_search", {"query": "height"})),
                ToolStep(ToolCall("web_fetch", {"url": "doc://x"}), error="not there"),
            ),
            citations=(FOUND, WEAK),
            usage=Usage(10, 4, 3, 0.5),
        ),
    ),
    failed_models=(FailedModel("b", "micro-b", "the worker died"),),
    usage=Usage(117, 54, 28, 3.0, 0.25, 2),
    judge_usage=Usage(100, 50, 20, 1.5),
    writer_model="micro-writer",
    writer_usage=Usage(completion_tokens=9, seconds=0.5),
    searched=("/docs",),
    substitutions=(Substitution("a", "big", "micro-a", "does_not_fit", "big is big"),),
    cloud=(CloudUse("judge", "remote", "large", "https://r.example/v1", 2, Usage(7, 0, 5, 1.0, 0.25, 2), "r/large-1"),),
    warnings=("damaged.pdf was skipped",),
)

DESIGNED = """
{"id": "run_1", "status": "ok", "question": "What is the height of Skerry?", "answer": "“40 metres” [1]",
 "citations": [{"number": 1, "url": "doc://a.md", "title": "A", "quote": "40 metres", "support": "verified"},
               {"number": 3, "url": "doc://c.md", "title": "C", "quote": "42 metres", "support": "not_found"}],
 "analysis": {"consensus": ["“40 metres” [1]"],
              "contradictions": [{"topic": "height",
                                  "stances": [{"model": "a", "stance": "40"}, {"model": "b", "stance": "41"}]}],
              "partial_coverage": [{"models": ["a", "b"], "point": "point"}],
              "unique_insights": [{"model": "a", "insight": "insight"}], "blind_spots": ["spot"]},
 "responses": [{"id": "a", "model": "micro-a", "content": "“40 metres” [1] “41 metres” [2]",
                "citations": [
                    {"number": 1, "url": "doc://a.md", "title": "A", "quote": "40 metres", "support": "verified"},
                    {"number": 2, "url": "doc://b.md", "title": "B", "quote": "41 metres", "support": "weak"}],
                "tool_calls": [{"name": "web_search", "arguments": {"query": "height"}, "ok": true, "error": null},
                               {"name": "web_fetch", "arguments": {"url": "doc://x"}, "ok": false,
                                "error": "not there"}],
                "usage": {"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 3,
                          "seconds": 0.5, "cost": 0.0, "reasoning_tokens": 0}}],
 "failed_models": [{"id": "b", "model": "micro-b", "error": "the worker died"}], "failure_reason": null,
 "sources": [{"url": "doc://a.md", "title": "A"}, {"url": "doc://b.md", "title": "B"}],
 "searched": ["/docs"],
 "judge": {"model": "micro-judge", "tool_calls": [],
           "usage": {"prompt_tokens": 100, "cached_tokens": 50, "completion_tokens": 20, "seconds": 1.5, "cost": 0.0,
                     "reasoning_tokens": 0}},
 "writer": {"model": "micro-writer",
            "usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 9, "seconds": 0.5, "cost": 0.0,
                      "reasoning_tokens": 0}},
 "substitutions": [{"id": "a", "model": "big", "to": "micro-a", "reason": "does_not_fit", "error": "big is big"}],
 "cloud": [{"id": "judge", "provider": "remote", "base_url": "https://r.example/v1", "model": "large",
            "remote_model": "r/large-1", "calls": 2,
            "usage": {"prompt_tokens": 7, "cached_tokens": 0, "completion_tokens": 5, "seconds": 1.0, "cost": 0.25,
                      "reasoning_tokens": 2}}],
 "usage": {"prompt_tokens": 117, "cached_tokens": 54, "completion_tokens": 28, "seconds": 3.0, "cost": 0.25,
           "reasoning_tokens": 2},
 "seed": 5, "warnings": ["damaged.pdf was skipped"]}
"""


def test_the_document_is_as_designed_key_by_key() -> None:
    assert json.dumps(document(OUTCOME), ensure_ascii=False) == json.dumps(json.loads(DESIGNED), ensure_ascii=False)


def test_a_failed_run_has_the_same_keys() -> None:
    failed = Outcome("run_2", "error", "Q?", 0, "j", failure_reason="all_panels_failed", error="nobody answered")
    written = document(failed)
    parsed = RunDocument.model_validate_json(json.dumps(written))
    assert parsed.analysis is None
    assert parsed.answer == ""
    assert parsed.failure_reason == "all_panels_failed"
    assert isinstance(written, dict)
    assert list(written) == list(RunDocument.model_fields)
