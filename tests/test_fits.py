"""`models fit`: what is predicted from headers read by range, from what was kept of them, and from whole files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from localfusion.catalog.header_reads import FIRST_BYTES, MOST_HEADER_BYTES
from localfusion.cli.models_fit import as_document, lines
from localfusion.cli.pull_progress import Meter
from localfusion.cli.sizes import duration_text, size_text
from localfusion.fits import Known, Licence, PresetFit
from localfusion.gguf_header import part_paths
from scripts.engine_bench.random_models import RandomModel, write_random_model
from tests.hub_home import MICRO, MODELS, HubHome
from tests.hub_server import Fault, HubServer, Repo, serve_hub

FILE = "micro-a.gguf"
SMALL = RandomModel(n_vocab=2000, n_embd=256, n_layer=2, n_head=4, n_head_kv=2, n_ff=1024, n_ctx=1024)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve_hub({"lab/micro": Repo(dict(MICRO))}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, hub: HubServer) -> HubHome:
    return HubHome(tmp_path, hub)


def fit_of(home: HubHome, *arguments: str) -> dict[str, object]:
    done = home.run("fit", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def preset(document: dict[str, object], name: str = "r") -> dict[str, object]:
    presets = document["presets"]
    assert isinstance(presets, list)
    (found,) = [one for one in presets if one["name"] == name]
    assert isinstance(found, dict)
    return found


def test_the_header_alone_predicts_what_the_whole_file_does(home: HubHome) -> None:
    from_headers = fit_of(home, "r")
    assert home.hub.sent_bytes() == 2 * FIRST_BYTES < len(MICRO[FILE])
    assert preset(from_headers)["pull_bytes"] == len(MICRO[FILE]) + len(MICRO["micro-judge.gguf"])
    assert preset(from_headers)["missing"] == ["ra", "rj"]
    assert from_headers["bytes_per_second"]
    assert home.run("pull", "r").returncode == 0
    from_files = fit_of(home, "r")
    assert (preset(from_files)["missing"], preset(from_files)["pull_bytes"]) == ([], 0)
    for key in ("bytes", "vram_bytes", "fits"):
        assert preset(from_headers)[key] == preset(from_files)[key]
    assert preset(from_headers)["fits"] == "side by side"


def test_a_header_is_read_once_and_then_known_without_a_hub(home: HubHome) -> None:
    first = fit_of(home, "r")
    home.hub.asked.clear()
    assert preset(fit_of(home, "r"))["bytes"] == preset(first)["bytes"]
    assert {asked.method for asked in home.hub.asked} == {"HEAD"}
    home.hub.asked.clear()
    offline = fit_of(home, "r", "--offline")
    assert home.hub.asked == []
    assert {**preset(first), "pull_seconds": None} == preset(offline)
    done = home.run("fit", "r", environ={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "note: only what is here already is known: the hub at http://127.0.0.1:9 is not reached" in done.stderr
    assert "side by side" in done.stdout


def test_without_a_hub_and_without_headers_nothing_is_made_up(home: HubHome) -> None:
    found = preset(fit_of(home, "--offline"))
    assert (found["fits"], found["bytes"], found["pull_bytes"], found["pull_seconds"]) == ("unknown", None, None, None)
    assert preset(fit_of(home, "--offline"), "micro")["fits"] == "side by side"


def test_a_stub_is_no_model_to_run(home: HubHome) -> None:
    fit_of(home, "r")
    assert home.whole() == []
    stubs = list((home.home / "headers").rglob("*.gguf"))
    assert sorted(path.name for path in stubs) == [FILE, "micro-judge.gguf"]
    assert all(path.stat().st_size == len(MICRO[path.name]) for path in stubs)
    assert all(path.stat().st_blocks * 512 < path.stat().st_size / 4 for path in stubs)


def test_a_budget_that_is_too_small_says_what_would_fit(home: HubHome) -> None:
    found = preset(fit_of(home, "r", "--memory", "8MiB"))
    assert found["fits"] == "no"
    assert "may be used" in str(found["problem"])
    waves = preset(fit_of(home, "r", "--memory", "100MiB"))
    assert waves["fits"] == "in waves"


def test_every_part_of_a_split_model_is_looked_at(home: HubHome, tmp_path: Path) -> None:
    first = write_random_model(tmp_path / "big.gguf", SMALL, n_parts=3)
    parts = {path.name: path.read_bytes() for path in part_paths(first)}
    home.hub.repos["lab/micro"].files |= parts
    home.write_models(
        f"models:\n  s: {{hub: {{repo: lab/micro, file: {first.name}}}}}\n  w: {{path: {first}}}\n"
        "presets:\n  split: {panel: [s], judge: s}\n  whole: {panel: [w], judge: w}\n"
    )
    document = fit_of(home)
    assert preset(document, "split")["bytes"] == preset(document, "whole")["bytes"]
    assert preset(document, "split")["pull_bytes"] == sum(map(len, parts.values()))


def test_a_model_that_the_hub_keeps_back_leaves_the_others_known(home: HubHome) -> None:
    home.hub.repos["lab/gated"] = Repo(dict(MICRO), gated=True)
    home.write_models(
        "models:\n  g: {hub: {repo: lab/gated, file: micro-a.gguf}}\n"
        "  ra: {hub: {repo: lab/micro, file: micro-a.gguf}, licence: Own, licence_note: not on Mondays}\n"
        "presets:\n  gated: {panel: [g], judge: ra}\n  open: {panel: [ra], judge: ra}\n"
    )
    done = home.run("fit", "gated", "open")
    gated, open_, note = done.stdout.splitlines()[2:]
    assert "unknown: lab/gated is gated" in gated
    assert open_.endswith("side by side")
    assert note == "licence of ra: Own: not on Mondays"


def text(length: int) -> bytes:
    """The start of a GGUF whose first key is that long."""
    return b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, length)


HOSTILE = (
    ("a web page", b"<html>" * 100_000, "is not a GGUF"),
    (
        "impossible counts",
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1) + bytes(FIRST_BYTES),
        "impossible number of entries",
    ),
    ("a header without an end", text(1 << 39) + bytes(MOST_HEADER_BYTES), "does not end within 64 MiB"),
)


@pytest.mark.parametrize(("content", "said"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_what_a_hostile_hub_sends_is_bounded_and_refused(home: HubHome, content: bytes, said: str) -> None:
    claimed = 1 << 40
    repo = home.hub.repos["lab/micro"]
    repo.files[FILE], repo.linked[FILE] = content, (claimed, "0" * 64)
    home.hub.faults[FILE] = Fault(claimed_bytes=claimed)
    found = preset(fit_of(home, "r"))
    assert found["fits"] == "unknown"
    assert said in str(found["problem"])
    assert home.hub.sent_bytes() <= MOST_HEADER_BYTES + FIRST_BYTES
    assert [path.name for path in (home.home / "headers").rglob("*.gguf")] == ["micro-judge.gguf"]


@pytest.mark.parametrize("size", [0, -5, 1 << 60, 5])
def test_a_hub_that_lies_about_a_length_is_found_out(home: HubHome, size: int) -> None:
    home.hub.repos["lab/micro"].linked[FILE] = (size, "0" * 64)
    found = preset(fit_of(home, "r"))
    assert found["fits"] == "unknown"
    assert "length" in str(found["problem"])


def test_a_hub_that_has_another_file_than_models_yaml_names(home: HubHome) -> None:
    home.write_models(MODELS.replace("file: micro-a.gguf", "file: micro-a.gguf, sha256: deadbeef"))
    assert "was changed on the hub" in str(preset(fit_of(home, "r"))["problem"])


def test_the_table() -> None:
    known = Known(bytes_per_s=50 * 2**20)
    presets = (
        PresetFit("small", "side by side", 3 << 30),
        PresetFit(
            "large", "in waves", 5 << 30, missing=("x",), pull_bytes=30 << 30, licences=(Licence("x", "", "no"),)
        ),
        PresetFit("gone", "unknown", problem="the hub is away", missing=("y",), pull_bytes=None),
    )
    assert lines(presets, known, 4 << 30) == [
        "models may take 4.0 GiB",
        "preset  takes    to pull   about   fits",
        "small   3.0 GiB  nothing           side by side",
        "large   5.0 GiB  30.0 GiB  10 min  in waves",
        "gone    unknown  unknown           unknown: the hub is away",
        "licence of x: not named: no",
    ]
    document = as_document(presets, known, 4 << 30)
    assert [one["pull_seconds"] for one in json.loads(json.dumps(document))["presets"]] == [0.0, 614.4, None]


def test_sizes_and_times_for_people() -> None:
    assert [size_text(n) for n in (5 << 10, 5 << 20, 3 << 29)] == ["5 KiB", "5 MiB", "1.5 GiB"]
    assert [duration_text(s) for s in (0.1, 59.6, 99.9, 100, 5999, 7200)] == [
        "1 s", "60 s", "100 s", "2 min", "100 min", "2.0 h",
    ]  # fmt: skip


def test_a_meter_counts_what_came_and_not_what_was_here() -> None:
    now = [10.0]
    meter = Meter(lambda: now[0])
    total = 100 << 20
    assert meter.text(40 << 20, 0, total) == "40 MiB of 100 MiB"
    assert meter.text(40 << 20, 1, total) == "40 MiB of 100 MiB"
    now[0] = 12.0
    assert meter.text(40 << 20, 20 << 20, total) == "60 MiB of 100 MiB, 10 MiB/s, 4 s left"
    assert meter.text(40 << 20, 60 << 20, total) == "100 MiB of 100 MiB, checking"
    assert [meter.is_line_due(is_last=False), meter.is_line_due(is_last=False)] == [True, False]
    assert meter.is_line_due(is_last=True)
    now[0] = 30.0
    assert meter.is_line_due(is_last=False)


def test_a_clock_that_stands_still_is_no_crash() -> None:
    assert Meter(lambda: 5.0).text(0, 10 << 20, 20 << 20) == "10 MiB of 20 MiB"


def test_without_a_hub_the_reason_is_said_once_and_sizes_are_the_catalogues(home: HubHome) -> None:
    sized = MODELS
    for file in (FILE, "micro-judge.gguf"):
        sized = sized.replace(f"file: {file}}}", f"file: {file}, size_bytes: {len(MICRO[file])}}}")
    home.write_models(sized)
    done = home.run("fit", "r", "general-fast", environ={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.stderr.count("is not reached") == 1
    rows = {line.split()[0]: " ".join(line.split()) for line in done.stdout.splitlines()}
    assert rows["r"] == "r unknown 6 MiB unknown"
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if not line.startswith("licence"))


def test_the_list_knows_what_fit_has_read(home: HubHome) -> None:
    def listed() -> dict[str, object]:
        done = home.run("list", "--json")
        assert done.returncode == 0, done.stderr
        models = json.loads(done.stdout)["models"]
        return next(one for one in models if one["name"] == "ra")

    assert listed()["fits"] == "unknown"
    fit_of(home, "r")
    found = listed()
    assert (found["fits"], found["bytes"], found["path"]) == ("yes", len(MICRO[FILE]), None)
