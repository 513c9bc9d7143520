"""What `models list` says of models and presets: where they are, what fits, what is missing. On the real engine."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from localfusion.catalog.installed import Installed, pulled_path
from localfusion.cli.main import run
from localfusion.config import HubEntry
from localfusion.config.surroundings import packaged_models_file
from tests.embedding_gguf import write_embedding_gguf
from tests.harbour import SHIPPED
from tests.model_stores import in_hub_cache, in_lm_studio, in_ollama, sha256

FILE = """\
models:
  mine: {hub: {repo: maker/mine-GGUF, file: mine.gguf}, licence: MIT}
  cached: {hub: {repo: maker/cached-GGUF, file: cached.gguf}}
  blob: {hub: {repo: maker/blob-GGUF, file: blob.gguf}}
  studio: {hub: {repo: maker/studio-GGUF, file: studio.gguf}}
  disk: {hub: {repo: maker/disk-GGUF, file: disk.gguf}}
  changed: {hub: {repo: maker/changed-GGUF, file: changed.gguf}}
  far: {hub: {repo: maker/far-GGUF, file: far.gguf, size_bytes: 5000000000}, licence_note: Not for cats.}
  vague: {hub: {repo: maker/vague-GGUF, file: vague.gguf}}
  huge: {hub: {repo: maker/huge-GGUF, file: huge.gguf, size_bytes: 9000000000000000}}
  own: {path: own.gguf}
  gone: {path: gone.gguf}
  page: {path: page.gguf}
  vectors: {path: vectors.gguf, embeddings: true}
  cloud: {provider: openai, model: x}
presets:
  here: {panel: [mine, {model: own, fallback: [far]}], judge: micro-judge}
  there: {panel: [far, far, cloud], judge: mine}
  somewhere: {panel: [far, vague], judge: cloud}
"""
PLACES = {
    "micro-a": "shipped",
    "mine": "pulled",
    "cached": "Hugging Face",
    "blob": "Ollama",
    "studio": "LM Studio",
    "disk": "elsewhere",
    "changed": None,
    "far": None,
    "vague": None,
    "huge": None,
    "own": "file",
    "gone": None,
    "page": "file",
    "vectors": "file",
    "cloud": "provider",
    "added": "added",
}


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCALFUSION_MODELS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("LOCALFUSION_HOME", str(tmp_path / "home"))
    (tmp_path / "models.yaml").write_text(FILE)
    return tmp_path


def fill(folder: Path) -> None:
    """Files wherever files of models can be."""
    content = (SHIPPED / "micro-b.gguf").read_bytes()
    mine = pulled_path(folder / "home", HubEntry(repo="maker/mine-GGUF", file="mine.gguf"))
    mine.parent.mkdir(parents=True)
    paths = {
        "mine": mine,
        "cached": in_hub_cache(folder / "hub", "maker/cached-GGUF", "cached.gguf", content),
        "blob": in_ollama(folder / "ollama", "host/owner/model/tag", content),
        "studio": in_lm_studio(folder / "user" / ".lmstudio" / "models", "a/b", "studio.gguf", content),
        "disk": folder / "disk.gguf",
        "changed": folder / "changed.gguf",
    }
    for name in ("own.gguf", "added.gguf"):
        shutil.copy(SHIPPED / "micro-b.gguf", folder / name)
    with closing(Installed(folder / "home")) as installed:
        for name, path in paths.items():
            path.write_bytes(content)
            installed.record(path, sha256=sha256(content), repo=f"maker/{name}-GGUF", file=f"{name}.gguf")
    paths["changed"].write_bytes(content + b"\0")
    (folder / "page.gguf").write_text("<html>")
    write_embedding_gguf(folder / "vectors.gguf")
    assert run(["models", "add", "added.gguf"]) == 0


def test_every_model_is_where_it_is(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(at_home)
    capfd.readouterr()
    assert run(["models", "list", "--memory", "1GiB", "--vram", "0", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    models = {model["name"]: model for model in document["models"]}
    assert {name: models[name]["where"] for name in PLACES} == PLACES
    here = ("micro-a", "mine", "cached", "blob", "studio", "disk", "own", "vectors", "added")
    assert all(models[name]["fits"] == "yes" and models[name]["takes_bytes"] > 2**20 for name in here)
    size = (SHIPPED / "micro-b.gguf").stat().st_size
    assert {models[name]["bytes"] for name in ("mine", "cached", "blob", "studio", "disk", "own", "added")} == {size}
    fits = {name: (models[name]["fits"], models[name]["bytes"], models[name]["takes_bytes"]) for name in PLACES}
    assert fits["far"] == ("no", 5_000_000_000, None)
    assert fits["vague"] == ("unknown", None, None)
    assert fits["cloud"] == ("remote", None, None)
    assert models["gone"]["problem"] == f"{at_home / 'gone.gguf'} is not there"
    assert "is not a GGUF" in models["page"]["problem"]
    assert "was changed since it was verified" in models["changed"]["problem"]


def test_presets_say_what_they_lack(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(at_home)
    capfd.readouterr()
    assert run(["models", "list", "--json"]) == 0
    presets = {preset["name"]: preset for preset in json.loads(capfd.readouterr().out)["presets"]}
    keys = ("missing", "pull_bytes", "pull_bytes_is_exact", "providers_models")
    assert [presets["here"][key] for key in keys] == [[], 0, True, []]
    assert [presets["there"][key] for key in keys] == [["far"], 5_000_000_000, True, ["cloud"]]
    assert [presets["somewhere"][key] for key in keys] == [["far", "vague"], 5_000_000_000, False, ["cloud"]]


def test_the_table_says_the_same_in_words(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list", "--memory", "32GiB", "--vram", "0"]) == 0
    rows = {line.split("  ")[0].strip(): " ".join(line.split()) for line in capfd.readouterr().out.splitlines()}
    assert rows["model"] == "model size where fits alone licence"
    assert rows["micro-a"].startswith("micro-a 3 MiB shipped yes, takes ")
    assert rows["mine"] == "mine - - ? MIT"
    assert rows["huge"].endswith("no, its file alone is larger -")
    assert rows["far"].endswith("- *")
    assert rows["cloud"] == "cloud - provider openai - -"
    assert rows["here"] == "here ? mine, own"
    assert rows["there"] == "there more than 4.7 GiB far, mine; asks cloud"
    assert rows["micro"] == "micro - nothing"
    assert not (at_home / "home").exists()


@pytest.mark.usefixtures("at_home")
def test_what_does_not_fit_alone_says_what_it_takes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list", "--memory", "8MiB", "--vram", "0", "--json"]) == 0
    (micro,) = [one for one in json.loads(capfd.readouterr().out)["models"] if one["name"] == "micro-a"]
    assert micro["fits"] == "no"
    assert micro["takes_bytes"] > 8 << 20


@pytest.mark.usefixtures("at_home")
def test_the_table_is_read_on_eighty_columns(capfd: pytest.CaptureFixture[str]) -> None:
    packaged = str(packaged_models_file())
    assert run(["models", "list", "--models", packaged, "--memory", "32GiB", "--vram", "0"]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert any(line.startswith("general-max ") for line in shown)
    assert [line[:36].strip() for line in shown if line.endswith(" qwen3.8-27b")][-1] == ""
