"""Who took what of an answer: every panelist, the judge, the writer, the outer model; together they are the whole.

Figures come from the deliberation's own events; what no seat is known for is `other`, so that nothing is lost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from localfusion.messages import JUDGE, Usage
from localfusion.outcome import Outcome
from localfusion.outer import Turned
from localfusion.server.heard import Heard, names
from localfusion.tools import WEB_SEARCH
from localfusion.wire.usage import (
    ChatCostDetails,
    ChatUsage,
    CompletionTokensDetails,
    InputTokensDetails,
    LocalUsage,
    OutputTokensDetails,
    PromptTokensDetails,
    ResponsesCostDetails,
    ResponsesUsage,
    SeatRole,
    SeatUsage,
    ToolUse,
)

_NOTHING = 1e-9
"""What is left of seconds and dollars after adding and taking away is nothing below this."""


@dataclass(frozen=True, slots=True)
class Account:
    """What one seat took."""

    role: SeatRole
    model: str
    usage: Usage
    panelist: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """What a turn took, by seats, with its tool calls; `local_seconds` are those of models on this machine."""

    usage: Usage
    accounts: tuple[Account, ...]
    n_requested: int = 0
    n_executed: int = 0
    n_searches: int = 0
    local_seconds: float = 0.0


def bill(heard: Heard, turned: Turned, *, outer_model: str) -> Bill:
    """What a finished turn took; `outer_model` is the name of the model that was asked."""
    outcome = turned.outcome
    if outcome is None:
        account = Account("outer", outer_model, turned.usage)
        return Bill(turned.usage, (account,), local_seconds=turned.usage.seconds)
    seats = [*_seats(heard, outcome), Account("outer", outer_model, turned.outer_usage)]
    rest = _less(turned.usage, _sum(seat.usage for seat in seats))
    accounts = tuple(seat for seat in (*seats, Account("other", "", rest)) if _is_something(seat.usage))
    elsewhere = _sum(use.usage for use in outcome.cloud)
    return Bill(turned.usage, accounts, *_tools(heard, outcome), max(0.0, turned.usage.seconds - elsewhere.seconds))


def chat_usage(bills: Sequence[Bill], *, watts: float | None, elapsed_s: float) -> ChatUsage:
    """The usage of a chat completion, of all its choices."""
    usage = _sum(one.usage for one in bills)
    free = ChatCostDetails(
        upstream_inference_cost=0.0, upstream_inference_prompt_cost=0.0, upstream_inference_completions_cost=0.0
    )
    return ChatUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=usage.reasoning_tokens),
        cost=usage.cost,
        cost_details=None if usage.cost else free,
        server_tool_use_details=_tool_use(bills),
        localfusion=_local(bills, watts, elapsed_s),
    )


def responses_usage(bills: Sequence[Bill], *, watts: float | None, elapsed_s: float) -> ResponsesUsage:
    """The usage of a response."""
    usage = _sum(one.usage for one in bills)
    free = ResponsesCostDetails(
        upstream_inference_cost=0.0, upstream_inference_input_cost=0.0, upstream_inference_output_cost=0.0
    )
    return ResponsesUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        cost=usage.cost,
        cost_details=None if usage.cost else free,
        server_tool_use_details=_tool_use(bills),
        localfusion=_local(bills, watts, elapsed_s),
    )


def _seats(heard: Heard, outcome: Outcome) -> list[Account]:
    """The seats of a deliberation, in the order of the panel, then the judge and whoever wrote the answer."""
    told = {response.id: response.usage for response in outcome.responses} | {JUDGE: outcome.judge_usage}
    used = {**told, **heard.state.used} if heard.is_whole else told
    models = names(heard, outcome)
    panel = [Account("panelist", models[id], used[id], id) for id in models if id in used]
    judge = used.get(JUDGE, Usage())
    others = [Account("writer", heard.writer, used[id]) for id in used if id not in models and id != JUDGE]
    if not others and _is_within(heard.written, judge):
        judge, others = _less(judge, heard.written), [Account("writer", heard.writer, heard.written)]
    return [*panel, Account("judge", outcome.judge_model, judge), *others]


def _tools(heard: Heard, outcome: Outcome) -> tuple[int, int, int]:
    if heard.is_whole:
        return heard.n_requested, heard.n_executed, heard.n_searches
    steps = [*(step for response in outcome.responses for step in response.steps), *outcome.judge_steps]
    done = [step for step in steps if step.ok]
    return len(steps), len(done), sum(step.call.name == WEB_SEARCH.name for step in done)


def _tool_use(bills: Sequence[Bill]) -> ToolUse:
    return ToolUse(
        tool_calls_requested=sum(one.n_requested for one in bills),
        tool_calls_executed=sum(one.n_executed for one in bills),
        web_search_requests=sum(one.n_searches for one in bills),
    )


def _local(bills: Sequence[Bill], watts: float | None, elapsed_s: float) -> LocalUsage:
    """The energy is that of the seconds in which models here were at work, side by side counted once."""
    seconds = min(sum(one.local_seconds for one in bills), elapsed_s)
    return LocalUsage(
        seats=[_seat(account) for one in bills for account in one.accounts],
        seconds=sum(one.usage.seconds for one in bills),
        energy_wh=None if watts is None else watts * seconds / 3600,
    )


def _seat(account: Account) -> SeatUsage:
    usage = account.usage
    return SeatUsage(
        role=account.role,
        panelist=account.panelist or None,
        model=account.model,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        seconds=usage.seconds,
        cost=usage.cost,
    )


def _sum(usages: Iterable[Usage]) -> Usage:
    return sum(usages, Usage())


def _less(whole: Usage, part: Usage) -> Usage:
    """What is left of the whole; never less than nothing."""
    return Usage(
        max(0, whole.prompt_tokens - part.prompt_tokens),
        max(0, whole.cached_tokens - part.cached_tokens),
        max(0, whole.completion_tokens - part.completion_tokens),
        max(0.0, whole.seconds - part.seconds),
        max(0.0, whole.cost - part.cost),
        max(0, whole.reasoning_tokens - part.reasoning_tokens),
    )


def _is_within(part: Usage, whole: Usage) -> bool:
    return all(a <= b + _NOTHING for a, b in zip(astuple(part), astuple(whole), strict=True))


def _is_something(usage: Usage) -> bool:
    return any(figure > _NOTHING for figure in astuple(usage))
