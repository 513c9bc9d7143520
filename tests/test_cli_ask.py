"""The real command on real files: what it prints, what it stores, and what an interruption leaves behind.

The models are tiny and their weights are noise: what they say is not the matter here.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from localfusion.wire.document import RunDocument
from tests.tiny_gguf import TinyModel, write_tiny_gguf

MODELS = """\
models:
  one: {path: one.gguf}
  two: {path: two.gguf}
presets:
  pair:
    max_tool_calls: 1
    panel:
      - {model: one, max_tokens: 40, tools: {web_search: {max_characters: 200}}}
      - {model: one, max_tokens: 40, temperature: 0, tools: {enabled: []}}
      - {model: two, max_tokens: 40, tools: {web_search: {max_characters: 200}}}
    judge: {model: two, max_tokens: 400}
  slow:
    panel: [{model: one, max_tokens: 3000}, {model: two, max_tokens: 3000}]
    judge: {model: two, max_tokens: 400}
aliases: {default: pair}
"""
QUESTION = "What is the height of Skerry?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, a models.yaml and documents; each test has its own home in it."""
    folder = tmp_path_factory.mktemp("ask")
    for seed, name in enumerate(("one.gguf", "two.gguf")):
        write_tiny_gguf(folder / name, TinyModel(seed=seed, n_ctx=4096))
    (folder / "models.yaml").write_text(MODELS)
    (folder / "docs").mkdir()
    (folder / "docs" / "a.md").write_text("The height of Skerry is 40 metres.\n")
    (folder / "docs" / "damaged.pdf").write_bytes(b"%PDF-1.4 and no more")
    return folder


def environment(home: Path) -> Mapping[str, str]:
    return {**os.environ, "LOCALFUSION_HOME": str(home)}


def command(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "localfusion", *arguments]


def run(folder: Path, home: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(home),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def stored(folder: Path, home: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run(folder, home, "runs", "list", "--json").stdout)
    return found


def test_a_run_is_printed_as_it_is_stored(folder: Path, tmp_path: Path) -> None:
    asked = run(folder, tmp_path, "ask", "--docs", "docs", "--json", "--seed", "3", QUESTION)
    assert asked.returncode == 0, asked.stderr
    document = RunDocument.model_validate_json(asked.stdout)
    assert (document.status, document.question, document.seed) == ("ok", QUESTION, 3)
    assert {response.id for response in document.responses} | {failed.id for failed in document.failed_models} == set(
        "abc"
    )
    assert any("damaged.pdf" in warning for warning in document.warnings)
    assert "Traceback" not in asked.stderr
    searching = f"searching {document.searched[0]}"
    assert f"{document.id}: a = one, b = one, c = two; judge = two; seed 3; {searching}" in asked.stderr.splitlines()
    assert document.searched == [str((folder / "docs").absolute())]
    shown = run(folder, tmp_path, "runs", "show", "last", "--json")
    assert json.loads(shown.stdout) == json.loads(asked.stdout)
    assert [entry["id"] for entry in stored(folder, tmp_path)] == [document.id]
    resumed = run(folder, tmp_path, "runs", "resume", "last")
    assert resumed.returncode == (2 if document.answer else 0), resumed.stderr
    assert run(folder, tmp_path, "runs", "remove", document.id).returncode == 0
    assert stored(folder, tmp_path) == []


def test_the_answer_goes_to_its_file_and_nothing_is_kept(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "answer.json"
    home = tmp_path / "home"
    asked = run(folder, home, "ask", "--docs", "docs", "--json", "--no-store", "-o", str(target), "-", stdin=QUESTION)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout == ""
    assert RunDocument.model_validate_json(target.read_text()).question == QUESTION
    assert not home.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["answer.json"]


def test_a_terminal_without_unicode_gets_what_it_can_show(folder: Path, tmp_path: Path) -> None:
    narrow = {**environment(tmp_path), "PYTHONIOENCODING": "ascii"}
    question = "Wie hoch ist die Schäre “Skerry”?"
    for arguments in (("ask", "--docs", "docs", "--json", question), ("runs", "list"), ("runs", "show", "last")):
        done = subprocess.run(command(*arguments), cwd=folder, env=narrow, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if "--json" in arguments:
            assert RunDocument.model_validate_json(done.stdout).question == question


def test_without_documents_the_run_says_so(folder: Path, tmp_path: Path) -> None:
    asked = run(folder, tmp_path, "ask", "--panel", "one", "--judge", "two", "--offline", "--json", QUESTION)
    assert asked.returncode == 0, asked.stderr
    assert RunDocument.model_validate_json(asked.stdout).warnings[0].startswith("no sources were named")


def test_a_run_where_nobody_answers_fails_with_every_reason(folder: Path, tmp_path: Path) -> None:
    write_tiny_gguf(folder / "broken.gguf", TinyModel(tokenizer="nonsense"))
    asked = run(folder, tmp_path, "ask", "--panel", "broken.gguf", "--judge", "one", "--json", QUESTION)
    assert asked.returncode == 1, asked.stderr
    assert RunDocument.model_validate_json(asked.stdout).failure_reason == "all_panels_failed"
    assert [line.split(":")[0] for line in asked.stderr.splitlines()[-2:]] == ["error", "hint"]
    assert "Traceback" not in asked.stderr


def begun(folder: Path, home: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run that has started its workers and will write for a while, and these."""
    process = subprocess.Popen(
        command("ask", "--docs", "docs", "--preset", "slow", QUESTION),
        cwd=folder,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any("loading" in line for line in process.stderr)
    workers: list[psutil.Process] = []
    while not workers and process.poll() is None:
        workers = psutil.Process(process.pid).children()
    return process, workers


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
def test_a_run_that_waits_for_its_disk_says_so_and_can_be_interrupted(folder: Path, tmp_path: Path) -> None:
    """A worker that waits for a disk does nothing and says nothing, as one that is stopped."""
    process, workers = begun(folder, tmp_path)
    for worker in workers:
        while "localfusion.engine.worker" not in worker.cmdline():  # stopped before, it would hold up its parent
            time.sleep(0.001)
        worker.suspend()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line.split(":")[0] for line in err.splitlines()[-2:]] == ["error", "hint"]
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_worker_and_can_be_resumed(
    folder: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    process, workers = begun(folder, tmp_path)
    process.send_signal(ending)
    out, err = process.communicate(timeout=60)
    assert out == ""
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    if ending == signal.SIGINT:
        assert process.returncode == 130
        assert [line.split(":")[0] for line in err.splitlines()[-2:]] == ["error", "hint"]
    (run_stored,) = stored(folder, tmp_path)
    assert run_stored["status"] == "interrupted"
    resumed = run(folder, tmp_path, "runs", "resume", run_stored["id"], "--json")
    assert resumed.returncode == 0, resumed.stderr
    document = RunDocument.model_validate_json(resumed.stdout)
    assert (document.id, document.status) == (run_stored["id"], "ok")
    assert document.responses
