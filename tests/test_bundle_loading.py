"""`localfusion models bundle` and `load`: what is carried, what is kept, what is refused, and what goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import pytest
import yaml

from localfusion.catalog.installed import MODELS_FOLDER, Installed
from localfusion.config import HubEntry, load_models
from localfusion.search.documents import DocumentIndex
from localfusion.search.source import Search
from localfusion.session import DOCUMENTS_FILE
from tests.bundles import REPO, Home, sha256_of, small_bundle, small_gguf, small_home
from tests.harbour import ROOT, surroundings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle"))


def load(home: Path, *arguments: str) -> str:
    """What a load said that went well."""
    done = Home(home).run("models", "load", *arguments)
    assert (done.code, done.out) == (0, ""), done.err
    return done.err


def staged(home: Path) -> list[str]:
    return [path.name for path in (home / MODELS_FOLDER).rglob(".loading")]


def test_any_tar_opens_a_bundle_and_its_hashes_hold(bundle: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", str(bundle)], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["sha256sum", "-c", "manifest.json.sha256"], cwd=tmp_path, check=True, capture_output=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {member["name"]: sha256_of(tmp_path / member["name"]) for member in manifest["members"]} == {
        member["name"]: member["sha256"] for member in manifest["members"]
    }
    with tarfile.open(bundle) as archive:
        names = archive.getnames()
    assert names[:3] == ["README.txt", "manifest.json", "manifest.json.sha256"]
    lines = (tmp_path / "README.txt").read_text().splitlines()
    assert len(lines) == 3
    assert "models load small.tar" in lines[1]


def test_what_was_carried_is_installed_and_known(bundle: Path, tmp_path: Path) -> None:
    said = load(tmp_path / "home", str(bundle))
    assert "warning: the bundle is not signed" in said
    assert "3 files of models loaded" in said
    models = load_models(surroundings(tmp_path / "home"))
    with closing(Installed(tmp_path / "home")) as installed:
        for name in ("one", "two"):
            hub = models.models[name].hub
            assert hub is not None
            path = installed.path_of(HubEntry(repo=REPO, file=f"{name}.gguf"))
            known = installed.known(path)
            assert known is not None
            assert (known.sha256, known.revision) == (hub.sha256, "0" * 40)
            assert sha256_of(path) == hub.sha256
    own = Path(models.models["own"].path or "")
    assert own.is_relative_to(tmp_path / "home" / MODELS_FOLDER)
    assert own.name == "my_own.gguf"
    assert models.presets["small"].panel[1].model == "other"
    assert models.aliases["other"] == "two"
    assert staged(tmp_path / "home") == []


def test_what_is_there_is_kept(bundle: Path, tmp_path: Path) -> None:
    load(tmp_path / "home", str(bundle))
    before = {path: path.stat().st_ino for path in (tmp_path / "home" / MODELS_FOLDER).rglob("*.gguf")}
    assert "3 files of models loaded, 3 of them here already" in load(tmp_path / "home", str(bundle))
    assert {path: path.stat().st_ino for path in before} == before


def test_a_file_of_another_store_is_kept_where_it_is(bundle: Path, tmp_path: Path) -> None:
    elsewhere = small_gguf(tmp_path / "store" / "blob", seed=0)
    (tmp_path / "home").mkdir()
    with closing(Installed(tmp_path / "home")) as installed:
        installed.record(elsewhere, sha256=sha256_of(elsewhere), repo=REPO, file="one.gguf")
    assert "1 of them here already" in load(tmp_path / "home", str(bundle))
    assert not (tmp_path / "home" / MODELS_FOLDER / REPO / "one.gguf").exists()


def test_another_file_in_its_place_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    other = Home(tmp_path / "home").add_hub_model(small_gguf(tmp_path / "x.gguf", seed=9), "two.gguf")
    before = Home(tmp_path / "home").contents()
    done = Home(tmp_path / "home").run("models", "load", str(bundle))
    assert done.code == 2
    assert f"the file of two, {other}, is there already and is another file" in done.err
    assert Home(tmp_path / "home").contents() == before


def test_a_bundle_is_loaded_from_a_pipe(bundle: Path, tmp_path: Path) -> None:
    done = Home(tmp_path / "home").run("models", "load", "-", stdin=bundle.read_bytes())
    assert done.code == 0, done.err
    load(tmp_path / "other", str(bundle))
    first, second = (Home(tmp_path / name).contents() for name in ("home", "other"))
    assert {name: raw for name, raw in first.items() if name.endswith(".gguf")} == {
        name: raw for name, raw in second.items() if name.endswith(".gguf")
    }


def test_a_dry_run_shows_what_is_in_it_and_loads_nothing(bundle: Path, tmp_path: Path) -> None:
    done = Home(tmp_path / "home").run("models", "load", "--dry-run", str(bundle))
    assert done.code == 0
    assert f"models/{REPO}/one.gguf, MIT" in done.out
    assert "(2 documents)" in done.out
    assert Home(tmp_path / "home").contents() == {}


def test_documents_are_searched_without_their_files(bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    load(home, str(bundle))
    with closing(DocumentIndex(home / DOCUMENTS_FILE)) as index:
        (root,) = index.roots()
        assert (root.is_carried, root.n_files, root.path.name) == (True, 2, "notes")
        source = index.add([root.path]).source
        assert source.urls == ("doc://notes/hallow.md", "doc://notes/skerry.md")
        assert [result.page.url for result in source.find(Search("Skerry", 3, 200)) if result.page] == [
            "doc://notes/skerry.md"
        ]
    listed = Home(home).run("docs", "list")
    assert "notes: 2 files, 0 KiB, carried here 20" in listed.out
    assert Home(home).run("docs", "refresh").err.splitlines() == ["0 files read, 2 unchanged"]
    found = Home(home).run("search", "--offline", "height of Skerry")
    assert "The height of Skerry is 40 metres." in found.out, found.err
    assert Home(home).run("docs", "remove", str(root.path)).err.splitlines() == [f"{root.path}: 2 files forgotten"]


def test_a_load_goes_on_inside_a_file_that_was_cut(tmp_path: Path) -> None:
    """The first half of what is staged is kept, bytes of noise are not; what another bundle left is swept up."""
    file = small_bundle(tmp_path / "made")
    digest = digest_of(file)
    whole = small_gguf(tmp_path / "whole.gguf", seed=0).read_bytes()
    for kept in (whole[: len(whole) // 2], whole, bytes(len(whole) // 2), bytes(2 * len(whole))):
        home = tmp_path / f"home-{len(kept)}-{kept[:1].hex()}"
        other = home / MODELS_FOLDER / ".loading" / ("0" * 64) / "left.part"
        draft = home / MODELS_FOLDER / ".loading" / digest / MODELS_FOLDER / REPO / ".one.gguf.part"
        for path in (other, draft):
            path.parent.mkdir(parents=True)
            path.write_bytes(kept)
        inode = draft.stat().st_ino
        load(home, str(file))
        place = home / MODELS_FOLDER / REPO / "one.gguf"
        assert place.read_bytes() == whole
        if kept.startswith(b"GGUF"):
            assert place.stat().st_ino == inode
        assert staged(home) == []


def digest_of(bundle: Path) -> str:
    """The digest of a bundle's manifest."""
    with tarfile.open(bundle) as archive:
        raw = archive.extractfile("manifest.json.sha256")
        assert raw is not None
        return raw.read().split()[0].decode()


def test_a_killed_load_goes_on(bundle: Path, tmp_path: Path) -> None:
    """It is killed while it waits for the rest of the pipe, with some files staged whole and one in part."""
    raw = bundle.read_bytes()
    home = Home(tmp_path / "home")
    command = [sys.executable, "-m", "localfusion", "models", "load", "-"]
    process = subprocess.Popen(command, cwd=ROOT, env=home.environ, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(raw[: raw.index(b"two.gguf\0") + 700])
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(home.path.rglob("one.gguf")) and time.monotonic() < deadline:
        time.sleep(0.02)
    (whole,) = home.path.rglob("one.gguf")
    assert ".loading" in whole.parts
    process.send_signal(signal.SIGKILL)
    process.communicate()
    inode = whole.stat().st_ino
    load(home.path, str(bundle))
    assert (home.path / MODELS_FOLDER / REPO / "one.gguf").stat().st_ino == inode
    assert staged(home.path) == []
    load(tmp_path / "other", str(bundle))
    other = Home(tmp_path / "other").contents()
    assert {n: c for n, c in home.contents().items() if n.endswith("gguf")} == {
        n: c for n, c in other.items() if n.endswith("gguf")
    }


def test_what_was_staged_and_is_not_whole_is_written_again(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "home" / MODELS_FOLDER / ".loading" / digest_of(bundle) / MODELS_FOLDER / REPO
    folder.mkdir(parents=True)
    size = small_gguf(tmp_path / "x.gguf").stat().st_size
    (folder / "one.gguf").write_bytes(bytes(size))
    (folder / "two.gguf").symlink_to("/dev/zero")
    load(tmp_path / "home", str(bundle))
    for name, seed in (("one", 0), ("two", 1)):
        made = small_gguf(tmp_path / "made.gguf", seed=seed)
        assert (tmp_path / "home" / MODELS_FOLDER / REPO / f"{name}.gguf").read_bytes() == made.read_bytes()


def test_two_loads_at_once_leave_one_whole_store(bundle: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    command = [sys.executable, "-m", "localfusion", "models", "load", str(bundle)]
    running = [
        subprocess.Popen(command, cwd=ROOT, env=home.environ, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ended = [(process.communicate()[1], process.returncode) for process in running]
    assert 0 in [code for _, code in ended]
    assert all(code == 0 or "is locked" in said for said, code in ended)
    load(tmp_path / "other", str(bundle))
    mine, other = home.contents(), Home(tmp_path / "other").contents()
    assert set(mine) == set(other)
    assert all(mine[name] == other[name] for name in mine if name.endswith("gguf"))


def test_a_load_beside_another_is_refused_in_a_sentence(bundle: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    command = [sys.executable, "-m", "localfusion", "models", "load", "-"]
    first = subprocess.Popen(command, cwd=ROOT, env=home.environ, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert first.stdin is not None
    raw = bundle.read_bytes()
    at = raw.index(b"two.gguf\0")
    first.stdin.write(raw[:at])
    first.stdin.flush()
    while not list(home.path.rglob("one.gguf")):
        time.sleep(0.02)
    second = home.run("models", "load", str(bundle))
    assert (second.code, "is locked" in second.err) == (1, True)
    first.communicate(raw[at:])
    assert first.returncode == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a small disk is mounted by root only")
def test_a_full_disk_is_said_and_leaves_no_models(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    home = small_home(folder / "from")
    home.add_hub_model(small_gguf(tmp_path / "large.gguf", n_weights=2**20), "one.gguf")
    file = folder / "large.tar"
    assert home.run("models", "bundle", str(file), "--preset", "small").code == 0
    script = (
        'mount -t tmpfs -o size=3m none "$1" && export LOCALFUSION_HOME="$1/home" && mkdir "$1/home" &&'
        ' "$2" -m localfusion models load "$3"; echo "code $?"; find "$1" -name "*.gguf"'
    )
    small = tmp_path / "small"
    small.mkdir()
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(small), sys.executable, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "code" not in done.stdout or "mount:" in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert "code 1" in done.stdout
    assert ".gguf" not in done.stdout
    assert "error: " in done.stderr
    assert " are free" in done.stderr
    assert "hint: free some space" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a shell")
def test_a_write_that_fails_in_the_middle_is_said_and_can_be_gone_on_with(tmp_path: Path) -> None:
    home = small_home(tmp_path / "from")
    home.add_hub_model(small_gguf(tmp_path / "large.gguf", n_weights=2**20, seed=1), "two.gguf")
    file = tmp_path / "large.tar"
    assert home.run("models", "bundle", str(file), "--preset", "small").code == 0
    limited = Home(tmp_path / "home").run(
        "models", "load", str(file), prefix=("sh", "-c", 'ulimit -f 2000; exec "$0" "$@"')
    )
    assert limited.code == 1
    assert "the bundle cannot be loaded: File too large" in limited.err
    assert "hint: check the disk, then load it again" in limited.err
    assert not (tmp_path / "home" / MODELS_FOLDER / REPO).exists()
    assert len(list((tmp_path / "home").rglob("*.part"))) == 1
    load(tmp_path / "home", str(file))


def test_a_bundle_for_which_there_is_no_room_is_not_begun(tmp_path: Path) -> None:
    home = small_home(tmp_path / "from")
    with Path("/dev/full").open("wb"):
        done = home.run("models", "bundle", "/dev/full", "--preset", "small")
    assert done.code == 2
    assert "is no file" in done.err
    assert home.run("models", "bundle", str(tmp_path / "nowhere" / "x.tar"), "--preset", "small").code == 2


def test_only_what_was_verified_goes_in(tmp_path: Path) -> None:
    home = small_home(tmp_path / "from")
    target = tmp_path / "x.tar"
    path = home.path / MODELS_FOLDER / REPO / "one.gguf"
    raw, status = path.read_bytes(), path.stat()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    changed = home.run("models", "bundle", str(target), "--preset", "small")
    assert (changed.code, "was changed since it was verified" in changed.err) == (2, True)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    forged = home.run("models", "bundle", str(target), "--preset", "small")
    assert (forged.code, f"{path} is not what was verified" in forged.err) == (2, True)
    path.unlink()
    missing = home.run("models", "bundle", str(target), "--preset", "small")
    assert (missing.code, "hint: localfusion models pull one" in missing.err) == (2, True)
    assert [file.name for file in tmp_path.iterdir() if "x.tar" in file.name] == []


def test_models_of_providers_stay_out_and_it_is_said(tmp_path: Path) -> None:
    home = small_home(tmp_path / "from")
    whole = yaml.safe_load(home.models_yaml.read_text())
    whole["providers"] = {"far": {"base_url": "https://far.example/v1"}}
    whole["models"]["cloud"] = {"provider": "far", "model": "large"}
    whole["presets"]["mixed"] = {
        "panel": [{"model": "one", "fallback": ["cloud"]}, {"model": "cloud", "fallback": ["two"]}],
        "judge": "one",
    }
    whole["presets"]["far-judge"] = {"panel": ["one"], "judge": "cloud"}
    home.models_yaml.write_text(yaml.safe_dump(whole))
    done = home.run("models", "bundle", str(tmp_path / "x.tar"), "--preset", "mixed")
    assert done.code == 0, done.err
    assert "note: cloud is a provider's model and stays out of the bundle" in done.err
    assert "note: cloud is a provider's model; in the bundle two has its seat" in done.err
    assert b"far.example" not in (tmp_path / "x.tar").read_bytes()
    load(tmp_path / "home", str(tmp_path / "x.tar"))
    refused = home.run("models", "bundle", str(tmp_path / "y.tar"), "--preset", "far-judge")
    assert (refused.code, "cloud is a provider's model" in refused.err) == (2, True)


def test_a_split_model_is_carried_with_all_of_its_parts(tmp_path: Path) -> None:
    home = small_home(tmp_path / "from")
    whole = yaml.safe_load(home.models_yaml.read_text())
    first = tmp_path / "parts" / "big-00001-of-00002.gguf"
    split_gguf(first)
    for part in first.parent.iterdir():
        home.add_hub_model(part, part.name)
    whole["models"]["big"] = {"hub": {"repo": REPO, "file": first.name}}
    whole["presets"]["split"] = {"panel": ["big"], "judge": "big"}
    home.models_yaml.write_text(yaml.safe_dump(whole))
    done = home.run("models", "bundle", str(tmp_path / "x.tar"), "--preset", "split")
    assert done.code == 0, done.err
    assert "2 files of models loaded" in load(tmp_path / "home", str(tmp_path / "x.tar"))
    (tmp_path / "home" / MODELS_FOLDER / REPO / "big-00002-of-00002.gguf").unlink()
    assert "1 of them here already" in load(tmp_path / "home", str(tmp_path / "x.tar"))


def split_gguf(first: Path) -> None:
    """Two parts of one model."""
    first.parent.mkdir()
    for number in range(2):
        writer = gguf.GGUFWriter(first.with_name(f"big-{number + 1:05}-of-00002.gguf"), "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_tensor(f"noise.{number}", np.zeros(8, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def test_zim_archives_are_named_and_not_carried(tmp_path: Path) -> None:
    home = small_home(tmp_path / "from")
    archive = tmp_path / "w.zim"
    archive.write_bytes((72173914).to_bytes(4, "little") + bytes(4) + bytes(range(16)) + bytes(100))
    done = home.run("models", "bundle", str(tmp_path / "x.tar"), "--preset", "small", "--zim", str(archive))
    assert done.code == 0, done.err
    assert "w.zim is named in the bundle and not in it" in done.err
    file = str(tmp_path / "x.tar")
    assert f"w.zim is here: name it with --zim {archive}" in load(tmp_path / "home", file)
    moved = archive.rename(tmp_path / "from" / "w.zim")
    assert "note: w.zim goes with the bundle and is not in it" in load(tmp_path / "home", file)
    assert f"w.zim is here: name it with --zim {moved}" in load(tmp_path / "home", file, "--zim", str(moved))
    archive.write_bytes((72173914).to_bytes(4, "little") + bytes(4) + bytes(16) + bytes(100))
    assert f"warning: {archive} is another archive" in load(tmp_path / "home", file)
    archive.write_bytes(b"no archive at all, but long enough for one")
    refused = home.run("models", "bundle", str(tmp_path / "y.tar"), "--preset", "small", "--zim", str(archive))
    assert (refused.code, "is no ZIM archive" in refused.err) == (2, True)


BAD_INPUT = (
    (("bundle", "x.tar", "--preset", "smal"), "unknown preset 'smal'"),
    (("bundle", "x.tar", "--preset", "small", "--docs", "nowhere"), "nowhere was not added"),
    (("bundle", "x.tar", "--preset", "small", "--sign", "nowhere"), "cannot be signed with nowhere"),
    (("bundle", "\udcff.tar", "--preset", "small"), "the name of the bundle is not UTF-8 text"),
    (("bundle", "x" * 300, "--preset", "small"), "File name too long"),
    (("load", "\udcff.tar"), "the name of the bundle is not UTF-8 text"),
    (("load", "nowhere.tar"), "nowhere.tar cannot be read"),
    (("load", "/dev/null"), "it is cut short"),
    (("load", "/"), "/ cannot be read"),
    (("load", "x.tar", "--trust", "nowhere.pub"), "no such file or folder"),
)


@pytest.mark.parametrize(("arguments", "says"), BAD_INPUT, ids=[row[1] for row in BAD_INPUT])
def test_a_mistake_is_named(arguments: tuple[str, ...], says: str, bundle: Path, tmp_path: Path) -> None:
    shutil.copy(bundle, tmp_path / "x.tar")
    at = [str(tmp_path / "x.tar") if argument == "x.tar" else argument for argument in arguments]
    done = Home(bundle.parent / "from").run("models", *at)
    assert done.code == 2
    assert [line.split(":")[0] for line in done.err.splitlines()][-2:] == ["error", "hint"], done.err
    assert says in done.err
