"""What a session searches: named, registered, or the web; documents by meaning; nothing of a network where offline."""

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from localfusion.analysis import ToolStep
from localfusion.cli.sources import NamedSources
from localfusion.errors import ConfigError
from localfusion.events import Event, RunStarted
from localfusion.messages import ModelSpec, SourcesSpec, ToolCall, ToolOptions
from localfusion.search.documents import DocumentIndex
from localfusion.search.opening import NOTHING_NAMED, VECTORS_FILE, in_words
from localfusion.session import DOCUMENTS_FILE, open_session
from localfusion.store import Store
from tests.embedding_gguf import write_embedding_gguf
from tests.harbour import HARBOUR, SHIPPED, request, surroundings

NOTHING = NamedSources((), (), False, (), None, (), (), (), (), False)
SEARCH = ToolCall("web_search", {"query": "keeper of Skerry"})


def call(home: Path, sources: SourcesSpec, tool: ToolCall = SEARCH, *, question: str = "") -> ToolStep:
    async def scenario() -> ToolStep:
        async with open_session(surroundings(home)) as session:
            return await session.call_tool(sources, ToolOptions(), tool, question=question)

    return asyncio.run(scenario())


def fetched(home: Path, sources: SourcesSpec, url: str) -> ToolStep:
    return call(home, sources, ToolCall("web_fetch", {"url": url}), question=f"see {url}")


def searched(home: Path, sources: SourcesSpec, *registered: Path) -> SourcesSpec:
    async def scenario() -> SourcesSpec:
        async with open_session(surroundings(home)) as session:
            session.documents.register(registered)
            return session.searched(sources)[0]

    return asyncio.run(scenario())


def test_what_is_searched_is_named_or_registered_or_the_web(tmp_path: Path) -> None:
    assert searched(tmp_path, SourcesSpec(docs=(HARBOUR,))) == SourcesSpec(docs=(HARBOUR,))
    assert searched(tmp_path, SourcesSpec()) == SourcesSpec(web=True)
    assert searched(tmp_path, SourcesSpec(offline=True)) == SourcesSpec(offline=True)
    assert searched(tmp_path, SourcesSpec(), HARBOUR) == SourcesSpec(docs=(HARBOUR.resolve(),))
    assert searched(tmp_path, SourcesSpec(searxng="http://s"), HARBOUR) == SourcesSpec(searxng="http://s")


def test_nothing_of_a_network_is_built_offline(tmp_path: Path) -> None:
    sources = SourcesSpec(docs=(HARBOUR,), web=True, searxng="http://127.0.0.1:1", kiwix=("http://127.0.0.1:1",))
    found = call(tmp_path, replace(sources, offline=True))
    assert found.ok
    assert found.warnings == ()
    assert {passage.url.partition("/")[0] for passage in found.passages} == {"doc:"}
    page = fetched(tmp_path, replace(sources, offline=True), "https://example.com/")
    assert page.error == "pages of the web need a network, and this run is offline"


def test_offline_and_nothing_named_finds_nothing_and_says_so(tmp_path: Path) -> None:
    found = call(tmp_path, SourcesSpec(offline=True))
    assert (found.ok, found.passages, found.warnings) == (True, (), (NOTHING_NAMED,))


def test_a_page_that_the_user_names_may_be_fetched_whatever_is_searched(tmp_path: Path) -> None:
    page = fetched(tmp_path, SourcesSpec(docs=(HARBOUR,)), "http://127.0.0.1:8080/")
    assert "is not on the open internet" in (page.error or "")
    assert fetched(tmp_path, SourcesSpec(docs=(HARBOUR,)), "doc://harbour/council.md").ok


def test_blocked_domains_of_a_run_hold(tmp_path: Path) -> None:
    sources = SourcesSpec(docs=(HARBOUR,), blocked_domains=("example.com",))
    assert "may not be fetched in this run" in (fetched(tmp_path, sources, "https://www.example.com/").error or "")


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return ModelSpec("meaning", write_embedding_gguf(tmp_path_factory.mktemp("models") / "meaning.gguf"))


def test_documents_are_embedded_once_and_searched_by_meaning_too(tmp_path: Path, embedding: ModelSpec) -> None:
    sources = SourcesSpec(docs=(HARBOUR,), embedding=embedding)
    progress: list[tuple[int, int, str]] = []

    async def prepare() -> tuple[str, ...]:
        async with open_session(surroundings(tmp_path)) as session:
            tell = progress.append
            return await session.prepare(sources, on_progress=lambda done, of, name: tell((done, of, name)))

    assert asyncio.run(prepare()) == ()
    assert [done for done, of, name in progress if name == "passages by meaning" and done == of]
    assert (tmp_path / VECTORS_FILE).exists()
    progress.clear()
    assert asyncio.run(prepare()) == ()
    assert progress == []
    found = call(tmp_path, sources)
    assert found.ok
    assert found.warnings == ()
    assert found.passages


def test_a_file_that_is_no_embedding_model_leaves_words_and_is_said(tmp_path: Path) -> None:
    found = call(tmp_path, SourcesSpec(docs=(HARBOUR,), embedding=ModelSpec("a", SHIPPED / "micro-a.gguf")))
    assert found.passages
    (warning,) = found.warnings
    assert warning.startswith("documents are searched by words alone: ")


def test_a_run_says_what_it_searches_and_keeps_it(tmp_path: Path) -> None:
    assert in_words(SourcesSpec(web=True, engines=("brave",))) == ("the web (brave)",)
    heard: list[RunStarted] = []

    def hear(event: Event) -> None:
        if isinstance(event, RunStarted):
            heard.append(event)

    async def scenario() -> str:
        async with open_session(surroundings(tmp_path)) as session:
            session.documents.register([HARBOUR])
            asked = replace(request(), sources=NOTHING.spec(surroundings(tmp_path)))
            return (await session.ask(asked, emit=hear)).run_id

    run_id = asyncio.run(scenario())
    assert heard[0].sources == (str(HARBOUR.resolve()),)
    assert Store(tmp_path).request(run_id).sources.docs == (HARBOUR.resolve(),)


def test_added_folders_are_searched_where_nothing_is_stored_too(tmp_path: Path) -> None:
    async def scenario(*, stored: bool) -> tuple[SourcesSpec, tuple[str, ...]]:
        async with open_session(surroundings(tmp_path), stored=stored) as session:
            if stored:
                session.documents.register([HARBOUR])
            return session.searched(SourcesSpec())

    for stored in (True, False):
        assert asyncio.run(scenario(stored=stored)) == (SourcesSpec(docs=(HARBOUR.resolve(),)), ())


def searched_without(home: Path, gone: Path, *others: Path) -> tuple[SourcesSpec, tuple[str, ...]]:
    """What is searched where `gone` was registered and has gone since."""
    gone.mkdir()
    with closing(DocumentIndex(home / DOCUMENTS_FILE)) as index:
        index.register([gone, *others])
    gone.rmdir()

    async def scenario() -> tuple[SourcesSpec, tuple[str, ...]]:
        async with open_session(surroundings(home)) as session:
            return session.searched(SourcesSpec())

    return asyncio.run(scenario())


def test_an_added_folder_that_is_gone_is_said_and_never_the_web_instead(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    sources, missing = searched_without(tmp_path, gone, HARBOUR)
    assert (sources.docs, sources.web) == ((HARBOUR.resolve(),), False)
    assert missing == (f"{gone.resolve()} was added and is not there now",)
    with pytest.raises(ConfigError, match="is not there now") as refused:
        searched_without(tmp_path / "other", gone)
    assert "docs remove" in refused.value.hint
