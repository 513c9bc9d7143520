"""Which addresses rules of domains admit, however they are spelt, and what is no domain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.domains import ANYWHERE, LISTS, ascii_host, both, parse_domains
from localfusion.errors import ConfigError


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("example.com", ("https://example.com/", "http://a.b.example.com/x", "https://EXAMPLE.com.:8443/"), ()),
        ("example.com", (), ("https://notexample.com/", "https://example.com.evil.org/", "https://example.org/")),
        ("*.example.com", ("https://a.example.com/",), ("https://example.com/",)),
        ("example.com/docs", ("https://example.com/docs", "https://www.example.com/docs/a?b"), ()),
        ("example.com/docs", (), ("https://example.com/docsets", "https://example.com/", "https://example.com/a/docs")),
        ("example.com/docs/", ("https://example.com/docs/a",), ("https://example.com/doc",)),
        ("https://example.com/a b", ("https://example.com/a%20b/c",), ()),
        ("bücher.example", ("https://xn--bcher-kva.example/", "https://bücher.example/"), ()),
        ("10.0.0.1", ("http://10.0.0.1/",), ("http://110.0.0.1/",)),
    ],
)
def test_what_a_pattern_covers(pattern: str, covered: tuple[str, ...], not_covered: tuple[str, ...]) -> None:
    allowed, barred = parse_domains(allowed=[pattern]), parse_domains(barred=[pattern])
    for url in covered:
        assert allowed.admit(url)
        assert not barred.admit(url)
    for url in not_covered:
        assert not allowed.admit(url)
        assert barred.admit(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/datasets/perplexity-ai/draco",
        "https://huggingface.co/datasets/perplexity-ai/draco/resolve/main/test.jsonl?download=true",
        "https://huggingface.co//datasets//perplexity-ai/draco/",
        "https://HuggingFace.co/Datasets/Perplexity-AI/DRACO/viewer",
        "https://huggingface.co/data%73ets/perplexity%2Dai/draco",
        "https://huggingface.co/data%2573ets/perplexity-ai/draco",
        "https://huggingface.co/x/../datasets/perplexity-ai/./draco",
        "https://datasets-server.huggingface.co/rows?dataset=perplexity-ai%2Fdraco",
        "https://hf.co/datasets/perplexity-ai/draco",
        "https://web.archive.org/web/2026/https://huggingface.co/datasets/perplexity-ai/draco",
        "https://huggingface-co.translate.goog/datasets/x?_x_tr_sl=en",
        "https://proxy.example/?url=https%253A%252F%252Fhuggingface.co%252Fdatasets%252FPerplexity-AI%252Fdraco",
        "https://github.example/mirror/perplexity-ai/draco.git",
        "https://cache.example/hub/datasets--perplexity-ai--draco/x",
        "https://perplexity-ai--draco.static.hf.space/",
        "https://proxy.example/?q=perplexity-ai//draco",
    ],
)
def test_rubrics_of_benchmarks_are_kept_out_by_name(url: str) -> None:
    assert not parse_domains(barred=["@benchmarks"]).admit(url)
    assert parse_domains(barred=["@benchmarks"]).admit("https://huggingface.co/datasets/squad")


@pytest.mark.parametrize("url", ["https://[::1", "https:///x", "https://", "nonsense", "https://exa mple.com\udc80/"])
def test_what_cannot_be_read_is_not_admitted(url: str) -> None:
    assert not parse_domains(barred=["example.com"]).admit(url)
    assert not ANYWHERE.admit("https://")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "example",
        "http://",
        "*",
        "*.",
        ".com",
        "a..b",
        "exa mple.com",
        "-a.com",
        "@nothing",
        "~text",
        f"{64 * 'x'}.com",
    ],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_domains(allowed=[text])
    assert all(name in refused.value.hint for name in LISTS)


def test_the_nearest_place_decides_what_is_allowed_and_every_place_bars() -> None:
    config = parse_domains(allowed=["a.com", "b.com"], barred=["x.b.com"])
    request = parse_domains(allowed=["b.com"])
    tool = parse_domains(barred=["y.b.com"])
    rules = both(config, request, tool)
    admitted = [url for url in ("a.com", "b.com", "x.b.com", "y.b.com", "z.b.com") if rules.admit(f"https://{url}/")]
    assert admitted == ["b.com", "z.b.com"]


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_a_value_error(text: str) -> None:
    try:
        host = ascii_host(text)
    except ValueError:
        return
    assert host.isascii()
    assert host == host.lower()


@given(st.text(max_size=60))
def test_any_address_is_admitted_or_not(url: str) -> None:
    rules = parse_domains(allowed=["example.com/docs"], barred=["*.example.com"])
    assert rules.admit(url) in (True, False)
