"""The kiwix source against recorded answers of a real server on loopback."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest

from localfusion.domains import ANYWHERE, parse_domains
from localfusion.errors import ConfigError, NotHere, WebError
from localfusion.search.combined import Combined
from localfusion.search.kiwix import KiwixServer
from localfusion.search.source import Fetched, Found, Search, Source
from tests.reading import read_in_thread
from tests.recorded_server import Answer, Asked, Recorded, serve

XML = "application/rss+xml; charset=utf-8"
ATOM = "application/atom+xml;profile=opds-catalog;kind=acquisition; charset=utf-8"
ARTICLE = """<!DOCTYPE html><html><head><title>Skerry</title></head><body><h1>Skerry</h1>
<p>The height of Skerry is 40 metres.</p><p>See <a href="Merrow#history">Merrow</a>.</p></body></html>"""


def catalog(*books: tuple[str, str], root: str = "", below: str = "/content") -> Recorded:
    entries = "".join(
        f"""<entry><id>urn:uuid:6f1d19d0-633f-087b-fb55-7ac324ff9baf</id><title>{name} &amp; more</title>
        <updated>2024-05-01T00:00:00Z</updated><summary>All of it</summary><language>{language}</language>
        <name>{name}</name><link rel="http://opds-spec.org/image/thumbnail" type="image/png;width=48;height=48;scale=1"
        href="{root}/catalog/v2/illustration/6f1d19d0/?size=48&content={name}"/>
        <link type="text/html" href="{root}{below}/{name}"/></entry>"""
        for name, language in books
    )
    head = '<?xml version="1.0" encoding="UTF-8"?><feed xmlns="http://www.w3.org/2005/Atom">'
    return Recorded(f"{head}<id>12</id><title>All Entries</title>{entries}</feed>", media_type=ATOM)


def results(*rows: tuple[str, str, str]) -> Recorded:
    items = "".join(
        f"<item><title>{title}</title><link>{link}</link><description>{snippet}...</description>"
        f"<book><title>Wikipedia</title></book><wordCount>321</wordCount></item>"
        for link, title, snippet in rows
    )
    return Recorded(
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0" '
        'xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" xmlns:atom="http://www.w3.org/2005/Atom"><channel>'
        f"<title>Search: skerry</title><opensearch:totalResults>{len(rows)}</opensearch:totalResults>{items}"
        "</channel></rss>",
        media_type=XML,
    )


ONE_BOOK = catalog(("wikipedia_en", "eng"))
SKERRY = results(
    ("/content/wikipedia_en/A/Skerry", "Skerry", "The height of <b>Skerry</b> is&nbsp;40 metres &amp; it"),
    ("/content/wikipedia_en/A/Gr%C3%B6%C3%9Fe%20und%20Ma%C3%9F", "Größe", "Size"),
)


def search(
    url: str, words: str = "skerry", n: int = 5, allowed: Sequence[str] = (), barred: Sequence[str] = ()
) -> Found:
    source: Source = KiwixServer(url, timeout_s=5, read=read_in_thread)
    return asyncio.run(source.search(Search(words, max_results=n, domains=parse_domains(allowed, barred))))


def fetch(url: str, base: str, barred: Sequence[str] = ()) -> Fetched:
    source = KiwixServer(base, timeout_s=5, now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), read=read_in_thread)
    return asyncio.run(source.fetch(url, parse_domains((), barred)))


def served(search: Answer = SKERRY, catalog: Answer = ONE_BOOK, root: str = "") -> Mapping[str, Answer]:
    return {f"{root}/catalog/v2/entries": catalog, f"{root}/search": search}


def test_results_are_articles_of_the_server() -> None:
    with serve(served()) as server:
        found = search(server.url)
        catalog_request, search_request = server.asked
    assert [(r.url, r.title, r.passage, r.source) for r in found.results] == [
        (
            f"{server.url}/content/wikipedia_en/A/Skerry",
            "Skerry",
            "The height of Skerry is 40 metres & it...",
            "kiwix",
        ),
        (f"{server.url}/content/wikipedia_en/A/Gr%C3%B6%C3%9Fe%20und%20Ma%C3%9F", "Größe", "Size...", "kiwix"),
    ]
    assert found.warnings == ()
    assert catalog_request.fields == {"count": ["-1"]}
    assert search_request.fields == {
        "pattern": ["skerry"],
        "format": ["xml"],
        "pageLength": ["10"],
        "books.name": ["wikipedia_en"],
    }


def test_a_server_below_a_path() -> None:
    found_at = results(("/library/content/wikipedia_en/A/Skerry", "Skerry", "Rock"), ("/content/x/A/Y", "Y", "Y"))
    with serve(served(found_at, catalog(("wikipedia_en", "eng"), root="/library"), root="/library")) as server:
        found = search(f"{server.url}/library/")
    assert [result.url for result in found.results] == [f"{server.url}/library/content/wikipedia_en/A/Skerry"]


@pytest.mark.parametrize("root", ["", "/library"])
def test_a_server_of_version_3_3_has_articles_below_the_names_of_archives(root: str) -> None:
    link = f"{root}/coast_en/A/What?%231%20100%25"  # its question mark stands as it is
    answers = {
        **served(results((link, "What?", "Barnacles")), catalog(("coast_en", "eng"), root=root, below=""), root=root),
        f"{root}/coast_en/A/What%3F%231%20100%25": Recorded(ARTICLE),
    }
    with serve(answers) as server:
        (result,) = search(f"{server.url}{root}").results
        assert result.url == f"{server.url}{root}/coast_en/A/What%3F%231%20100%25"
        assert fetch(result.url, f"{server.url}{root}").page.title == "Skerry"
        assert server.asked[1].fields["books.name"] == ["coast_en"]


def test_each_language_is_searched_for_itself_and_one_that_fails_is_a_warning() -> None:
    books = catalog(("wikipedia_en", "eng"), ("wikipedia_de", "deu"), ("wiktionary_en", "eng"), ("broken", "fra"))

    def answer(asked: Asked) -> Recorded:
        named = asked.fields["books.name"]
        if named == ["broken"]:
            return Recorded("<html>no-such-book</html>", 400)
        rows = [(f"/content/{name}/{i}", f"{name} {i}", "text") for name in named for i in range(3)]
        return results(*rows)

    with serve(served(answer, books)) as server:
        found = search(server.url, n=4)
    assert [result.title for result in found.results] == [
        "wikipedia_en 0",
        "wikipedia_de 0",
        "wikipedia_en 1",
        "wikipedia_de 1",
    ]
    (warning,) = found.warnings
    assert warning.startswith("kiwix: 1 of its archives gave nothing: ")
    assert "status 400" in warning


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("What is the height of Skerry?", ["height Skerry", "Skerry"]),
        ("how high are lighthouses", ["high lighthouses", "lighthouses"]),
        ("Skerry", ["Skerry"]),
        ("", []),
    ],
)
def test_fewer_words_are_looked_for_where_all_find_nothing(words: str, asked: list[str]) -> None:
    with serve(served(results())) as server:
        assert search(server.url, words) == Found()
        assert [request.fields["pattern"][0] for request in server.asked[1:]] == asked


def test_the_catalog_is_read_once() -> None:
    async def twice(source: KiwixServer) -> None:
        await source.search(Search("skerry"))
        await source.search(Search("skerry"))

    with serve(served()) as server:
        asyncio.run(twice(KiwixServer(server.url, read=read_in_thread)))
        assert [asked.path for asked in server.asked].count("/catalog/v2/entries") == 1


def test_a_catalog_that_is_out_of_date_is_read_again() -> None:
    async def twice(source: KiwixServer) -> Found:
        with pytest.raises(WebError, match="status 400"):
            await source.search(Search("skerry"))
        return await source.search(Search("skerry"))

    answers = iter([Recorded("no-such-book", 400), SKERRY])
    with serve(served(lambda _: next(answers))) as server:
        assert len(asyncio.run(twice(KiwixServer(server.url, read=read_in_thread))).results) == 2
        assert [asked.path for asked in server.asked].count("/catalog/v2/entries") == 2


def test_a_server_without_archives_is_a_warning() -> None:
    with serve(served(catalog=catalog())) as server:
        found = search(server.url)
    assert found.results == ()
    assert "has no archives" in found.warnings[0]


def test_the_rules_about_domains_hold() -> None:
    with serve(served()) as server:
        assert search(server.url, allowed=["wikipedia.org"]).results == ()
        assert len(server.asked) == 2


BOMB = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><rss><channel>&b;</channel></rss>'
OUTSIDE = '<!DOCTYPE rss [<!ENTITY x SYSTEM "file:///etc/passwd">]><rss><channel><item>&x;</item></channel></rss>'


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Recorded("<!DOCTYPE html><html><body>Search</body></html>"), "not its XML"),
        (Recorded(BOMB, media_type=XML), "not its XML"),
        (Recorded(OUTSIDE, media_type=XML), "not its XML"),
        (Recorded(OUTSIDE.encode("utf-16"), media_type=XML), "not its XML"),
        (Recorded("<rss><channel><item>", media_type=XML), "not its XML"),
        (Recorded("", media_type=XML), "not its XML"),
        (Recorded(b"\xff\x00\xfe", media_type=XML), "not its XML"),
        (Recorded("no", 404), "status 404"),
        (Recorded("no", 500), "status 500"),
        (Recorded(" " * (8 * 2**20 + 1), media_type=XML), "more than 8 MiB"),
        (Recorded(status=302, headers={"Location": "http://elsewhere.example/"}), "elsewhere.example"),
    ],
)
@pytest.mark.parametrize("place", ["/search", "/catalog/v2/entries"])
def test_what_a_server_does_wrong_is_explained(answer: Answer, message: str, place: str) -> None:
    with serve({**served(), place: answer}) as server, pytest.raises(WebError) as caught:
        search(server.url)
    assert message in caught.value.message
    assert server.url in caught.value.message


def test_a_row_that_leads_elsewhere_is_left_out() -> None:
    rows = results(
        ("http://elsewhere.example/content/a/b", "Elsewhere", "x"),
        ("//elsewhere.example/content/a/b", "Elsewhere", "x"),
        ("javascript:alert(1)", "Script", "x"),
        ("/content/../catalog", "Above", "x"),
        ("/content/%2e%2e/secret", "Above", "x"),
        ("", "Nothing", "x"),
        ("/content/a/b\x01", "\x02Control&\x03", "<i>x</i>"),
    )
    with serve(served(rows)) as server:
        found = search(server.url)
    assert [(r.url, r.title) for r in found.results if "/content/" in r.url] == [
        (f"{server.url}/content/a/b", "Control&")
    ]


@pytest.mark.parametrize("link", ["http://[::1", "//[obey/x", "http://[v1.x]/"])
def test_a_row_whose_link_is_no_address_is_left_out(link: str) -> None:
    with serve(served(results((link, "Wrong", "x"), ("/content/a/b", "Right", "x")))) as server:
        assert [result.title for result in search(server.url).results] == ["Right"]


@pytest.mark.parametrize("location", ["http://[::1", "//[obey", "http://127.0.0.1:9/obey"])
def test_a_redirect_to_what_is_no_address_is_an_error_of_the_web(location: str) -> None:
    with serve(served(Recorded(status=302, headers={"Location": location}))) as server:
        source = Combined([KiwixServer(server.url, timeout_s=5, read=read_in_thread)])
        with pytest.raises(WebError, match=r"not below it|cannot be reached") as caught:
            asyncio.run(source.search(Search("skerry")))
    assert "obey" not in caught.value.message


def test_many_archives_are_searched_in_batches_a_few_at_a_time_and_failures_are_one_warning() -> None:
    n_books, at_work, most = 400, [0], [0]
    books = catalog(*((f"wikipedia_of_the_{n}th_coast_in_full", "eng") for n in range(n_books)))

    def answer(asked: Asked) -> Recorded:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        time.sleep(0.05)
        at_work[0] -= 1
        names = asked.fields["books.name"]
        return SKERRY if "wikipedia_of_the_0th_coast_in_full" in names else Recorded("no", 500)

    with serve(served(answer, books)) as server:
        found = search(server.url)
        batches = [asked.fields["books.name"] for asked in server.asked[1:]]
    assert sorted(name for batch in batches for name in batch) == sorted({name for batch in batches for name in batch})
    assert sum(map(len, batches)) == n_books
    assert max(sum(len(f"&books.name={name}") for name in batch) for batch in batches) <= 3500
    assert most[0] <= 4 < len(batches)
    assert len(found.results) == 2
    assert len(found.warnings) == 1


@pytest.mark.parametrize("root", ["", "/library"])
def test_an_article_is_fetched(root: str) -> None:
    with serve({f"{root}/content/wikipedia_en/A/Skerry": Recorded(ARTICLE)}) as server:
        url = f"{server.url}{root}/content/wikipedia_en/A/Skerry"
        page = fetch(url, f"{server.url}{root}").page
    assert (page.url, page.title, page.retrieved_at) == (url, "Skerry", "2026-01-02T03:04:05+00:00")
    assert "The height of Skerry is 40 metres." in page.text.splitlines()
    assert len(page.sha256) == 64


def test_a_redirect_to_another_article_is_followed() -> None:
    answers: dict[str, Answer] = {
        "/content/w/Rock": Recorded(status=302, headers={"Location": "/content/w/Skerry"}),
        "/content/w/Skerry": Recorded(ARTICLE),
    }
    with serve(answers) as server:
        assert fetch(f"{server.url}/content/w/Rock", server.url).page.url == f"{server.url}/content/w/Skerry"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/search?pattern=x",
        "/catalog/v2/entries",
        "/content",
        "/skin/taskbar.css",
        "/wikipedia_en",
        "/wikipedia_english/A",
        "/content/../catalog/v2/entries",
        "/content/w/%2e%2e/%2e%2e/search",
        "/content/w/%252e%252e/x",
        "/content/w/..\\x",
        "//content/w/x",
    ],
)
def test_what_is_no_article_is_not_fetched(path: str) -> None:
    with serve(served(catalog=catalog(("wikipedia_en", "eng"), below=""))) as server:
        with pytest.raises(NotHere):
            fetch(server.url + path, server.url)
        assert {asked.path for asked in server.asked} <= {"/catalog/v2/entries"}


@pytest.mark.parametrize(
    "url",
    ["https://en.wikipedia.org/wiki/Skerry", "doc://harbour/a.md", "zim://w/A", "", "http://127.0.0.1:1/content/w/A"],
)
def test_what_is_elsewhere_is_not_fetched(url: str) -> None:
    with serve({}) as server:
        with pytest.raises(NotHere, match="kiwix has only articles of"):
            fetch(url, server.url)
        assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Recorded("no", 404), "there is no article"),
        (Recorded("no", 503), "status 503"),
        (Recorded(b"\x89PNG", media_type="image/png"), "cannot be read: it is an image"),
        (Recorded(status=302, headers={"Location": "https://elsewhere.example/"}), "elsewhere.example"),
        (Recorded("x" * (8 * 2**20 + 1)), "more than 8 MiB"),
    ],
)
def test_an_article_that_cannot_be_had(answer: Answer, message: str) -> None:
    with serve({"/content/w/A": answer}) as server, pytest.raises(WebError, match=message):
        fetch(f"{server.url}/content/w/A", server.url)


def test_a_barred_server_is_not_asked() -> None:
    source = KiwixServer("http://kiwix.example", read=read_in_thread)
    with pytest.raises(WebError, match="not allowed"):
        asyncio.run(source.fetch("http://kiwix.example/content/w/A", parse_domains((), ("kiwix.example",))))


def test_an_address_that_is_no_servers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no address of kiwix"):
        KiwixServer("kiwix.example:8080", read=read_in_thread)


def test_a_server_that_does_not_go_on_is_left() -> None:
    with serve({"/content/w/A": Recorded(ARTICLE, wait=True)}) as server:
        source = KiwixServer(server.url, timeout_s=0.2, read=read_in_thread)
        with pytest.raises(WebError, match="did not answer within"):
            asyncio.run(source.fetch(f"{server.url}/content/w/A", ANYWHERE))
