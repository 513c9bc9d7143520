"""Addresses of the web: what each spelling means, what is refused, and which IP addresses are public."""

import ipaddress
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.domains import ANYWHERE, parse_domains
from localfusion.errors import NotHere, WebError
from localfusion.search.addresses import MAX_CHARACTERS, follow, is_public, parse_address, require_admitted

SPELLINGS = [
    ("http://example.com", "http://example.com/"),
    ("HTTP://EXAMPLE.COM:80/", "http://example.com/"),
    ("https://example.com.:443/#part", "https://example.com/"),
    ("https://example.com:8443/a", "https://example.com:8443/a"),
    ("http://example.com:/", "http://example.com/"),
    ("http://example.com?q=1#x?y", "http://example.com/?q=1"),
    ("http://example.com/?", "http://example.com/?"),
    ("http://example.com/%7euser/./a/../b", "http://example.com/~user/b"),
    ("http://example.com/%2e%2e/a/..", "http://example.com/"),
    ("http://example.com//a//", "http://example.com//a//"),
    ("http://example.com/%c3%bc/ü?ü=%C3%BC", "http://example.com/%C3%BC/%C3%BC?%C3%BC=%C3%BC"),
    ("http://example.com/100%/a[1]?x[]=|", "http://example.com/100%25/a%5B1%5D?x%5B%5D=%7C"),
    ("http://example.com/a%2Fb", "http://example.com/a%2Fb"),
    ("http://bücher.example/", "http://xn--bcher-kva.example/"),
    ("http://BÜCHER。example/", "http://xn--bcher-kva.example/"),
    ("http://1476065826/", "http://87.250.250.34/"),
    ("http://0x57FAFA22", "http://87.250.250.34/"),
    ("http://0127.0372.0372.042/", "http://87.250.250.34/"),
    ("http://87.16448034/", "http://87.250.250.34/"),
    ("http://87.250.64034/", "http://87.250.250.34/"),
    ("http://[2606:2800:0220:0001:0:0:0:0001]:80/", "http://[2606:2800:220:1::1]/"),
]


@pytest.mark.parametrize(("url", "means"), SPELLINGS)
def test_an_address_has_one_spelling(url: str, means: str) -> None:
    assert parse_address(url).url == means
    assert parse_address(means) == parse_address(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://me:secret@example.com/", "user name"),
        ("http://@example.com/", "user name"),
        ("http://example.com/a b", "white space"),
        ("http://example.com/\n", "control character"),
        ("http://example.com\\a", "backslash"),
        ("http://example.com/\u200b", "control character"),
        ("http://example.com/\ud800", "control character"),
        ("http://example.com:22/", "port 22"),
        ("http://example.com:65536/", "port 65536"),
        ("http://example.com:a/", "malformed"),
        ("http://[fe80::1%25lo]/", "malformed"),
        ("http://[1.2.3.4]/", "malformed"),
        ("http://intranet/", "no host of the internet"),
        ("http://exa mple.com/", "white space"),
        ("http://ex%61mple.com/", "malformed"),
        ("http://-a.example/", "malformed"),
        ("http://a..example/", "malformed"),
        (f"http://{'a' * 64}.example/", "malformed"),
        (f"http://{'a.' * 130}example/", "malformed"),
        (f"http://{'9' * 5000}/", "malformed"),
        ("http://4294967296/", "malformed"),
        ("http://1.2.3.256/", "malformed"),
        ("http://1.2.65536/", "malformed"),
        ("http://08.1.1.1/", "malformed"),
        ("http://1.2.3.4.5/", "malformed"),
        ("http://a.0x/", "malformed"),
        (f"http://example.com/{'a' * MAX_CHARACTERS}", "longer than"),
    ],
)
def test_what_is_no_address_is_refused_in_a_short_sentence(url: str, says: str) -> None:
    with pytest.raises(WebError, match=says) as caught:
        parse_address(url)
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com/", "doc://folder/file.md", "http:/example.com"])
def test_what_is_no_address_of_the_web_may_be_another_source_s(url: str) -> None:
    with pytest.raises(NotHere, match="only http:// and https://"):
        parse_address(url)


@given(st.text(alphabet=st.sampled_from("aZ09.-_~/?#[]@:%é。ß\\ 2eE\x00\t"), max_size=40))
def test_any_text_is_one_address_or_none(text: str) -> None:
    try:
        address = parse_address(f"http://{text}")
    except WebError:
        return
    assert parse_address(address.url) == address
    url = httpx.Request("GET", address.url, headers={"Host": address.authority}).url
    assert (url.raw_host.decode(), url.port or 80) == (address.host, address.port)
    assert url.raw_path.decode() == address.target
    assert ANYWHERE.admit(address.url)


@pytest.mark.parametrize(
    ("reference", "means"),
    [
        ("", "https://example.com/a/b?q=1"),
        ("c", "https://example.com/a/c"),
        ("../c?x#y", "https://example.com/c?x"),
        ("/c", "https://example.com/c"),
        ("//other.example/c", "https://other.example/c"),
        ("http://other.example", "http://other.example/"),
        ("?q=2", "https://example.com/a/b?q=2"),
    ],
)
def test_a_reference_is_read_from_where_it_stands(reference: str, means: str) -> None:
    assert follow(parse_address("https://example.com/a/b?q=1"), reference).url == means


@pytest.mark.parametrize(
    "reference",
    ["//[::1", "java\nscript:x", "file:///etc/passwd", "a b", "http:///a", "http:a", "\\\\host\\x", "a" * 9999],
)
def test_a_reference_that_is_no_address_is_refused(reference: str) -> None:
    with pytest.raises(WebError):
        follow(parse_address("https://example.com/"), reference)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example:99/obey/me?obey#obey", "the address at a.example cannot be fetched: its port 99"),
        ("https://obey:me@a.example/", "the address at a.example cannot be fetched: it has a user name"),
        ("obey://a.example/", "the address cannot be fetched"),
        ("https://obey me/", "the address cannot be fetched"),
        (f"https://{'obey.' * 40}example:1/", "the address cannot be fetched"),
    ],
)
def test_of_an_address_that_is_refused_only_the_host_is_told(url: str, shown: str) -> None:
    for read in (parse_address, partial(follow, parse_address("https://b.example/"))):
        with pytest.raises(WebError) as caught:
            read(url)
        assert caught.value.message.startswith(shown)
        assert "obey" not in caught.value.message


def test_an_address_outside_of_the_domains_is_refused() -> None:
    address = parse_address("https://example.com/private/x")
    require_admitted(address, ANYWHERE)
    with pytest.raises(WebError, match="must not be read here"):
        require_admitted(address, parse_domains(barred=["example.com/private"]))


PUBLIC = """\
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
168.63.129.15 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.167.255.255
192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 203.0.112.255 203.0.114.0 223.255.255.255
2000:: 2001:200:: 2001:4860:4860::8888 2001:db7:ffff::1 2001:db9:: 2003:: 2606:2800:220:1::1 2a00:1450::1 3ffd::
3fff:1000:: ::ffff:93.184.216.34 ::93.184.216.34 ::ffff:0:93.184.216.34 64:ff9b::93.184.216.34"""

NOT_PUBLIC = """\
0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.255
168.63.129.16 169.254.0.0 169.254.169.254 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.9 192.0.0.192
192.0.2.0 192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.0 203.0.113.255 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::2 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.1.2.3 ::ffff:0:169.254.169.254 64:ff9b::10.0.0.1 64:ff9b:1::5db8:d822
100::1 1::1 4000::1 5f00::1 2001::1 2001:0:5db8:d822::1 2001:1::1 2001:2::1 2001:10::1 2001:20::1 2001:1ff::1
2001:db8::1 2002:5db8:d822::1 2002:7f00:1::1 3ffe::1 3fff::1 3fff:fff::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 febf::1
fec0::1 feff::1 ff00::1 ff02::1 ff0e::1 2606:2800:220:1::1%lo fe80::1%eth0"""


@pytest.mark.parametrize("ip", PUBLIC.split())
def test_an_address_of_the_open_internet_is_public(ip: str) -> None:
    assert is_public(ipaddress.ip_address(ip))


@pytest.mark.parametrize("ip", NOT_PUBLIC.split())
def test_every_other_address_is_not_public(ip: str) -> None:
    assert not is_public(ipaddress.ip_address(ip))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_python_calls_private_is_not_public(ip: IPv4Address | IPv6Address) -> None:
    holds_ipv4 = isinstance(ip, IPv6Address) and int(ip) >> 32 in {0, 0xFFFF, 0xFFFF0000, 0x64FF9B << 64}
    if not holds_ipv4 and (not ip.is_global or ip.is_multicast or ip.is_reserved):
        assert not is_public(ip)


@given(st.ip_addresses(v=4), st.sampled_from(["::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::"]))
def test_an_address_that_holds_another_is_as_that_one_is(inner: IPv4Address, prefix: str) -> None:
    assert is_public(IPv6Address(int(IPv6Address(prefix)) + int(inner))) == is_public(inner)
