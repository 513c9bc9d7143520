"""`localfusion docs`, as a person uses it: what goes where, what is kept, and what a mistake is answered with."""

import json
from pathlib import Path

import pytest

from localfusion.cli.main import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALFUSION_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("The height of Skerry is 40 metres.")
    (folder / "b.pdf").write_bytes(b"no")
    return folder


def test_a_folder_is_added_listed_refreshed_and_removed(notes: Path, capsys: Capture) -> None:
    assert run(["docs", "add", str(notes)]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        f"warning: {notes / 'b.pdf'} was skipped: it is damaged or not a PDF",
        "2 files read, 0 unchanged",
    ]
    assert run(["docs", "list"]) == 0
    assert capsys.readouterr().out.startswith(f"{notes}: 1 file, 0 KiB, 1 cannot be read, last looked at 2")
    (notes / "c.md").write_text("The depth of Port Hallow is 9 metres.")
    (notes / "b.pdf").unlink()
    assert run(["docs", "refresh"]) == 0
    assert capsys.readouterr().err.splitlines() == ["1 file read, 1 unchanged, 1 forgotten"]
    assert run(["docs", "remove", str(notes)]) == 0
    assert capsys.readouterr().err.splitlines() == [f"{notes}: 2 files forgotten"]
    assert run(["docs", "list"]) == 0
    assert capsys.readouterr().err.splitlines() == ["no documents were added"]


def test_the_list_is_json_for_programs(notes: Path, capsys: Capture) -> None:
    assert run(["docs", "add", str(notes / "a.md")]) == 0
    capsys.readouterr()
    assert run(["docs", "list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry.pop("refreshed")[:2] == "20"
    assert entry == {"path": str(notes / "a.md"), "files": 1, "bytes": 34, "unreadable": 0, "carried": False}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "nowhere"], "no such file or folder"),
        (["add"], "Missing argument"),
        (["remove", "nowhere"], "nothing is known of nowhere"),
        (["remove", ""], "names no file or folder"),
        (["remove", "\udcff"], "names no file or folder"),
        (["refresh"], "no documents are registered"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], says: str, capsys: Capture) -> None:
    assert run(["docs", *arguments]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "hint: " in shown


def test_a_folder_with_nothing_to_read_is_not_kept(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert run(["docs", "add", str(tmp_path / "empty")]) == 2
    assert "nothing under" in capsys.readouterr().err
    assert run(["docs", "list"]) == 0
    assert capsys.readouterr().out == ""


def test_damaged_vectors_keep_nothing_from_being_forgotten(notes: Path, home: Path, capsys: Capture) -> None:
    assert run(["docs", "add", str(notes)]) == 0
    (home / "vectors.sqlite3").write_bytes(b"damaged " * 1000)
    capsys.readouterr()
    assert run(["docs", "remove", str(notes)]) == 0
    told, warning = capsys.readouterr().err.splitlines()
    assert told == f"{notes}: 2 files forgotten"
    assert warning.startswith("warning: vectors were not forgotten: ")


def test_a_file_that_was_removed_can_be_forgotten(notes: Path, capsys: Capture) -> None:
    assert run(["docs", "add", str(notes / "a.md")]) == 0
    (notes / "a.md").unlink()
    assert run(["docs", "refresh"]) == 0
    assert f"warning: {notes / 'a.md'} was skipped: it is not there now" in capsys.readouterr().err
    assert run(["docs", "remove", str(notes / "a.md")]) == 0
