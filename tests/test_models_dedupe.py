"""Models that other programs have: found in their stores, known by their hash, used in place, and nothing else."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localfusion.catalog.deduping import Used, candidates, use_in_place
from localfusion.catalog.installed import FILE_NAME, Installed, pulled_path
from localfusion.catalog.stores import Store, find_stores, store_of, stored_files
from localfusion.cli.main import run
from localfusion.config import HubEntry, ModelEntry, ModelsFile, Surroundings
from tests.harbour import HARBOUR, SHIPPED
from tests.model_stores import COMMIT, in_hub_cache, in_lm_studio, in_ollama, sha256
from tests.tiny_gguf import write_tiny_gguf

REPO, FILE = "maker/thing-GGUF", "thing-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def models_of(content: bytes, *, digits: int = 64, file: str = FILE) -> ModelsFile:
    digest = sha256(content)[:digits] or None
    hub = HubEntry(repo=REPO, file=file, sha256=digest, size_bytes=len(content))
    return ModelsFile("models.yaml", {"thing": ModelEntry(hub=hub), "near": ModelEntry(path="/near.gguf")})


def here(folder: Path, **variables: str) -> Surroundings:
    return Surroundings({"LOCALFUSION_HOME": str(folder / "home"), **variables}, folder, folder / "user", "linux")


def used(folder: Path, models: ModelsFile, **variables: str) -> list[Used]:
    found = candidates(models, stored_files(find_stores(here(folder, **variables))))
    with closing(Installed(folder / "home")) as installed:
        return [use_in_place(installed, one) for one in found]


def test_stores_are_where_their_programs_look(tmp_path: Path) -> None:
    user = tmp_path / "user"
    assert [store for store in find_stores(here(tmp_path)) if store.folder.is_relative_to(tmp_path)] == []
    usual = {
        "Hugging Face": user / ".cache" / "huggingface" / "hub",
        "Ollama": user / ".ollama" / "models",
        "LM Studio": user / ".lmstudio" / "models",
    }
    for folder in (*usual.values(), user / ".cache" / "lm-studio" / "models", tmp_path / "hub", tmp_path / "x" / "hub"):
        folder.mkdir(parents=True)
    found = find_stores(here(tmp_path))
    assert {(store.name, store.folder) for store in found} >= set(usual.items())
    assert store_of(usual["Ollama"] / "blobs" / "sha256-1", found) == "Ollama"
    assert store_of(tmp_path / "blobs", found) is None
    for variables, folder in (
        ({"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": "/nowhere"}, tmp_path / "hub"),
        ({"HF_HOME": str(tmp_path / "x")}, tmp_path / "x" / "hub"),
        ({"HF_HOME": "~/.cache/huggingface"}, usual["Hugging Face"]),
        ({"XDG_CACHE_HOME": "~/.cache"}, usual["Hugging Face"]),
    ):
        assert find_stores(here(tmp_path, **variables))[0] == Store("Hugging Face", folder)
    assert Store("Ollama", tmp_path / "x") in find_stores(here(tmp_path, OLLAMA_MODELS=str(tmp_path / "x")))


def hub_cache(folder: Path, content: bytes) -> Path:
    return in_hub_cache(folder / "user" / ".cache" / "huggingface" / "hub", REPO, FILE, content)


def ollama(folder: Path, content: bytes) -> Path:
    return in_ollama(folder / "user" / ".ollama" / "models", "registry.ollama.ai/library/thing/4b", content)


def ollama_of_hub(folder: Path, content: bytes) -> Path:
    return in_ollama(folder / "user" / ".ollama" / "models", f"hf.co/{REPO}/Q4_K_M", content)


def lm_studio(folder: Path, content: bytes) -> Path:
    return in_lm_studio(folder / "user" / ".lmstudio" / "models", "others/thing-GGUF", FILE, content)


Kept = Callable[[Path, bytes], Path]


@pytest.mark.parametrize(
    ("keep", "store", "digits", "revision"),
    [
        (hub_cache, "Hugging Face", 64, COMMIT),
        (hub_cache, "Hugging Face", 8, COMMIT),
        (hub_cache, "Hugging Face", 0, COMMIT),
        (ollama, "Ollama", 64, ""),
        (ollama, "Ollama", 8, ""),
        (ollama_of_hub, "Ollama", 0, ""),
        (lm_studio, "LM Studio", 8, ""),
    ],
)
def test_a_file_of_a_store_is_used_where_it_is(
    tmp_path: Path, tiny: bytes, keep: Kept, store: str, digits: int, revision: str
) -> None:
    path, models = keep(tmp_path, tiny), models_of(tiny, digits=digits)
    (one,) = used(tmp_path, models)
    assert (one.model, one.store, one.path, one.n_bytes, one.problem) == ("thing", store, path, len(tiny), "")
    hub = models.models["thing"].hub
    assert hub is not None
    with closing(Installed(tmp_path / "home")) as installed:
        assert installed.path_of(hub) == path
        known = installed.known(path)
    assert known is not None
    assert (known.sha256, known.revision, known.repo, known.file) == (sha256(tiny), revision, REPO, FILE)


def changed(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def damaged_in_hub_cache(folder: Path, content: bytes) -> Path:
    cache = folder / "user" / ".cache" / "huggingface" / "hub"
    return in_hub_cache(cache, REPO, FILE, changed(content), digest=sha256(content))


def damaged_in_ollama(folder: Path, content: bytes) -> Path:
    store = folder / "user" / ".ollama" / "models"
    return in_ollama(store, "registry.ollama.ai/library/thing/4b", changed(content), digest=sha256(content))


def page_in_ollama(folder: Path, content: bytes) -> Path:
    store, page = folder / "user" / ".ollama" / "models", b"<html>".ljust(len(content))
    return in_ollama(store, "registry.ollama.ai/library/thing/4b", page, digest=sha256(content))


def other_in_lm_studio(folder: Path, content: bytes) -> Path:
    return lm_studio(folder, changed(content))


@pytest.mark.parametrize(
    ("keep", "digits", "problem"),
    [
        (damaged_in_hub_cache, 64, "it is damaged: Hugging Face has it as sha256"),
        (damaged_in_ollama, 8, "it is damaged: Ollama has it as sha256"),
        (page_in_ollama, 64, "is not a GGUF"),
        (other_in_lm_studio, 64, "it is another file: sha256"),
    ],
)
def test_what_is_not_the_file_is_not_used(tmp_path: Path, tiny: bytes, keep: Kept, digits: int, problem: str) -> None:
    keep(tmp_path, tiny)
    (one,) = used(tmp_path, models_of(tiny, digits=digits))
    assert problem in one.problem
    with closing(Installed(tmp_path / "home")) as installed:
        assert installed.files() == ()


def test_what_nobody_vouches_for_is_not_used(tmp_path: Path, tiny: bytes) -> None:
    in_lm_studio(tmp_path / "user" / ".lmstudio" / "models", REPO, FILE, tiny)
    (one,) = used(tmp_path, models_of(tiny, digits=0))
    assert one.problem.startswith("nothing says what its sha256 should be")


def test_another_name_or_size_is_not_even_read(tmp_path: Path, tiny: bytes) -> None:
    in_lm_studio(tmp_path / "user" / ".lmstudio" / "models", REPO, "other.gguf", tiny)
    in_lm_studio(tmp_path / "user" / ".lmstudio" / "models", REPO, FILE, tiny + b" ")
    in_ollama(tmp_path / "user" / ".ollama" / "models", "registry.ollama.ai/library/thing/4b", changed(tiny))
    assert used(tmp_path, models_of(tiny)) == []


def test_a_split_is_used_where_all_of_it_is_there(tmp_path: Path, tiny: bytes) -> None:
    cache = tmp_path / "user" / ".cache" / "huggingface" / "hub"
    names = [f"thing-{part:05}-of-00002.gguf" for part in (1, 2)]
    first = in_hub_cache(cache, REPO, names[0], tiny)
    models = models_of(tiny, file=names[0])
    assert used(tmp_path, models) == []
    second = in_hub_cache(cache, REPO, names[1], changed(tiny))
    (one,) = used(tmp_path, models)
    assert (one.problem, one.n_bytes) == ("", 2 * len(tiny))
    with closing(Installed(tmp_path / "home")) as installed:
        assert [(file.path, file.file) for file in installed.files()] == [(first, names[0]), (second, names[1])]


def test_a_file_with_two_revisions_is_one_file(tmp_path: Path, tiny: bytes) -> None:
    link = hub_cache(tmp_path, tiny)
    again = link.parent.with_name("f" * 40) / FILE
    again.parent.mkdir()
    again.symlink_to(link.resolve())
    assert len(used(tmp_path, models_of(tiny))) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8) | st.just("sha256:../../../etc/passwd"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["layers", "mediaType", "digest", "x"]), inner, max_size=4)
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_manifest_is_read_or_left_out(tmp_path: Path, manifest: bytes) -> None:
    path = tmp_path / "models" / "manifests" / "host" / "owner" / "model" / "tag"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest)
    assert list(stored_files([Store("Ollama", tmp_path / "models")])) == []


@pytest.mark.parametrize("digest", ["sha256:../../secret", "md5:" + "0" * 64, "sha256:" + "g" * 64, 7, None])
def test_a_manifest_leads_to_blobs_only(tmp_path: Path, tiny: bytes, digest: object) -> None:
    in_ollama(tmp_path, "host/owner/model/tag", tiny)
    (tmp_path / "secret").write_bytes(tiny)
    manifest = tmp_path / "manifests" / "host" / "owner" / "model" / "tag"
    text = json.loads(manifest.read_text())
    text["layers"][0]["digest"] = digest
    manifest.write_text(json.dumps(text))
    assert list(stored_files([Store("Ollama", tmp_path)])) == []


def test_stores_that_are_damaged_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "hub" / "models--a--b" / "snapshots").mkdir(parents=True)
    (tmp_path / "hub" / "models--a--b" / "snapshots" / "x").touch()
    (tmp_path / "file").touch()
    stores = [Store("Hugging Face", tmp_path / name) for name in ("hub", "file", "nowhere")]
    stores += [Store("Ollama", tmp_path / "file"), Store("LM Studio", tmp_path / "file")]
    assert list(stored_files(stores)) == []


def write_models(folder: Path, names: tuple[str, ...]) -> None:
    entries = ""
    for name in names:
        content = (SHIPPED / f"{name}.gguf").read_bytes()
        hub = f"repo: {REPO}, file: {name}.gguf, sha256: {sha256(content)[:8]!r}, size_bytes: {len(content)}"
        entries += f"  found-{name}: {{hub: {{{hub}}}, n_ctx: 2048, n_threads: 1}}\n"
    preset = "presets:\n  found: {panel: [found-micro-a], judge: {model: found-micro-judge, max_tool_calls: 0}}\n"
    (folder / "models.yaml").write_text(f"models:\n{entries}{preset}")


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "LOCALFUSION_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("LOCALFUSION_HOME", str(tmp_path / "home"))
    return tmp_path


def test_models_of_two_stores_answer_in_place(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A blob has no suffix, and is loaded all the same."""
    write_models(at_home, ("micro-a", "micro-judge"))
    ask = ["ask", "--docs", str(HARBOUR), "--preset", "found", "--json", "What is the height of Skerry?"]
    assert run(ask) == 2
    assert "localfusion models pull found-micro-a" in capfd.readouterr().err
    blob = in_ollama(at_home / "ollama", "host/owner/micro/a", (SHIPPED / "micro-a.gguf").read_bytes())
    in_hub_cache(at_home / "hub", REPO, "micro-judge.gguf", (SHIPPED / "micro-judge.gguf").read_bytes())
    before = sorted((path, path.lstat().st_mtime_ns) for path in at_home.glob("[ho][ul]*/**/*"))
    assert run(["models", "dedupe", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert [(one["model"], one["problem"], one["copies"]) for one in document] == [
        ("found-micro-a", None, []),
        ("found-micro-judge", None, []),
    ]
    assert document[0]["path"] == str(blob)
    assert run(ask) == 0
    assert json.loads(capfd.readouterr().out)["status"] == "ok"
    assert sorted((path, path.lstat().st_mtime_ns) for path in at_home.glob("[ho][ul]*/**/*")) == before
    assert not list(at_home.glob("home/**/*.gguf"))


def test_our_copy_goes_only_where_it_is_said(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = (SHIPPED / "micro-a.gguf").read_bytes()
    write_models(at_home, ("micro-a", "micro-judge"))
    ours = pulled_path(at_home / "home", HubEntry(repo=REPO, file="micro-a.gguf"))
    ours.parent.mkdir(parents=True)
    ours.write_bytes(content)
    with closing(Installed(at_home / "home")) as installed:
        installed.record(ours, sha256=sha256(content), repo=REPO, file="micro-a.gguf")
    blob = in_ollama(at_home / "ollama", "host/owner/micro/a", content)
    assert run(["models", "dedupe"]) == 0
    shown = capfd.readouterr()
    assert f"used in place  {blob}" in shown.out
    assert shown.err == "3 MiB are here twice; `localfusion models dedupe --yes` deletes our copies\n"
    assert ours.exists()
    assert run(["models", "dedupe", "--yes"]) == 0
    assert capfd.readouterr().err == "freed 3 MiB\n"
    assert (ours.exists(), ours.parent.exists(), blob.exists()) == (False, False, True)
    with closing(Installed(at_home / "home")) as installed:
        assert [file.path for file in installed.files()] == [blob]


def test_a_second_name_of_our_own_file_is_no_copy(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = (SHIPPED / "micro-a.gguf").read_bytes()
    write_models(at_home, ("micro-a", "micro-judge"))
    blob = in_ollama(at_home / "ollama", "host/owner/micro/a", content)
    ours = pulled_path(at_home / "home", HubEntry(repo=REPO, file="micro-a.gguf"))
    ours.parent.mkdir(parents=True)
    ours.hardlink_to(blob)
    with closing(Installed(at_home / "home")) as installed:
        installed.record(ours, sha256=sha256(content), repo=REPO, file="micro-a.gguf")
    assert run(["models", "dedupe", "--yes"]) == 0
    assert capfd.readouterr().err == "freed 0 KiB\n"
    assert ours.exists()


@pytest.mark.parametrize("needed_by", ["a name of the hub", "a path"])
def test_a_copy_that_another_entry_needs_stays(
    at_home: Path, needed_by: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content = (SHIPPED / "micro-a.gguf").read_bytes()
    file = "other.gguf" if needed_by == "a name of the hub" else "micro-a.gguf"
    ours = pulled_path(at_home / "home", HubEntry(repo=REPO, file=file))
    write_models(at_home, ("micro-a", "micro-judge"))
    models = at_home / "models.yaml"
    other = f"{{hub: {{repo: {REPO}, file: {file}}}}}" if file == "other.gguf" else f"{{path: {ours}}}"
    models.write_text(models.read_text().replace("models:\n", f"models:\n  other: {other}\n", 1))
    ours.parent.mkdir(parents=True)
    ours.write_bytes(content)
    with closing(Installed(at_home / "home")) as installed:
        installed.record(ours, sha256=sha256(content), repo=REPO, file=file)
    in_ollama(at_home / "ollama", "host/owner/micro/a", content)
    assert run(["models", "dedupe", "--yes"]) == 0
    assert capfd.readouterr().err == "freed 0 KiB\n"
    assert ours.exists()


def test_a_store_that_may_not_be_looked_at_is_not_there(tmp_path: Path) -> None:
    variables = {"OLLAMA_MODELS": f"/{'x' * 300}"}  # refused by the system, whoever asks
    assert find_stores(Surroundings(variables, tmp_path, tmp_path, "linux")) == ()


def test_nothing_is_found_where_there_is_nothing(at_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "dedupe"]) == 0
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "no other program on this disk has a model of the catalogue\n")
    assert (at_home / "home" / FILE_NAME).exists()
