"""From names to a panel: ids, seeds, windows, shared files, and what a wrong name or file is told."""

import dataclasses
import os
import struct
from contextlib import closing
from pathlib import Path

import pytest

from localfusion.catalog import Choice, embedding_of, locate, resolve
from localfusion.catalog.gguf_files import SHIPPED
from localfusion.catalog.installed import Installed, nothing_pulled, pulled_path
from localfusion.catalog.names import file_of
from localfusion.catalog.sharing import AGREED
from localfusion.config import HubEntry, ModelEntry, ModelsFile, load_models_file
from localfusion.config.surroundings import packaged_models_file
from localfusion.errors import ConfigError
from localfusion.messages import ModelSpec, PanelSpec, local_models
from tests.tiny_gguf import write_tiny_gguf

FILE = """\
models:
  one: {path: one.gguf, n_ctx: 1024}
  two: {path: two.gguf}
  same: {path: one.gguf, n_ctx: 4096}
presets:
  pair:
    max_tool_calls: 3
    panel:
      - one
      - model: second
        id: other
        seed: 7
        temperature: 0
        n_ctx: 2048
        max_tool_calls: 2
        persona: Brief.
        tools: {web_search: {max_results: 2}}
    judge: {model: two, max_tokens: 100}
aliases:
  second: two
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def models(tmp_path: Path, tiny: bytes) -> ModelsFile:
    for name in ("one.gguf", "two.gguf", "lone.gguf"):
        (tmp_path / name).write_bytes(tiny)
    return write_models(tmp_path, FILE)


def write_models(folder: Path, text: str) -> ModelsFile:
    path = folder / "models.yaml"
    path.write_text(text)
    return load_models_file(path)


def specs(panel: PanelSpec) -> list[ModelSpec]:
    return list(local_models(panel))


def ids(panel: PanelSpec) -> list[str]:
    return [panelist.id for panelist in panel.panelists]


def test_a_preset_becomes_a_panel(models: ModelsFile) -> None:
    panel = resolve(models, Choice(preset="pair", seed=40))
    first, second = panel.panelists
    assert ids(panel) == ["a", "other"]
    file = Path(models.name).parent / "one.gguf"
    assert isinstance(first.model, ModelSpec)
    assert (first.model.name, first.model.path, first.model.n_ctx) == ("one", file, 1024)
    assert (first.sampling.seed, second.sampling.seed) == (40, 7)
    assert (first.max_tool_calls, second.max_tool_calls) == (3, 2)
    assert (second.sampling.temperature, second.persona, second.tools.search.max_results) == (0, "Brief.", 2)
    assert (panel.judge.model.name, panel.judge.max_tokens) == ("two", 100)


def test_users_of_one_file_share_its_window_and_count_as_sequences(models: ModelsFile) -> None:
    panel = resolve(models, Choice(panel=("one", "same", "one"), judge="one"))
    assert ids(panel) == ["a", "b", "c"]
    assert {(spec.n_seq_max, spec.n_ctx) for spec in specs(panel)} == {(4, 4096)}


def test_one_file_under_three_names_is_one_worker(models: ModelsFile) -> None:
    folder = Path(models.name).parent
    (folder / "link.gguf").symlink_to("one.gguf")
    text = FILE.replace("n_ctx: 1024", "n_ctx: 1024, n_threads: 1")
    models = write_models(folder, text.replace("  two:", "  linked: {path: link.gguf}\n  two:"))
    panel = resolve(models, Choice(panel=("linked", "one", str(folder / "one.gguf")), judge="two"))
    shared = [dataclasses.replace(spec, name="") for spec in specs(panel)[:3]]
    assert shared[0] == shared[1] == shared[2]
    assert (shared[0].path, shared[0].n_seq_max, shared[0].n_threads) == (folder / "one.gguf", 3, 1)
    assert [spec.name for spec in specs(panel)] == ["linked", "one", "one", "two"]


@pytest.mark.parametrize(
    ("setting", "one", "other"),
    [
        ("n_batch", "1024", "512"),
        ("n_ubatch", "256", "512"),
        ("n_threads", "2", "3"),
        ("flash_attn", "false", "true"),
        ("kv_type", "q8_0", "f16"),
        ("n_gpu_layers", "-1", "0"),
    ],
)
def test_users_of_one_file_that_disagree_are_both_named(models: ModelsFile, setting: str, one: str, other: str) -> None:
    file = Path(models.name).parent / "one.gguf"
    text = "models:\n"
    text += f"  mine: {{path: one.gguf, {setting}: {one}}}\n  yours: {{path: one.gguf, {setting}: {other}}}\n"
    with pytest.raises(ConfigError) as caught:
        resolve(write_models(Path(models.name).parent, text), Choice(panel=("mine", "mine"), judge="yours"))
    message = f"a (mine) and judge (yours) use one file with different {setting}, {one} and {other}: {file}"
    assert caught.value.message == message
    assert caught.value.hint.startswith(f"give both the same {setting} in models.yaml")


def test_layers_are_left_to_the_free_memory_of_a_gpu_unless_they_are_named_or_must_not_depend_on_it(
    models: ModelsFile,
) -> None:
    def layers(text: str, *, deterministic: bool = False) -> set[object]:
        text = f"models:\n  mine: {{path: one.gguf{text}}}\n  yours: {{path: one.gguf}}\n"
        choice = Choice(panel=("mine", "yours"), judge="yours", deterministic=deterministic)
        return {spec.n_gpu_layers for spec in specs(resolve(write_models(Path(models.name).parent, text), choice))}

    assert layers("") == {"auto"}
    assert layers("", deterministic=True) == {0}
    for deterministic in (False, True):
        assert layers(", n_gpu_layers: -1", deterministic=deterministic) == {-1}


def test_every_setting_of_a_model_is_shared_or_agreed_on() -> None:
    apart = {"name", "path", "n_ctx", "n_seq_max"}
    assert {field.name for field in dataclasses.fields(ModelSpec)} - apart == set(AGREED)


def test_a_linked_part_of_a_split_keeps_the_name_that_the_others_are_found_by(models: ModelsFile, tiny: bytes) -> None:
    (Path(models.name).parent / "blobs").mkdir()
    (Path(models.name).parent / "blobs" / "1f3a").write_bytes(tiny)
    link = Path(models.name).parent / "big-00001-of-00002.gguf"
    link.symlink_to("blobs/1f3a")
    panel = resolve(models, Choice(panel=(str(link),), judge=str(link)))
    assert {(spec.path, spec.n_seq_max) for spec in specs(panel)} == {(link, 2)}


def test_a_window_left_to_the_model_stays_so(models: ModelsFile) -> None:
    panel = resolve(models, Choice(preset="pair"))
    assert (panel.panelists[1].model.n_ctx, panel.judge.model.n_ctx) == ("auto", "auto")


def test_a_wider_window_that_is_named_is_not_narrowed_by_one_left_to_the_model(models: ModelsFile) -> None:
    for n_ctx in (8192, 16384):
        text = FILE.replace("  two:", f"  wide: {{path: two.gguf, n_ctx: {n_ctx}}}\n  two:")
        panel = resolve(write_models(Path(models.name).parent, text), Choice(panel=("wide", "two"), judge="two"))
        assert {spec.n_ctx for spec in specs(panel)} == {n_ctx}


def test_explicit_fields_win_over_the_preset(models: ModelsFile) -> None:
    panel = resolve(models, Choice(preset="pair", panel=("second",), judge="one", max_tool_calls=9))
    assert [panelist.model.name for panelist in panel.panelists] == ["second"]
    assert panel.panelists[0].max_tool_calls == 9
    assert panel.judge.model.name == "one"


def test_a_file_may_stand_for_a_model(models: ModelsFile) -> None:
    file = str(Path(models.name).parent / "lone.gguf")
    panel = resolve(models, Choice(panel=(file,), judge=file))
    assert {(spec.name, spec.path) for spec in specs(panel)} == {("lone", Path(file))}


def test_a_shipped_file_lies_in_the_package() -> None:
    assert file_of("x", ModelEntry(shipped="x.gguf"), path_of=nothing_pulled) == SHIPPED / "x.gguf"


@pytest.mark.parametrize(
    ("choice", "message", "hint"),
    [
        (Choice(preset="pear"), "unknown preset 'pear'", "did you mean pair?"),
        (Choice(preset="one"), "unknown preset 'one'", "one is a model"),
        (Choice(preset="pair", panel=("won",)), "unknown model 'won'", "did you mean two or one?"),
        (Choice(preset="pair", judge="pair"), "unknown model 'pair'", "pair is a preset"),
        (Choice(preset="pair", panel=("zzzzzz",)), "unknown model 'zzzzzz'", "are one, two, same, second"),
        (Choice(), "no preset is named", "name one with --preset: pair"),
        (Choice(judge="one"), "no preset is named", "--preset"),
        (Choice(panel=("one",)), "a panel needs a judge", "--judge"),
        (Choice(panel=("one",) * 9, judge="one"), "9 seats", "fewer"),
        (Choice(panel=("one", ""), judge="one"), "is empty", "--panel"),
        (Choice(panel=("one",), judge=""), "is empty", "--panel"),
        (Choice(preset="pair", judge="absent.gguf"), "does not exist: ", "path"),
    ],
)
def test_a_wrong_choice_is_told_what_would_be_right(
    models: ModelsFile, choice: Choice, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(models, choice)
    assert message in caught.value.message
    assert hint in caught.value.hint


def damaged(whole: bytes) -> dict[str, bytes]:
    """Files that cannot be a model, by what is said of them."""

    return {
        " is empty: ": b"",
        " is not a GGUF: ": b"PK\x03\x04zip",
        "it ends within its header": whole[:200],
        "bytes are named in its header": whole[:-1000],
        "an impossible number of entries": whole[:8] + struct.pack("<Q", 1 << 60) + whole[16:],
    }


@pytest.mark.parametrize("says", damaged(b""))
@pytest.mark.parametrize(("panel", "judge"), [(("one", "lone.gguf"), "one"), (("one",), "lone.gguf")])
def test_a_file_that_cannot_be_a_model_is_refused_by_model_and_path(
    models: ModelsFile,
    tiny: bytes,
    says: str,
    panel: tuple[str, ...],
    judge: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(models.name).parent)
    file = Path(models.name).parent / "lone.gguf"
    file.write_bytes(damaged(tiny)[says])
    with pytest.raises(ConfigError) as caught:
        resolve(models, Choice(panel=panel, judge=judge))
    assert caught.value.message.startswith("the file of the model lone ")
    assert says in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.hint == (
        "llama.cpp reads GGUF files only; convert the model, or fetch its GGUF"
        if "not a GGUF" in says
        else "fetch the file again or choose another"
    )


def test_a_folder_or_a_pipe_is_not_a_model(models: ModelsFile) -> None:
    folder, pipe = Path(models.name).parent / "folder.gguf", Path(models.name).parent / "pipe.gguf"
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (folder, pipe):
        with pytest.raises(ConfigError, match="is not a file"):
            resolve(models, Choice(panel=(str(path),), judge="one"))


HUB = HubEntry(repo="maker/thing-GGUF", file="thing.gguf")
HUB_FILE = """\
models:
  thing: {hub: {repo: maker/thing-GGUF, file: thing.gguf}}
  vectors: {path: one.gguf, embeddings: true}
  no-vectors: {path: gone.gguf, embeddings: true}
  far-vectors: {hub: {repo: maker/vectors-GGUF, file: vectors.gguf}, embeddings: true}
  one: {path: one.gguf}
"""


def test_a_home_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert locate(home)(HUB) == home / "models" / "maker" / "thing-GGUF" / "thing.gguf"
    assert not home.exists()


def test_what_was_pulled_or_found_elsewhere_is_used_in_place(models: ModelsFile, tiny: bytes, tmp_path: Path) -> None:
    models, home = write_models(Path(models.name).parent, HUB_FILE), tmp_path / "home"
    choice = Choice(panel=("thing",), judge="thing")
    with pytest.raises(ConfigError, match="thing is not here yet"):
        resolve(models, choice, path_of=locate(home))
    elsewhere = tmp_path / "blobs" / "sha256-77"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(tiny)
    with closing(Installed(home)) as installed:
        installed.record(elsewhere, sha256="77", repo=HUB.repo, file=HUB.file)
    assert {spec.path for spec in specs(resolve(models, choice, path_of=locate(home)))} == {elsewhere}
    ours = locate(tmp_path / "other")(HUB)
    ours.parent.mkdir(parents=True)
    ours.write_bytes(tiny)
    assert {spec.path for spec in specs(resolve(models, choice, path_of=locate(tmp_path / "other")))} == {ours}
    elsewhere.write_bytes(tiny + b" ")
    with pytest.raises(ConfigError, match="was changed since it was verified"):
        resolve(models, choice, path_of=locate(home))


def test_an_embedding_model_is_named_but_takes_no_seat(models: ModelsFile) -> None:
    models = write_models(Path(models.name).parent, HUB_FILE)
    found = embedding_of(models, "vectors", path_of=nothing_pulled)
    assert (found.name, found.path) == ("vectors", Path(models.name).parent / "one.gguf")
    with pytest.raises(ConfigError, match="vectors is an embedding model"):
        resolve(models, Choice(panel=("one",), judge="vectors"))


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("one", "one is no embedding model", "embeddings: true"),
        ("no-vectors", "no-vectors is not here yet", "check its path"),
        ("far-vectors", "far-vectors is not here yet", "localfusion models pull far-vectors"),
        ("won", "unknown model 'won'", "did you mean"),
    ],
)
def test_a_wrong_embedding_model_is_named(models: ModelsFile, name: str, message: str, hint: str) -> None:
    models = write_models(Path(models.name).parent, HUB_FILE)
    with pytest.raises(ConfigError, match=message) as caught:
        embedding_of(models, name, path_of=nothing_pulled)
    assert hint in caught.value.hint


def test_the_presets_that_ship_are_as_they_say() -> None:
    models = load_models_file(packaged_models_file())
    everywhere = {"micro", "general-fast", "general-budget", "general-high", "general-max", "self-fusion"}
    assert set(models.presets) == everywhere
    for name in everywhere - {"micro", "self-fusion"}:
        preset = models.presets[name]
        families = [models.models[seat.model].family for seat in preset.panel]
        assert all(families)
        assert len({*families, models.models[preset.judge.model].family}) == len(families) + 1
    seats = models.presets["self-fusion"].panel
    assert len({seat.model for seat in seats}) == 1
    assert len({seat.persona for seat in seats}) == len(seats)
    assert all(seat.seed is None for seat in seats), "each has the run's seed plus its place"


def test_every_model_that_ships_says_where_it_is_from_and_what_it_may_be_used_for() -> None:
    models = load_models_file(packaged_models_file())
    for name, model in models.models.items():
        assert model.family, name
        assert model.description, name
        assert model.licence or model.licence_note, name
        assert model.licence in ("Apache-2.0", "MIT") or model.licence_note, name
    assert all(provider.base_url.startswith("https://") and provider.key for provider in models.providers.values())


@pytest.mark.parametrize("now", [-1e9, 0.0, 4e12])
def test_a_clock_that_is_wrong_does_no_harm(tmp_path: Path, now: float) -> None:
    """What is verified goes by length and time of the file, whatever the clock says now or said then."""
    hub = HubEntry(repo="lab/tiny", file="tiny.gguf")
    file = pulled_path(tmp_path, hub)
    file.parent.mkdir(parents=True)
    write_tiny_gguf(file)
    os.utime(file, (4e9, 4e9))
    with closing(Installed(tmp_path, clock=lambda: now)) as installed:
        installed.record(file, sha256="0" * 64, repo=hub.repo, file=hub.file)
        assert installed.path_of(hub) == file
        os.utime(file, (1e9, 1e9))
        with pytest.raises(ConfigError, match="was changed since it was verified"):
            installed.path_of(hub)
