"""Models that step in: which one and why (pure), and whole runs on the real engine in which one had to."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from localfusion.catalog import Choice, resolve, seated, step_in
from localfusion.cli.cloud import NamedLeave
from localfusion.config import ModelsFile, load_models_file
from localfusion.config.surroundings import packaged_models_file
from localfusion.errors import ConfigError, OutOfMemory
from localfusion.events import Event, FallbackTaken, Generated, MemoryAwaited, RunEnded, RunStarted
from localfusion.messages import (
    AnyModel,
    CloudLeave,
    Fallback,
    FallbackReason,
    ModelSpec,
    PanelistSpec,
    PanelSpec,
    ProviderSpec,
    RemoteModel,
    Substitution,
    local_models,
    with_model,
)
from localfusion.outcome import Outcome
from localfusion.session import open_session
from localfusion.store import RunRequest, Store
from tests.harbour import OPEN_QUESTION, micro_panel, request, surroundings

REMOTE = RemoteModel("far", ProviderSpec("elsewhere", "https://elsewhere.example/v1"), "far-1")
ALWAYS: tuple[FallbackReason, ...] = ("not_installed", "does_not_fit", "died", "timed_out")
ALLOWED = CloudLeave(is_allowed=True)


def local(name: str) -> ModelSpec:
    return ModelSpec(name, Path(f"{name}.gguf"))


@pytest.mark.parametrize(
    ("fallbacks", "reason", "cloud", "expected", "n_left"),
    [
        ((), "died", ALLOWED, None, 0),
        ((Fallback(local("two"), ALWAYS),), "died", CloudLeave(), "two", 0),
        ((Fallback(local("two"), ("timed_out",)),), "died", ALLOWED, None, 0),
        ((Fallback(local("two"), ("timed_out",)), Fallback(local("three"), ("died",))), "died", ALLOWED, "three", 0),
        ((Fallback(REMOTE, ALWAYS), Fallback(local("two"), ALWAYS)), "died", CloudLeave(), "two", 0),
        ((Fallback(REMOTE, ALWAYS), Fallback(local("two"), ALWAYS)), "died", ALLOWED, "far", 1),
        ((Fallback(local("gone"), ALWAYS), Fallback(local("two"), ALWAYS)), "not_installed", ALLOWED, "two", 0),
    ],
)
def test_the_first_that_may_step_in_does(
    fallbacks: tuple[Fallback, ...], reason: FallbackReason, cloud: CloudLeave, expected: str | None, n_left: int
) -> None:
    found = step_in(
        "a",
        local("one"),
        fallbacks,
        reason=reason,
        error="it is so",
        cloud=cloud,
        is_there=lambda model: model.name != "gone",
    )
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.substitution == Substitution("a", "one", expected, reason, "it is so")
        assert (found.model.name, len(found.left)) == (expected, n_left)


CATALOGUE = """
providers:
  elsewhere: {base_url: https://elsewhere.example/v1, key: ELSEWHERE_KEY}
models:
  gone: {hub: {repo: nobody/nothing, file: gone.gguf}}
  here: {shipped: micro-a.gguf, n_ctx: 2048}
  far: {provider: elsewhere, model: far-1, prices: {prompt: 1, completion: 2}}
presets:
  local: {panel: [{model: gone, fallback: [far, here]}], judge: here}
  alone: {panel: [gone, here], judge: here}
  cloud: {panel: [here], judge: {model: gone, fallback: [{model: far, when: [not_installed]}]}}
  only: {panel: [far], judge: here}
"""


@pytest.mark.parametrize(
    ("preset", "cloud", "seat", "judge"),
    [
        ("local", CloudLeave(), "here", "here"),
        ("local", ALLOWED, "far", "here"),
        ("cloud", ALLOWED, "here", "far"),
        ("only", ALLOWED, "far", "here"),
    ],
)
def test_a_missing_file_gives_way(tmp_path: Path, preset: str, cloud: CloudLeave, seat: str, judge: str) -> None:
    panel = resolve(catalogue(tmp_path), Choice(preset, cloud=cloud))
    assert (panel.panelists[0].model.name, panel.judge.model.name) == (seat, judge)
    assert all(found.reason == "not_installed" for found in panel.substitutions)
    assert bool(panel.substitutions) == (preset != "only")


@pytest.mark.parametrize(
    ("choice", "message", "hint"),
    [
        (Choice("alone"), "gone is not here yet", "localfusion models pull gone"),
        (Choice("cloud"), "gone is not here yet", "localfusion models pull gone"),
        (Choice("only"), "a is far at elsewhere, and this run may send nothing to a provider", "--allow-cloud"),
        (Choice(panel=("here",), judge="far"), "judge is far at elsewhere", "--allow-cloud"),
        (Choice("only", cloud=ALLOWED, deterministic=True), "far is a provider's model", "--deterministic"),
    ],
)
def test_what_may_not_step_in_is_said(tmp_path: Path, choice: Choice, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(catalogue(tmp_path), choice)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_deterministic_run_has_no_fallbacks(tmp_path: Path) -> None:
    panel = resolve(catalogue(tmp_path), Choice("local", deterministic=True))
    assert panel.panelists[0].fallback == ()


def test_a_model_that_cannot_be_loaded_gives_way(tmp_path: Path) -> None:
    outcome, heard = asked(tmp_path, with_fallback("a", broken(tmp_path), local_models(micro_panel())[1]))
    assert [(r.id, r.model) for r in outcome.responses] == [("a", "micro-b"), ("b", "micro-b"), ("c", "micro-c")]
    (found,) = outcome.substitutions
    assert (found.id, found.model, found.to, found.reason) == ("a", "broken", "micro-b", "died")
    assert [event.substitution for event in heard if isinstance(event, FallbackTaken)] == [found]
    assert outcome.failed_models == ()


def test_a_judge_that_cannot_be_loaded_gives_way(tmp_path: Path) -> None:
    outcome, heard = asked(tmp_path, with_fallback("judge", broken(tmp_path), local_models(micro_panel())[-1]))
    assert outcome.status == "ok"
    assert outcome.answer
    assert outcome.judge_model == "micro-judge"
    assert [event.substitution.id for event in heard if isinstance(event, FallbackTaken)] == ["judge"]


def test_a_fallback_that_fails_too_gives_way_to_the_next(tmp_path: Path) -> None:
    panel = with_fallback("a", broken(tmp_path), broken(tmp_path, "too"), local_models(micro_panel())[2])
    outcome, _ = asked(tmp_path, panel)
    assert [(found.model, found.to) for found in outcome.substitutions] == [("broken", "too"), ("too", "micro-c")]
    assert outcome.responses[0].model == "micro-c"


def test_a_seat_whose_fallbacks_all_fail_fails_with_the_last_error(tmp_path: Path) -> None:
    outcome, _ = asked(tmp_path, with_fallback("a", broken(tmp_path), broken(tmp_path, "too")))
    assert [(failed.id, failed.model) for failed in outcome.failed_models] == [("a", "too")]
    assert [response.id for response in outcome.responses] == ["b", "c"]


def test_a_model_that_takes_too_long_gives_way(tmp_path: Path) -> None:
    model = replace(local_models(micro_panel())[0], name="slow")
    panel = changed(micro_panel(), "a", lambda seat: replace(seat, model=model, timeout_s=0.001))
    outcome, _ = asked(tmp_path, panel)
    assert outcome.failed_models[0].error == "slow took longer than 0.001 s"

    outcome, _ = asked(tmp_path / "too", changed(panel, "a", lambda seat: replace(seat, fallback=always(REMOTE))))
    assert outcome.failed_models[0].error == "slow took longer than 0.001 s"  # the run allows no provider
    assert outcome.cloud == ()


def test_a_model_that_can_never_fit_gives_way_before_the_run(tmp_path: Path) -> None:
    models = local_models(micro_panel())
    large = replace(models[0], name="large", n_ctx=1_048_576)
    panel = changed(micro_panel(), "a", lambda seat: replace(seat, model=large))
    with pytest.raises(OutOfMemory):
        asked(tmp_path, panel, memory_bytes=2**31)
    fitting = changed(panel, "a", lambda seat: replace(seat, fallback=always(models[1])))
    outcome, heard = asked(tmp_path, fitting, memory_bytes=2**31)
    assert [(found.to, found.reason) for found in outcome.substitutions] == [("micro-b", "does_not_fit")]
    (begun,) = [event for event in heard if isinstance(event, RunStarted)]
    assert begun.panelists["a"] == "micro-b"


def test_each_generation_is_told_and_adds_up(tmp_path: Path) -> None:
    outcome, heard = asked(tmp_path, micro_panel())
    told = [event for event in heard if isinstance(event, Generated)]
    assert {event.id for event in told} == {"a", "b", "c", "judge"}
    assert sum(event.usage.completion_tokens for event in told) == outcome.usage.completion_tokens
    assert sum(event.usage.prompt_tokens for event in told) == outcome.usage.prompt_tokens
    assert {event.provider for event in told} == {""}


def test_a_damaged_file_gives_way_before_the_run(tmp_path: Path) -> None:
    models = catalogue(tmp_path)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(local_models(micro_panel())[0].path.read_bytes()[:500])
    text = (
        (tmp_path / "models.yaml").read_text().replace("hub: {repo: nobody/nothing, file: gone.gguf}", f"path: {cut}")
    )
    (tmp_path / "models.yaml").write_text(text)
    models = load_models_file(tmp_path / "models.yaml", extends=models)
    panel = resolve(models, Choice("local"))
    assert (panel.panelists[0].model.name, panel.substitutions[0].reason) == ("here", "died")
    with pytest.raises(ConfigError, match="damaged"):
        resolve(models, Choice("alone"))


def test_a_file_that_others_sit_on_is_not_loaded_twice(tmp_path: Path) -> None:
    first = local_models(micro_panel())[0]
    same = seated(micro_panel("micro-a", "micro-a", "micro-a"), CloudLeave())
    panel = with_model(same, "a", broken(tmp_path), fallback=always(replace(first, name="again")))
    loaded: list[ModelSpec] = []

    async def run() -> Outcome:
        async with open_session(surroundings(tmp_path / "home")) as session:
            outcome = await session.ask(RunRequest(OPEN_QUESTION, panel, request().sources), emit=lambda _: None)
            loaded.extend(session.scheduler.loaded())
            return outcome

    outcome = asyncio.run(run())
    assert [response.model for response in outcome.responses] == ["again", "micro-a", "micro-a"]
    assert [spec.path.name for spec in loaded].count("micro-a.gguf") == 1


def test_who_waits_for_memory_is_not_timed_out(tmp_path: Path) -> None:
    """Memory for one worker at a time: the last of three seats waits longer than any of them may take."""
    panel = micro_panel()
    for id in ("a", "b", "c"):
        panel = changed(panel, id, lambda seat: replace(seat, timeout_s=30.0))
    outcome, heard = asked(tmp_path, panel, memory_bytes=100 << 20)
    assert outcome.failed_models == ()
    assert any(isinstance(event, MemoryAwaited) for event in heard)


def test_a_resumed_run_takes_what_is_there_now(tmp_path: Path) -> None:
    """A file that is gone gives way, and comes back when it is there again."""
    lent = tmp_path / "lent.gguf"
    models = local_models(micro_panel())
    model = replace(models[0], path=lent, name="lent")
    panel = changed(micro_panel(), "a", lambda seat: replace(seat, model=model, fallback=always(models[1])))
    home = tmp_path / "home"
    found = []
    for is_lent in (False, True):
        if is_lent:
            lent.write_bytes(models[0].path.read_bytes())
        with closing(Store(home)) as store:
            run_id = store.create_run(replace(request(OPEN_QUESTION, panel), seed=3))
            store.append(run_id, RunEnded("interrupted", "cancelled"))
        found.append(asyncio.run(resumed(home, run_id)))
    assert [outcome.responses[0].model for outcome in found] == ["micro-b", "lent"]
    assert [[one.reason for one in outcome.substitutions] for outcome in found] == [["not_installed"], []]


async def resumed(home: Path, run_id: str) -> Outcome:
    async with open_session(surroundings(home)) as session:
        return await session.resume(run_id, emit=lambda _: None)


NOTHING_SAID = NamedLeave(False, None, None)


@pytest.mark.parametrize(
    ("stored", "config", "named", "expected"),
    [
        (CloudLeave(True), "{allow: true}", NOTHING_SAID, CloudLeave(True)),
        (CloudLeave(True), "{allow: false}", NOTHING_SAID, CloudLeave()),
        (CloudLeave(True, 5, None, True), "{max_cost: 2}", NOTHING_SAID, CloudLeave(True, 2, None, True)),
        (CloudLeave(True, 1, 9, True), "{max_cost: 2}", NOTHING_SAID, CloudLeave(True, 1, 9, True)),
        (CloudLeave(True, 1, 9, True), "{}", NamedLeave(False, 3, 99), CloudLeave(True, 3, 99, True)),
        (CloudLeave(), "{}", NamedLeave(True, None, None), CloudLeave(True, None, None, True)),
    ],
)
def test_a_resumed_run_may_send_what_it_might_then_and_may_now(
    tmp_path: Path, stored: CloudLeave, config: str, named: NamedLeave, expected: CloudLeave
) -> None:
    (tmp_path / "config.yaml").write_text(f"cloud: {config}\n")
    assert named.renewed(stored, surroundings(tmp_path), offline=False) == expected
    offline = NamedLeave(False, named.max_cost, named.max_cloud_tokens).renewed(
        stored, surroundings(tmp_path), offline=True
    )
    assert not offline.is_allowed


def asked(folder: Path, panel: PanelSpec, *, memory_bytes: int | None = None) -> tuple[Outcome, list[Event]]:
    """A run on the real engine with this panel, and all that it said."""
    heard: list[Event] = []

    async def run() -> Outcome:
        async with open_session(surroundings(folder / "home"), memory_bytes=memory_bytes) as session:
            return await session.ask(RunRequest(OPEN_QUESTION, panel, request().sources), emit=heard.append)

    return asyncio.run(run()), heard


def with_fallback(id: str, model: AnyModel, *fallbacks: AnyModel) -> PanelSpec:
    """The micro panel with another model on one seat, and models that step in for it."""
    return with_model(micro_panel(), id, model, fallback=always(*fallbacks))


def always(*models: AnyModel) -> tuple[Fallback, ...]:
    return tuple(Fallback(model, ALWAYS) for model in models)


def changed(panel: PanelSpec, id: str, change: Callable[[PanelistSpec], PanelistSpec]) -> PanelSpec:
    seats = tuple(change(seat) if seat.id == id else seat for seat in panel.panelists)
    return replace(panel, panelists=seats)


def broken(folder: Path, name: str = "broken") -> ModelSpec:
    """A sound file of an architecture that llama.cpp has never heard of."""
    model = local_models(micro_panel())[0]
    path = folder / f"{name}.gguf"
    before, key, after = model.path.read_bytes().partition(b"general.architecture")
    path.write_bytes(before + key + after.replace(b"llama", b"lxama", 1))
    return replace(model, name=name, path=path)


def catalogue(folder: Path) -> ModelsFile:
    path = folder / "models.yaml"
    path.write_text(CATALOGUE)
    return load_models_file(path, extends=load_models_file(packaged_models_file()))
