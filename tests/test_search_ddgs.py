"""The search engines of ddgs, through its real client, against recorded answers on loopback behind a CONNECT proxy."""

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path

import pytest
import trustme

from localfusion.domains import ANYWHERE, parse_domains
from localfusion.errors import ConfigError, NotHere, WebError
from localfusion.search.ddgs_search import DEFAULT_ENGINES, MAX_PAGE_BYTES, EngineClient, EngineSearch
from localfusion.search.source import Found, Search
from tests.recorded_server import Answer, Recorded, RecordedServer, serve, serve_behind_proxy

Rows = list[tuple[str, str, str]]

SKERRY: Rows = [
    ("https://lights.example/skerry", "Skerry light", "The height of Skerry is 40 metres."),
    ("https://charts.example/", "Charts", "Depths around Skerry."),
]
TOWER: Rows = [
    ("https://towers.example/", "Towers", "All towers of the coast."),
    ("https://lights.example/skerry", "Skerry light", "The height of Skerry is 40 metres, says the survey of 1902."),
]


def duckduckgo(rows: Rows) -> str:
    return (
        "<html><body><div class='serp__results'>"
        + "".join(
            f"""<div class="result results_links"><div class="links_main links_deep result__body">
        <h2 class="result__title"><a rel="nofollow" class="result__a" href="{escape(url)}">{title}</a></h2>
        <div class="result__extras"><span>{escape(url)}</span></div>
        <a class="result__snippet" href="{escape(url)}">{snippet}</a><div class="clear"></div></div></div>"""
            for url, title, snippet in rows
        )
        + "</div></body></html>"
    )


def brave(rows: Rows) -> str:
    return (
        "<html><body><main>"
        + "".join(
            f"""<div class="snippet svelte-1" data-pos="0" data-type="web"><a href="{escape(url)}" class="l1">
        <div class="site-name-wrapper"><span>site</span></div><div class="title search-snippet-title">{title}</div></a>
        <div class="generic-snippet"><div class="content desktop-default-regular">{snippet}</div></div></div>"""
            for url, title, snippet in rows
        )
        + "</main></body></html>"
    )


def mojeek(rows: Rows) -> str:
    return (
        "<html><body><ul class='results-standard'>"
        + "".join(
            f"""<li class="r1"><a class="ob" href="{escape(url)}"><p class="i">site</p></a>
        <h2><a class="title" href="{escape(url)}">{title}</a></h2><p class="s">{snippet}</p></li>"""
            for url, title, snippet in rows
        )
        + "</ul></body></html>"
    )


def startpage(rows: Rows) -> str:
    return (
        "<html><body><section>"
        + "".join(
            f"""<div class="result css-o7i03b"><a class="result-title" href="{escape(url)}"><h2>{title}</h2></a>
        <p class="description">{snippet}</p></div>"""
            for url, title, snippet in rows
        )
        + "</section></body></html>"
    )


DUCKDUCKGO, BRAVE = "html.duckduckgo.com/html/", "search.brave.com/search"
MOJEEK, STARTPAGE, WIKIPEDIA = "www.mojeek.com/search", "www.startpage.com/sp/search", "en.wikipedia.org/w/api.php"
FORM = Recorded('<html><form id="search"><input name="sc" value="secret"/></form></html>')
EVERYTHING: dict[str, Answer] = {
    DUCKDUCKGO: Recorded(duckduckgo(SKERRY)),
    BRAVE: Recorded(brave(TOWER)),
    MOJEEK: Recorded(mojeek([])),
    "www.startpage.com/": FORM,
    STARTPAGE: Recorded(startpage(SKERRY[1:])),
    WIKIPEDIA: lambda asked: Recorded(
        json.dumps({"query": {"pages": {"7": {"extract": "<p>Skerry is an <b>island</b>.</p>"}}}})
        if "titles" in asked.fields
        else json.dumps(["skerry", ["Skerry"], [""], ["https://en.wikipedia.org/wiki/Skerry"]]),
        media_type="application/json",
    ),
}


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def pem(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


Engines = Callable[..., EngineSearch]


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[RecordedServer]:
    with serve_behind_proxy(EVERYTHING, authority) as serving:
        yield serving


@pytest.fixture
def time_() -> Time:
    return Time()


@pytest.fixture
def make(server: RecordedServer, pem: Path, time_: Time) -> Engines:
    def made(*engines: str, answers: Mapping[str, Answer] | None = None, timeout_s: int = 10) -> EngineSearch:
        server.answers.update(answers or {})
        return EngineSearch(
            engines or DEFAULT_ENGINES,
            proxy=server.url,
            verify=str(pem),
            timeout_s=timeout_s,
            clock=time_,
            sleep=time_.sleep,
            jitter=lambda: 0.5,
        )

    return made


def search(source: EngineSearch, words: str = "skerry light", n: int = 5, **domains: tuple[str, ...]) -> Found:
    return asyncio.run(source.search(Search(words, max_results=n, domains=parse_domains(**domains))))


@pytest.mark.parametrize(
    ("engine", "page", "answer"),
    [
        ("duckduckgo", DUCKDUCKGO, duckduckgo),
        ("brave", BRAVE, brave),
        ("mojeek", MOJEEK, mojeek),
        ("startpage", STARTPAGE, startpage),
    ],
)
def test_each_engine_is_read(make: Engines, engine: str, page: str, answer: Callable[[Rows], str]) -> None:
    found = search(make(engine, answers={page: Recorded(answer(SKERRY))}))
    assert [(r.url, r.title, r.passage, r.source) for r in found.results] == [(*row, "web") for row in SKERRY]
    assert found.warnings == ()


def test_wikipedia_is_read(make: Engines) -> None:
    (result,) = search(make("wikipedia")).results
    assert (result.url, result.title) == ("https://en.wikipedia.org/wiki/Skerry", "Skerry")
    assert result.passage == "Skerry is an island."


def test_the_rankings_are_fused_and_the_longest_snippet_shown(make: Engines) -> None:
    found = search(make("duckduckgo", "brave"))
    assert [result.url for result in found.results] == [
        "https://lights.example/skerry",
        "https://towers.example/",
        "https://charts.example/",
    ]
    assert found.results[0].passage.endswith("says the survey of 1902.")
    assert [result.score for result in found.results] == sorted((r.score for r in found.results), reverse=True)


def test_more_engines_are_asked_only_where_the_first_found_too_little(make: Engines, server: RecordedServer) -> None:
    assert len(search(make(), n=3).results) == 3
    assert {asked.host for asked in server.asked} == {"html.duckduckgo.com", "search.brave.com", "www.mojeek.com"}
    search(make(), n=4)
    assert {asked.host for asked in server.asked} >= {"www.startpage.com", "en.wikipedia.org"}


def test_nothing_found_is_no_error(make: Engines) -> None:
    assert search(make("mojeek")) == Found()


@pytest.mark.parametrize("words", ["", " \n"])
def test_no_words_are_not_asked_for(make: Engines, server: RecordedServer, words: str) -> None:
    assert search(make(), words) == Found()
    assert server.asked == []


def test_results_are_within_the_domains_and_few_of_them_are_told_to_the_engines(
    make: Engines, server: RecordedServer
) -> None:
    found = search(make("duckduckgo", "brave"), allowed=("lights.example",), barred=("lights.example/private",))
    assert [result.url for result in found.results] == ["https://lights.example/skerry"]
    assert {asked.fields["q"][0] for asked in server.asked} == {"skerry light site:lights.example"}
    found = search(make("duckduckgo", "brave"), barred=("lights.example",), n=1)
    assert [result.url for result in found.results] == ["https://towers.example/"]


@pytest.mark.parametrize("status", [202, 403, 429, 503])
def test_an_engine_that_refuses_is_a_warning_and_left_alone(
    make: Engines, server: RecordedServer, time_: Time, status: int
) -> None:
    source = make("duckduckgo", "brave", answers={DUCKDUCKGO: Recorded("slow down", status)})
    found = search(source)
    assert [result.url for result in found.results] == [url for url, _, _ in TOWER]
    assert found.warnings == (f"web: duckduckgo refuses for now (status {status})",)
    assert search(source).warnings == ()
    assert [asked.host for asked in server.asked].count("html.duckduckgo.com") == 1
    time_.now += 2.0
    search(source)
    assert [asked.host for asked in server.asked].count("html.duckduckgo.com") == 2
    time_.now += 3.9  # twice as long, as it refused once more
    assert search(source).warnings == ()
    time_.now += 0.1
    assert search(source).warnings == found.warnings


@pytest.mark.parametrize(
    "page",
    [
        "<html><div class='anomaly-modal__title'>Unfortunately, bots use DuckDuckGo too.</div></html>",
        "<html><title>Captcha</title><p>Confirm that you're human</p></html>",
        "<html><p>Our systems have detected unusual traffic from your network.</p></html>",
    ],
)
def test_a_page_that_asks_for_a_person_is_a_refusal(make: Engines, time_: Time, page: str) -> None:
    with pytest.raises(WebError, match="the search engines refuse for now; duckduckgo refuses") as caught:
        search(make("duckduckgo", answers={DUCKDUCKGO: Recorded(page)}))
    assert "search again in 8 s" in caught.value.hint
    assert time_.slept == [2.0, 4.0]


def test_where_all_refuse_they_are_asked_over_and_then_left(make: Engines, server: RecordedServer, time_: Time) -> None:
    refusal = Recorded("", 429)
    source = make("duckduckgo", "brave", answers={DUCKDUCKGO: refusal, BRAVE: refusal})
    with pytest.raises(WebError, match=r"refuse for now; duckduckgo refuses for now .*; brave refuses for now"):
        search(source)
    assert len(server.asked) == 6
    assert time_.slept == [2.0, 4.0]
    with pytest.raises(WebError, match="refuse for now; duckduckgo refuses"):
        search(source)
    assert len(server.asked) == 8
    assert time_.slept == [2.0, 4.0, 8.0]
    with pytest.raises(WebError, match="refuse for now; duckduckgo, brave") as caught:
        search(source)
    assert caught.value.hint == "use other sources, or search again in 16 s"
    assert len(server.asked) == 8
    server.answers[BRAVE] = EVERYTHING[BRAVE]
    time_.now += 16
    assert len(search(source).results) == 2


def test_a_refusal_and_a_failure_are_both_named(make: Engines, time_: Time) -> None:
    source = make("duckduckgo", "brave", answers={DUCKDUCKGO: Recorded("", 429), BRAVE: Recorded("", 500)})
    with pytest.raises(WebError, match=r"duckduckgo refuses for now \(status 429\); brave failed \(status 500\)"):
        search(source)
    assert time_.slept == []


def test_engines_that_cannot_be_reached_are_not_asked_again_at_once(time_: Time) -> None:
    with serve({}) as gone:
        proxy = gone.url
    source = EngineSearch(["brave", "mojeek"], proxy=proxy, timeout_s=2, clock=time_, sleep=time_.sleep)
    with pytest.raises(WebError, match="no search engine answers: brave failed") as first:
        search(source)
    with pytest.raises(WebError, match="no search engine answers: brave, mojeek") as second:
        search(source)
    assert first.value.hint == second.value.hint == "check the connection to the internet"
    time_.now += 30
    with pytest.raises(WebError, match="no search engine answers: brave failed"):
        search(source)
    assert time_.slept == []


def test_an_engine_that_was_silent_rests_while_others_are_asked(make: Engines, server: RecordedServer) -> None:
    source = make("duckduckgo", "brave", answers={DUCKDUCKGO: Recorded("<html>", wait=True)}, timeout_s=1)
    assert len(search(source).warnings) == 1
    assert search(source).warnings == ()
    assert [asked.host for asked in server.asked].count("html.duckduckgo.com") == 1


@pytest.mark.parametrize("words", ["!g skerry", "\\skerry", "\\!g skerry !", "!!skerry"])
def test_no_word_is_an_order_to_an_engine(make: Engines, server: RecordedServer, words: str) -> None:
    search(make("brave"), words)
    assert server.asked[0].fields["q"][0] in ("skerry", "g skerry")


@pytest.mark.parametrize(
    ("location", "is_followed"),
    [
        ("/search?moved=1", True),
        ("https://search.brave.com/search?moved=1", True),
        ("https://elsewhere.example/search", False),
        ("http://search.brave.com/search", False),
        ("https://search.brave.com:8443/search", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_an_engine_leads_to_its_own_host_only(
    make: Engines, server: RecordedServer, location: str, is_followed: bool
) -> None:
    moved = Recorded(status=302, headers={"Location": location})
    source = make("brave", answers={BRAVE: lambda asked: Recorded(brave(TOWER)) if "moved" in asked.fields else moved})
    if is_followed:
        assert len(search(source).results) == 2
    else:
        with pytest.raises(WebError, match="brave failed"):
            search(source)
    assert {asked.host for asked in server.asked} == {"search.brave.com"}


@pytest.mark.parametrize("packing", ["", "gzip"])
def test_a_page_without_end_is_not_read(make: Engines, packing: str) -> None:
    body = b"<p>" + b"a" * (MAX_PAGE_BYTES + 1)
    headers = {"Content-Encoding": packing} if packing else {}
    source = make("brave", answers={BRAVE: Recorded(gzip.compress(body) if packing else body, headers=headers)})
    with pytest.raises(WebError, match="more than 4 MiB"):
        search(source)


def test_a_search_about_refusals_is_none(make: Engines) -> None:
    source = make("mojeek", answers={MOJEEK: Recorded("<p>Nothing was found for captcha</p>")})
    assert search(source, "captcha") == Found()


def test_a_refusal_may_be_over_at_the_next_round(make: Engines) -> None:
    answers = iter([Recorded("", 429), Recorded(mojeek(SKERRY))])
    found = search(make("mojeek", answers={MOJEEK: lambda _: next(answers)}))
    assert len(found.results) == 2
    assert found.warnings == ()


def test_an_engine_that_does_not_go_on_is_told_from_one_that_refuses(make: Engines, time_: Time) -> None:
    source = make("duckduckgo", "brave", answers={DUCKDUCKGO: Recorded("<html>", wait=True)}, timeout_s=1)
    found = search(source)
    assert found.warnings == ("web: duckduckgo did not answer in time",)
    assert len(found.results) == 2
    with pytest.raises(WebError, match="no search engine answers: duckduckgo did not answer in time"):
        search(make("duckduckgo", timeout_s=1))
    assert time_.slept == []


@pytest.mark.parametrize(
    ("engine", "answers"),
    [
        ("duckduckgo", {DUCKDUCKGO: Recorded(status=500)}),
        ("duckduckgo", {DUCKDUCKGO: Recorded(status=404)}),
        ("wikipedia", {WIKIPEDIA: Recorded("<html>no JSON</html>")}),
        ("wikipedia", {WIKIPEDIA: Recorded("[]", media_type="application/json")}),
        ("wikipedia", {WIKIPEDIA: Recorded("null", media_type="application/json")}),
        ("startpage", {"www.startpage.com/": Recorded("")}),
        ("mojeek", {MOJEEK: Recorded(status=302, headers={"Location": "https://www.mojeek.com/search"})}),
    ],
)
def test_an_engine_that_fails_is_a_warning(make: Engines, engine: str, answers: dict[str, Answer]) -> None:
    found = search(make("brave", engine, answers=answers))
    assert [result.url for result in found.results] == [url for url, _, _ in TOWER]
    (warning,) = found.warnings
    assert warning.startswith(f"web: {engine} failed (")
    with pytest.raises(WebError, match=f"no search engine answers: {engine} failed") as caught:
        search(make(engine))
    assert "connection" in caught.value.hint


@pytest.mark.parametrize("body", ["", "\x00\x01", b"\xff\xfe\xfd", "{}", "<li><h2><a href", "<" * 10_000, "]]>"])
def test_garbage_is_nothing_found_or_a_failure(make: Engines, body: str | bytes) -> None:
    found = search(make("brave", "mojeek", answers={MOJEEK: Recorded(body)}))
    assert [result.url for result in found.results] == [url for url, _, _ in TOWER]


def test_a_page_without_an_introduction_is_a_failure(make: Engines) -> None:
    empty = Recorded(json.dumps({"query": {"pages": {}}}))
    named = Recorded(json.dumps(["x", ["X"], [""], ["https://en.wikipedia.org/wiki/X"]]))
    source = make("wikipedia", answers={WIKIPEDIA: lambda asked: empty if "titles" in asked.fields else named})
    with pytest.raises(WebError, match=r"wikipedia failed \(what it answered cannot be read\)"):
        search(source)


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (
            (
                "https://a.example/",
                "A &lt;script&gt;alert(1)&lt;/script&gt; title",
                "One &amp;lt;b&amp;gt;two&amp;lt;/b&amp;gt;",
            ),
            ("https://a.example/", "A alert(1) title", "One two"),
        ),
        (
            ("https://a.example/", "Zero\u200bwidth\u202e", "bi\u2066di\u2069 \u0007bell \ufefftext"),
            ("https://a.example/", "Zerowidth", "bidi bell text"),
        ),
        (
            ("https://a.example/x y", "T", "x &lt; y &amp; z"),
            ("https://a.example/x+y", "T", "x < y & z"),
        ),
        (("https://a.example/", "", ""), ("https://a.example/", "https://a.example/", "https://a.example/")),
        (("HTTPS://A.Example:443", "T", "S"), ("https://a.example/", "T", "S")),
        (("https://müller.example/größe", "T", "S"), ("https://xn--mller-kva.example/gr%C3%B6%C3%9Fe", "T", "S")),
        (("javascript:alert(1)", "T", "S"), None),
        (("data:text/html,x", "T", "S"), None),
        (("file:///etc/passwd", "T", "S"), None),
        (("https://user:pass@a.example/", "T", "S"), None),
        (("//a.example/", "T", "S"), None),
        (("/l/?uddg=x", "T", "S"), None),
        (("https://a.example/" + "x" * 3000, "T", "S"), None),
        (("https://", "T", "S"), None),
        (("https://duckduckgo.com/y.js?ad_domain=shop.example", "Advertisement", "Buy"), None),
    ],
)
def test_hostile_rows(make: Engines, row: tuple[str, str, str], shown: tuple[str, str, str] | None) -> None:
    found = search(make("duckduckgo", answers={DUCKDUCKGO: Recorded(duckduckgo([row]))}))
    assert [(r.url, r.title, r.passage) for r in found.results] == ([shown] if shown else [])


def test_a_snippet_is_cut_at_a_sentence(make: Engines) -> None:
    long = "The first sentence is here. " * 200
    source = make("mojeek", answers={MOJEEK: Recorded(mojeek([("https://a.example/", "T", long)]))})
    found = asyncio.run(source.search(Search("x", max_characters=60)))
    assert found.results[0].passage == "The first sentence is here. The first sentence is here."


@pytest.mark.parametrize("variable", ["DDGS_PROXY", "PRIMP_PROXY", "HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with serve({"/": Recorded("from the proxy")}) as proxy, serve({"/": Recorded("from the engine")}) as engine:
        monkeypatch.setenv(variable, proxy.url)
        client = EngineClient(None, 5, verify=True)
        assert client.request("GET", f"{engine.url}/").text == "from the engine"
        assert proxy.asked == []


@pytest.mark.parametrize(
    ("engines", "region", "message"),
    [
        (["altavista"], "us-en", "no search engine altavista"),
        (["brave", "auto"], "us-en", "no search engine auto"),
        (["all"], "us-en", "no search engine all"),
        (["bing"], "us-en", "no search engine bing"),
        ([], "us-en", "an empty list"),
        (["brave"], "en", "no region"),
        (["brave"], "US-EN", "no region"),
    ],
)
def test_unknown_names_are_refused(engines: list[str], region: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        EngineSearch(engines, region=region)
    assert "duckduckgo" in caught.value.hint or "us-en" in caught.value.hint


def test_there_is_nothing_to_fetch() -> None:
    with pytest.raises(NotHere):
        asyncio.run(EngineSearch().fetch("https://a.example/", ANYWHERE))
