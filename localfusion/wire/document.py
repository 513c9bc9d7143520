"""The document of `ask --json`: its schema and how a run's outcome is written in it. Not how it is stored or shown."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from localfusion.analysis import Analysis, Citation, Response, Support, ToolStep
from localfusion.errors import FailureReason
from localfusion.messages import FallbackReason, Json, Usage
from localfusion.outcome import CloudUse, Outcome, Status


class Part(BaseModel):
    """Every key is always there and no other is; the order of fields is the order on the wire."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class UsagePart(Part):
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float
    cost: float
    reasoning_tokens: int


class CitationPart(Part):
    number: int
    url: str
    title: str
    quote: str
    support: Support


class StancePart(Part):
    model: str
    stance: str


class ContradictionPart(Part):
    topic: str
    stances: list[StancePart]


class PartialCoveragePart(Part):
    models: list[str]
    point: str


class UniqueInsightPart(Part):
    model: str
    insight: str


class AnalysisPart(Part):
    consensus: list[str]
    contradictions: list[ContradictionPart]
    partial_coverage: list[PartialCoveragePart]
    unique_insights: list[UniqueInsightPart]
    blind_spots: list[str]


class ToolCallPart(Part):
    name: str
    arguments: dict[str, str]
    ok: bool
    error: str | None


class ResponsePart(Part):
    id: str
    model: str
    content: str
    citations: list[CitationPart]
    tool_calls: list[ToolCallPart]
    usage: UsagePart


class FailedModelPart(Part):
    id: str
    model: str
    error: str


class SourcePart(Part):
    url: str
    title: str


class JudgePart(Part):
    model: str
    tool_calls: list[ToolCallPart]
    usage: UsagePart


class WriterPart(Part):
    model: str
    usage: UsagePart


class SubstitutionPart(Part):
    id: str
    model: str
    to: str
    reason: FallbackReason
    error: str


class CloudUsePart(Part):
    """What left the machine: to whom, for which panelist or "judge"; `remote_model` is its provider's name of it."""

    id: str
    provider: str
    base_url: str
    model: str
    remote_model: str
    calls: int
    usage: UsagePart


class RunDocument(Part):
    """One run; panelists are named by id everywhere, and `responses` maps the ids to models.

    `writer` is who wrote the answer where that was not the judge.
    """

    id: str
    status: Status
    question: str
    answer: str
    citations: list[CitationPart]
    analysis: AnalysisPart | None
    responses: list[ResponsePart]
    failed_models: list[FailedModelPart]
    failure_reason: FailureReason | None
    sources: list[SourcePart]
    searched: list[str]
    judge: JudgePart
    writer: WriterPart | None
    substitutions: list[SubstitutionPart]
    cloud: list[CloudUsePart]
    usage: UsagePart
    seed: int
    warnings: list[str]


def document(outcome: Outcome) -> Json:
    """The run as JSON values, keys in the order of the schema."""
    dumped: Json = _run(outcome).model_dump(mode="json")
    return dumped


def _run(outcome: Outcome) -> RunDocument:
    return RunDocument(
        id=outcome.run_id,
        status=outcome.status,
        question=outcome.question,
        answer=outcome.answer,
        citations=[_citation(citation) for citation in outcome.citations],
        analysis=None if outcome.analysis is None else _analysis(outcome.analysis),
        responses=[_response(response) for response in outcome.responses],
        failed_models=[FailedModelPart(id=f.id, model=f.model, error=f.error) for f in outcome.failed_models],
        failure_reason=outcome.failure_reason,
        sources=sources(outcome),
        searched=list(outcome.searched),
        judge=JudgePart(
            model=outcome.judge_model, tool_calls=_tool_calls(outcome.judge_steps), usage=_usage(outcome.judge_usage)
        ),
        writer=WriterPart(model=outcome.writer_model, usage=_usage(outcome.writer_usage))
        if outcome.writer_model
        else None,
        substitutions=[
            SubstitutionPart(id=s.id, model=s.model, to=s.to, reason=s.reason, error=s.error)
            for s in outcome.substitutions
        ],
        cloud=[_cloud_use(use) for use in outcome.cloud],
        usage=_usage(outcome.usage),
        seed=outcome.seed,
        warnings=list(outcome.warnings),
    )


def _citation(citation: Citation) -> CitationPart:
    return CitationPart(
        number=citation.number,
        url=citation.url,
        title=citation.title,
        quote=citation.quote,
        support=citation.support,
    )


def _analysis(analysis: Analysis) -> AnalysisPart:
    return AnalysisPart(
        consensus=list(analysis.consensus),
        contradictions=[
            ContradictionPart(topic=c.topic, stances=[StancePart(model=s.model, stance=s.stance) for s in c.stances])
            for c in analysis.contradictions
        ],
        partial_coverage=[PartialCoveragePart(models=list(p.models), point=p.point) for p in analysis.partial_coverage],
        unique_insights=[UniqueInsightPart(model=u.model, insight=u.insight) for u in analysis.unique_insights],
        blind_spots=list(analysis.blind_spots),
    )


def _response(response: Response) -> ResponsePart:
    return ResponsePart(
        id=response.id,
        model=response.model,
        content=response.content,
        citations=[_citation(citation) for citation in response.citations],
        tool_calls=_tool_calls(response.steps),
        usage=_usage(response.usage),
    )


def _tool_calls(steps: Iterable[ToolStep]) -> list[ToolCallPart]:
    return [
        ToolCallPart(name=step.call.name, arguments=dict(step.call.arguments), ok=step.ok, error=step.error)
        for step in steps
    ]


def _cloud_use(use: CloudUse) -> CloudUsePart:
    return CloudUsePart(
        id=use.id,
        provider=use.provider,
        base_url=use.base_url,
        model=use.model,
        remote_model=use.remote_model,
        calls=use.calls,
        usage=_usage(use.usage),
    )


def _usage(usage: Usage) -> UsagePart:
    return UsagePart(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        seconds=usage.seconds,
        cost=usage.cost,
        reasoning_tokens=usage.reasoning_tokens,
    )


def sources(outcome: Outcome) -> list[SourcePart]:
    """Every source that the run cites and that holds what is cited, once, the answer's first."""
    citations = [*outcome.citations, *(c for response in outcome.responses for c in response.citations)]
    titles: dict[str, str] = {}
    for citation in citations:
        if citation.support != "not_found":
            titles.setdefault(citation.url, citation.title)
    return [SourcePart(url=url, title=title) for url, title in titles.items()]
