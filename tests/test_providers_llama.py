"""Endpoints against llama-cpp-python's own server, which serves the micro panel on loopback."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

from localfusion.errors import ProviderError
from localfusion.messages import Message
from localfusion.providers import Spending
from tests.asking import ALLOWED, answer_of, ask, plain, remote, stepwise
from tests.harbour import SHIPPED

N_CTX = 512


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def llama_server() -> Iterator[str]:
    """The address of a server of the micro judge, which says something to anything; it has started when it answers."""
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(N_CTX), "--n_threads", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "llama_cpp.server", "--model", str(SHIPPED / "micro-judge.gguf"), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"
    opener = build_opener(ProxyHandler({}))
    try:
        while server.poll() is None:
            try:
                opener.open(f"{url}/models", timeout=5).close()
                break
            except URLError:
                time.sleep(0.1)
        assert server.poll() is None, "the server ended by itself"
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("is_tools", [False, True], ids=["json_schema", "tools"])
def test_text_is_streamed_from_a_real_server(llama_server: str, is_tools: bool) -> None:
    spending = Spending(ALLOWED)
    heard = ask(remote(llama_server, tools=is_tools, key="", n_ctx=N_CTX), plain(max_tokens=24), spending=spending)
    done = answer_of(heard)
    assert heard.content == done.content != ""
    assert len(heard.deltas) > 1
    assert done.usage.prompt_tokens > 0
    assert done.usage.completion_tokens > 0
    assert spending.tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_a_step_of_a_real_server_is_read(llama_server: str) -> None:
    """The micro judge makes no calls of its own accord, so that what it writes is an answer."""
    heard = ask(remote(llama_server, tools=True, key="", n_ctx=N_CTX), stepwise({"web_search": ()}))
    assert answer_of(heard).content == heard.content != ""


def test_a_form_that_a_real_server_does_not_know_is_one_sentence(llama_server: str) -> None:
    """It knows `json_object`, and answers `json_schema` with an error of its own."""
    with pytest.raises(ProviderError) as caught:
        ask(remote(llama_server, key="", n_ctx=N_CTX), stepwise({"web_search": ()}))
    assert caught.value.status == 500
    assert "\n" not in caught.value.message


def test_a_window_that_is_full_at_a_real_server_is_no_answer(llama_server: str) -> None:
    """It begins a stream before it looks at the window, and then says nothing."""
    long = (Message("user", "Who keeps Skerry? " * 200),)
    with pytest.raises(ProviderError, match="empty answer"):
        ask(remote(llama_server, key="", n_ctx=100_000), plain(messages=long))
