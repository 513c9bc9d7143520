"""What the doctor says: of this machine on the real engine, and of builds and presets that are amiss."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from localfusion.cli.doctor import as_document, lines, speed_document, speed_lines
from localfusion.cli.sizes import size_text
from localfusion.doctor import BUILD_NAMES, REBUILD, Report, unused_features
from localfusion.engine.speed import Rate, Speed, Way
from localfusion.fits import PresetFit
from localfusion.machine import processor_features
from localfusion.messages import Device, EngineFacts
from tests.harbour import ROOT, SHIPPED

GOOD = Report(2, 8 << 30, 5 << 30, 4 << 30, EngineFacts(frozenset({"AVX2", "FMA"})), (), ())


@pytest.mark.parametrize(
    ("processor", "build", "unused"),
    [
        ({"avx2", "fma"}, {"AVX2", "FMA"}, ()),
        ({"avx2", "fma", "avx512f"}, {"FMA"}, ("AVX2", "AVX512")),
        ({"sse"}, set(), ()),
        (set(), {"AVX2"}, ()),
    ],
)
def test_what_a_build_leaves_unused(processor: set[str], build: set[str], unused: tuple[str, ...]) -> None:
    assert unused_features(frozenset(processor), frozenset(build)) == unused
    text = "\n".join(lines(replace(GOOD, unused_features=unused)))
    assert (REBUILD in text) is bool(unused)
    assert all(name in text for name in unused)


def test_presets_that_fit_and_that_do_not() -> None:
    fits = (
        PresetFit("small", "side by side", 3 << 30),
        PresetFit("large", "in waves", 5 << 30),
        PresetFit("huge", "no", 6 << 30, problem="x needs 6144 MiB"),
        PresetFit("gone", "unknown", problem="no such file"),
    )
    assert lines(replace(GOOD, presets=fits))[-4:] == [
        "small   3.0 GiB    side by side",
        "large   5.0 GiB    in waves",
        "huge    6.0 GiB    no: x needs 6144 MiB",
        "gone    unknown: no such file",
    ]
    assert size_text(5 << 20) == "5 MiB"


def test_gpus_and_what_a_preset_takes_of_them() -> None:
    card = Device("CUDA0", "A Card", 8 << 30, 6 << 30)
    report = replace(
        GOOD,
        engine=EngineFacts(GOOD.engine.features, (card,)),
        vram_bytes={"CUDA0": 5 << 30},
        presets=(
            PresetFit("small", "side by side", 1 << 30, 3 << 30),
            PresetFit("huge", "no", 0, 9 << 30, "x needs 9216 MiB of VRAM"),
        ),
    )
    text = lines(report)
    assert "gpu        CUDA0, A Card: 6.0 GiB free of 8.0 GiB; models may take 5.0 GiB" in text
    assert text[-2:] == [
        "small   1.0 GiB + 3.0 GiB of VRAM  side by side",
        "huge    9.0 GiB of VRAM  no: x needs 9216 MiB of VRAM",
    ]
    assert "gpu" not in "\n".join(lines(GOOD))
    (device,) = json.loads(json.dumps(as_document(report)))["llama_cpp"]["devices"]
    assert device == {
        "name": "CUDA0",
        "description": "A Card",
        "memory_bytes": 8 << 30,
        "available_bytes": 6 << 30,
        "budget_bytes": 5 << 30,
    }


def test_the_flags_of_a_processor(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(
        "processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags : sse\n"
    )
    assert processor_features(tmp_path) == {"fpu", "avx2", "fma"}
    assert processor_features(tmp_path / "nowhere") == frozenset()


def examined(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "localfusion", "doctor", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_this_machine_and_the_micro_preset() -> None:
    done = examined("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (micro,) = [preset for preset in report["presets"] if preset["name"] == "micro"]
    assert micro["bytes"] > sum(file.stat().st_size for file in SHIPPED.glob("*.gguf"))
    assert micro["fits"] == "side by side"
    assert 0 < report["budget_bytes"] <= report["available_bytes"]
    assert report["cores"] >= 1
    assert 0 < report["available_bytes"] <= report["memory_bytes"]
    if "avx2" in processor_features():
        assert set(report["llama_cpp"]["features"]) & set(BUILD_NAMES.values())


def test_no_gpu_is_used_where_none_may_be() -> None:
    done = examined("--vram", "0 GiB", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert not any(device["budget_bytes"] for device in report["llama_cpp"]["devices"])
    assert {preset["vram_bytes"] for preset in report["presets"]} == {0}


def test_less_memory_makes_waves_and_then_refusals() -> None:
    for memory, fits in (("100MiB", "in waves"), ("2MiB", "no")):
        done = examined("--memory", memory, "--json")
        assert done.returncode == 0, done.stderr
        (micro,) = [preset for preset in json.loads(done.stdout)["presets"] if preset["name"] == "micro"]
        assert micro["fits"] == fits
    assert "micro-a needs" in micro["problem"]


def test_a_preset_whose_file_is_gone_is_named_and_costs_no_other(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(
        f"""\
models:
  here: {{path: {SHIPPED / "micro-a.gguf"}}}
  gone: {{path: gone.gguf}}
presets:
  one: {{panel: [{{model: here}}], judge: here}}
  two: {{panel: [{{model: gone}}], judge: here}}
"""
    )
    done = examined("--models", str(models))
    assert done.returncode == 0, done.stderr
    one, two = done.stdout.splitlines()[-2:]
    assert one.split()[0] == "one"
    assert one.endswith("side by side")
    assert "gone" in two
    assert "unknown" in two


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ((9.0, 10.0), "as localfusion runs it: as fast, within what tries differ among themselves"),
        ((19.5, 18.0), "as localfusion runs it: as fast, within what tries differ among themselves"),
        (
            (5.0,),
            (
                "as localfusion runs it: 50% of that; measure once more, then try n_threads: 2 in models.yaml,"
                " OMP_WAIT_POLICY=ACTIVE, GOMP_SPINCOUNT=INFINITE"
            ),
        ),
    ],
)
def test_what_was_measured_is_compared_with_the_own_choice(own: tuple[float, ...], says: str) -> None:
    ways = {Way(2, "active"): Rate((11.0, 9.5, 10.0)), Way(2, "short"): Rate((8.0,)), Way(1, None): Rate((6.0,))}
    speed = Speed(84 << 20, Rate(own), ways)
    text = speed_lines(speed)
    assert text[0] == "tokens a second of a random model of 84 MiB"
    assert text[2].split() == ["2", "threads,", "they", "wait", "on", "the", "core", "10.0", "(9.5", "to", "11.0)"]
    assert text[-2:] == ["fastest: 2 threads, they wait on the core", says]
    document = speed_document(speed)
    assert document["is_own_fastest"] is ("as fast" in says)
    assert document["fastest"] == {
        "n_threads": 2,
        "waiting": "active",
        "environment": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "INFINITE"},
    }


ON_ONE_CORE = (
    "import os, sys; hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    "from localfusion.cli.main import main; main()"
)


def test_this_machine_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_ONE_CORE, "doctor", "--measure", "--json"]
    environ = {**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert "measuring" in done.stderr
    assert list(tmp_path.iterdir()) == []
    speed = json.loads(done.stdout)["speed"]
    assert speed["model_bytes"] > 64 << 20
    assert speed["own"]["tokens_per_second"] > 0
    assert speed["ways"][-1]["n_threads"] == 1
    assert all(way["tokens_per_second"] > 0 for way in speed["ways"])
    assert speed["fastest"]["n_threads"] >= 1


SMALL_FILES = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_a_disk_without_room_for_the_model_is_an_error_that_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{SMALL_FILES}{ON_ONE_CORE}", "doctor", "--measure"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=environ)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
def test_an_interrupted_measurement_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "localfusion", "doctor", "--measure"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr is not None
        assert any("measuring" in line for line in process.stderr)
        while not (workers := psutil.Process(process.pid).children()):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    assert list(tmp_path.iterdir()) == []
