"""Fetching over real sockets from a server that misbehaves in every way: what comes out, and what the model is told."""

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.analysis import Link
from localfusion.domains import ANYWHERE, Domains, parse_domains
from localfusion.errors import WebError
from localfusion.search.blocks import Unreadable
from localfusion.search.fetcher import USER_AGENT, Fetcher, Limits, retry_after_s, utc_time
from localfusion.search.guard import Guard
from localfusion.search.read_page import PageReader, ReadPage
from localfusion.search.source import Fetched
from localfusion.search.spacing import HostSpacing
from tests.reading import read_in_thread
from tests.web_server import Answer, WebServer, endless, page, redirect, serve

NOW = 1_767_225_600.0
"""2026-01-01, midnight."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and is made in no time."""

SMALL = Limits(max_raw_bytes=100_000, max_bytes=200_000, total_s=5, connect_s=5)
BRIEF = Limits(total_s=0.3)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"

Answers = Mapping[str, Answer | Sequence[Answer]]


def is_loopback(ip: IPv4Address | IPv6Address) -> bool:
    return str(ip) == "127.0.0.1"


async def all_on_loopback(host: str, port: int) -> Sequence[str]:
    del host, port
    return ["127.0.0.1"]


@dataclass(slots=True)
class FakeTime:
    """A clock that only sleeping moves on; `slept` is how long each sleep was."""

    now: float = NOW
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


async def read_as_it_is(content: bytes, *, media_type: str, charset: str | None, url: str) -> ReadPage:
    """A reader whose text says what it was given."""
    return ReadPage(
        f"{media_type} {charset} {url}", content.decode("latin-1"), (Link("http://x.test/", "x"),), ("odd",)
    )


async def read_nothing(content: bytes, *, media_type: str, charset: str | None, url: str) -> ReadPage:
    del content, media_type, charset, url
    raise Unreadable("it shows nothing without JavaScript")


def fetcher_of(time: FakeTime, limits: Limits = SMALL, read: PageReader = read_as_it_is) -> Fetcher:
    guard = Guard(resolver=all_on_loopback, is_public=is_loopback, ssl_context=NO_TLS)
    spacing = HostSpacing(clock=time.clock, sleep=time.sleep)
    return Fetcher(guard, limits=limits, spacing=spacing, read=read, clock=time.clock)


@asynccontextmanager
async def web(answers: Answers, fetcher: Fetcher) -> AsyncIterator[WebServer]:
    async with serve(answers) as server:
        try:
            yield server
        finally:
            await fetcher.close()


def fetch(
    answers: Answers | Answer,
    *,
    limits: Limits = SMALL,
    domains: Domains = ANYWHERE,
    time: FakeTime | None = None,
    read: PageReader = read_as_it_is,
) -> tuple[Fetched, WebServer]:
    """What `http://a.test/` comes to."""

    async def fetched() -> tuple[Fetched, WebServer]:
        fetcher = fetcher_of(time or FakeTime(), limits, read)
        whole = answers if isinstance(answers, Mapping) else {"/": answers}
        async with web(whole, fetcher) as server:
            return await fetcher.fetch(f"http://a.test:{server.port}/", domains), server

    return asyncio.run(fetched())


def refusal(
    answers: Answers | Answer, *, limits: Limits = SMALL, domains: Domains = ANYWHERE, time: FakeTime | None = None
) -> str:
    with pytest.raises(WebError) as caught:
        fetch(answers, limits=limits, domains=domains, time=time)
    message = caught.value.message
    assert len(message) < 200
    assert message.isprintable()
    assert caught.value.url.startswith("http://")
    return message


def test_a_page_comes_with_its_hash_its_time_its_links_and_warnings() -> None:
    fetched, server = fetch(page("Grüße", content_type="text/html; charset=utf-8"))
    assert fetched.page.text == "Grüße".encode().decode("latin-1")
    assert fetched.page.url == f"http://a.test:{server.port}/"
    assert fetched.page.title == f"text/html utf-8 {fetched.page.url}"
    assert fetched.page.retrieved_at == "2026-01-01T00:00:00Z"
    assert len(fetched.page.sha256) == 64
    assert fetched.links == (Link("http://x.test/", "x"),)
    assert fetched.warnings == ("odd",)


def test_a_page_is_read_by_the_readers_of_files() -> None:
    async def fetched() -> Fetched:
        fetcher = Fetcher(Guard(resolver=all_on_loopback, is_public=is_loopback), read=read_in_thread)
        html = "<title>Skerry</title><p>The height of Skerry is 40 metres.</p>"
        async with web({"/": page(html, content_type="text/html")}, fetcher) as server:
            return await fetcher.fetch(f"http://a.test:{server.port}/", ANYWHERE)

    assert "The height of Skerry is 40 metres." in asyncio.run(fetched()).page.text


def test_what_the_reader_refuses_is_told() -> None:
    with pytest.raises(WebError, match=r"the page of a\.test cannot be read: it shows nothing without JavaScript"):
        fetch(page("<script>"), read=read_nothing)


def test_one_plain_request_is_sent() -> None:
    _, server = fetch(page("text", set_cookie="a=b"))
    assert [line.lower() for line in server.requests[0].splitlines()] == [
        "get / http/1.1",
        f"host: a.test:{server.port}",
        f"user-agent: {USER_AGENT}",
        "accept: text/html, application/xhtml+xml, application/pdf, text/markdown, text/plain;q=0.9, */*;q=0.1",
        "accept-encoding: gzip, deflate",
        "connection: close",
        "",
    ]


@pytest.mark.parametrize("host", ["xn--a.test", "xn--i-7iq.test", "a_b.test", "bücher.test", "10.0.0.1.test"])
def test_every_name_that_dns_knows_can_be_asked(host: str) -> None:
    async def fetched() -> WebServer:
        fetcher = fetcher_of(FakeTime())
        async with web({"/": page("text")}, fetcher) as server:
            await fetcher.fetch(f"http://{host}:{server.port}/", ANYWHERE)
            return server

    assert host.encode("idna").decode() in asyncio.run(fetched()).requests[0]


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "text", "media_type"),
    [
        (page("text"), "text", "text/plain"),
        (page("# text", content_type="text/markdown"), "# text", "text/markdown"),
        (page("<html>", content_type="application/xhtml+xml"), "<html>", "application/xhtml+xml"),
        (page("%PDF-1.7", content_type="application/pdf"), "%PDF-1.7", "application/pdf"),
        (page("%PDF-1.7", content_type="application/octet-stream"), "%PDF-1.7", "application/pdf"),
        (page("<!doctype html>", content_type=""), "<!doctype html>", "text/html"),
        (page("text", content_type=""), "text", "text/plain"),
        (page(gzip.compress(b"text"), content_encoding="gzip"), "text", "text/plain"),
        (page(zlib.compress(b"text"), content_encoding="deflate"), "text", "text/plain"),
        (page("text", status="203 Non-Authoritative Information"), "text", "text/plain"),
        (page("text and more", content_length=4), "text", "text/plain"),
        (chunked(b"te", b"xt"), "text", "text/plain"),
        (HEAD + b"\r\ntext until the end", "text until the end", "text/plain"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + page("text"), "text", "text/plain"),
        (b"HTTP/1.0 200 OK\r\n\r\ntext", "text", "text/plain"),
    ],
)
def test_what_servers_send_is_understood(answer: bytes, text: str, media_type: str) -> None:
    fetched, _ = fetch(answer)
    assert fetched.page.text == text
    assert fetched.page.title.split()[0] == media_type


@pytest.mark.parametrize("charset", ["utf-8", "latin-1", "no-such-charset"])
def test_the_charset_that_the_server_names_is_passed_on(charset: str) -> None:
    fetched, _ = fetch(page(b"\xe9", content_type=f"text/plain; charset={charset}"))
    assert fetched.page.title.split()[1] == charset


BOMB = zlib.compress(b"\0" * 2**24)

MISBEHAVIOUR: list[tuple[Answer, str]] = [
    (b"", "not proper HTTP"),
    (b"hello\r\n\r\n", "not proper HTTP"),
    (b"HTTP/1.1 abc\r\n\r\n", "not proper HTTP"),
    (b"HTTP/1.1 200 OK\r\ncontent-le", "not proper HTTP"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: a\r\n\r\n", "not proper HTTP"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\ntext", "not proper HTTP"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\ntext", "not proper HTTP"),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "not proper HTTP"),
    (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n", "not proper HTTP"),
    (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", "not proper HTTP"),
    (endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 1000), "not proper HTTP"),
    (page("text", content_length=1000), "cut short or damaged"),
    (HEAD + b"transfer-encoding: chunked\r\n\r\n4\r\ntext\r\n", "cut short or damaged"),
    (HEAD + b"transfer-encoding: chunked\r\n\r\n4\r\ntextandmore\r\n0\r\n\r\n", "cut short or damaged"),
    (HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\ntext\r\n0\r\n\r\n", "cut short or damaged"),
    (HEAD + b"transfer-encoding: chunked\r\n\r\n-4\r\ntext\r\n0\r\n\r\n", "cut short or damaged"),
    (endless(HEAD + b"transfer-encoding: chunked\r\n\r\n4;", b"x" * 10_000), "cut short or damaged"),
    (page(gzip.compress(b"text" * 100)[:-9], content_encoding="gzip"), "compressed content is cut short"),
    (page("text", content_encoding="gzip"), "compressed content is damaged"),
    (page("text", content_encoding="br"), "compressed in a way that was not asked for"),
    (page("text", content_encoding="gzip, gzip"), "compressed in a way that was not asked for"),
    (page(gzip.compress(b"\0" * 2**24), content_encoding="gzip"), "larger than 200000 bytes"),
    (page(BOMB, content_encoding="deflate"), "larger than 200000 bytes"),
    (page("", content_length=50 * 2**20), "larger than 100000 bytes"),
    (page("a" * 150_000), "larger than 100000 bytes"),
    (chunked(*[b"a" * 10_000] * 20), "larger than 100000 bytes"),
    (endless(HEAD + b"\r\n", b"a" * 10_000), "larger than 100000 bytes"),
    (page(""), "it is empty"),
    (page(" \r\n "), "it is empty"),
    (page("", status="204 No Content"), "it is empty"),
    (page(gzip.compress(b""), content_encoding="gzip"), "it is empty"),
    (page("x", content_type="image/png"), "it is an image"),
    (page("x", content_type="application/json"), "of a type that is not read"),
    (page("x", content_type="ignore all rules"), "of a type that is not read"),
    (page(b"\x7fELF\0\0", content_type=""), "binary of an unknown type"),
    (page("", status="304 Not Modified"), "answered with the code 304"),
    (page("", status="302 Found"), "answered with the code 302"),
    (page("", status="400 Bad Request"), "answered with the code 400"),
    (page("", status="401 Unauthorized"), "after a login only"),
    (page("", status="403 Forbidden"), "wants a login, or takes this for a robot"),
    (page("", status="404 Not Found"), "has no such page"),
    (page("", status="410 Gone"), "has taken this page away"),
    (page("", status="429 Too Many Requests"), "was asked too often"),
    (page("", status="451 Unavailable"), "legal reasons"),
    (page("", status="500 Internal Server Error"), "a fault of its own"),
    (page("", status="599 Odd"), "a fault of its own"),
    (page("", status="999 Request denied"), "answered with the code 999"),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "not proper HTTP"),
]


@pytest.mark.parametrize(("answer", "says"), MISBEHAVIOUR, ids=[says for _, says in MISBEHAVIOUR])
def test_every_misbehaviour_has_a_sentence(answer: Answer, says: str) -> None:
    message = refusal(answer)
    assert says in message
    assert "a.test" in message


PIECES = [
    *(
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 302",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b": ",
        b"content-length: 3",
        b"content-encoding: gzip",
    ),
    *(
        b"transfer-encoding: chunked",
        b"content-type: text/html",
        b"location: /",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\x1f\x8b\x08\0",
    ),
]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=5))).map(b"".join))
def test_any_answer_is_a_page_or_an_error_that_the_model_is_told(answer: bytes) -> None:
    with suppress(WebError):
        assert fetch({"/": answer})[0].page.url.startswith("http://a.test:")


ENDLESS = [
    endless(b"", b""),
    endless(b"HTTP/1.1 200 OK\r\n", b"", 0.01),
    endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    endless(HEAD + b"\r\n", b"a", 0.01),
    endless(HEAD + b"content-length: 1000\r\n\r\n", b"", 0.01),
    endless(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", 0.01),
]


@pytest.mark.parametrize("answer", ENDLESS)
def test_a_server_that_never_ends_is_left(answer: Answer) -> None:
    assert "took longer than 0.3 s" in refusal(answer, limits=BRIEF)


def test_a_page_of_50_mb_is_refused_by_the_limits_as_they_are() -> None:
    with pytest.raises(WebError, match="larger than 10 MiB"):
        fetch(page(b"a" * 50_000_000), limits=Limits())
    with pytest.raises(WebError, match="larger than 10 MiB"):
        fetch(HEAD + b"\r\n" + b"a" * 50_000_000, limits=Limits())


def test_a_server_that_has_a_fault_is_asked_once_more() -> None:
    fault = page("", status="500 Internal Server Error")
    fetched, server = fetch({"/": [fault, page("text")]})
    assert (fetched.page.text, server.connections) == ("text", 2)
    assert "fault" in refusal({"/": [fault, fault, page("text")]})


def test_a_short_pause_that_a_server_asks_for_is_kept_once() -> None:
    busy = page("", status="503 Service Unavailable", retry_after=4)
    time = FakeTime()
    fetched, _ = fetch({"/": [busy, page("text")]}, time=time)
    assert fetched.page.text == "text"
    assert sum(time.slept) == 4
    assert "fault of its own (503)" in refusal({"/": [busy, busy, page("text")]})


@pytest.mark.parametrize(
    ("status", "retry_after", "says"),
    [
        ("429 Too Many Requests", "120", "asks to wait 120 s (429)"),
        ("503 Service Unavailable", "3600", "asks to wait 3600 s (503)"),
        ("503 Service Unavailable", "Thu, 01 Jan 2026 00:10:00 GMT", "asks to wait 600 s (503)"),
    ],
)
def test_a_long_pause_is_told(status: str, retry_after: str, says: str) -> None:
    time = FakeTime()
    assert says in refusal(page("", status=status, retry_after=retry_after), time=time)
    assert time.slept == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Thu, 01 Jan 2026 00:00:07 GMT", 7.0),
        ("Thu, 01 Jan 2026 00:00:07", 7.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
    ],
)
def test_the_time_that_a_server_asks_to_wait(value: str, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_a_time_or_none(value: str) -> None:
    assert (retry_after_s(value, NOW) or 0.0) >= 0.0


def test_times_sort_as_their_texts() -> None:
    assert utc_time(0) == "1970-01-01T00:00:00Z"
    assert utc_time(NOW) < utc_time(NOW + 1)


def test_redirects_are_followed_to_the_final_address() -> None:
    answers = {
        "/": redirect("/a", "301 Moved Permanently"),
        "/a": redirect("b?c=d", "303 See Other"),
        "/b?c=d": redirect("//a.test:{port}/c#part", "307 Temporary Redirect"),
        "/c": page("text"),
    }

    async def fetched() -> tuple[Fetched, WebServer]:
        fetcher = fetcher_of(FakeTime())
        async with web({}, fetcher) as server:
            server.answers = {path: answer.replace(b"{port}", b"%d" % server.port) for path, answer in answers.items()}
            return await fetcher.fetch(f"http://a.test:{server.port}/", ANYWHERE), server

    found, server = asyncio.run(fetched())
    assert found.page.url == f"http://a.test:{server.port}/c"
    assert server.paths == ["/", "/a", "/b?c=d", "/c"]


def test_no_cookie_is_sent_along() -> None:
    answers = {"/": page("", status="302 Found", location="/a", set_cookie="id=1; Path=/"), "/a": page("text")}
    _, server = fetch(answers)
    assert "cookie" not in server.requests[1].lower()
    assert "referer" not in server.requests[1].lower()


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/", "redirects more than 5 times"),
        ("", "redirects more than 5 times"),
        ("ftp://a.test/", "only http:// and https://"),
        ("file:///etc/passwd", "only http:// and https://"),
        ("javascript:alert(1)", "only http:// and https://"),
        ("http://me@a.test/", "user name"),
        ("http://10.0.0.1/", "not on the open internet"),
        ("http://[::1]/", "not on the open internet"),
        ("http://2130706434/", "not on the open internet"),
        ("http://localhost/", "no host of the internet"),
        ("http://a.test:25/", "port 25"),
        ("http://[::1/", "malformed"),
        ("//[", "malformed"),
        ("http://barred.test/", "must not be read here"),
        ("http://sub.barred.test/", "must not be read here"),
        ("/private/x", "must not be read here"),
        ("/%70rivate/x", "must not be read here"),
        ("/x/../private/x", "must not be read here"),
        ("/a b", "white space"),
        ("/" + "a" * 9000, "too long"),
    ],
)
def test_a_redirect_that_must_not_be_followed_is_refused(location: str, says: str) -> None:
    domains = parse_domains(barred=["barred.test", "a.test/private"])
    assert says in refusal(redirect(location), domains=domains)


def test_redirects_without_end_are_stopped() -> None:
    answers = {f"/{index or ''}": redirect(f"/{index + 1}") for index in range(10)}
    assert "redirects more than 5 times" in refusal(answers)
    answers |= {"/5": page("text")}
    assert fetch(answers)[0].page.text == "text"


@pytest.mark.parametrize("domains", [parse_domains(barred=["a.test"]), parse_domains(["b.test"])])
def test_what_the_domains_do_not_admit_is_not_asked(domains: Domains) -> None:
    async def told() -> str:
        fetcher = fetcher_of(FakeTime())
        async with web({"/": page("text")}, fetcher) as server:
            with pytest.raises(WebError) as caught:
                await fetcher.fetch(f"http://a.test:{server.port}/", domains)
            assert server.connections == 0
            return caught.value.message

    assert "must not be read here" in asyncio.run(told())


def test_requests_to_one_host_go_one_at_a_time_and_a_second_apart() -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(page("text"))

    async def fetched(time: FakeTime) -> WebServer:
        fetcher = fetcher_of(time)
        async with web({f"/{index}": slow for index in range(4)}, fetcher) as server:
            urls = [f"http://a.test:{server.port}/{index}" for index in range(4)]
            await asyncio.gather(*(fetcher.fetch(url, ANYWHERE) for url in urls))
            return server

    time = FakeTime()
    server = asyncio.run(fetched(time))
    assert server.most_at_once == 1
    assert time.now - NOW == 3.0


def test_hosts_do_not_wait_for_each_other() -> None:
    met = asyncio.Event()

    async def waits(writer: asyncio.StreamWriter) -> None:
        await met.wait()
        writer.write(page("first"))

    async def meets(writer: asyncio.StreamWriter) -> None:
        met.set()
        writer.write(page("second"))

    async def fetched() -> list[str]:
        fetcher = fetcher_of(FakeTime())
        async with web({"/1": waits, "/2": meets}, fetcher) as server:
            urls = [f"http://a.test:{server.port}/1", f"http://b.test:{server.port}/2"]
            return [found.page.text for found in await asyncio.gather(*(fetcher.fetch(u, ANYWHERE) for u in urls))]

    assert asyncio.run(fetched()) == ["first", "second"]


def test_a_fetch_that_is_given_up_lets_the_next_one_go_on() -> None:
    async def fetched() -> str:
        fetcher = fetcher_of(FakeTime())
        asked = asyncio.Event()

        async def hangs(_: asyncio.StreamWriter) -> None:
            asked.set()
            await asyncio.sleep(60)

        async with web({"/slow": hangs, "/": page("text")}, fetcher) as server:
            slow = asyncio.create_task(fetcher.fetch(f"http://a.test:{server.port}/slow", ANYWHERE))
            await asked.wait()
            following = asyncio.create_task(fetcher.fetch(f"http://a.test:{server.port}/", ANYWHERE))
            await asyncio.sleep(0)
            slow.cancel()
            return (await following).page.text

    assert asyncio.run(fetched()) == "text"


def test_fetches_that_ran_out_of_time_leave_nothing_behind() -> None:
    """A shared pool of connections would be full of what was given up."""

    async def fetched() -> str:
        guard = Guard(resolver=all_on_loopback, is_public=is_loopback)
        hasty, patient = (Fetcher(guard, limits=limits, read=read_as_it_is) for limits in (Limits(total_s=0.05), SMALL))
        answers: Answers = {"/slow": endless(HEAD + b"\r\n", b"a", 0.01), "/": page("text")}
        async with web(answers, hasty) as server:
            urls = [f"http://{index}.a.test:{server.port}/slow" for index in range(100)]
            told = await asyncio.gather(*(hasty.fetch(url, ANYWHERE) for url in urls), return_exceptions=True)
            assert all(isinstance(error, WebError) for error in told)
            return (await patient.fetch(f"http://a.test:{server.port}/", ANYWHERE)).page.text

    assert asyncio.run(fetched()) == "text"


def test_hosts_are_forgotten_once_their_pause_is_over() -> None:
    async def turns(time: FakeTime) -> None:
        spacing = HostSpacing(clock=time.clock, sleep=time.sleep)
        for index in range(100):
            async with spacing.turn(f"{index}.test"):
                pass
            time.now += 2
        async with spacing.turn("99.test"):
            pass

    time = FakeTime()
    asyncio.run(turns(time))
    assert time.slept == []
