"""Keys, rates and places: who may ask, how often, how much at a time."""

import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.errors import ConfigError, QueueFull, RequestRefused
from localfusion.server.hosts import host_name, hosts_of, is_loopback
from localfusion.server.keys import FILE_NAME, KeyRing, Keys, load_keys, new_key, save_keys
from localfusion.server.limits import Queue, Rates

CREATED = "2026-01-01T00:00:00+00:00"


@dataclass
class Clock:
    """A clock that is set by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_found_by_itself_and_is_not_kept(tmp_path: Path) -> None:
    secrets = {}
    keys = Keys()
    for name in ("one", "two"):
        secrets[name], entry = new_key(name, created=CREATED, requests_per_minute=7)
        keys = keys.added(entry)
    save_keys(tmp_path, keys)
    text = (tmp_path / FILE_NAME).read_text()
    found = load_keys(tmp_path)
    assert {name: getattr(found.find(secret), "name", None) for name, secret in secrets.items()} == {
        "one": "one",
        "two": "two",
    }
    assert not any(secret in text for secret in secrets.values())
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    for wrong in ("", "lf-", secrets["one"][:-1], secrets["one"] + "x", secrets["one"].upper(), "\udcff"):
        assert found.find(wrong) is None
    assert list(tmp_path.iterdir()) == [tmp_path / FILE_NAME]


def test_a_ring_sees_what_changes_and_stays_closed(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    before = ring.is_closed
    secret, entry = new_key("one", created=CREATED)
    save_keys(tmp_path, Keys((entry,)))
    assert (before, ring.is_closed, ring.find(secret)) == (False, True, entry)
    save_keys(tmp_path, Keys())
    assert ring.find(secret) is None
    (tmp_path / FILE_NAME).unlink()
    assert (ring.is_closed, ring.find(secret)) == (True, None)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": [{"name": "a"}]}', "\xff", '{"keys": 1}'])
def test_a_damaged_file_opens_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="is damaged"):
        load_keys(tmp_path)
    with pytest.raises(ConfigError):
        _ = KeyRing(tmp_path).is_closed


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "a\n", "ä"])
def test_a_name_of_a_key_is_plain(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a key"):
        new_key(name, created=CREATED)


def test_two_keys_cannot_have_one_name_and_only_what_is_there_is_removed() -> None:
    keys = Keys().added(new_key("one", created=CREATED)[1])
    with pytest.raises(ConfigError, match="there is a key one already"):
        keys.added(new_key("one", created=CREATED)[1])
    with pytest.raises(ConfigError, match="there is no key two"):
        keys.removed("two")
    assert not keys.removed("one")


def test_a_rate_is_a_bucket_that_fills() -> None:
    clock = Clock()
    rates = Rates(clock)
    for _ in range(60):
        rates.take("a", 60)
    with pytest.raises(RequestRefused) as caught:
        rates.take("a", 60)
    assert caught.value.retry_after_s == pytest.approx(1)
    rates.take("b", 60)
    rates.take("a", None)
    clock.now = 1.0
    rates.take("a", 60)
    with pytest.raises(RequestRefused):
        rates.take("a", 60)


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 20))
def test_no_minute_has_more_than_twice_the_rate(waits: list[float], per_minute: int) -> None:
    clock, taken = Clock(), list[float]()
    rates = Rates(clock)
    for wait in waits:
        clock.now += wait
        try:
            rates.take("a", per_minute)
        except RequestRefused:
            continue
        taken.append(clock.now)
    for start in taken:
        assert sum(start <= at < start + 60 for at in taken) <= 2 * per_minute


def test_places_are_bounded_and_given_back_once() -> None:
    queue = Queue(3)
    first, second, third = queue.place("a"), queue.place("a"), queue.place("b", 2)
    assert queue.n == 0
    first.take()
    second.take()
    with pytest.raises(QueueFull, match="of this key"):
        queue.place("a", 2).take()
    third.take()
    with pytest.raises(QueueFull):
        queue.place("c").take()
    assert queue.n == 3
    first.release()
    first.release()
    assert queue.n == 2
    del second, third
    assert queue.n == 0


ADMITTED = (
    ("127.0.0.1", (), "localhost:8484", True),
    ("127.0.0.1", (), "127.0.0.1", True),
    ("127.0.0.1", (), "127.9.9.9:1", True),
    ("127.0.0.1", (), "[::1]:8484", True),
    ("127.0.0.1", (), "LOCALHOST.:1", True),
    ("127.0.0.1", (), "evil.example", False),
    ("127.0.0.1", (), "localhost.evil.example", False),
    ("127.0.0.1", (), "192.168.1.5:8484", False),
    ("127.0.0.1", ("Box.lan",), "box.LAN:8484", True),
    ("192.168.1.5", (), "192.168.1.5:8484", True),
    ("0.0.0.0", (), "192.168.1.5:8484", True),
    ("0.0.0.0", (), "evil.example", False),
    ("::", (), "[fe80::1]", True),
    ("127.0.0.1", (), "", False),
    ("127.0.0.1", (), "localhost:0", False),
    ("127.0.0.1", (), "localhost:65536", False),
    ("127.0.0.1", (), "localhost:", False),
    ("127.0.0.1", (), "user@localhost", False),
    ("127.0.0.1", (), "localhost, evil.example", False),
    ("127.0.0.1", (), "[::1", False),
)


@pytest.mark.parametrize(("host", "allowed", "asked", "is_admitted"), ADMITTED)
def test_only_names_of_this_server_are_answered(
    host: str, allowed: tuple[str, ...], asked: str, is_admitted: bool
) -> None:
    assert hosts_of(host, allowed).admits(asked) is is_admitted


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_none(text: str) -> None:
    assert host_name(text) is None or hosts_of("127.0.0.1").admits(text) in (True, False)


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("box", False)]
)
def test_the_loopback_is_told_from_the_rest(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
