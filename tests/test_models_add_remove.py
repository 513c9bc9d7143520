"""Files of the user's own in the catalogue, and models taken off this machine: what is deleted, kept, refused."""

import json
import os
import re
import struct
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest

from localfusion.catalog.installed import Installed, pulled_path
from localfusion.cli.main import run
from localfusion.config import HubEntry, Surroundings, load_models
from tests.harbour import HARBOUR, SHIPPED
from tests.model_stores import in_ollama, sha256
from tests.tiny_gguf import write_tiny_gguf

HUB = HubEntry(repo="maker/thing-GGUF", file="thing.gguf")
SPLIT = HubEntry(repo="maker/large-GGUF", file="large-00001-of-00002.gguf")
FILE = """\
models:
  thing: {hub: {repo: maker/thing-GGUF, file: thing.gguf}}
  large: {hub: {repo: maker/large-GGUF, file: large-00001-of-00002.gguf}}
  own: {path: own.gguf}
"""


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCALFUSION_MODELS", raising=False)
    monkeypatch.setenv("LOCALFUSION_HOME", str(tmp_path / "home"))
    write_tiny_gguf(tmp_path / "own.gguf")
    return tmp_path


def recorded(folder: Path) -> dict[Path, str]:
    with closing(Installed(folder / "home")) as installed:
        return {file.path: file.sha256 for file in installed.files()}


def pulled(folder: Path, hub: HubEntry, *names: str) -> list[Path]:
    """Files under our own folder, as `models pull` leaves them."""
    paths = [pulled_path(folder / "home", hub).with_name(name) for name in names or (hub.file,)]
    with closing(Installed(folder / "home")) as installed:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((folder / "own.gguf").read_bytes())
            installed.record(path, sha256=sha256(path.read_bytes()), repo=hub.repo, file=path.name)
    return paths


def test_a_blob_without_a_suffix_is_added_and_answers(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blob = in_ollama(at_home / "ollama", "host/owner/micro/a", (SHIPPED / "micro-a.gguf").read_bytes())
    assert run(["models", "add", str(blob), "--name", "mine"]) == 0
    digest = sha256(blob.read_bytes())
    assert capfd.readouterr().err == f"added mine, 3 MiB, sha256 {digest}\n"
    assert recorded(at_home) == {blob: digest}
    panel = ["--panel", "mine", "--judge", "micro-judge"]
    assert run(["ask", "--docs", str(HARBOUR), *panel, "--json", "What is the height of Skerry?"]) == 0
    assert json.loads(capfd.readouterr().out)["responses"][0]["model"] == "mine"
    assert run(["models", "remove", "mine", "--yes"]) == 0
    assert capfd.readouterr().err == f"removed mine: freed 0 KiB\nkept {blob}\n"
    assert (blob.exists(), recorded(at_home)) == (True, {})
    assert run(["models", "remove", "mine", "--yes"]) == 2


def test_what_is_added_is_noted_with_its_licence(at_home: Path) -> None:
    write_licensed(at_home / "with.gguf", "mit")
    write_licensed(at_home / "odd.gguf", "\x1b[2Jmit")
    for name in ("own", "with", "odd"):
        assert run(["models", "add", f"{name}.gguf"]) == 0
    models = load_models(Surroundings({"LOCALFUSION_HOME": "home"}, at_home, at_home, "linux")).models
    found = {name: (models[name].path, models[name].licence) for name in ("own", "with", "odd")}
    assert found == {
        "own": (str(at_home / "own.gguf"), ""),
        "with": (str(at_home / "with.gguf"), "mit"),
        "odd": (str(at_home / "odd.gguf"), ""),
    }


def write_licensed(path: Path, licence: str) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license(licence)
    write_weights(writer, "output.weight")


def write_weights(writer: gguf.GGUFWriter, name: str) -> None:
    writer.add_tensor(name, np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_parts(folder: Path, stem: str) -> list[Path]:
    """A GGUF in two parts: the second holds one tensor of its own."""
    paths = [folder / f"{stem}-{part:05}-of-00002.gguf" for part in (1, 2)]
    for number, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        write_weights(writer, f"part{number}.weight")
    return paths


def test_a_split_is_added_whole_or_not_at_all(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = write_parts(at_home, "big")
    assert run(["models", "add", str(second)]) == 2
    assert "is a later part of 2" in capfd.readouterr().err
    assert run(["models", "add", str(first)]) == 0
    assert capfd.readouterr().err.startswith("added big, ")
    assert recorded(at_home) == {path: sha256(path.read_bytes()) for path in (first, second)}
    second.unlink()
    assert run(["models", "add", str(first), "--name", "again"]) == 2
    assert "00002-of-00002.gguf" in capfd.readouterr().err


BAD_FILES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("not there", ("gone.gguf",), "does not exist"),
    ("a folder", ("home",), "is not a file"),
    ("empty", ("empty.gguf",), "is empty"),
    ("a page", ("page.gguf",), "is not a GGUF"),
    ("cut short", ("cut.gguf",), "is damaged"),
    ("a huge count", ("count.gguf",), "an impossible number of entries"),
    ("no path", ("",), "the path is empty"),
    ("a model's name", ("own.gguf", "--name", "micro-a"), "there is a micro-a already"),
    ("a preset's name", ("own.gguf", "--name", "micro"), "there is a micro already"),
    ("an alias's name", ("own.gguf", "--name", "default"), "there is a default already"),
    ("a file's name", ("own.gguf", "--name", "x.gguf"), "x.gguf would be taken for a file"),
    ("no name of its own", ("My Model.gguf",), "'My Model' cannot be a name"),
    ("no name", ("own.gguf", "--name", "two words"), "'two words' cannot be a name"),
    ("a path for a name", ("own.gguf", "--name", "../../x"), "cannot be a name"),
)


@pytest.mark.parametrize(("arguments", "message"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES])
def test_what_cannot_be_added_is_refused_and_nothing_is_known_of_it(
    at_home: Path, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = (at_home / "own.gguf").read_bytes()
    (at_home / "home").mkdir()
    (at_home / "empty.gguf").touch()
    (at_home / "page.gguf").write_text("<html>")
    (at_home / "My Model.gguf").write_bytes(whole)
    (at_home / "cut.gguf").write_bytes(whole[:-1000])
    (at_home / "count.gguf").write_bytes(whole[:8] + struct.pack("<Q", 1 << 60) + whole[16:])
    assert run(["models", "add", *arguments]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], lines
    assert message in lines[0]
    assert recorded(at_home) == {}
    assert not (at_home / "home" / "models.d").exists()


def test_what_was_pulled_is_deleted_with_its_folders(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (at_home / "models.yaml").write_text(FILE)
    (thing,) = pulled(at_home, HUB)
    large = pulled(at_home, SPLIT, SPLIT.file, "large-00002-of-00002.gguf")
    assert run(["models", "remove", "large", "--yes"]) == 0
    assert re.fullmatch(r"removed large: freed \d+ KiB\n", capfd.readouterr().err)
    assert ([path.exists() for path in large], large[0].parent.exists()) == ([False, False], False)
    assert set(recorded(at_home)) == {thing}
    assert thing.exists()


def test_a_file_of_another_store_stays(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (at_home / "models.yaml").write_text(FILE)
    (thing,) = pulled(at_home, HUB)
    blob = in_ollama(at_home / "ollama", "host/owner/thing/tag", thing.read_bytes())
    with closing(Installed(at_home / "home")) as installed:
        installed.record(blob, sha256=sha256(blob.read_bytes()), repo=HUB.repo, file=HUB.file)
    assert run(["models", "remove", "thing", "--yes"]) == 0
    assert f"kept {blob}" in capfd.readouterr().err
    assert (thing.exists(), blob.exists(), recorded(at_home)) == (False, True, {})


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        (FILE, "nothing", "there is no model nothing"),
        (FILE, "default", "there is no model default"),
        (FILE, "micro-a", "micro-a is not for localfusion to remove: it is a part of localfusion"),
        (FILE, "own", "own is not for localfusion to remove: a models.yaml of yours names its file"),
        (FILE, "large", "large is not here"),
        (FILE + "  cloud: {provider: openai, model: x}\n", "cloud", "it is a provider's"),
        (FILE, "thing", "removing thing was not confirmed"),
        (
            FILE + "  again: {hub: {repo: maker/thing-GGUF, file: thing.gguf}}\n",
            "thing",
            "again uses the file of thing",
        ),
        (
            FILE + "  again: {path: home/models/maker/thing-GGUF/thing.gguf}\n",
            "thing",
            "again uses the file of thing",
        ),
        (FILE + "presets:\n  p: {panel: [added], judge: added}\n", "added", "the preset p uses added"),
        (FILE + "aliases: {a: added}\n", "added", "the alias a stands for added"),
    ],
)
def test_what_cannot_be_removed_is_refused_and_stays(
    at_home: Path, file: str, name: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tiny_gguf(at_home / "added.gguf")
    assert run(["models", "add", "added.gguf"]) == 0
    (thing,) = pulled(at_home, HUB)
    (at_home / "models.yaml").write_text(file)
    before = recorded(at_home)
    capfd.readouterr()
    assert run(["models", "remove", name, *([] if "confirmed" in message else ["--yes"])]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], lines
    assert message in lines[0]
    assert (thing.exists(), recorded(at_home)) == (True, before)
    assert (at_home / "home" / "models.d" / "added.yaml").exists()


def test_a_file_that_a_link_leads_to_stays_while_another_entry_uses_it(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (thing,) = pulled(at_home, HUB)
    (at_home / "linked").symlink_to("home")
    monkeypatch.setenv("LOCALFUSION_HOME", str(at_home / "linked"))
    (at_home / "models.yaml").write_text(FILE + f"  again: {{path: {thing}}}\n")
    with closing(Installed(at_home / "linked")) as installed:
        installed.forget(thing)
        path = pulled_path(at_home / "linked", HUB)
        installed.record(path, sha256=sha256(path.read_bytes()), repo=HUB.repo, file=HUB.file)
        assert installed.is_ours(thing)
        assert installed.is_ours(path)
    assert run(["models", "remove", "thing", "--yes"]) == 2
    assert "again uses the file of thing" in capfd.readouterr().err
    assert thing.exists()


def test_a_file_of_the_hub_stays_known_when_it_is_added_and_removed_again(at_home: Path) -> None:
    (at_home / "models.yaml").write_text(FILE)
    (thing,) = pulled(at_home, HUB)
    assert run(["models", "add", str(thing), "--name", "mine"]) == 0
    with closing(Installed(at_home / "home")) as installed:
        assert installed.path_of(HUB) == thing
        assert installed.promised(HUB) is not None
    assert run(["models", "remove", "mine", "--yes"]) == 0
    with closing(Installed(at_home / "home")) as installed:
        assert installed.promised(HUB) is not None


def test_an_added_file_that_was_replaced_is_not_used(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = at_home / "mine.gguf"
    own.write_bytes((SHIPPED / "micro-a.gguf").read_bytes())
    assert run(["models", "add", "mine.gguf"]) == 0
    own.write_bytes((SHIPPED / "micro-b.gguf").read_bytes())
    os.utime(own, (1, 1))
    capfd.readouterr()
    assert run(["ask", "--docs", str(HARBOUR), "--panel", "mine", "--judge", "micro-judge", "What?"]) == 2
    assert "mine.gguf was changed since it was verified" in capfd.readouterr().err


def test_a_name_that_can_be_one_is_suggested(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (at_home / "My Model (1).gguf").write_bytes((at_home / "own.gguf").read_bytes())
    assert run(["models", "add", "My Model (1).gguf"]) == 2
    hint = capfd.readouterr().err.splitlines()[1].removeprefix("hint: ")
    assert hint == "--name My-Model-1-"
    assert run(["models", "add", "My Model (1).gguf", *hint.split()]) == 0


def test_a_bad_note_is_left_out_and_can_be_forgotten(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "add", "own.gguf"]) == 0
    bad = at_home / "home" / "models.d" / "bad.yaml"
    bad.write_text("models: [")
    capfd.readouterr()
    assert run(["models", "list"]) == 0
    shown = capfd.readouterr()
    assert "own  " in shown.out
    assert f"warning: a note is left out: {bad}:1: " in shown.err
    assert f"hint: correct or remove {bad}" in shown.err
    write_tiny_gguf(at_home / "more.gguf")
    assert run(["models", "add", "more.gguf"]) == 0
    assert run(["models", "remove", "bad", "--yes"]) == 0
    assert not bad.exists()
    capfd.readouterr()
    assert run(["models", "list"]) == 0
    assert capfd.readouterr().err == ""


def test_an_added_file_is_verified_by_its_name(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "add", "own.gguf"]) == 0
    assert run(["models", "verify", "own"]) == 0
    assert capfd.readouterr().out == f"ok                {at_home / 'own.gguf'}: as it was verified\n"
    (at_home / "own.gguf").write_bytes((SHIPPED / "micro-a.gguf").read_bytes())
    assert run(["models", "verify", "own"]) == 1
    assert capfd.readouterr().out.startswith("replaced ")


@pytest.mark.parametrize("name", ["micro-a", "micro", "thing", "own"])
def test_a_name_of_which_nothing_can_be_verified_is_refused(
    at_home: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (at_home / "models.yaml").write_text(FILE)
    assert run(["models", "verify", name]) == 2
    assert f"nothing was recorded of {name}" in capfd.readouterr().err
