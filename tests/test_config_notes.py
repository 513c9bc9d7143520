"""What commands note of models: all or nothing, for its owner, and nothing that does not fit."""

import stat
from pathlib import Path

import pytest

from localfusion.config import check_note, load_models, note
from localfusion.config.located import YamlValue
from localfusion.errors import ConfigError
from tests.harbour import surroundings


def test_what_is_noted_is_known_and_private(tmp_path: Path) -> None:
    around = surroundings(tmp_path / "home")
    contents: dict[str, YamlValue] = {"models": {"mine": {"path": "/somewhere/x.gguf", "n_ctx": 4096}}}
    check_note(around, "one", contents)
    assert not list(tmp_path.rglob("*.yaml"))
    file = note(around, "one", contents)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_models(around).models["mine"].n_ctx == 4096
    note(around, "one", {"models": {"yours": {"path": "/somewhere/x.gguf"}}})
    assert "mine" not in load_models(around).models
    assert [path.name for path in file.parent.iterdir()] == ["one.yaml"]


@pytest.mark.parametrize(
    "contents",
    [
        {"models": {"mine": {}}},
        {"models": {"mine": {"path": "x.gguf", "n_batch": 32}}},
        {"presets": {"p": {"panel": ["nobody"], "judge": "nobody"}}},
        {"modles": {}},
    ],
)
def test_what_does_not_fit_changes_nothing(contents: dict[str, YamlValue], tmp_path: Path) -> None:
    around = surroundings(tmp_path / "home")
    for keep in (check_note, note):
        with pytest.raises(ConfigError):
            keep(around, "one", contents)
    assert list(tmp_path.rglob("*.yaml")) == []
