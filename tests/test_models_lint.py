"""What `models lint` finds in a file, by line; what it does not mind; how it ends."""

import json
import shutil
from pathlib import Path

import pytest

from localfusion.catalog.doubts import doubts
from localfusion.cli.main import run
from localfusion.config import load_models_file
from localfusion.config.models_file import read
from localfusion.config.surroundings import packaged_models_file
from tests.harbour import SHIPPED

COMMIT, DIGEST = "a" * 40, "b" * 64
GOOD = f"""\
providers:
  far: {{base_url: https://models.example.org/v1, key: FAR_KEY}}
  near: {{base_url: http://127.0.0.1:8080/v1}}
models:
  one: {{path: one.gguf, family: first}}
  two:
    hub: {{repo: maker/two-GGUF, file: two.gguf, revision: {COMMIT}, sha256: {DIGEST}}}
    family: second
  three: {{provider: far, model: x, family: third, prices: {{prompt: 1, completion: 2}}}}
  four: {{provider: near, model: y, family: fourth, prices: {{prompt: 0, completion: 0}}}}
presets:
  mixed:
    panel:
      - {{model: one, fallback: [three], timeout_s: 60}}
      - short
    judge: {{model: three, fallback: [{{model: four, when: [died]}}]}}
  selves: {{panel: [one, one], judge: one}}
aliases:
  short: two
  mine: mixed
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(SHIPPED / "micro-b.gguf", tmp_path / "one.gguf")
    (tmp_path / "page.gguf").write_text("<html>")
    return tmp_path


def found(folder: Path, text: str) -> list[tuple[int, str, str]]:
    path = folder / "models.yaml"
    path.write_text(text)
    return [(doubt.line, doubt.place, doubt.message) for doubt in doubts(read(path))]


def test_a_good_file_has_no_doubts(folder: Path) -> None:
    assert found(folder, GOOD) == []


@pytest.mark.parametrize(
    ("line", "old", "new", "place", "message"),
    [
        (2, ", key: FAR_KEY", "", "providers.far", "no key is named"),
        (2, "https://m", "http://m", "providers.far.base_url", "questions and answers cross the network unencrypted"),
        (5, "one.gguf", "gone.gguf", "models.one", "does not exist"),
        (5, "one.gguf", "page.gguf", "models.one", "is not a GGUF"),
        (5, "path: one.gguf", "shipped: none.gguf", "models.one", "does not exist"),
        (5, "family: first", "licence_note: Not for cats.", "models.one.licence_note", "a notice: Not for cats."),
        (7, f", sha256: {DIGEST}", "", "models.two.hub", "it has no sha256"),
        (7, DIGEST, "abcdef01", "models.two.hub.sha256", "of the sha256 8 digits of 64 are known"),
        (7, COMMIT, "main", "models.two.hub", "the revision main may move"),
        (9, ", prices: {prompt: 1, completion: 2}", "", "models.three", "it has no prices"),
        (13, "family: second", "family: first", "presets.mixed.panel", "2 seats are of one family, first"),
        (14, "fallback: [three]", "fallback: [one]", "presets.mixed.panel.0.fallback.0", "step in for itself"),
        (
            14,
            "fallback: [three], timeout_s: 60",
            "fallback: [{model: three, when: [timed_out]}]",
            "presets.mixed.panel.0.fallback.0",
            "three can never step in: nothing before it fails for timed out",
        ),
        (16, "family: second", "family: third", "presets.mixed.judge", "the judge's family, third, sits on its panel"),
        (
            16,
            "when: [died]",
            "when: [not_installed, does_not_fit]",
            "presets.mixed.judge.fallback.0",
            "four can never step in: nothing before it fails for not installed or does not fit",
        ),
        (17, "judge: one}", "judge: other}", "presets.selves.judge", "the judge's family, first, sits on its panel"),
        (20, "mine: mixed", "mine: two", "aliases.mine", "no preset names mine"),
    ],
)
def test_a_doubt_names_its_line(folder: Path, line: int, old: str, new: str, place: str, message: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if "other}" in new:
        text = text.replace("  two:\n", "  other: {path: one.gguf, family: first}\n  two:\n")
        line += 1
    rows = found(folder, text)
    assert [(row[0], row[1]) for row in rows] == [(line, place)]
    assert message in rows[0][2]


@pytest.mark.parametrize(
    ("address", "is_doubtful"),
    [
        ("http://localhost:1/v1", False),
        ("http://models.localhost/v1", False),
        ("http://[::1]:8/v1", False),
        ("http://127.8.8.8/v1", False),
        ("http://192.168.1.20:8080/v1", True),
        ("http://127.0.0.1.example.org/v1", True),
        ("https://localhost.example.org/v1", True),
    ],
)
def test_only_this_machine_needs_neither_key_nor_encryption(folder: Path, address: str, is_doubtful: bool) -> None:
    rows = found(folder, f"providers:\n  it: {{base_url: '{address}'}}\n")
    assert bool(rows) is is_doubtful


def test_what_a_file_extends_is_not_what_it_is_asked_for(folder: Path) -> None:
    (folder / "above.yaml").write_text("aliases: {quick: general-fast}\n")
    packaged = load_models_file(packaged_models_file())
    assert doubts(read(folder / "above.yaml", extends=packaged)) == ()


def test_of_the_file_that_ships_only_pins_licences_and_the_micro_panel_are_doubtful() -> None:
    rows = doubts(read(packaged_models_file()))
    places = {doubt.place.rpartition(".")[2] for doubt in rows if doubt.place.startswith("models.")}
    assert places == {"hub", "sha256", "licence_note"}
    assert {doubt.place for doubt in rows if not doubt.place.startswith("models.")} == {
        "presets.micro.panel",
        "presets.micro.judge",
    }


def test_lint_ends_as_it_should(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOCALFUSION_HOME", str(folder / "home"))
    monkeypatch.delenv("LOCALFUSION_MODELS", raising=False)
    (folder / "models.yaml").write_text(GOOD)
    (folder / "doubtful.yaml").write_text(GOOD.replace(", key: FAR_KEY", ""))
    (folder / "wrong.yaml").write_text(GOOD.replace("family: first", "familie: first"))
    assert run(["models", "lint", "--strict"]) == 0
    shown = capfd.readouterr()
    assert (shown.out, shown.err.endswith("models.yaml: no warnings\n")) == ("", True)
    assert run(["models", "lint", "doubtful.yaml"]) == 0
    assert "doubtful.yaml:2: providers.far: no key is named" in capfd.readouterr().out
    assert run(["models", "lint", "doubtful.yaml", "--strict", "--json"]) == 2
    shown = capfd.readouterr()
    (warning,) = json.loads(shown.out)["warnings"]
    assert (warning["line"], warning["place"]) == (2, "providers.far")
    assert "doubtful.yaml has 1 warning" in shown.err
    assert run(["models", "lint", "wrong.yaml"]) == 2
    assert 'wrong.yaml:5: unknown key "familie"' in capfd.readouterr().err
    assert run(["models", "lint", "gone.yaml"]) == 2
    assert not (folder / "home").exists()
