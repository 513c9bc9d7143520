"""The guard: only public addresses are connected to, whatever spelling, redirect or DNS says, and errors have names."""

import asyncio
import inspect
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address

import httpcore
import httpx
import pytest
import trustme

from localfusion.domains import ANYWHERE
from localfusion.errors import WebError
from localfusion.search.addresses import is_public
from localfusion.search.fetcher import Fetcher, Limits
from localfusion.search.guard import FOREIGN, Guard, Lookups, Resolver, named
from localfusion.search.source import Fetched
from localfusion.search.spacing import HostSpacing
from tests.hostile_addresses import HOSTILE
from tests.reading import read_in_thread
from tests.web_server import WebServer, page, redirect, serve

OPEN = "127.0.0.2"
"""Of loopback, and taken for public by `is_public_or_open`; what listens on 127.0.0.1 is still out of reach."""

NOT_OPEN = "is not on the open internet"
SOON = Limits(total_s=5, connect_s=2)
needs_second_address = pytest.mark.skipif(sys.platform != "linux", reason="loopback has one address here")


def is_public_or_open(ip: IPv4Address | IPv6Address) -> bool:
    return str(ip) == OPEN or is_public(ip)


def hosts(**names: Sequence[str]) -> Resolver:
    """A resolver that knows these names, `a_b` for "a.b", and no others."""

    async def resolver(host: str, port: int) -> Sequence[str]:
        del port
        if host.replace(".", "_") not in names:
            raise OSError("no such name")
        return names[host.replace(".", "_")]

    return resolver


@asynccontextmanager
async def guarded(guard: Guard) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(guard, limits=SOON, spacing=HostSpacing(0), read=read_in_thread)
    try:
        yield fetcher
    finally:
        await fetcher.close()


async def refusal(request: Awaitable[Fetched]) -> str:
    with pytest.raises(WebError) as caught:
        await request
    return caught.value.message


def test_no_hostile_address_is_connected_to() -> None:
    async def refusals() -> dict[str, str]:
        async with serve({"/": page("secret")}) as inside, guarded(Guard()) as fetcher:
            urls = [url.format(port=inside.port) for url in HOSTILE]
            told = {url: await refusal(fetcher.fetch(url, ANYWHERE)) for url in urls}
            assert inside.connections == 0
            return told

    told = asyncio.run(refusals())
    assert len(told) >= 100
    wrong = {
        url: message for url, message in told.items() if NOT_OPEN not in message and "cannot be fetched" not in message
    }
    assert wrong == {}
    assert max(map(len, told.values())) < 300


@needs_second_address
def test_no_redirect_to_a_hostile_address_is_followed() -> None:
    async def refusals() -> tuple[dict[str, str], WebServer]:
        guard = Guard(resolver=hosts(a_test=[OPEN]), is_public=is_public_or_open)
        answers: dict[str, bytes] = {}
        async with serve({"/": page("secret")}) as inside, serve(answers, host=OPEN) as web, guarded(guard) as fetcher:
            targets = [url.format(port=inside.port) for url in HOSTILE]
            answers |= {f"/{index}": redirect(url) for index, url in enumerate(targets)}
            told = {
                url: await refusal(fetcher.fetch(f"http://a.test:{web.port}/{index}", ANYWHERE))
                for index, url in enumerate(targets)
            }
            assert inside.connections == 0
            return told, web

    told, web = asyncio.run(refusals())
    assert len(told) == web.connections >= 100
    wrong = {
        url: message for url, message in told.items() if NOT_OPEN not in message and "cannot be fetched" not in message
    }
    assert wrong == {}


MIXED = [
    [OPEN, "127.0.0.1"],
    ["127.0.0.1", OPEN],
    [OPEN, "::1"],
    [OPEN, "10.0.0.1"],
    [OPEN, "::ffff:127.0.0.1"],
    [OPEN, "169.254.169.254"],
    [OPEN, "fe80::1%lo"],
    [OPEN, "2606:2800:220:1::1%lo"],
    [*[OPEN] * 50, "127.0.0.1"],
    [OPEN, "no address"],
    ["127.1"],
    ["127.0.0.1"],
    ["0.0.0.0"],
    ["::"],
    ["::1"],
]


@needs_second_address
@pytest.mark.parametrize("answers", MIXED, ids=lambda answers: " ".join(answers[-2:]))
def test_a_name_with_one_address_that_is_not_public_is_refused(answers: list[str]) -> None:
    async def told() -> str:
        guard = Guard(resolver=hosts(a_test=answers), is_public=is_public_or_open)
        async with serve({"/": page("text")}, host=OPEN) as web, guarded(guard) as fetcher:
            message = await refusal(fetcher.fetch(f"http://a.test:{web.port}/", ANYWHERE))
            assert web.connections == 0
            return message

    assert NOT_OPEN in asyncio.run(told())


@needs_second_address
def test_a_name_is_looked_up_once_a_connection_and_what_was_checked_is_connected_to() -> None:
    """DNS that answers with a public address when it is checked, and with another when it is asked again."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        del port
        asked.append(host)
        return [OPEN] if len(asked) == 1 else ["127.0.0.1"]

    async def fetched() -> None:
        async with (
            serve({"/": page("open")}, host=OPEN) as web,
            serve({"/": page("secret")}, port=web.port) as inside,
            guarded(Guard(resolver=rebinding, is_public=is_public_or_open)) as fetcher,
        ):
            url = f"http://a.test:{web.port}/"
            assert (await fetcher.fetch(url, ANYWHERE)).page.text == "open"
            assert NOT_OPEN in await refusal(fetcher.fetch(url, ANYWHERE))
            assert (web.connections, inside.connections) == (1, 0)

    asyncio.run(fetched())
    assert asked == ["a.test", "a.test"]


@needs_second_address
def test_the_next_address_is_tried_where_the_first_does_not_answer() -> None:
    async def fetched() -> str:
        guard = Guard(resolver=hosts(a_test=["127.0.0.3", OPEN]), is_public=lambda ip: str(ip) in {OPEN, "127.0.0.3"})
        async with serve({"/": page("text")}, host=OPEN) as web, guarded(guard) as fetcher:
            return (await fetcher.fetch(f"http://a.test:{web.port}/", ANYWHERE)).page.text

    assert asyncio.run(fetched()) == "text"


def test_any_client_over_the_guard_is_guarded() -> None:
    async def told() -> str:
        async with serve({"/": page("secret")}) as inside, httpx.AsyncClient(transport=Guard()) as client:
            with pytest.raises(WebError) as caught:
                await client.get(f"http://127.0.0.1:{inside.port}/")
            assert inside.connections == 0
            return caught.value.message

    assert NOT_OPEN in asyncio.run(told())


def is_loopback(ip: IPv4Address | IPv6Address) -> bool:
    return str(ip) == "127.0.0.1"


def test_names_that_are_looked_up_without_end_stop_nothing_else() -> None:
    is_over = threading.Event()

    def silent(host: str, port: int) -> Sequence[str]:
        del host, port
        is_over.wait()
        return ()

    async def fetched() -> int:
        guard = Guard(resolver=Lookups(silent))
        limits = Limits(total_s=0.2)
        fetcher = Fetcher(guard, limits=limits, spacing=HostSpacing(0), read=read_in_thread)
        asked = (fetcher.fetch(f"http://{n}.test/", ANYWHERE) for n in range(40))
        told = await asyncio.gather(*map(refusal, asked))
        assert all("took longer than" in message or "did not answer in time" in message for message in told)
        return await asyncio.to_thread(lambda: 7)

    assert asyncio.run(fetched()) == 7
    waiting = [thread for thread in threading.enumerate() if thread.name == "look-up"]
    assert 0 < len(waiting) < 40
    assert all(thread.daemon for thread in waiting)
    is_over.set()
    for thread in waiting:
        thread.join()


def test_the_system_finds_names_and_says_where_it_finds_none() -> None:
    async def asked() -> Sequence[str]:
        lookups = Lookups()
        with pytest.raises(OSError):  # noqa: PT011 its kind differs from system to system
            await lookups("no-such-name.invalid", 80)
        return await lookups("localhost", 80)

    assert {"127.0.0.1", "::1"} & set(asyncio.run(asked()))


async def slow_resolver(host: str, port: int) -> Sequence[str]:
    del host, port
    await asyncio.sleep(60)
    return []


async def nameless_resolver(host: str, port: int) -> Sequence[str]:
    del port
    raise UnicodeError(host)


@pytest.mark.parametrize(
    ("resolver", "says"),
    [
        (hosts(), "is not found"),
        (hosts(a_test=[]), "is not found"),
        (nameless_resolver, "is not found"),
        (hosts(a_test=["127.0.0.1"]), "refused the connection"),
        (slow_resolver, "did not answer in time"),
    ],
)
def test_a_host_that_cannot_be_reached_is_named(resolver: Resolver, says: str) -> None:
    async def told() -> str:
        async with serve({}) as gone:
            pass
        fetcher = Fetcher(
            Guard(resolver=resolver, is_public=is_loopback), limits=Limits(connect_s=0.2), read=read_in_thread
        )
        message = await refusal(fetcher.fetch(f"http://a.test:{gone.port}/", ANYWHERE))
        await fetcher.close()
        return message

    message = asyncio.run(told())
    assert says in message
    assert "a.test" in message


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize(
    ("host", "trusts", "says"),
    [
        ("good.test", True, ""),
        ("wrong.test", True, "wrong.test cannot prove"),
        ("good.test", False, "good.test cannot prove"),
    ],
)
def test_a_certificate_is_checked_against_the_name(authority: trustme.CA, host: str, trusts: bool, says: str) -> None:
    async def outcome() -> str:
        guard = Guard(
            resolver=hosts(good_test=["127.0.0.1"], wrong_test=["127.0.0.1"]),
            is_public=is_loopback,
            ssl_context=client_tls(authority) if trusts else None,
        )
        async with (
            serve({"/": page("private")}, tls=server_tls(authority, "good.test")) as web,
            guarded(guard) as fetcher,
        ):
            try:
                return (await fetcher.fetch(f"https://{host}:{web.port}/", ANYWHERE)).page.text
            except WebError as error:
                assert web.requests == []
                return error.message

    assert (says or "private") in asyncio.run(outcome())


def test_a_redirect_from_https_to_http_is_refused_and_the_other_way_followed(authority: trustme.CA) -> None:
    async def outcomes() -> tuple[str, str]:
        guard = Guard(resolver=hosts(good_test=["127.0.0.1"]), is_public=is_loopback, ssl_context=client_tls(authority))
        answers = {"/": page("private")}
        async with (
            serve(answers, tls=server_tls(authority, "good.test")) as private,
            serve({"/": redirect(f"https://good.test:{private.port}/"), "/open": page("open")}) as web,
            guarded(guard) as fetcher,
        ):
            answers["/down"] = redirect(f"http://good.test:{web.port}/open")
            up = await fetcher.fetch(f"http://good.test:{web.port}/", ANYWHERE)
            down = await refusal(fetcher.fetch(f"https://good.test:{private.port}/down", ANYWHERE))
            assert web.connections == 1
            return up.page.text, down

    text, told = asyncio.run(outcomes())
    assert text == "private"
    assert "redirects from https to http" in told


def test_https_where_only_http_is_spoken_is_named() -> None:
    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(page("open"))
        writer.close()

    async def told() -> str:
        guard = Guard(resolver=hosts(a_test=["127.0.0.1"]), is_public=is_loopback)
        async with await asyncio.start_server(greet, "127.0.0.1") as web, guarded(guard) as fetcher:
            port = web.sockets[0].getsockname()[1]
            return await refusal(fetcher.fetch(f"https://a.test:{port}/", ANYWHERE))

    assert "no secure connection to a.test" in asyncio.run(told())


def exceptions(*modules: object) -> list[type[Exception]]:
    found = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception)
    }
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


SYSTEM_ERRORS: list[type[Exception]] = [OSError, TimeoutError, ConnectionResetError, BrokenPipeError, ssl.SSLError]


@pytest.mark.parametrize(
    "kind", [*exceptions(httpx, httpcore), *SYSTEM_ERRORS], ids=lambda kind: f"{kind.__module__}.{kind.__name__}"
)
@pytest.mark.parametrize("in_body", [False, True])
def test_every_error_of_the_libraries_has_a_sentence(kind: type[Exception], in_body: bool) -> None:
    assert issubclass(kind, FOREIGN)
    with pytest.raises(WebError) as caught, named("http://a.test/", in_body=in_body):
        raise kind.__new__(kind, "a message")
    assert caught.value.url == "http://a.test/"
    assert 10 < len(caught.value.message) < 120


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (ConnectionRefusedError, "refused the connection"),
        (ssl.SSLCertVerificationError, "certificate"),
        (ssl.SSLError, "secure connection"),
        (TimeoutError, "in time"),
    ],
)
def test_an_error_is_named_by_what_led_to_it(cause: Callable[[], Exception], says: str) -> None:
    with pytest.raises(WebError, match=says), named("http://a.test/"):
        raise httpcore.ConnectError from cause()


def test_our_own_errors_pass_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), named("http://a.test/"):
        raise ZeroDivisionError
