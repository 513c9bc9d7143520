"""How much a panelist's tools may bring back, which domains they may reach, and what pages link to."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from localfusion.analysis import Link, Page, ToolStep
from localfusion.domains import ANYWHERE, Domains, parse_domains
from localfusion.errors import NotHere
from localfusion.messages import FetchLimits, SearchLimits, ToolCall, ToolOptions
from localfusion.search.source import Fetched, Found, Search, SearchResult
from localfusion.tools import MAX_LINKS, Toolbox, result_message


class Web:
    """A web of pages that are found by any words; it notes which domains it was given."""

    name = "web"

    def __init__(self, pages: dict[str, str], links: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.pages = pages
        self.links = links or {}
        self.domains: list[Domains] = []

    async def search(self, search: Search) -> Found:
        self.domains.append(search.domains)
        found = [url for url in self.pages if search.domains.admit(url)][: search.max_results]
        results = tuple(
            SearchResult(url, "a page", self.pages[url][: search.max_characters], "web", 1) for url in found
        )
        return Found(results, ("one engine refused",))

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        self.domains.append(domains)
        if url not in self.pages:
            raise NotHere(url, f"there is no {url}")
        links = tuple(Link(target, f"to {target}") for target in self.links.get(url, ()))
        return Fetched(
            Page(url, "a page", self.pages[url], "", "2026-11-24T10:00:00Z", "A. Uthor, 2020"),
            links,
            (f"{url} is odd",),
        )


TEN = {f"https://{name}.example/": f"The height of {name} is 4 metres. " * 40 for name in "abcdefghij"}


def toolbox(
    source: Web,
    *,
    search: SearchLimits | None = None,
    fetch: FetchLimits | None = None,
    question: str = "",
    run_domains: tuple[Domains, Domains] = (ANYWHERE, ANYWHERE),
) -> Toolbox:
    options = ToolOptions(search=search or SearchLimits(), fetch=fetch or FetchLimits())

    async def count(text: str) -> int:
        return len(text.split())

    return Toolbox(
        source,
        options,
        question=question,
        max_calls=99,
        remember=lambda _: None,
        run_domains=run_domains,
        count_tokens=count,
    )


def call(tools: Toolbox, name: str, argument: str) -> ToolStep:
    parameter = "query" if name == "web_search" else "url"
    return asyncio.run(tools.run(ToolCall(name, {parameter: argument})))


def test_a_tool_may_be_used_so_often() -> None:
    tools = toolbox(Web(TEN), search=SearchLimits(max_uses=1), fetch=FetchLimits(max_uses=2))
    refused = "may not be used again ({} were allowed); go on without it"
    assert call(tools, "web_search", "height").ok
    assert call(tools, "web_search", "width").error == f"web_search {refused.format(1)}"
    assert call(tools, "web_fetch", "1").ok
    assert call(tools, "web_fetch", "2").ok
    assert call(tools, "web_fetch", "3").error == f"web_fetch {refused.format(2)}"


def test_results_of_all_searches_are_counted() -> None:
    tools = toolbox(Web(TEN), search=SearchLimits(max_results=5, max_total_results=7))
    assert len(call(tools, "web_search", "height").passages) == 5
    assert len(call(tools, "web_search", "width").passages) == 2
    assert call(tools, "web_search", "depth").error == "no search result is left (7 were allowed); use what you have"


def test_a_stored_run_has_used_what_it_used() -> None:
    limits = SearchLimits(max_uses=2, max_total_results=6)
    before = toolbox(Web(TEN), search=limits)
    step = call(before, "web_search", "height")
    after = toolbox(Web(TEN), search=limits)
    after.restore([step])
    assert len(call(after, "web_search", "width").passages) == 1
    assert "may not be used again" in (call(after, "web_search", "depth").error or "")


@pytest.mark.parametrize("most", [1, 7, 30, 1000])
def test_a_page_is_cut_to_so_many_tokens_of_the_model(most: int) -> None:
    tools = toolbox(Web(TEN), fetch=FetchLimits(max_content_tokens=most), question="https://a.example/")
    (passage,) = call(tools, "web_fetch", "https://a.example/").passages
    assert 0 < len(passage.text.split()) <= most
    assert passage.text in TEN["https://a.example/"]


def test_domains_of_run_and_seat_hold_for_searches() -> None:
    web = Web(TEN)
    run = parse_domains(barred=["a.example"]), ANYWHERE
    limits = SearchLimits(allowed_domains=("a.example", "b.example", "c.example"), excluded_domains=("c.example",))
    step = call(toolbox(web, search=limits, run_domains=run), "web_search", "height")
    assert [passage.url for passage in step.passages] == ["https://b.example/"]


@pytest.mark.parametrize(
    ("limits", "run", "may"),
    [
        (FetchLimits(), ANYWHERE, True),
        (FetchLimits(blocked_domains=("a.example",)), ANYWHERE, False),
        (FetchLimits(allowed_domains=("b.example",)), ANYWHERE, False),
        (FetchLimits(), parse_domains(barred=["a.example"]), False),
        (FetchLimits(allowed_domains=("a.example",)), parse_domains(allowed=["b.example"]), True),
    ],
)
def test_domains_of_run_and_seat_hold_for_fetches(limits: FetchLimits, run: Domains, may: bool) -> None:
    web = Web(TEN)
    tools = toolbox(web, fetch=limits, question="see https://a.example/", run_domains=(ANYWHERE, run))
    step = call(tools, "web_fetch", "https://a.example/")
    assert step.ok is may
    if not may:
        assert step.error == "https://a.example/ may not be fetched in this run; use another source"
        assert web.domains == []
    else:
        assert web.domains[0].admit("https://a.example/")


def test_what_a_fetched_page_links_to_may_be_fetched_and_nothing_else() -> None:
    links = {"https://a.example/": ("https://b.example/", "https://c.example/")}
    tools = toolbox(Web(TEN, links), question="https://a.example/", fetch=FetchLimits(blocked_domains=("c.example",)))
    assert not call(tools, "web_fetch", "https://b.example/").ok
    step = call(tools, "web_fetch", "https://a.example/")
    assert step.links == (Link("https://b.example/", "to https://b.example/"),)
    assert "- to https://b.example/: https://b.example/" in result_message(step).content
    assert tools.addresses == ("https://a.example/", "https://b.example/")
    assert call(tools, "web_fetch", "https://b.example/").ok
    assert not call(tools, "web_fetch", "https://c.example/").ok
    restored = toolbox(Web(TEN, links), question="https://a.example/")
    restored.restore([step])
    assert call(restored, "web_fetch", "https://b.example/").ok


def test_links_are_bounded_and_those_that_are_known_left_out() -> None:
    many = tuple(f"https://b.example/{number}" for number in range(100))
    tools = toolbox(Web(TEN, {"https://a.example/": ("https://a.example/", *many)}), question="https://a.example/")
    call(tools, "web_search", "height")
    assert len(call(tools, "web_fetch", "1").links) == MAX_LINKS


def test_warnings_are_for_the_user_alone() -> None:
    tools = toolbox(Web(TEN))
    found = call(tools, "web_search", "height")
    read = call(tools, "web_fetch", "1")
    assert (found.warnings, read.warnings) == (("one engine refused",), ("https://a.example/ is odd",))
    for step in (found, read):
        assert result_message(step) == result_message(replace(step, warnings=()))


def test_who_wrote_a_page_and_when_is_told() -> None:
    step = call(toolbox(Web(TEN), question="https://a.example/"), "web_fetch", "https://a.example/")
    assert "\n[1] a page (https://a.example/), A. Uthor, 2020\n" in result_message(step).content


class Moved(Web):
    """A web where every page is found at another address than it was asked for."""

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        fetched = await super().fetch(url, domains)
        return replace(fetched, page=replace(fetched.page, url="https://evil.example/lies", title="Lies"))


def test_a_page_is_never_cited_under_the_address_that_led_to_it() -> None:
    tools = toolbox(Moved(TEN))
    found = call(tools, "web_search", "height")
    (read,) = call(tools, "web_fetch", "1").passages
    assert read.url == "https://evil.example/lies"
    assert read.number not in {passage.number for passage in found.passages}
    assert "was read before" in (call(tools, "web_fetch", "1").error or "")


def test_what_only_a_search_engine_says_is_a_snippet() -> None:
    tools = toolbox(Web(TEN))
    assert all(passage.is_snippet for passage in call(tools, "web_search", "height").passages)
    assert not call(tools, "web_fetch", "1").passages[0].is_snippet


def test_what_goes_wrong_with_a_source_is_for_the_user_too() -> None:
    step = call(toolbox(Web({}), question="https://gone.example/"), "web_fetch", "https://gone.example/")
    assert step.warnings == ("web_fetch: there is no https://gone.example/",)
    refused = call(toolbox(Web({})), "web_fetch", "https://gone.example/")
    assert (refused.ok, refused.warnings) == (False, ())
