"""What a bundle would change of what is known here: names, notes, files, documents; and how it is taken away again."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from localfusion.catalog.bundle.making import readme
from localfusion.catalog.bundle.manifest import from_bytes
from localfusion.catalog.bundle.selection import select
from localfusion.catalog.installed import MODELS_FOLDER, Installed
from localfusion.config import load_models, note, note_path
from localfusion.errors import ConfigError
from localfusion.messages import Json
from localfusion.search.documents import DocumentIndex
from localfusion.session import DOCUMENTS_FILE
from tests.bundles import REPO, Home, load_bytes, new_key, small_bundle, small_gguf
from tests.harbour import surroundings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_bundle(tmp_path_factory.mktemp("bundle")).read_bytes()


KNOWN: tuple[tuple[dict[str, Json], str], ...] = (
    ({"models": {"own": {"path": "/elsewhere/mine.gguf"}}}, "own is /elsewhere/mine.gguf"),
    ({"models": {"one": {"hub": {"repo": "other/x", "file": "one.gguf"}}}}, "one is other/x/one.gguf"),
    ({"models": {"one": {"hub": {"repo": REPO, "file": "one.gguf", "sha256": "0" * 64}}}}, f"one is {REPO}/one.gguf"),
    ({"presets": {"small": {"panel": ["micro-a"], "judge": "micro-judge"}}}, "small is another panel"),
    ({"aliases": {"other": "micro-a"}}, "other stands for micro-a"),
    ({"aliases": {"one": "micro-a"}}, "one is the name of something else"),
    ({"models": {"small": {"shipped": "micro-a.gguf"}}}, "small is the name of a model"),
)


@pytest.mark.parametrize(("known", "says"), KNOWN, ids=[says for _, says in KNOWN])
def test_a_name_that_means_something_else_is_not_replaced(
    known: dict[str, Json], says: str, bundle: bytes, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    note(surroundings(home), "mine", known)  # type: ignore[arg-type]
    before = Home(home).contents()
    with pytest.raises(ConfigError, match="the bundle means something else") as refused:
        load_bytes(bundle, home)
    assert says in refused.value.message
    assert "--replace" in refused.value.hint
    assert Home(home).contents() == before


def test_a_name_is_replaced_where_that_is_said_and_what_it_was_is_told(
    bundle: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    note(surroundings(home), "a", {"models": {"own": {"path": "/elsewhere/mine.gguf"}}})
    load_bytes(bundle, home, may_replace=True)
    assert "replaced: own is /elsewhere/mine.gguf" in capsys.readouterr().err
    load_bytes(bundle, home)
    assert load_models(surroundings(home)).presets["small"].panel[0].model == "one"


def test_a_note_of_another_name_is_left(bundle: bytes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    mine = note(surroundings(home), "bundle-small", {"models": {"bundle-small": {"path": "/elsewhere/mine.gguf"}}})
    load_bytes(bundle, home)
    assert load_models(surroundings(home)).models["bundle-small"].path == "/elsewhere/mine.gguf"
    assert note_path(surroundings(home), "bundle small") != mine


def test_what_the_users_own_file_uses_is_not_taken_from_it(
    bundle: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second bundle of the same preset, whose panel has other models."""
    second = small_bundle_of_others(tmp_path / "second")
    home = tmp_path / "home"
    load_bytes(bundle, home)
    own = home / "models.yaml"
    own.write_text(yaml.safe_dump({"presets": {"mine": {"panel": ["own"], "judge": "own"}}}))
    before = Home(home).contents()
    with pytest.raises(ConfigError, match=r"models file would be wrong: .*models\.yaml:"):
        load_bytes(second, home, may_replace=True)
    assert Home(home).contents() == before
    own.unlink()
    capsys.readouterr()
    load_bytes(second, home, may_replace=True)
    (left,) = (home / MODELS_FOLDER / "bundled").rglob("*.gguf")
    assert f"no model has {left}" in capsys.readouterr().err


def small_bundle_of_others(folder: Path) -> bytes:
    """A bundle of a preset of the same name without the model `own`, and with other documents."""
    file = small_bundle(folder)
    home = Home(folder / "from")
    whole = yaml.safe_load(home.models_yaml.read_text())
    whole["presets"]["small"] = {"panel": ["one", "other"], "judge": "one"}
    home.models_yaml.write_text(yaml.safe_dump(whole))
    assert home.run("models", "bundle", str(file), "--preset", "small", "--docs", str(folder / "notes")).code == 0
    return file.read_bytes()


def test_documents_of_another_source_are_kept(bundle: bytes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for raw in (bundle, bundle, small_bundle_of_others(tmp_path / "second")):
        load_bytes(raw, home, may_replace=True)
    with closing(DocumentIndex(home / DOCUMENTS_FILE)) as index:
        roots = [root.path for root in index.roots()]
    assert [path.name for path in roots] == ["notes", "notes"]
    assert len(set(roots)) == 2


def test_a_model_that_a_bundle_brought_is_removed(bundle: bytes, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    load_bytes(bundle, home.path)
    (file,) = (home.path / MODELS_FOLDER / "bundled").rglob("*.gguf")
    done = home.run("models", "remove", "own", "--yes")
    assert (done.code, file.exists()) == (0, False), done.err
    again = home.run("models", "remove", "own", "--yes")
    assert (again.code, "load the bundle again" in again.err) == (2, True)
    load_bytes(bundle, home.path)
    assert file.exists()


def test_a_signature_that_nobody_can_look_at_is_said(tmp_path: Path) -> None:
    file = small_bundle(tmp_path / "made", "--sign", str(new_key(tmp_path / "key")))
    without = ("env", f"PATH={tmp_path / 'nothing'}")
    done = Home(tmp_path / "home").run("models", "load", str(file), prefix=without)
    assert (done.code, "the signature was not looked at" in done.err) == (0, True), done.err


def test_a_key_is_tried_before_anything_is_read(tmp_path: Path) -> None:
    """The preset is not there either, which is found when models are looked at."""
    done = Home(tmp_path / "home").run("models", "bundle", "x.tar", "--preset", "nowhere", "--sign", "no-key")
    assert (done.code, "cannot be signed with no-key" in done.err) == (2, True)


@pytest.mark.parametrize(("repo", "file"), [("a/b", "sub/.x.gguf"), ("a/b", "a./x.gguf"), ("bundled/b", "x.gguf")])
def test_a_name_that_no_bundle_can_have_is_said(repo: str, file: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    home.add_hub_model(small_gguf(tmp_path / "x.gguf"), file, repo=repo)
    note(
        surroundings(home.path),
        "mine",
        {"models": {"m": {"hub": {"repo": repo, "file": file}}}, "presets": {"p": {"panel": ("m",), "judge": "m"}}},
    )
    with closing(Installed(home.path)) as installed, pytest.raises(ConfigError, match="cannot be carried under its"):
        select(load_models(surroundings(home.path)), "p", installed)


def test_a_manifest_of_a_newer_localfusion_says_so() -> None:
    for version, hint in (("99.1", "update this one"), ("0.0.1", "make or fetch"), ("x", "make or fetch")):
        with pytest.raises(ConfigError) as refused:
            from_bytes(json.dumps({"format": 1, "localfusion": version, "later": 1}).encode())
        assert hint in refused.value.hint


def test_the_readme_installs_the_extra_whose_wheels_are_in() -> None:
    assert b"wheels 'localfusion[zim]'\n" in readme("x.tar", "small", "CPython", extras=("zim",))
    assert b"wheels localfusion\n" in readme("x.tar", "small", "CPython")
