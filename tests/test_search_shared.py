"""What panelists of one run share: one question asked once, whoever leaves; failures are not kept."""

import asyncio
from collections import Counter

import pytest

from localfusion.analysis import Page
from localfusion.domains import ANYWHERE, Domains, parse_domains
from localfusion.errors import WebError
from localfusion.search.shared import Shared
from localfusion.search.source import Fetched, Found, Search


class Slow:
    """A source that answers when it is let go, and fails as often as it is told to."""

    name = "slow"

    def __init__(self, failures: int = 0) -> None:
        self.go = asyncio.Event()
        self.asked: Counter[str] = Counter()
        self.cancelled = 0
        self.failures = failures

    async def search(self, search: Search) -> Found:
        await self._answer(search.query)
        return Found(warnings=(search.query,))

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        del domains
        await self._answer(url)
        return Fetched(Page(url, "", "text", ""))

    async def _answer(self, key: str) -> None:
        self.asked[key] += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failures:
            self.failures -= 1
            raise WebError(key, "it failed")


def test_three_panelists_that_ask_at_once_cause_one_request() -> None:
    async def scenario() -> Slow:
        slow = Slow()
        shared = Shared(slow)
        tasks = [asyncio.create_task(shared.fetch("https://a.com/", ANYWHERE)) for _ in range(3)]
        searches = [asyncio.create_task(shared.search(Search(query))) for query in ("Keeper  of it", "keeper of IT ")]
        await asyncio.sleep(0)
        slow.go.set()
        pages = await asyncio.gather(*tasks)
        found = await asyncio.gather(*searches)
        assert len({id(page) for page in pages}) == 1
        assert found[0] is found[1]
        assert await shared.fetch("https://a.com/", ANYWHERE) is pages[0]
        return slow

    assert asyncio.run(scenario()).asked == {"https://a.com/": 1, "Keeper  of it": 1}


def test_other_limits_and_domains_are_other_questions() -> None:
    async def scenario() -> Slow:
        slow = Slow()
        slow.go.set()
        shared = Shared(slow)
        await shared.search(Search("x", 1))
        await shared.search(Search("x", 2))
        await shared.fetch("https://a.com/", ANYWHERE)
        await shared.fetch("https://a.com/", parse_domains(barred=["b.com"]))
        return slow

    assert asyncio.run(scenario()).asked == {"x": 2, "https://a.com/": 2}


def test_who_asked_first_may_leave_and_the_last_to_leave_ends_it() -> None:
    async def scenario() -> None:
        slow = Slow()
        shared = Shared(slow)
        first, second = (asyncio.create_task(shared.search(Search("x"))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert slow.asked["x"] == 1
        slow.go.set()
        assert (await second).warnings == ("x",)
        slow.go.clear()
        third = asyncio.create_task(shared.search(Search("y")))
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.wait([third])
        await asyncio.sleep(0)
        assert slow.cancelled == 1
        slow.go.set()
        assert (await shared.search(Search("y"))).warnings == ("y",)

    asyncio.run(scenario())


def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    async def scenario() -> None:
        slow = Slow(failures=1)
        shared = Shared(slow)
        tasks = [asyncio.create_task(shared.search(Search("x"))) for _ in range(2)]
        await asyncio.sleep(0)
        slow.go.set()
        for task in tasks:
            with pytest.raises(WebError, match="it failed"):
                await task
        assert (await shared.search(Search("x"))).warnings == ("x",)
        assert slow.asked["x"] == 2

    asyncio.run(scenario())
