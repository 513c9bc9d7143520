"""The machine's own text: manual pages, docstrings of the standard library, and documents that programs came with.

All is copied into one folder, manual pages and docstrings as plain text, so that every index reads the same.
"""

import ast
import gzip
import re
import site
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from localfusion.search.formats import SUFFIXES

MAX_FILE_BYTES = 2**20
FILES_OF_A_FOLDER = 100
_MIN_CHARACTERS = 200
_ROFF_HEADING = re.compile(r"\.S[HS]\s+\"?([^\"\n]*)\"?")
_ROFF_FONT = re.compile(r"\\f(?:\[[^]]*\]|\(..|.)|\\[&|^/,:]|\\s[+-]?\d")
_ROFF_TEXT = re.compile(r"\.(?:B|I|BR|IR|RB|BI|IB|RI|SM|Nm|Fl|Ar|Xr|Cm|Pa)\s+(.*)")


def copy_documents(folder: Path, *, max_files: int, max_bytes: int) -> Path:
    """Files of each kind in turn, until there are enough of them."""
    kinds = [_manual_pages(), _docstrings(), _documents()]
    number = n_bytes = 0
    while kinds and number < max_files and n_bytes < max_bytes:
        for kind in tuple(kinds):
            found = list(islice(kind, FILES_OF_A_FOLDER))
            if not found:
                kinds.remove(kind)
            for name, content in found:
                inside = folder / f"part-{number // FILES_OF_A_FOLDER:04d}"
                inside.mkdir(parents=True, exist_ok=True)
                (inside / f"{number}-{name}").write_bytes(content)
                number += 1
                n_bytes += len(content)
    return folder


def _manual_pages() -> Iterator[tuple[str, bytes]]:
    for path in sorted(Path("/usr/share/man").glob("man*/*.gz")):
        try:
            text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        except (OSError, EOFError):
            continue
        if len(text) >= _MIN_CHARACTERS:
            yield f"{path.name.removesuffix('.gz')}.txt", _without_roff(text).encode()


def _without_roff(text: str) -> str:
    lines: list[str] = []
    for line in _ROFF_FONT.sub("", text).replace("\\-", "-").replace("\\(aq", "'").splitlines():
        if heading := _ROFF_HEADING.match(line):
            lines += ["", heading.group(1).capitalize(), ""]
        elif words := _ROFF_TEXT.match(line):
            lines.append(words.group(1))
        else:
            lines.append("" if line.startswith((".", "'")) else line)
    return "\n".join(lines)


def _docstrings() -> Iterator[tuple[str, bytes]]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        text = "\n\n".join(filter(None, found))
        if len(text) >= _MIN_CHARACTERS:
            yield f"{path.parent.name}.{path.stem}.txt", text.encode("utf-8", "replace")


def _documents() -> Iterator[tuple[str, bytes]]:
    for root in ("/usr/share", *site.getsitepackages()):
        for path in sorted(Path(root).rglob("*")):
            is_wanted = path.suffix.lower() in SUFFIXES - {".pdf"} and path.is_file() and not path.is_symlink()
            if is_wanted and _MIN_CHARACTERS <= path.stat().st_size <= MAX_FILE_BYTES:
                yield path.name, path.read_bytes()
