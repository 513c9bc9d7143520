"""What bad input gets at the command line: two lines, the right exit code, never a traceback."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from localfusion.cli.main import COMMANDS, localfusion, run
from localfusion.cli.models import COMMANDS as MODELS_COMMANDS
from tests.tiny_gguf import write_tiny_gguf

MODELS = """\
models:
  one: {path: one.gguf}
  gone: {path: gone.gguf}
  text: {path: text.gguf}
  empty: {path: empty.gguf}
  cut: {path: cut.gguf}
  torn: {path: torn.gguf}
  small: {path: one.gguf, flash_attn: false}
presets:
  fine: {panel: [one], judge: one}
aliases: {default: fine}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, tiny: bytes) -> Path:
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "broken.yaml").write_text("models:\n  one: {pth: one.gguf}\n")
    (tmp_path / "one.gguf").write_bytes(tiny)
    (tmp_path / "cut.gguf").write_bytes(tiny[: len(tiny) // 2])
    (tmp_path / "torn.gguf").write_bytes(tiny[:300])
    (tmp_path / "text.gguf").write_bytes(b"not a model")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("The height of Skerry is 40 metres.\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG")
    return tmp_path


def localfusion_at(
    folder: Path, *arguments: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the real command in a process of its own, with a home of its own."""
    variables = {**os.environ, "LOCALFUSION_HOME": str(folder / "home"), **(environ or {})}
    command = [sys.executable, "-m", "localfusion", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, input=stdin, capture_output=True, check=False)


BAD_INPUT: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("no command like that", ("aks",), "No such command 'aks'"),
    ("unknown option", ("ask", "--pannel", "one", "Q?"), "No such option '--pannel'"),
    ("a cost that is no number", ("ask", "--max-cost", "nan", "Q?"), "write a number of dollars"),
    ("no question", ("ask",), "Missing argument 'QUESTION'"),
    ("empty question", ("ask", ""), "the question is empty"),
    ("blank question", ("ask", " \n\t"), "the question is empty"),
    ("unknown preset", ("ask", "--preset", "fin", "Q?"), "unknown preset 'fin'"),
    ("unknown model", ("ask", "--panel", "won", "--judge", "one", "Q?"), "unknown model 'won'"),
    ("unknown judge", ("ask", "--judge", "won", "Q?"), "unknown model 'won'"),
    ("panel without judge", ("ask", "--panel", "one", "Q?"), "a panel needs a judge"),
    ("nine seats", ("ask", "--panel", ",".join(["one"] * 9), "--judge", "one", "Q?"), "at most 8"),
    ("a seat without a name", ("ask", "--panel", "one,,one", "--judge", "one", "Q?"), "name is empty"),
    ("no size", ("ask", "--vram", "much", "Q?"), "'much' is no size of 1 MiB or more"),
    ("a size of nearly nothing", ("ask", "--vram", "5", "Q?"), "'5' is no size of 1 MiB or more"),
    ("a size that only begins as nothing", ("ask", "--vram", "0x", "Q?"), "'0x' is no size of 1 MiB or more"),
    ("model file missing", ("ask", "--judge", "gone", "Q?"), "gone.gguf"),
    ("model file named and missing", ("ask", "--judge", "nowhere/x.gguf", "Q?"), "nowhere/x.gguf"),
    ("model file empty", ("ask", "--judge", "empty", "Q?"), "is empty"),
    ("model file not a GGUF", ("ask", "--judge", "text", "Q?"), "is not a GGUF"),
    ("model file truncated", ("ask", "--judge", "cut", "Q?"), "the file of the model cut is damaged: "),
    ("panelist's file truncated", ("ask", "--panel", "one,cut", "--judge", "one", "Q?"), "cut.gguf"),
    ("every panelist's file truncated", ("ask", "--panel", "cut,cut", "--judge", "one", "Q?"), "cut.gguf"),
    ("header truncated", ("ask", "--judge", "torn", "Q?"), "the file of the model torn is damaged: "),
    ("one file with two settings", ("ask", "--judge", "small", "Q?"), "a (one) and judge (small)"),
    ("seed below zero", ("ask", "--seed", "-1", "Q?"), "--seed"),
    ("seed not a number", ("ask", "--seed", "x", "Q?"), "--seed"),
    ("too many tool calls", ("ask", "--max-tool-calls", "17", "Q?"), "--max-tool-calls"),
    ("no tool calls", ("ask", "--max-tool-calls", "0", "Q?"), "--max-tool-calls"),
    ("models file missing", ("ask", "--models", "none.yaml", "Q?"), "none.yaml cannot be read"),
    ("unknown key in models file", ("ask", "--models", "broken.yaml", "Q?"), 'broken.yaml:2: unknown key "pth"'),
    ("documents missing", ("ask", "--docs", "nowhere", "Q?"), "no such file or folder: 'nowhere'"),
    ("documents without a name", ("ask", "--docs", "", "Q?"), "no such file or folder: ''"),
    ("documents under an impossible name", ("ask", "--docs", "x" * 300, "Q?"), "cannot be opened"),
    ("a model of nobody", ("ask", "--judge", "~no-such-user/x.gguf", "Q?"), "x.gguf"),
    ("output under an impossible name", ("ask", "-o", "x" * 300, "Q?"), "cannot be written"),
    ("nothing readable", ("ask", "--docs", "pictures", "Q?"), "can be read"),
    ("output into no folder", ("ask", "-o", "nowhere/out.txt", "Q?"), "nowhere is not there"),
    ("output onto a folder", ("ask", "-o", "docs", "Q?"), "docs is a folder"),
    ("no runs yet", ("runs", "show", "last"), "no runs are stored"),
    ("unknown run", ("runs", "show", "run_1"), "there is no run run_1"),
    ("resume an unknown run", ("runs", "resume", "run_1"), "there is no run run_1"),
    ("remove an unknown run", ("runs", "remove", "run_1"), "there is no run run_1"),
    ("remove nothing", ("runs", "remove"), "Missing argument"),
)


@pytest.mark.parametrize(("arguments", "message"), [row[1:] for row in BAD_INPUT], ids=[row[0] for row in BAD_INPUT])
def test_bad_input_gets_two_lines_and_exit_code_two(
    folder: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOCALFUSION_HOME", str(folder / "home"))
    assert run(arguments) == 2
    shown = capfd.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == ""
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], lines
    assert message in lines[0]


def test_an_empty_question_on_stdin_is_refused_by_the_real_command(folder: Path) -> None:
    done = localfusion_at(folder, "ask", "-", stdin=b" \n")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "error: the question is empty",
        'hint: write it in quotes after the options, or pipe it to "localfusion ask -"',
    ]


def test_a_question_that_is_no_text_is_refused(folder: Path) -> None:
    done = localfusion_at(folder, "ask", "-", stdin=b"What is \xff\xfe?")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: the question is not UTF-8 text")


def test_a_question_that_is_too_long_is_refused(folder: Path) -> None:
    done = localfusion_at(folder, "ask", "-", stdin=b"word " * 50_000)
    assert done.returncode == 2
    assert b"at most" in done.stderr


def test_a_question_in_the_c_locale_is_text_all_the_same(folder: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = localfusion_at(folder, "ask", "--docs", "pictures", "Wie hoch ist Süd-Skerry?", environ=plain)
    assert b"can be read" in done.stderr


def test_documents_under_a_name_that_is_no_text_are_refused(folder: Path) -> None:
    name = os.fsdecode(b"docs/\xff.md")
    try:
        (folder / name).write_text("The height of Skerry is 40 metres.\n")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only text as names")
    done = localfusion_at(folder, "ask", "--docs", "docs", "--docs", name, "Q?")
    assert done.returncode == 2
    assert b"is not UTF-8" in done.stderr.split(b"\n")[0]


def test_a_removed_folder_is_named(folder: Path) -> None:
    script = "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); "
    script += "from localfusion.cli.main import run; sys.exit(run(['runs', 'list']))"
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd=folder, capture_output=True, check=False)
    assert (done.returncode, done.stderr.split(b"\n")[0]) == (2, b"error: the current folder was removed")


@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_crash(folder: Path, stream: str) -> None:
    environ = {**os.environ, "LOCALFUSION_HOME": str(folder / "home")}
    command = f"{sys.executable} -m localfusion ask --docs docs - {stream}"
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=environ, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named(folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "localfusion", "--help"]
        done = subprocess.run(command, cwd=folder, stdout=full, stderr=subprocess.PIPE, check=False)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, [line.split(":")[0] for line in lines]) == (1, ["error", "hint"]), lines


def test_an_error_cannot_move_the_cursor(folder: Path) -> None:
    done = localfusion_at(folder, "ask", "--preset", "\x1b[2Jfine", "Q?")
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr


def test_the_environment_names_models_file_and_home(folder: Path) -> None:
    named = localfusion_at(folder, "ask", "Q?", environ={"LOCALFUSION_MODELS": "broken.yaml"})
    assert b"broken.yaml:2" in named.stderr
    state = folder / "state"
    assert localfusion_at(folder, "runs", "list", environ={"LOCALFUSION_HOME": str(state)}).returncode == 0
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_home_that_is_a_file_is_refused(folder: Path) -> None:
    done = localfusion_at(folder, "runs", "list", environ={"LOCALFUSION_HOME": str(folder / "one.gguf")})
    assert done.returncode == 2
    assert b"hint: set LOCALFUSION_HOME" in done.stderr


def test_an_empty_list_of_runs_is_not_an_error(folder: Path) -> None:
    done = localfusion_at(folder, "runs", "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"no runs are stored\n")
    assert json.loads(localfusion_at(folder, "runs", "list", "--json").stdout) == []


def test_a_reader_that_leaves_is_no_error(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "localfusion", "--help"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_a_group_without_a_command_shows_its_help() -> None:
    assert run(["runs"]) == 2
    assert run(["--version"]) == 0


def every_command() -> list[tuple[str, click.Command]]:
    """Path and command of the whole tree."""
    context = click.Context(localfusion)
    found: list[tuple[str, click.Command]] = []
    for name in localfusion.list_commands(context):
        command = localfusion.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            inner = [(sub, command.get_command(context, sub)) for sub in command.list_commands(context)]
            found += [(f"{name} {path}", sub) for path, sub in inner if sub is not None]
    return found


@pytest.mark.parametrize(("path", "command"), every_command(), ids=[path for path, _ in every_command()])
def test_every_help_has_examples_of_its_command(path: str, command: click.Command) -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    assert f"localfusion {path}" in shown.partition("Examples:")[2]


def test_the_overview_says_what_the_commands_say() -> None:
    overview = {**COMMANDS, **{f"models {name}": entry for name, entry in MODELS_COMMANDS.items()}}
    for path, command in every_command():
        if path in overview:
            assert overview[path][1] == command.get_short_help_str(limit=200)


def test_help_imports_no_engine_and_no_models_file() -> None:
    script = "import sys; from localfusion.cli.main import run; run(['--help']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    heavy = {
        "pydantic",
        "yaml",
        "rich",
        "trafilatura",
        "numpy",
        "llama_cpp",
        "llguidance",
        "apsw",
        "asyncio",
        "psutil",
        "huggingface_hub",
    }
    assert loaded & heavy == set()
