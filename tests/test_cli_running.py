"""Where an outcome is written: whole into files, straight into what is no file."""

import os
from pathlib import Path

import pytest

from localfusion.cli.running import Output, check_writable, hand_over
from localfusion.outcome import Outcome

OUTCOME = Outcome("run_1", "ok", "How high?", 0, "j", answer="Forty.")


def test_a_named_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_writable(Output(file=pipe))
    hand_over(OUTCOME, Output(file=pipe))
    assert os.read(reader, 100) == b"Forty.\n"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path: Path) -> None:
    file, link = tmp_path / "answer.txt", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    hand_over(OUTCOME, Output(file=link))
    assert (link.is_symlink(), file.read_text()) == (True, "Forty.\n")
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ("x" * 255)
    check_writable(Output(file=file))
    hand_over(OUTCOME, Output(file=file))
    assert file.read_text() == "Forty.\n"
    assert capfd.readouterr().out == ""
