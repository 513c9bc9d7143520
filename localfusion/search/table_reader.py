"""Spreadsheets and files of separated values as blocks: a block a row, a heading a sheet. No formula is computed.

Where the first row names the columns, each row is written with these names, so that it can be understood alone.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from functools import partial
from itertools import islice

from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

from localfusion.search.archive import is_encrypted_office, open_archive
from localfusion.search.blocks import Block, Readable, Unreadable, readable, squeeze

MAX_CELLS = 2**20
"""In all sheets together, empty ones aside."""

_KIND = "a spreadsheet"
_ZIP = b"PK"
_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 20
_HEADER_WIDTH = 60
"""What is longer than this is no name of a column."""

Cell = int | float | str | bool | time | date | datetime | timedelta


def read_csv(text: str) -> Readable:
    """Values separated by whatever parts the first rows most evenly. Raises Unreadable for a cell without an end."""
    return _read_separated(text, _DELIMITERS)


def read_tsv(text: str) -> Readable:
    """Values separated by tabs. Raises Unreadable as `read_csv`."""
    return _read_separated(text, "\t")


def read_spreadsheet(content: bytes) -> Readable:
    """The sheets that are not hidden of an .xlsx, .xls, .xlsb or .ods file. Raises Unreadable."""
    if content.startswith(_ZIP):
        open_archive(content, kind=_KIND).close()
    elif is_encrypted_office(content):
        raise Unreadable("it is encrypted")
    try:
        with CalamineWorkbook.from_filelike(io.BytesIO(content)) as book:
            return readable("", _book_blocks(book))
    except PasswordError as error:
        raise Unreadable("it is encrypted") from error
    except (CalamineError, ValueError) as error:
        raise Unreadable(f"it is damaged or not {_KIND}") from error


def _book_blocks(book: CalamineWorkbook) -> Iterator[Block]:
    counter = _Counter()
    for sheet in book.sheets_metadata:
        if sheet.typ == SheetTypeEnum.WorkSheet and sheet.visible == SheetVisibleEnum.Visible:
            rows = book.get_sheet_by_name(sheet.name).iter_rows()
            blocks = list(_rows_blocks(counter.count([_shown(cell) for cell in row] for row in rows)))
            if blocks:
                yield Block(sheet.name, 1)
                yield from blocks


def _read_separated(text: str, delimiters: str) -> Readable:
    try:
        rows = _rows(text, max(delimiters, key=partial(_evenness, text)))
        return readable("", _rows_blocks(_Counter().count([squeeze(cell) for cell in row] for row in rows)))
    except csv.Error as error:
        raise Unreadable("it has a cell that does not end") from error


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)


def _evenness(text: str, delimiter: str) -> tuple[int, int]:
    """How many of the first rows have as many cells as the first, where these are several; and how many these are."""
    rows = list(islice(_rows(text, delimiter), _SAMPLE_ROWS))
    width = len(rows[0]) if rows else 0
    return sum(len(row) == width > 1 for row in rows), width


class _Counter:
    """Counts cells as rows go by, and stops where there are too many."""

    def __init__(self) -> None:
        self._n_cells = 0

    def count(self, rows: Iterable[list[str]]) -> Iterator[list[str]]:
        for row in rows:
            self._n_cells += sum(map(bool, row))
            if self._n_cells > MAX_CELLS:
                raise Unreadable(f"it has more than {MAX_CELLS} cells")
            if any(row):
                yield row


def _rows_blocks(rows: Iterator[list[str]]) -> Iterator[Block]:
    """A block for each row; rows are never empty."""
    first = next(rows, None)
    if first is None:
        return
    second = next(rows, None)
    if second is None or not _names_columns(first):
        yield from (Block(_plain(row)) for row in (first, second) if row)
        yield from (Block(_plain(row)) for row in rows)
        return
    yield Block(_plain(first))
    yield Block(_named(first, second))
    yield from (Block(_named(first, row)) for row in rows)


def _names_columns(row: Sequence[str]) -> bool:
    """Whether a first row is a header: two names or more, each another, none of them a number."""
    names = [cell for cell in row if cell]
    is_distinct = len(set(names)) == len(names) > 1
    return is_distinct and all(len(name) <= _HEADER_WIDTH and not _is_number(name) for name in names)


def _is_number(text: str) -> bool:
    return text.strip("+-$€£% ").replace(",", "").replace(".", "").replace(":", "").replace("-", "").isdigit()


def _plain(row: Sequence[str]) -> str:
    return " | ".join(row).rstrip(" |")


def _named(names: Sequence[str], row: Sequence[str]) -> str:
    padded = [*names, *[""] * (len(row) - len(names))]
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(padded, row, strict=False) if cell)


def _shown(cell: Cell) -> str:
    match cell:
        case bool():
            return "yes" if cell else "no"
        case float():
            return f"{cell:.15g}"
        case datetime():
            return cell.date().isoformat() if cell.time() == time() else cell.isoformat(" ", "seconds")
        case date() | time():
            return cell.isoformat()
        case _:
            return squeeze(f"{cell}")
