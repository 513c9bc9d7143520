"""The bench of the search: one row end to end in its small size, and its pure parts. No time is looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from localfusion.search.tokens import written_words
from scripts.search_bench.invented import write_documents
from scripts.search_bench.known_items import Stored, draw
from scripts.search_bench.rows import Answers

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_row_is_measured_end_to_end(tmp_path: Path) -> None:
    written = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "scripts" / "bench-search"), "--quick", "--only", "invented"]
    done = subprocess.run([*command, "--json", str(written)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure["value"] for figure in json.loads(written.read_text())}
    assert len(figures) == len(done.stdout.splitlines()) - 1
    assert all(figures[f"invented: 3 to 6 words, recall@5, {name}"] > 0.5 for name in ("localfusion", "bare FTS5"))


def test_invented_documents_are_the_same_each_time(tmp_path: Path) -> None:
    first, second = (write_documents(tmp_path / name, 3) for name in ("first", "second"))
    texts = [[path.read_text() for path in sorted(folder.rglob("*.md"))] for folder in (first, second)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
    assert all(text.startswith("# ") and " the " in text for text in texts[0])


def test_known_items_are_words_of_their_passage(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "docs", 3)
    passages = [Stored(path.name, "", "", path.read_text()) for path in sorted(folder.rglob("*.md"))]
    items = draw(passages, 20)
    assert len(items) == 20
    for item in items:
        text = next(passage.text for passage in passages if passage.document == item.document).lower()
        assert 3 <= len(item.words.split()) <= 6
        assert set(item.words.split()) <= set(written_words(text))


def test_answers_are_summed_up() -> None:
    answers = Answers((1.0, 2.0, 3.0, 4.0), (1, None, 2, None))
    assert (answers.quantile(0.5), answers.recall, answers.mrr) == (3.0, 0.5, 0.375)
