"""Counting what was used: sums of runs add up, in any order, by any grouping, and nothing is counted twice."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.analysis import Analysis, Citation, FailedModel, Passage, Response, ToolStep
from localfusion.errors import LocalFusionError
from localfusion.events import (
    AnalysisCompleted,
    AnalysisFailed,
    AnswerCompleted,
    CloudCalled,
    CloudCharged,
    Event,
    FallbackTaken,
    Generated,
    PanelistCompleted,
    PanelistFailed,
    RunEnded,
    RunStarted,
    ToolReturned,
)
from localfusion.messages import Substitution, ToolCall, Usage
from localfusion.store import History, Store, StoredEvent
from localfusion.usage import (
    GROUPINGS,
    HERE,
    KINDS,
    By,
    Distribution,
    Figures,
    Panel,
    Period,
    Tally,
    distribution,
    groups,
    tally,
    tokens_by_day,
    tools_used,
    totals,
)
from tests.harbour import request

T = TypeVar("T")

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0


def utc_day(at: float) -> date:
    return datetime.fromtimestamp(at, UTC).date()


ALWAYS = Period(day_of=utc_day)
STARTED = RunStarted("run_1", "Q?", {"a": "small", "b": "small", "c": "large"}, "wise", 0)


def history(*events: Event, at: float = NOON, step: float = 1.0, id: str = "run_1") -> History:
    stored = tuple(StoredEvent(at + step * n, event) for n, event in enumerate(events))
    return History(id, at, "ok", stored)


def spent(prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0) -> Usage:
    return Usage(prompt, cached, completion, seconds=completion / 8, reasoning_tokens=reasoning)


def called(id: str, name: str = "web_search", error: str | None = None) -> ToolReturned:
    return ToolReturned(id, 1, ToolStep(ToolCall(name, {"query": "x"}), error=error))


names = st.sampled_from(["small", "large", "wise"])
ids = st.sampled_from(["a", "b", "c", "judge"])
usages = st.builds(
    Usage,
    st.integers(0, 5000),
    st.integers(0, 500),
    st.integers(0, 300),
    st.integers(0, 400).map(lambda n: n / 8),
    st.integers(0, 64).map(lambda n: n / 64),
    st.integers(0, 50),
)
substitutions = st.builds(Substitution, ids, names, names, st.sampled_from(["died", "timed_out"]), st.just(""))
events = st.one_of(
    st.builds(Generated, ids, names, usages, st.sampled_from(["", "openrouter"])),
    st.builds(called, ids, st.sampled_from(["web_search", "web_fetch"]), st.sampled_from([None, "no"])),
    st.builds(FallbackTaken, substitutions),
    st.builds(CloudCharged, ids, st.just("openrouter"), names, usages),
    st.builds(CloudCalled, ids, st.just("openrouter"), st.just("https://x"), names, st.integers(0, 999)),
    st.builds(PanelistCompleted, st.builds(Response, ids, names, st.just(""), usage=usages)),
    st.builds(AnalysisCompleted, st.just(Analysis()), st.just("{}"), usages),
    st.builds(AnswerCompleted, st.just(""), st.just(()), usages),
)
times = st.integers(0, 10 * 24).map(lambda hours: NOON + hours * 3600.0)
histories = st.builds(
    lambda at, told: history(STARTED, *told, at=at, step=7200.0), times, st.lists(events, max_size=12)
)


def as_counters(found: Tally) -> list[Counter[object]]:
    """Every sum of a tally as a counter, so that two of them can be added."""
    usage: Counter[object] = Counter()
    for key, took in found.usage.items():
        usage += Counter({(key, name): getattr(took, name) for name in Usage.__slots__})
    of_runs = [_plain(found.runs), _plain(found.panels), _plain(found.tools), _plain(found.runs_with)]
    lengths = [_plain(found.prompts), _plain(found.completions)]
    elsewhere = [_plain(found.fallbacks), _plain(found.cloud_calls), _plain(found.cloud_characters)]
    return [usage, *of_runs, *lengths, *elsewhere]


def _plain(counter: Mapping[T, int]) -> Counter[object]:
    plain: Counter[object] = Counter()
    for key, count in counter.items():
        plain[key] = count
    return plain


@given(st.lists(histories, max_size=4), st.lists(histories, max_size=4))
def test_adding_runs_adds_sums(some: list[History], more: list[History]) -> None:
    one, other, both = (as_counters(tally(found, ALWAYS)) for found in (some, more, [*some, *more]))
    assert [a + b for a, b in zip(one, other, strict=True)] == [+counter for counter in both]


@given(st.lists(histories, max_size=5).flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))))
def test_the_order_of_runs_makes_no_difference(pair: tuple[list[History], list[History]]) -> None:
    assert tally(pair[0], ALWAYS) == tally(pair[1], ALWAYS)


@given(st.lists(histories, max_size=5), times)
def test_a_period_is_the_sum_of_its_parts(found: list[History], cut: float) -> None:
    before = as_counters(tally(found, replace(ALWAYS, until=cut)))
    after = as_counters(tally(found, replace(ALWAYS, since=cut)))
    whole = as_counters(tally(found, ALWAYS))
    del before[4], after[4], whole[4]  # a run that was at work in both parts had a part in each
    assert [a + b for a, b in zip(before, after, strict=True)] == [+counter for counter in whole]


@given(st.lists(histories, max_size=5), st.sampled_from(GROUPINGS))
def test_groups_add_up_to_the_totals(found: list[History], by: By) -> None:
    counted = tally(found, ALWAYS)
    rows, everything = groups(counted, by).values(), totals(counted)
    assert sum((row.usage for row in rows), start=Usage()) == everything.usage
    assert sum(row.tool_calls for row in rows) == everything.tool_calls
    assert sum(row.failed_tool_calls for row in rows) == everything.failed_tool_calls
    assert sum(calls for calls, _ in tools_used(counted).values()) == everything.tool_calls
    assert all(row.runs <= len(found) for row in rows)


@given(st.lists(st.integers(0, 70_000), min_size=1))
def test_a_distribution_is_that_of_its_lengths(lengths: list[int]) -> None:
    found = distribution(Counter(lengths))
    ordered = sorted(lengths)
    assert found.count == len(lengths)
    assert found.longest == ordered[-1]
    for percent, value in ((50, found.p50), (90, found.p90), (99, found.p99)):
        assert value in ordered
        assert 100 * sum(length <= value for length in ordered) >= percent * len(ordered)
        assert 100 * sum(length < value for length in ordered) < percent * len(ordered)
    for up_to, count in found.histogram:
        assert count == sum(up_to // 2 < length <= up_to for length in lengths if up_to > 1) or up_to <= 1
    assert sum(count for _, count in found.histogram) == len(lengths)


def test_lengths_stand_under_powers_of_two() -> None:
    assert distribution(Counter([0, 1, 2, 3, 4, 5, 8, 9])).histogram == (
        (0, 1), (1, 1), (2, 1), (4, 2), (8, 2), (16, 1),
    )  # fmt: skip
    assert distribution(Counter()) == Distribution()


def test_generations_are_counted_by_seat_and_not_once_more() -> None:
    found = tally(
        [
            history(
                STARTED,
                Generated("a", "small", spent(100, 10, cached=20)),
                called("a"),
                Generated("a", "small", spent(300, 30, cached=80, reasoning=6)),
                PanelistCompleted(Response("a", "small", "A", usage=spent(400, 40, cached=100))),
                Generated("judge", "wise", spent(900, 80)),
                AnalysisCompleted(Analysis(), "{}", spent(900, 80)),
                Generated("judge", "wise", spent(1000, 50)),
                AnswerCompleted("A", (), spent(1000, 50)),
            )
        ],
        ALWAYS,
    )
    assert totals(found) == Figures(spent(2300, 170, cached=100, reasoning=6), 1, 1)
    by_role = groups(found, "role")
    assert list(by_role) == ["judge", "panelist"]
    assert by_role["panelist"] == Figures(spent(400, 40, cached=100, reasoning=6), 1, 1)
    assert by_role["panelist"].cached_share == 0.25
    assert by_role["panelist"].reasoning_share == 0.15
    assert by_role["panelist"].tokens_per_second == 8
    assert found.prompts == Counter([100, 300, 900, 1000])
    assert found.panels == {Panel(("large", "small", "small"), "wise"): 1}
    assert list(groups(found, "panel")) == ["large + small + small; judge wise"]
    assert list(groups(found, "provider")) == [HERE]


def test_a_run_of_an_early_version_counts_by_what_its_seats_came_to() -> None:
    found = tally(
        [
            history(
                STARTED,
                called("a", error="no"),
                PanelistCompleted(Response("a", "small", "A", usage=spent(400, 40))),
                PanelistFailed(FailedModel("b", "small", "it died")),
                AnalysisFailed("judge_not_valid_json", "no", spent(50, 5)),
                AnalysisCompleted(Analysis(), "{}", spent(900, 80)),
                AnswerCompleted("A", (), spent(1000, 50)),
            )
        ],
        ALWAYS,
    )
    assert totals(found) == Figures(spent(2350, 175), 1, 1, 1)
    assert {label: row.usage for label, row in groups(found, "model").items()} == {
        "wise": spent(1950, 135),
        "small": spent(400, 40),
    }
    assert not found.prompts  # of several generations together no length is known


def test_a_run_that_a_later_version_went_on_with_counts_each_part_once() -> None:
    found = tally(
        [
            history(
                STARTED,
                PanelistCompleted(Response("a", "small", "A", usage=spent(400, 40))),
                AnalysisCompleted(Analysis(), "{}", spent(900, 80)),
                Generated("b", "small", spent(200, 20)),
                PanelistCompleted(Response("b", "small", "B", usage=spent(200, 20))),
                Generated("judge", "wise", spent(1000, 50)),
                AnswerCompleted("A", (), spent(1000, 50)),
            )
        ],
        ALWAYS,
    )
    assert totals(found).usage == spent(2500, 190)


def test_models_that_stepped_in_and_requests_that_left() -> None:
    found = tally(
        [
            history(
                STARTED,
                FallbackTaken(Substitution("a", "small", "cloudy", "died", "it died")),
                CloudCalled("a", "openrouter", "https://x", "cloudy", 500, "maker/cloudy-1"),
                CloudCharged("a", "openrouter", "cloudy", replace(spent(10, 1), cost=0.125)),
                CloudCalled("a", "openrouter", "https://x", "cloudy", 500, "maker/cloudy-1"),
                CloudCharged("a", "openrouter", "cloudy", replace(spent(10, 5), cost=0.25)),
                Generated("a", "cloudy", replace(spent(10, 5), cost=0.25), "openrouter"),
                called("a", "web_fetch"),
            )
        ],
        ALWAYS,
    )
    assert found.fallbacks == {("small", "cloudy", "died"): 1}
    assert found.cloud_calls == {("openrouter", "cloudy"): 2}
    assert found.cloud_characters == {("openrouter", "cloudy"): 1000}
    assert groups(found, "provider")["openrouter"] == Figures(replace(spent(20, 6), cost=0.375), 1, 1)
    assert found.completions == {5: 1}
    assert groups(found, "model")["cloudy"].tool_calls == 1


def test_days_are_those_of_a_place() -> None:
    late = history(STARTED, Generated("a", "small", spent(1, 1)), at=NOON + DAY / 2 - 1, step=0)
    for zone, day in ((UTC, date(2026, 11, 2)), (timezone(timedelta(hours=1)), date(2026, 11, 3))):
        there = Period(day_of=lambda at, zone=zone: datetime.fromtimestamp(at, zone).date())  # type: ignore[misc]
        found = tally([late], there)
        assert list(groups(found, "day")) == [day.isoformat()]
        assert tokens_by_day(found) == {"small": {day: 2}}


def test_events_without_a_beginning_are_counted_all_the_same() -> None:
    found = tally([history(called("a"), PanelistCompleted(Response("a", "small", "A", usage=spent(4, 2))))], ALWAYS)
    assert totals(found) == Figures(spent(4, 2), 1, 1)
    assert found.panels == {Panel(): 1}


# From the store


@pytest.fixture
def clock() -> list[float]:
    return [NOON]


def stored_run(store: Store, told: Sequence[Event]) -> str:
    run = store.create_run(request())
    for event in told:
        store.append(run, event)
    return run


LONG = "word " * 2000
TOLD = (
    STARTED,
    Generated("a", "small", spent(100, 10)),
    ToolReturned("a", 1, ToolStep(ToolCall("web_search", {"query": LONG}), (Passage(1, "doc://x", "", LONG),))),
    PanelistCompleted(Response("a", "small", LONG, (ToolStep(ToolCall("web_search", {"query": LONG})),))),
    AnalysisCompleted(Analysis(consensus=(LONG,)), LONG, spent(9, 9)),
    AnswerCompleted(LONG, (Citation(1, "doc://x", "", LONG, "verified"),), spent(9, 9)),
    RunEnded("ok"),
)


def test_the_store_gives_histories_without_what_was_written(tmp_path: Path, clock: list[float]) -> None:
    with closing(Store(tmp_path, clock=lambda: clock[0])) as store:
        runs = [stored_run(store, TOLD) for _ in range(450)]
        found = list(store.histories(KINDS))
    assert [one.id for one in found] == sorted(runs)
    assert {one.status for one in found} == {"ok"}
    assert [type(stored.event) for stored in found[0].events] == [type(event) for event in TOLD[:-1]]
    assert {stored.at for stored in found[0].events} == {NOON}
    assert LONG not in str(found[0])
    assert LONG.strip() not in repr(found[0])
    whole = history(*TOLD[:-1], step=0)
    assert tally(found, ALWAYS).usage == tally([whole] * 450, ALWAYS).usage
    assert tally(found, ALWAYS).tools == tally([whole] * 450, ALWAYS).tools


def test_the_store_gives_what_was_at_work_in_a_period(tmp_path: Path, clock: list[float]) -> None:
    with closing(Store(tmp_path, clock=lambda: clock[0])) as store:
        early = stored_run(store, [STARTED, RunEnded("ok")])
        clock[0] += DAY
        long = stored_run(store, [STARTED])
        clock[0] += DAY
        store.append(long, RunEnded("ok"))
        late = stored_run(store, [STARTED])

        def ids(since: float, until: float) -> set[str]:
            return {one.id for one in store.histories((RunStarted,), since=since, until=until)}

        assert ids(0, NOON) == set()
        assert ids(0, NOON + 1) == {early}
        assert ids(NOON + DAY / 2, NOON + 1.5 * DAY) == {long}
        assert ids(NOON + 1.5 * DAY, NOON + 1.6 * DAY) == {long}
        assert ids(NOON + 2 * DAY, NOON + 9 * DAY) == {long, late}
        assert [one.events for one in store.histories(())] == [(), (), ()]


def test_an_event_of_another_version_is_named(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        stored_run(store, [STARTED])
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        """c.execute("UPDATE event SET body = '{\\"run_id\\": 1}'"); c.commit()"""
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "runs.sqlite3")], check=True)
    with closing(Store(tmp_path)) as store, pytest.raises(LocalFusionError, match="RunStarted cannot be read"):
        list(store.histories(KINDS))
