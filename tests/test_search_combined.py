"""Several sources as one: fusion, the same address and mirrors, failures, and where a page is fetched from."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.analysis import Page
from localfusion.domains import ANYWHERE, Domains
from localfusion.errors import ConfigError, LocalFusionError, NotHere, WebError
from localfusion.search.combined import Combined, fuse_results, same_address
from localfusion.search.documents import DocumentIndex
from localfusion.search.fusion import fuse
from localfusion.search.local_documents import LocalDocuments
from localfusion.search.searxng import SearXNG
from localfusion.search.source import Fetched, Found, Search, SearchResult, Source
from tests.recorded_server import Recorded, serve


@dataclass
class Scripted:
    """A source that gives what it is told to; with `waits` it gives nothing, ever."""

    name: str
    urls: tuple[str, ...] = ()
    failure: LocalFusionError | None = None
    warnings: tuple[str, ...] = ()
    waits: bool = False
    pages: frozenset[str] = frozenset()
    fetched: list[tuple[str, Domains]] = field(default_factory=list)

    async def search(self, search: Search) -> Found:
        if self.failure:
            raise self.failure
        if self.waits:
            await asyncio.Event().wait()
        return Found(tuple(result(url, source=self.name) for url in self.urls[: search.max_results]), self.warnings)

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        self.fetched.append((url, domains))
        if url not in self.pages:
            raise NotHere(url, f"{self.name} has only {', '.join(sorted(self.pages)) or 'nothing'}")
        if self.failure:
            raise self.failure
        return Fetched(Page(url, self.name, "text", "0" * 64))


def result(url: str, passage: str = "", source: str = "a", *, has_page: bool = False) -> SearchResult:
    page = Page(url, url, passage, "0" * 64) if has_page else None
    return SearchResult(url, url, passage or f"Passage of {url}", source, 1.0, page)


def search(*sources: Source, n: int = 5, timeout_s: float = 5) -> Found:
    return asyncio.run(Combined(sources, timeout_s=timeout_s).search(Search("x", max_results=n)))


A, B, C, D = (f"https://{name}.example/" for name in "abcd")


def test_results_are_fused_by_rank_and_ties_go_by_the_order_of_sources() -> None:
    found = search(Scripted("one", (A, B)), Scripted("two", (C, B)))
    assert [(one.url, one.source) for one in found.results] == [(B, "one"), (A, "one"), (C, "two")]
    assert [one.score for one in found.results] == [2 / 62, 1 / 61, 1 / 61]
    assert [one.url for one in search(Scripted("two", (C, B)), Scripted("one", (A, B))).results] == [B, C, A]


def test_at_most_as_many_results_as_asked_for() -> None:
    assert [one.url for one in search(Scripted("one", (A, B)), Scripted("two", (C, D)), n=3).results] == [A, C, B]


def test_a_source_that_fails_is_a_warning_and_the_others_answer() -> None:
    found = search(
        Scripted("broken", failure=WebError("", "it refuses", hint="wait")),
        Scripted("wrong", failure=ConfigError("no such file")),
        Scripted("slow", waits=True),
        Scripted("good", (A,), warnings=("one engine is down", "one engine is down")),
        timeout_s=0.05,
    )
    assert [one.url for one in found.results] == [A]
    assert found.warnings == (
        "broken failed: it refuses (wait)",
        "wrong failed: no such file",
        "slow did not answer within 0.05 s",
        "one engine is down",
    )


def test_where_all_fail_each_is_named() -> None:
    with pytest.raises(WebError) as caught:
        search(Scripted("broken", failure=WebError("", "it refuses")), Scripted("slow", waits=True), timeout_s=0.05)
    assert caught.value.message == (
        "no source gave an answer: broken failed: it refuses; slow did not answer within 0.05 s"
    )


def test_nothing_found_is_no_failure() -> None:
    assert search(Scripted("one"), Scripted("two")) == Found()
    assert search() == Found()
    assert search(Scripted("broken", failure=WebError("", "no")), Scripted("empty")).results == ()


def test_a_mistake_of_the_program_is_not_hidden() -> None:
    class Broken(Scripted):
        async def search(self, search: Search) -> Found:
            raise ZeroDivisionError(search.query)

    with pytest.raises(ZeroDivisionError):
        search(Broken("broken"), Scripted("good", (A,)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a.example/x", "https://a.example/x"),
        ("https://www.a.example/x", "https://a.example/x/"),
        ("https://A.example:443/x#top", "https://a.example/x"),
        ("https://a.example/x?utm_source=y&utm_medium=z", "https://a.example/x"),
        ("https://a.example/x?id=1&fbclid=z", "https://a.example/x?id=1"),
        ("https://a.example/größe", "https://a.example/gr%C3%B6%C3%9Fe"),
        ("https://müller.example", "https://xn--mller-kva.example/"),
    ],
)
def test_one_page_under_two_addresses(one: str, other: str) -> None:
    assert same_address(one) == same_address(other)
    assert len(search(Scripted("one", (one,)), Scripted("two", (other,))).results) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://a.example/x", "https://a.example/y"),
        ("https://a.example/x?id=1", "https://a.example/x?id=2"),
        ("https://a.example/x?a=", "https://a.example/x?b="),
        ("https://a.example:8443/x", "https://a.example/x"),
        ("https://b.a.example/x", "https://a.example/x"),
        ("https://a.example/X", "https://a.example/x"),
        ("doc://folder/a.md", "doc://folder/b.md"),
        ("zim://a/b", "doc://a/b"),
    ],
)
def test_two_pages(one: str, other: str) -> None:
    assert same_address(one) != same_address(other)


LONG = "The Skerry light was built in 1861 on a rock in the sound, and its tower is forty metres high to this day."


@pytest.mark.parametrize(
    ("one", "other", "n"),
    [
        (LONG, LONG, 1),
        (LONG, LONG.upper().replace(",", " –"), 1),
        (LONG, LONG.replace("1861", "1862"), 1),
        (LONG, LONG.replace("Skerry light", "Merrow bridge").replace("forty", "ninety"), 2),
        (LONG, LONG + " It is painted white, and its keeper lives in the village on the other shore.", 2),
        ("Home page", "Home page", 2),
        ("", "", 2),
    ],
)
def test_mirrors_are_shown_once(one: str, other: str, n: int) -> None:
    fused = fuse_results([[result(A, one)], [result(B, other)]], max_results=5)
    assert [shown.url for shown in fused] == [A, B][:n]


def test_of_one_address_the_result_with_the_whole_page_is_shown() -> None:
    fused = fuse_results([[result(A, "snippet")], [result(A, "sentence", "b", has_page=True)]], max_results=5)
    assert [(shown.source, shown.passage) for shown in fused] == [("b", "sentence")]


def test_a_page_is_fetched_from_the_first_that_has_it() -> None:
    first, second, third = (
        Scripted("one"),
        Scripted("two", pages=frozenset({A})),
        Scripted("three", pages=frozenset({A})),
    )
    fetched = asyncio.run(Combined([first, second, third]).fetch(A, ANYWHERE))
    assert fetched.page.title == "two"
    assert first.fetched == second.fetched == [(A, ANYWHERE)]
    assert third.fetched == []


def test_an_error_of_the_one_that_has_it_is_the_answer() -> None:
    first = Scripted("one", failure=WebError(A, "it is too large"), pages=frozenset({A}))
    with pytest.raises(WebError, match="too large") as caught:
        asyncio.run(Combined([first, Scripted("two", pages=frozenset({A}))]).fetch(A, ANYWHERE))
    assert not isinstance(caught.value, NotHere)


def test_what_nobody_has_is_said_with_what_there_is() -> None:
    sources = [Scripted("one", pages=frozenset({B})), Scripted("two"), Scripted("two")]
    with pytest.raises(NotHere) as caught:
        asyncio.run(Combined(sources).fetch(A, ANYWHERE))
    assert caught.value.message == f"{A} cannot be fetched: one has only {B}; two has only nothing"
    with pytest.raises(NotHere, match="there are no sources"):
        asyncio.run(Combined([]).fetch(A, ANYWHERE))


def test_its_name_is_of_all() -> None:
    assert Combined([Scripted("documents"), Scripted("web")]).name == "documents and web"


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[LocalDocuments]:
    (tmp_path / "a.md").write_text("# Skerry\n\nThe height of Skerry is 40 metres.\n")
    with closing(DocumentIndex(None)) as index:
        yield index.add([tmp_path]).source


def test_documents_and_a_server_together(documents: LocalDocuments) -> None:
    answer = '{"results": [{"url": "https://skerry.example/", "title": "Skerry", "content": "A rock."}]}'
    with serve({"/search": Recorded(answer, media_type="application/json")}) as server:
        source: Source = Combined([documents, SearXNG(server.url)])
        found = asyncio.run(source.search(Search("height of Skerry")))
        assert [one.source for one in found.results] == ["documents", "searxng"]
        url = found.results[0].url
        assert "40 metres" in asyncio.run(source.fetch(url, ANYWHERE)).page.text
        with pytest.raises(NotHere, match=r"there is no document .*; searxng finds pages and has none"):
            asyncio.run(source.fetch("https://skerry.example/", ANYWHERE))


RANKINGS = st.lists(st.lists(st.integers(0, 12), max_size=10), max_size=5)


@given(RANKINGS)
def test_fusion_gives_every_item_once_with_its_sum_best_first(rankings: list[list[int]]) -> None:
    fused = fuse(rankings)
    assert sorted(item for item, _ in fused) == sorted({item for ranking in rankings for item in ranking})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)
    for item, score in fused:
        ranks = [list(dict.fromkeys(ranking)).index(item) + 1 for ranking in rankings if item in ranking]
        assert score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))


@given(RANKINGS, st.randoms())
def test_scores_do_not_depend_on_the_order_of_the_rankings(rankings: list[list[int]], random: Random) -> None:
    shuffled = list(rankings)
    random.shuffle(shuffled)
    assert dict(fuse(rankings)) == dict(fuse(shuffled))


@given(st.lists(st.integers(0, 12), unique=True))
def test_one_ranking_stays_as_it_is(ranking: list[int]) -> None:
    assert [item for item, _ in fuse([ranking])] == ranking
    assert [item for item, _ in fuse([ranking, ranking, []])] == ranking


@given(RANKINGS, st.integers(0, 12))
def test_who_is_first_everywhere_is_first(rankings: list[list[int]], item: int) -> None:
    fused = fuse([[item, *ranking] for ranking in (rankings or [[]])])
    assert fused[0][0] == item


RESULTS = st.builds(
    result,
    st.sampled_from([A, B, C, D, "http://www.a.example", "doc://x/y.md", "not an address"]),
    st.sampled_from([LONG, LONG.upper(), "short", "", LONG[::-1]]),
    st.sampled_from(["a", "b"]),
    has_page=st.booleans(),
)


@given(st.lists(st.lists(RESULTS, max_size=6), max_size=4), st.integers(0, 6))
def test_fused_results_are_few_distinct_and_in_order(rankings: Sequence[Sequence[SearchResult]], most: int) -> None:
    fused = fuse_results(rankings, max_results=most)
    assert len(fused) <= most
    addresses = [same_address(one.url) for one in fused]
    assert len(set(addresses)) == len(addresses)
    assert [one.score for one in fused] == sorted((one.score for one in fused), reverse=True)
    given_ = {(one.url, one.passage, one.source) for ranking in rankings for one in ranking}
    assert {(one.url, one.passage, one.source) for one in fused} <= given_
    long = [one.passage.lower() for one in fused if len(one.passage) > 60]
    assert len(set(long)) == len(long)
    assert fused == fuse_results(rankings, max_results=len(given_))[:most]
