"""Kept pages: served while they are fresh and admitted, each text kept once, one request for all who ask at once."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import apsw
import pytest

from localfusion.analysis import Link, Page
from localfusion.database import Database
from localfusion.domains import ANYWHERE, parse_domains
from localfusion.errors import WebError
from localfusion.messages import SourcesSpec
from localfusion.search.documents import DocumentIndex
from localfusion.search.fetcher import Fetcher, utc_time
from localfusion.search.guard import Guard
from localfusion.search.opening import Sources
from localfusion.search.snapshots import FILE_NAME, MIGRATIONS, RememberedPages, Snapshots
from localfusion.search.source import Fetched
from localfusion.search.spacing import HostSpacing
from tests.reading import read_in_thread
from tests.web_server import Answer, WebServer, page, redirect, serve

NOW = 1_767_225_600.0
DAY_S = 86_400.0


@dataclass(slots=True)
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


def kept(url: str, text: str, *, age_s: float = 0.0) -> Fetched:
    digest = sha256(text.encode()).hexdigest()
    links = (Link("http://x.test/", "x ü"), Link("http://y.test/", ""))
    return Fetched(Page(url, "A title", text, digest, utc_time(NOW - age_s)), links, ("odd",))


@pytest.fixture
def snapshots() -> Iterator[Snapshots]:
    with closing(Snapshots(None, clock=Clock())) as opened:
        yield opened


def test_a_kept_page_comes_back_as_it_was_by_both_addresses(tmp_path: Path) -> None:
    fetched = kept("https://a.test/final", "text ü")
    with closing(Snapshots(tmp_path / FILE_NAME, clock=Clock())) as snapshots:
        snapshots.put("http://a.test/", fetched)
    with closing(Snapshots(tmp_path / FILE_NAME, clock=Clock())) as snapshots:
        assert snapshots.get("http://a.test/") == fetched
        assert snapshots.get("https://a.test/final") == fetched
        assert snapshots.get("https://a.test/other") is None


@pytest.mark.parametrize(
    ("age_s", "max_age_s", "is_served"),
    [(0, DAY_S, True), (DAY_S, DAY_S, True), (DAY_S + 1, DAY_S, False), (10, 5, False), (-60, DAY_S, False)],
)
def test_a_page_is_served_while_it_is_fresh(
    snapshots: Snapshots, age_s: float, max_age_s: float, is_served: bool
) -> None:
    """Also one that says to come from the future is not: the clock was wrong once."""
    snapshots.put("http://a.test/", kept("http://a.test/", "text", age_s=age_s))
    assert (snapshots.get("http://a.test/", max_age_s) is not None) == is_served


def test_a_newer_page_takes_the_place_of_the_older(snapshots: Snapshots) -> None:
    snapshots.put("http://a.test/", kept("http://a.test/", "old", age_s=5))
    snapshots.put("http://a.test/", kept("http://a.test/", "new"))
    snapshots.put("http://a.test/", kept("http://b.test/", "moved"))
    found = snapshots.get("http://a.test/")
    assert found is not None
    assert found.page.text == "moved"


def texts(path: Path) -> list[str]:
    with closing(Database(path, MIGRATIONS)) as database:
        return database.rows(str, "SELECT text FROM content ORDER BY text")


def test_a_text_is_kept_once_and_as_long_as_a_page_has_it(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with closing(Snapshots(path, clock=Clock())) as snapshots:
        snapshots.put("http://a.test/", kept("http://a.test/", "same", age_s=100))
        snapshots.put("http://b.test/", kept("http://b.test/", "same", age_s=50))
        assert texts(path) == ["same"]
        assert snapshots.remove_older_than(70) == 1
        assert snapshots.get("http://a.test/") is None
        assert texts(path) == ["same"]
        snapshots.put("http://b.test/", kept("http://b.test/", "other"))
        assert texts(path) == ["other"]
        assert snapshots.purge() == 1
        assert texts(path) == []
        assert snapshots.purge() == 0


def test_what_was_purged_is_not_in_the_file_any_more(tmp_path: Path) -> None:
    with closing(Snapshots(tmp_path / FILE_NAME, clock=Clock())) as snapshots:
        snapshots.put("http://a.test/", kept("http://a.test/", "a secret " * 1000))
        snapshots.purge()
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())


async def all_on_loopback(host: str, port: int) -> Sequence[str]:
    del host, port
    return ["127.0.0.1"]


def is_loopback(ip: IPv4Address | IPv6Address) -> bool:
    return str(ip) == "127.0.0.1"


@dataclass(slots=True)
class Web:
    """A server and the remembered pages of it."""

    server: WebServer
    pages: RememberedPages
    clock: Clock = field(default_factory=Clock)

    def url(self, path: str = "/", host: str = "a.test") -> str:
        return f"http://{host}:{self.server.port}{path}"

    async def text(self, path: str = "/") -> str:
        return (await self.pages.fetch(self.url(path), ANYWHERE)).page.text


@asynccontextmanager
async def web(
    answers: Mapping[str, Answer | Sequence[Answer]], snapshots: Snapshots | None = None
) -> AsyncIterator[Web]:
    clock = Clock()
    guard = Guard(resolver=all_on_loopback, is_public=is_loopback)
    fetcher = Fetcher(guard, spacing=HostSpacing(0), clock=clock, read=read_in_thread)
    pages = RememberedPages(fetcher, snapshots or Snapshots(None, clock=clock))
    async with serve(answers) as server:
        try:
            yield Web(server, pages, clock)
        finally:
            await pages.close()


def test_a_page_is_fetched_once_within_a_day() -> None:
    async def check() -> None:
        async with web({"/": [page("first"), page("second")]}) as there:
            assert await there.text() == "first"
            there.clock.now += DAY_S - 1
            assert await there.text("/#part") == "first"
            there.clock.now += 2
            assert await there.text() == "second"
            assert there.server.connections == 2

    asyncio.run(check())


def test_a_page_is_kept_for_every_address_that_led_to_it() -> None:
    async def check() -> None:
        async with web({"/": redirect("/final"), "/final": page("text")}) as there:
            for path in ("/", "/final", "/"):
                fetched = await there.pages.fetch(there.url(path), ANYWHERE)
                assert fetched.page.url == there.url("/final")
            assert there.server.paths == ["/", "/final"]

    asyncio.run(check())


def test_all_who_ask_at_once_share_one_request() -> None:
    async def check() -> None:
        async with web({"/": page("text")}) as there:
            assert await asyncio.gather(*(there.text() for _ in range(20))) == ["text"] * 20
            assert there.server.connections == 1

    asyncio.run(check())


def test_an_error_is_shared_and_not_remembered() -> None:
    async def check() -> None:
        async with web({"/": [page("", status="404 Not Found"), page("text")]}) as there:
            told = await asyncio.gather(there.text(), there.text(), return_exceptions=True)
            assert [type(error) for error in told] == [WebError, WebError]
            assert there.server.connections == 1
            assert await there.text() == "text"

    asyncio.run(check())


def test_one_who_gives_up_does_not_take_the_page_from_the_others() -> None:
    async def check() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def waits(writer: asyncio.StreamWriter) -> None:
            asked.set()
            await go_on.wait()
            writer.write(page("text"))

        async with web({"/": [waits, page("again")]}) as there:
            first, second = asyncio.create_task(there.text()), asyncio.create_task(there.text())
            await asked.wait()
            first.cancel()
            await asyncio.sleep(0)
            go_on.set()
            assert await second == "text"
            assert first.cancelled()
            assert there.server.connections == 1

    asyncio.run(check())


def test_where_all_gave_up_the_next_one_starts_anew() -> None:
    async def check() -> None:
        asked = asyncio.Event()

        async def hangs(_: asyncio.StreamWriter) -> None:
            asked.set()
            await asyncio.sleep(60)

        async with web({"/": [hangs, page("again")]}) as there:
            first = asyncio.create_task(there.text())
            await asked.wait()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert await there.text() == "again"

    asyncio.run(check())


def test_closing_ends_what_is_under_way() -> None:
    async def check() -> None:
        asked = asyncio.Event()

        async def hangs(_: asyncio.StreamWriter) -> None:
            asked.set()
            await asyncio.sleep(60)

        async with web({"/": hangs}) as there:
            first = asyncio.create_task(there.text())
            await asked.wait()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(check())


def test_a_kept_page_is_served_within_the_domains_only() -> None:
    async def check() -> None:
        async with web({"/final": page("text")}) as there:
            there.server.answers = {"/": redirect(there.url("/final", "b.test")), "/final": page("text")}
            assert await there.text() == "text"
            for domains in (parse_domains(barred=["b.test"]), parse_domains(["a.test"]), parse_domains(["b.test"])):
                with pytest.raises(WebError, match="must not be read here"):
                    await there.pages.fetch(there.url(), domains)
            assert there.server.paths == ["/", "/final", "/", "/"]

    asyncio.run(check())


def test_what_is_no_address_is_refused() -> None:
    async def check() -> None:
        async with web({}) as there:
            with pytest.raises(WebError, match="only http"):
                await there.pages.fetch("file:///etc/passwd", ANYWHERE)

    asyncio.run(check())


def spoil(path: Path, statement: str) -> None:
    with closing(apsw.Connection(str(path))) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE asked",
        "CREATE TRIGGER full BEFORE INSERT ON page BEGIN SELECT RAISE(ABORT, 'no'); END",
    ],
)
def test_a_store_that_fails_costs_a_warning_and_no_page(tmp_path: Path, statement: str) -> None:
    async def check() -> None:
        snapshots = Snapshots(tmp_path / FILE_NAME)
        spoil(tmp_path / FILE_NAME, statement)
        async with web({"/": page("text")}, snapshots) as there:
            fetched = await there.pages.fetch(there.url(), ANYWHERE)
            assert fetched.page.text == "text"
            assert "could not be kept" in fetched.warnings[-1]

    asyncio.run(check())


def test_a_page_that_another_version_kept_in_another_form_is_fetched_again(tmp_path: Path) -> None:
    async def check() -> None:
        clock = Clock()
        snapshots = Snapshots(tmp_path / FILE_NAME, clock=clock)
        async with web({"/": page("text")}, snapshots) as there:
            before = await there.pages.fetch(there.url(), ANYWHERE)
            spoil(tmp_path / FILE_NAME, "UPDATE page SET extras = '{}'")
            again = await there.pages.fetch(there.url(), ANYWHERE)
            assert replace(again, warnings=()) == before
            assert there.server.connections == 2

    asyncio.run(check())


@pytest.mark.parametrize("damage", ["no database", "damaged pages"])
def test_a_file_of_pages_that_is_of_no_use_is_one_warning(tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE_NAME
    if damage == "no database":
        path.write_bytes(b"no database at all" * 1000)
    else:
        Snapshots(path).close()
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))

    async def opened() -> list[tuple[str, ...]]:
        documents = DocumentIndex(None)
        sources = Sources(documents, tmp_path, keep_pages_s=60)
        warnings = []
        for _ in range(2):
            async with sources.open(SourcesSpec(web=True), names_pages=True) as opened:
                warnings.append(opened.warnings)
        await sources.aclose()
        documents.close()
        return warnings

    (warning,), none = asyncio.run(opened())
    assert warning.startswith("pages are kept for this run alone: ")
    assert str(path) in warning
    assert none == ()
