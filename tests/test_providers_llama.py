"""Endpoints against llama-cpp-python's own server, which serves the micro panel on loopback."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

from localfusion.errors import ContextOverflow, MalformedOutput
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
    """The address of a server of the first micro panelist; it has started when it answers."""
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(N_CTX), "--n_threads", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "llama_cpp.server", "--model", str(SHIPPED / "micro-a.gguf"), *options],
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


@pytest.mark.parametrize("is_tools", [False, True], ids=["json_schema", "tools"])
def test_what_a_real_server_does_not_hold_to_its_form_is_an_answer_or_refused(
    llama_server: str, is_tools: bool
) -> None:
    """This server takes `response_format` of the kind `json_schema` and does not keep to it."""
    request = stepwise({"web_search": ()})
    try:
        done = answer_of(ask(remote(llama_server, tools=is_tools, key="", n_ctx=N_CTX), request))
    except MalformedOutput as error:
        assert error.text or "nothing" in error.message
    else:
        assert done.content


def test_a_real_server_says_by_a_code_that_its_window_is_full(llama_server: str) -> None:
    long = (Message("user", "Who keeps Skerry? " * 200),)
    with pytest.raises(ContextOverflow):
        ask(remote(llama_server, key="", n_ctx=100_000), plain(messages=long))
