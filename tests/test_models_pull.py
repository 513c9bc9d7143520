"""`models pull`: whole or not there, whatever happens in between; against a hub on loopback, by the real client."""

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localfusion.catalog.hub import HubFile
from localfusion.catalog.pulling import Fetch, Plan, check_plan, check_promise
from localfusion.catalog.wanted import Wanted, files_of, wanted
from localfusion.config import HubEntry, load_models_file
from localfusion.errors import ConfigError, LocalFusionError
from localfusion.gguf_header import part_paths
from scripts.engine_bench.random_models import RandomModel, write_random_model
from tests.hub_home import MICRO, MODELS, HubHome, sha256
from tests.hub_server import Fault, HubServer, Repo, serve_hub

FILE = "micro-a.gguf"
SIZE = len(MICRO[FILE])
SMALL = RandomModel(n_vocab=2000, n_embd=256, n_layer=2, n_head=4, n_head_kv=2, n_ff=1024, n_ctx=1024)
COMMIT = Repo({}).commit


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve_hub({"lab/micro": Repo(dict(MICRO))}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, hub: HubServer) -> HubHome:
    return HubHome(tmp_path, hub)


def wait_until_kept(home: HubHome, n_bytes: int, process: subprocess.Popen[str]) -> None:
    while home.kept_bytes() < n_bytes:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def sent_from(hub: HubServer, start: int) -> int:
    """Bytes sent for what was asked for from there on, after which nothing else was asked for."""
    *_, last = [asked for asked in hub.asked if asked.range.startswith(f"bytes={start}-")]
    return last.sent


def test_a_preset_is_pulled_recorded_and_then_found(home: HubHome) -> None:
    done = home.run("pull")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"ra  {home.pulled()}", f"rj  {home.pulled('micro-judge.gguf')}"]
    assert home.whole() == ["lab/micro/micro-a.gguf", "lab/micro/micro-judge.gguf"]
    script = (
        "import sys; from pathlib import Path; from localfusion.catalog.installed import Installed\n"
        "for one in Installed(Path(sys.argv[1])).files(): print(one.path.name, one.repo, one.revision, one.sha256)"
    )
    recorded = subprocess.run(
        [sys.executable, "-c", script, str(home.home)], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert recorded[0] == f"micro-a.gguf lab/micro {COMMIT} {sha256(MICRO[FILE])}"
    asked = len(home.hub.asked)
    again = home.run("pull")
    assert again.returncode == 0
    assert "ra is here" in again.stderr
    assert len(home.hub.asked) == asked


def test_fallbacks_are_pulled_where_they_are_asked_for(home: HubHome) -> None:
    done = home.run("pull", "--dry-run", "--with-fallbacks", "r")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["ra", "rb", "rj"]
    assert (done.returncode, done.stdout, home.whole(), home.hub.sent_bytes()) == (0, "", [], 0)


def test_a_killed_pull_leaves_nothing_that_looks_whole_and_the_next_goes_on(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(times=1, pause_s=0.05)
    with home.start("pull", "ra") as process:
        wait_until_kept(home, SIZE // 4, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = home.kept_bytes()
    assert SIZE // 4 <= kept < SIZE
    assert home.whole() == []
    done = home.run("pull", "ra")
    assert done.returncode == 0, done.stderr
    assert "from an earlier pull" in done.stderr
    assert home.pulled().read_bytes() == MICRO[FILE]
    assert sent_from(home.hub, kept) == SIZE - kept
    assert home.kept_bytes() == 0


def test_ctrl_c_keeps_what_came_and_says_so(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(times=1, pause_s=0.05)
    with home.start("pull", "ra") as process:
        wait_until_kept(home, SIZE // 8, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: interrupted; what was fetched is kept" in err
    assert "hint: `localfusion models pull ra` goes on from there" in err
    assert "Traceback" not in err
    assert home.whole() == []
    assert home.run("pull", "ra").returncode == 0
    assert home.pulled().read_bytes() == MICRO[FILE]


def test_a_pull_that_was_killed_before_it_was_noted_fetches_nothing_again(home: HubHome) -> None:
    home.pulled().parent.mkdir(parents=True)
    home.pulled().write_bytes(MICRO[FILE])
    assert home.run("pull", "ra").returncode == 0
    assert home.hub.sent_bytes() == 0
    assert home.run("verify", "ra").stdout.startswith("ok ")


def test_two_pulls_of_one_model_fetch_it_once(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(pause_s=0.01)
    with home.start("pull", "ra") as first, home.start("pull", "ra") as second:
        outs = [first.communicate(timeout=120), second.communicate(timeout=120)]
    assert (first.returncode, second.returncode) == (0, 0), outs
    assert home.hub.sent_bytes() == SIZE
    assert home.pulled().read_bytes() == MICRO[FILE]
    assert {out for out, _ in outs} <= {f"ra  {home.pulled()}\n", ""}


def flipped(content: bytes) -> bytes:
    return content[: SIZE // 2] + bytes([content[SIZE // 2] ^ 1]) + content[SIZE // 2 + 1 :]


def test_a_wrong_download_is_thrown_away_and_named(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(times=1, body=flipped(MICRO[FILE]))
    done = home.run("pull", "ra")
    assert done.returncode == 1
    assert "the download is wrong, not the hub or models.yaml" in done.stderr
    assert (home.whole(), home.kept_bytes()) == ([], 0)
    assert home.run("pull", "ra").returncode == 0


def test_what_is_kept_of_a_pull_is_hashed_too(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(cut_after=1_000_000)
    home.hub.faults[FILE].times = 1
    home.hub.faults[FILE].pause_s = 0.02
    with home.start("pull", "ra") as process:
        wait_until_kept(home, 500_000, process)
        process.kill()
        process.communicate()
    (part,) = (home.home / "models" / ".pulling").rglob("*.part")
    part.write_bytes(b"GGUF" + part.read_bytes()[4:100] + b"\0" * 1000)
    home.hub.faults.clear()
    done = home.run("pull", "ra")
    assert (done.returncode, home.whole()) == (1, [])
    assert "is not what the hub names" in done.stderr


def test_a_file_of_the_hub_that_is_no_gguf(home: HubHome) -> None:
    files = home.hub.repos["lab/micro"].files
    files[FILE] = b"<html>" * 10_000
    done = home.run("pull", "ra")
    assert "is not a GGUF" in done.stderr
    assert (done.returncode, home.whole()) == (1, [])
    files[FILE] = MICRO[FILE][:400_000]  # whole by its hash, and cut before it came to the hub
    done = home.run("pull", "ra")
    assert "bytes are named in its header and 400000 are there" in done.stderr
    assert (done.returncode, home.whole(), home.kept_bytes()) == (1, [], 0)


def test_parts_appear_together(home: HubHome, tmp_path: Path) -> None:
    first_part = write_random_model(tmp_path / "big.gguf", SMALL, n_parts=2)
    parts = {path.name: path.read_bytes() for path in part_paths(first_part)}
    home.hub.repos["lab/micro"].files |= parts
    first, second = sorted(parts)
    home.write_models(f"models:\n  s: {{hub: {{repo: lab/micro, file: {first}}}}}\n")
    home.hub.faults[second] = Fault(body=b"GGUF" + b"\0" * (len(parts[second]) - 4), times=1)
    done = home.run("pull", "s")
    assert (done.returncode, home.whole()) == (1, [])
    kept = home.kept_bytes()
    assert kept == len(parts[first])
    done = home.run("pull", "s")
    assert done.returncode == 0, done.stderr
    assert home.whole() == [f"lab/micro/{first}", f"lab/micro/{second}"]
    assert done.stdout == f"s  {home.pulled(first)}\n"
    sent = [asked for asked in home.hub.asked if asked.sent and asked.path.endswith(first)]
    assert len(sent) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_disk_that_takes_no_more_is_named_and_the_pull_goes_on_later(home: HubHome) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    command = [sys.executable, "-m", "localfusion", "models", "pull", "ra"]
    done = subprocess.run(
        command, cwd=home.folder, env=home.environ(), preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "is full, or takes no file of this size" in done.stderr
    assert "hint: free some space and pull again" in done.stderr
    assert home.whole() == []
    assert home.run("pull", "ra").returncode == 0
    assert sent_from(home.hub, 1_000_000) == SIZE - 1_000_000


def test_room_is_looked_for_before_anything_is_fetched(tmp_path: Path) -> None:
    """For what is still to come, and for a reserve; in a folder that need not be there yet."""
    model = Wanted("x", HubEntry(repo="a/b", file="x.gguf"))
    free = shutil.disk_usage(tmp_path).free

    def plan_of(n_bytes: int) -> Plan:
        return Plan((Fetch(model, (HubFile("a/b", "x.gguf", COMMIT, n_bytes, "0" * 64),), kept_bytes=n_bytes // 2),))

    check_plan(plan_of(free), tmp_path / "home")
    with pytest.raises(LocalFusionError, match=r"MiB are needed on the disk of .* MiB are free"):
        check_plan(plan_of(2 * free), tmp_path / "home")
    check_plan(Plan(), tmp_path)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there are no namespaces")
def test_a_disk_that_is_full_is_named_and_nothing_looks_whole(home: HubHome) -> None:
    folder = home.home / "models"
    folder.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=1m none '{folder}' || exit 77; "
    check = f"find '{folder}' -name '*.gguf' -not -path '*/.pulling/*'; exit $code"
    script = f"{mount} '{sys.executable}' -m localfusion models pull ra; code=$?; {check}"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        cwd=home.folder,
        env=home.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespace may be made here: {done.stderr}")
    assert done.returncode == 1, done.stderr
    assert "is full" in done.stderr
    assert done.stdout == ""


PROMISES = (
    ({"sha256": "deadbeef"}, "main", "was changed on the hub", "pin `revision`"),
    ({"size_bytes": 5}, "main", "5 bytes in models.yaml, 7 on the hub", "size_bytes"),
    ({"sha256": "deadbeef"}, COMMIT, "models.yaml is wrong about a/b/x.gguf", "a commit does not change"),
)


@pytest.mark.parametrize(("named", "revision", "said", "hint"), PROMISES)
def test_who_changed_is_said_before_anything_is_fetched(
    named: dict[str, str | int], revision: str, said: str, hint: str
) -> None:
    entry = HubEntry.model_validate({"repo": "a/b", "file": "x.gguf", "revision": revision, **named})
    with pytest.raises(ConfigError, match=said) as caught:
        check_promise(entry, HubFile("a/b", "x.gguf", COMMIT, 7, "0" * 64))
    assert hint in caught.value.hint


def test_the_digits_that_are_known_are_enough(home: HubHome) -> None:
    digits = sha256(MICRO[FILE])[:8]
    home.write_models(f"models:\n  ra: {{hub: {{repo: lab/micro, file: {FILE}, sha256: {digits}}}}}\n")
    assert home.run("pull", "ra").returncode == 0
    home.write_models(f"models:\n  ra: {{hub: {{repo: lab/micro, file: {FILE}, sha256: deadbeef}}}}\n")
    done = home.run("pull", "ra")
    assert (done.returncode, "was changed on the hub" in done.stderr) == (2, True)


def test_licences_that_restrict_are_said_before(home: HubHome) -> None:
    note = "no use\\e[2J on Mondays"
    home.write_models(
        f'models:\n  ra: {{hub: {{repo: lab/micro, file: {FILE}}}, licence: Own 1.0, licence_note: "{note}"}}\n'
    )
    done = home.run("pull", "ra")  # stdin is no terminal, so nobody is asked
    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert lines[1] == "licence of ra: Own 1.0: no use [2J on Mondays"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 2), (b"y\n", 0)])
def test_at_a_terminal_a_licence_that_restricts_is_asked_about(home: HubHome, answer: bytes, code: int) -> None:
    home.write_models(f"models:\n  ra: {{hub: {{repo: lab/micro, file: {FILE}}}, licence_note: not on Mondays}}\n")
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    command = [sys.executable, "-m", "localfusion", "models", "pull", "ra"]
    done = subprocess.run(
        command, cwd=home.folder, env=home.environ({"TERM": "xterm"}), stdin=theirs, stdout=subprocess.PIPE,
        stderr=theirs, check=False,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == code, shown
    assert "fetch ra? [y/N]" in shown
    assert home.whole() == ([] if code else ["lab/micro/micro-a.gguf"])


def test_names(home: HubHome) -> None:
    models = load_models_file(home.folder / "models.yaml")
    assert [one.name for one in wanted(models, ["default", "rb", "ra"])] == ["ra", "rj", "rb"]
    with pytest.raises(ConfigError, match="unknown model 'rz'"):
        wanted(models, ["rz"])
    assert "did you mean" in home.run("pull", "raa").stderr


def test_files_of_a_split_model() -> None:
    entry = HubEntry(repo="a/b", file="q4/x-00001-of-00003.gguf")
    assert files_of(entry) == tuple(f"q4/x-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    assert files_of(HubEntry(repo="a/b", file="x.gguf")) == ("x.gguf",)


def test_a_replaced_file_is_found_and_pulled_anew(home: HubHome) -> None:
    assert home.run("pull", "ra").returncode == 0
    home.pulled().write_bytes(flipped(MICRO[FILE]))
    os.utime(home.pulled(), (1, 1))
    done = home.run("verify", "ra")
    assert (done.returncode, done.stdout.split()[0]) == (1, "replaced")
    assert home.run("pull", "ra").returncode == 0
    assert home.run("verify", "ra").stdout.split()[0] == "ok"


def test_verify_tells_what_changed(home: HubHome) -> None:
    assert home.run("pull", "r").returncode == 0
    status = home.pulled().stat()
    home.pulled().write_bytes(flipped(MICRO[FILE]))
    os.utime(home.pulled(), ns=(status.st_atime_ns, status.st_mtime_ns))
    home.pulled("micro-judge.gguf").unlink()
    done = home.run("verify")
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["damaged", "missing"]
    assert "error: 2 of 2 files are not what they should be" in done.stderr


def test_verify_tells_a_changed_catalogue_and_forgives_a_touched_file(home: HubHome) -> None:
    assert home.run("pull", "ra").returncode == 0
    home.pulled().touch()
    assert home.run("verify").stdout.split()[0] == "ok"
    home.write_models(f"models:\n  ra: {{hub: {{repo: lab/micro, file: {FILE}, sha256: deadbeef}}}}\n")
    done = home.run("verify", "ra", "--json")
    assert done.returncode == 1
    assert '"state": "catalogue_changed"' in done.stdout


@pytest.mark.parametrize("more", ["sha256: deadbeef", "size_bytes: 5", f"revision: {'f' * 40}"])
def test_a_file_that_the_catalogue_no_longer_means_is_not_used(home: HubHome, more: str) -> None:
    assert home.run("pull", "r").returncode == 0
    other = f"file: {FILE}, {more}}}"
    home.write_models(MODELS.replace(f"file: {FILE}}}", other).replace("{model: ra, fallback: [rb]}", "ra"))
    listed = {one["name"]: one for one in json.loads(home.run("list", "--json").stdout)["models"]}
    assert (listed["ra"]["where"], listed["rb"]["where"]) == (None, None)
    done = subprocess.run(
        [sys.executable, "-m", "localfusion", "ask", "What?"],
        cwd=home.folder,
        env=home.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"error: {home.pulled()} is not the file that models.yaml names" in done.stderr
    assert "hint: localfusion models pull ra\n" in done.stderr


TWICE = """\
models:
  one: {hub: {repo: lab/micro, file: micro-a.gguf}}
  two: {hub: {repo: lab/micro, file: micro-a.gguf%s}}
"""


@pytest.mark.parametrize("more", [f", revision: {COMMIT}", ", revision: v2", ", sha256: deadbeef, size_bytes: 7"])
def test_two_contents_of_one_place_are_refused(home: HubHome, more: str) -> None:
    models = TWICE.replace("file: micro-a.gguf}", f"file: micro-a.gguf, size_bytes: {SIZE}}}", 1)
    home.write_models(models % more)
    done = home.run("pull", "one", "two")
    assert done.returncode == 2
    assert "one and two name two contents of lab/micro/micro-a.gguf" in done.stderr
    assert home.whole() == []
    assert "two names another content of the same file" in home.run("lint").stdout
    home.write_models(TWICE % f", sha256: {sha256(MICRO[FILE])}")
    done = home.run("pull", "one", "two")
    assert (done.returncode, done.stdout) == (0, f"one, two  {home.pulled()}\n")


def test_what_a_killed_pull_has_left_is_listed_and_removed(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(pause_s=0.02)
    with home.start("pull", "ra") as process:
        wait_until_kept(home, SIZE // 4, process)
        assert home.run("remove", "ra", "--yes").returncode == 2
        process.kill()
        process.communicate()
    kept = home.kept_bytes()
    assert kept
    listed = {one["name"]: one for one in json.loads(home.run("list", "--json").stdout)["models"]}
    assert (listed["ra"]["kept_bytes"] >= kept, listed["rb"]["kept_bytes"]) == (True, 0)
    assert home.run("remove", "ra", "--yes").returncode == 0
    assert home.kept_bytes() == 0
    assert home.run("remove", "ra", "--yes").returncode == 2


def test_the_header_of_a_removed_model_goes_too(home: HubHome) -> None:
    assert home.run("fit", "r").returncode == 0
    stubs = home.home / "headers" / "lab" / "micro" / COMMIT
    assert (stubs / FILE).exists()
    assert home.run("remove", "ra", "--yes").returncode == 0
    assert not (stubs / FILE).exists()
    assert (stubs / "micro-judge.gguf").exists()
