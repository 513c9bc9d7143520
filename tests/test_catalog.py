"""From names to a panel: ids, seeds, windows, shared files, and what a wrong name is told."""

from pathlib import Path

import pytest

from localfusion.catalog import Choice, resolve
from localfusion.catalog.gguf_files import SHIPPED, file_of
from localfusion.config import ModelEntry, ModelsFile, load_models_file
from localfusion.errors import ConfigError
from localfusion.messages import PanelSpec

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
        tools: {max_results: 2}
    judge: {model: two, max_tokens: 100}
aliases:
  second: two
"""


@pytest.fixture
def models(tmp_path: Path) -> ModelsFile:
    for name in ("one.gguf", "two.gguf", "lone.gguf"):
        (tmp_path / name).write_bytes(b"GGUF and the rest")
    path = tmp_path / "models.yaml"
    path.write_text(FILE)
    return load_models_file(path)


def ids(panel: PanelSpec) -> list[str]:
    return [panelist.id for panelist in panel.panelists]


def test_a_preset_becomes_a_panel(models: ModelsFile) -> None:
    panel = resolve(models, Choice(preset="pair", seed=40))
    first, second = panel.panelists
    assert ids(panel) == ["a", "other"]
    assert (first.model.name, first.model.path, first.model.n_ctx) == ("one", models.folder / "one.gguf", 1024)
    assert (first.sampling.seed, second.sampling.seed) == (40, 7)
    assert (first.max_tool_calls, second.max_tool_calls) == (3, 2)
    assert (second.sampling.temperature, second.persona, second.tools.max_results) == (0, "Brief.", 2)
    assert (panel.judge.model.name, panel.judge.max_tokens) == ("two", 100)


def test_users_of_one_file_share_its_window_and_count_as_sequences(models: ModelsFile) -> None:
    panel = resolve(models, Choice(panel=("one", "same", "one"), judge="one"))
    specs = [*(panelist.model for panelist in panel.panelists), panel.judge.model]
    assert ids(panel) == ["a", "b", "c"]
    assert {(spec.n_seq_max, spec.n_ctx) for spec in specs} == {(4, 4096)}


def test_a_window_left_to_the_model_stays_so(models: ModelsFile) -> None:
    panel = resolve(models, Choice(preset="pair"))
    assert (panel.panelists[1].model.n_ctx, panel.judge.model.n_ctx) == ("auto", "auto")


def test_explicit_fields_win_over_the_preset(models: ModelsFile) -> None:
    panel = resolve(models, Choice(preset="pair", panel=("second",), judge="one", max_tool_calls=9))
    assert [panelist.model.name for panelist in panel.panelists] == ["second"]
    assert panel.panelists[0].max_tool_calls == 9
    assert panel.judge.model.name == "one"


def test_a_file_may_stand_for_a_model(models: ModelsFile) -> None:
    file = str(models.folder / "lone.gguf")
    panel = resolve(models, Choice(panel=(file,), judge=file))
    assert (panel.judge.model.name, panel.judge.model.path) == ("lone", Path(file))


def test_a_shipped_file_lies_in_the_package() -> None:
    assert file_of(ModelEntry(shipped="x.gguf"), folder=Path("/elsewhere")) == SHIPPED / "x.gguf"


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
        (Choice(preset="pair", judge="absent.gguf"), "is missing: ", "path"),
    ],
)
def test_a_wrong_choice_is_told_what_would_be_right(
    models: ModelsFile, choice: Choice, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(models, choice)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"GG", "is not a GGUF"), (b"PK\x03\x04zip", "is not a GGUF")]
)
def test_a_file_that_cannot_be_a_model_is_refused_by_its_path(models: ModelsFile, content: bytes, message: str) -> None:
    file = models.folder / "lone.gguf"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        resolve(models, Choice(panel=("one", str(file)), judge="one"))
    assert message in caught.value.message
    assert str(file) in caught.value.message


def test_a_folder_is_not_a_model(models: ModelsFile) -> None:
    folder = models.folder / "folder.gguf"
    folder.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve(models, Choice(panel=(str(folder),), judge="one"))
