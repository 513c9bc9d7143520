"""One turn of a conversation with the real engine: what is answered, what is deliberated, who writes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from localfusion.assistant import Ask, JsonFormat
from localfusion.events import AnswerStarted, Event, PanelistCompleted, RunResumed, RunStarted
from localfusion.messages import Delta, FunctionSpec, Message, ModelSpec, SourcesSpec, WriterSpec
from localfusion.outer import DECIDE, Fusion, Turned, TurnItem, TurnRequest, take_turn
from localfusion.search.documents import DocumentIndex
from localfusion.search.opening import Sources
from localfusion.session import Session, open_session
from localfusion.store import Store
from tests.harbour import OPEN_QUESTION, micro_panel, request, surroundings
from tests.obedient import Obedient, scheduler_of

ASK = Ask((Message("user", OPEN_QUESTION),), max_tokens=24)


@asynccontextmanager
async def opened(home: Path) -> AsyncIterator[Session]:
    async with open_session(surroundings(home), memory_bytes=2**31, parallel=2) as session:
        yield session


def judge_model() -> ModelSpec:
    model = micro_panel().judge.model
    assert isinstance(model, ModelSpec)
    return model


async def taken(session: Session, turn: TurnRequest, *, run_id: str | None = None) -> list[TurnItem]:
    async with aclosing(take_turn(session, turn, run_id=run_id)) as items:
        return [item async for item in items]


def ended(items: list[TurnItem]) -> Turned:
    last = items[-1]
    assert isinstance(last, Turned)
    deltas = [item.text for item in items if isinstance(item, Delta) and item.kind == "content"]
    assert "".join(deltas) == last.content
    return last


def test_without_a_panel_the_model_answers_itself(tmp_path: Path) -> None:
    async def scenario() -> list[TurnItem]:
        async with opened(tmp_path) as session:
            return await taken(session, TurnRequest(judge_model(), ASK))

    turned = ended(asyncio.run(scenario()))
    assert turned.outcome is None
    assert turned.usage == turned.outer_usage
    assert turned.usage.completion_tokens > 0


@pytest.mark.slow
def test_a_deliberation_is_told_and_its_answer_is_the_turn(tmp_path: Path) -> None:
    async def scenario() -> tuple[list[TurnItem], list[TurnItem]]:
        async with opened(tmp_path) as session:
            fusion = Fusion(request(), is_forced=True)
            forced = await taken(session, TurnRequest(judge_model(), ASK, fusion))
            panel = micro_panel()
            writer = WriterSpec(panel.panelists[0].model)
            context = (Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hello."))
            other = replace(fusion.request, panel=replace(panel, writer=writer), context=context)
            return forced, await taken(session, TurnRequest(judge_model(), ASK, Fusion(other, is_forced=True)))

    forced, other = asyncio.run(scenario())
    for items, id in ((forced, "judge"), (other, "writer")):
        turned = ended(items)
        assert turned.outcome is not None
        assert turned.outcome.status == "ok", turned.outcome.error
        assert turned.content == turned.outcome.answer != ""
        assert turned.usage == turned.outcome.usage
        kinds = [type(item) for item in items if isinstance(item, Event)]
        assert kinds.count(PanelistCompleted) == len(micro_panel().panelists)
        assert RunStarted in kinds
        [started] = [item for item in items if isinstance(item, AnswerStarted)]
        assert started.id == id
        assert started.model == turned.model
    assert ended(other).outcome.writer_model == micro_panel().panelists[0].model.name  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_turn_that_nobody_listens_to_keeps_what_was_finished(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as session:
            turn = TurnRequest(judge_model(), ASK, Fusion(request(), is_forced=True))
            run_id = ""
            async with aclosing(take_turn(session, turn)) as items:
                async for item in items:
                    if isinstance(item, RunStarted):
                        run_id = item.run_id
                    if isinstance(item, PanelistCompleted):
                        kept = item.response
                        break
            assert kept in [e.response for e in session.store.events(run_id) if isinstance(e, PanelistCompleted)]
            folder = tmp_path / "now"
            folder.mkdir()
            (folder / "note.md").write_text("The height of Skerry is 40 metres.\n")
            now = replace(turn, fusion=Fusion(replace(request(), sources=SourcesSpec(docs=(folder,)))))
            told = await taken(session, now, run_id=run_id)
            [resumed] = [item for item in told if isinstance(item, RunResumed)]
            assert [str(folder) in source for source in resumed.sources] == [True]
            again = ended(told)
            assert again.outcome is not None
            assert again.outcome.run_id == run_id
            assert again.content == again.outcome.answer != ""

    asyncio.run(scenario())


@pytest.mark.slow
def test_what_stands_behind_an_answer_takes_nothing_from_it(tmp_path: Path) -> None:
    """Calls of the caller's functions, or none: the answer that was cut short stays so."""
    look = FunctionSpec("look", "Look.", {"type": "object", "properties": {"at": {"enum": ["sea", "sky"]}}})

    async def scenario() -> tuple[list[TurnItem], list[TurnItem]]:
        async with opened(tmp_path) as session:
            panel = replace(micro_panel(), writer=WriterSpec(judge_model(), max_tokens=12))
            short = Fusion(replace(request(), panel=panel), is_forced=True)
            ask = replace(ASK, functions=(look,), max_tokens=1)
            wanted = replace(ASK, output=JsonFormat({"enum": ["high", "low"]}))
            return (
                await taken(session, TurnRequest(judge_model(), ask, short)),
                await taken(session, TurnRequest(judge_model(), wanted, short)),
            )

    behind, as_json = map(ended, asyncio.run(scenario()))
    assert behind.outcome is not None
    assert behind.content == behind.outcome.answer != ""
    assert behind.finish_reason == ("tool_calls" if behind.calls else "length")
    assert behind.outer_usage.completion_tokens > 0
    assert as_json.content in ('"high"', '"low"')
    assert as_json.finish_reason == "stop"


def test_the_outer_model_decides_in_one_word_that_nobody_is_told(tmp_path: Path) -> None:
    """Which word it is, is the model's own business: whatever it decides is what is done."""

    async def scenario() -> list[TurnItem]:
        async with opened(tmp_path) as session:
            return await taken(session, TurnRequest(judge_model(), ASK, Fusion(request())))

    items = asyncio.run(scenario())
    turned = ended(items)
    assert turned.outer_usage.completion_tokens > 0
    assert not any(word in turned.content for word in (DECIDE, '"deliberate"', '"answer"'))
    if turned.outcome is None:
        assert not any(isinstance(item, RunStarted) for item in items)
        assert turned.outer_usage.completion_tokens > ASK.max_tokens  # type: ignore[operator]
    else:
        assert turned.content == turned.outcome.answer


def test_a_file_is_loaded_once_by_whichever_of_its_names_it_is_asked(tmp_path: Path) -> None:
    file, link = tmp_path / "model.gguf", tmp_path / "link.gguf"
    file.write_bytes(b"weights")
    link.symlink_to(file)

    async def scenario() -> list[int]:
        scheduler = scheduler_of(Obedient())
        n_loaded = []
        with closing(Store(None)) as store, closing(DocumentIndex(None)) as documents:
            async with aclosing(Sources(documents, None, keep_pages_s=0)) as sources:
                session = Session(store, documents, sources, scheduler)
                for path, n_ctx in asked:
                    async with session.holding(ModelSpec(path.stem, path, n_ctx=n_ctx)):
                        n_loaded.append(len(scheduler.loaded()))
            await scheduler.close()
        return n_loaded

    asked: tuple[tuple[Path, int | Literal["auto"]], ...] = (
        (file, "auto"),
        (link, "auto"),
        (file, "auto"),
        (link, 512),
    )
    assert asyncio.run(scenario()) == [1, 1, 1, 2]
