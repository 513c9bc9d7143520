"""Documents that are carried to another machine without their files: each as one line of JSON, read back with distrust.

What is carried is text that was read already; where the lines are kept, and who made them, is not known here.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from localfusion.database import Transaction
from localfusion.errors import ConfigError
from localfusion.search.document_tables import PASSAGES, known_under
from localfusion.search.extraction import Extracted
from localfusion.search.passages import Piece

CARRIED_FOLDER = "carried"
"""Of the home: below it are the names of carried folders and files. Nothing is there on the disk."""


_ODD = re.compile(r"[\x00-\x1f\x7f\\:]")
"""What parts a path or names a drive on some system, and what no name should have."""


def _inner_path(value: str) -> str:
    if _ODD.search(value) or any(part in ("", ".", "..") for part in value.split("/") if value):
        raise ValueError("must lead to something below its root")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Passage(_Strict):
    headings: str
    text: str


class _Document(_Strict):
    """`path` is below the root, parted by /, and "" where the root is the file itself."""

    path: Annotated[str, Field(max_length=4096), AfterValidator(_inner_path)]
    size: Annotated[int, Field(ge=0, lt=2**63)]
    content_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    title: str
    text: str
    passages: Annotated[tuple[_Passage, ...], Field(max_length=PASSAGES)]


def to_lines(transaction: Transaction, root: str) -> Iterator[bytes]:
    """The readable documents at `root` or below it; what links there lead to elsewhere is left out."""
    for known in known_under(transaction, root):
        if known.problem is not None:
            continue
        rows = transaction.rows(lambda *row: row, _TEXT, (known.id,))
        ((title, text),) = rows
        span = (known.id * PASSAGES, (known.id + 1) * PASSAGES - 1)
        passages = transaction.rows(lambda h, t: _Passage(headings=h, text=t), _PASSAGES, span)
        path = PurePosixPath(Path(known.path).relative_to(root).as_posix())
        name = _ODD.sub(lambda odd: f"%{ord(odd[0]):02X}", str(path))
        document = _Document(
            path="" if path == PurePosixPath() else name,
            size=known.size,
            content_sha256=known.content_sha256,
            title=title,
            text=text,
            passages=tuple(passages),
        )
        yield document.model_dump_json().encode() + b"\n"


def from_lines(lines: Iterable[bytes], root: Path, *, is_file: bool, n_documents: int) -> Iterator[Extracted]:
    """The documents of such lines, as if they had been read from files at `root`.

    Raises ConfigError for what is no such lines, or in the end not as many.
    """
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            found = _Document.model_validate_json(line)
        except (ValidationError, RecursionError) as error:
            raise _refused(number, "it is no document") from error
        if found.path in seen or (found.path == "") != is_file:
            raise _refused(number, "its path is there twice, or is none")
        seen.add(found.path)
        path = root / found.path if found.path else root
        if not path.is_relative_to(root):
            raise _refused(number, "its path leads elsewhere")
        yield Extracted(
            path=path,
            size=found.size,
            mtime_ns=0,
            content_sha256=found.content_sha256,
            problem=None,
            title=found.title,
            text=found.text,
            passages=tuple(Piece(passage.headings, passage.text) for passage in found.passages),
        )
    if len(seen) != n_documents:
        message = f"{len(seen)} documents are in the bundle, and {n_documents} are named"
        raise ConfigError(message, hint="make the bundle again")


def _refused(number: int, problem: str) -> ConfigError:
    return ConfigError(
        f"the documents of the bundle are refused: document {number}: {problem}", hint="make the bundle again"
    )


_TEXT = "SELECT title, text FROM document JOIN content ON content.document = document.id WHERE document.id = ?"
_PASSAGES = "SELECT headings, text FROM passage WHERE id BETWEEN ? AND ? ORDER BY id"
