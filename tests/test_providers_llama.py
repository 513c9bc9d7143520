"""Endpoints against llama-cpp-python's own server, which serves the micro panel on loopback."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

from localfusion.errors import ProviderError
from localfusion.events import CloudCalled, Event
from localfusion.messages import CloudLeave, Fallback, Message, ModelSpec, local_models, with_model
from localfusion.outcome import Outcome
from localfusion.providers import Spending
from localfusion.session import open_session
from tests.asking import ALLOWED, answer_of, ask, plain, remote, stepwise
from tests.harbour import SHIPPED, micro_panel, request, surroundings

N_CTX = 2048


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="module")
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
    long = (Message("user", "Who keeps Skerry? " * 1000),)
    with pytest.raises(ProviderError, match="empty answer"):
        ask(remote(llama_server, key="", n_ctx=100_000), plain(messages=long))


def test_a_real_server_steps_in_for_a_model_that_cannot_be_loaded(llama_server: str, tmp_path: Path) -> None:
    """A whole run: what it says was sent is all that there was, and without leave nothing is."""
    far = remote(llama_server, tools=True, key="", n_ctx=N_CTX)
    panel = with_model(micro_panel(), "a", unknown_architecture(tmp_path), fallback=(Fallback(far, ("died",)),))
    heard: list[Event] = []

    async def run(leave: CloudLeave) -> Outcome:
        async with open_session(surroundings(tmp_path / "home")) as session:
            asked = replace(request("What is the height of Skerry?", panel), cloud=leave)
            return await session.ask(asked, emit=heard.append)

    outcome = asyncio.run(run(CloudLeave(is_allowed=True)))
    assert outcome.status == "ok"
    assert [(found.id, found.to, found.reason) for found in outcome.substitutions] == [("a", far.name, "died")]
    assert [response.model for response in outcome.responses] == [far.name, "micro-b", "micro-c"]
    (use,) = outcome.cloud
    assert (use.id, use.base_url, use.calls) == ("a", llama_server, sum(isinstance(e, CloudCalled) for e in heard))
    assert use.usage.completion_tokens > 0

    heard.clear()
    outcome = asyncio.run(run(CloudLeave()))
    assert [failed.id for failed in outcome.failed_models] == ["a"]
    assert outcome.cloud == ()
    assert not any(isinstance(event, CloudCalled) for event in heard)


def unknown_architecture(folder: Path) -> ModelSpec:
    """A sound file that llama.cpp cannot load."""
    model = local_models(micro_panel())[0]
    before, key, after = model.path.read_bytes().partition(b"general.architecture")
    path = folder / "broken.gguf"
    path.write_bytes(before + key + after.replace(b"llama", b"lxama", 1))
    return replace(model, name="broken", path=path)
