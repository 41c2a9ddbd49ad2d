"""CSV and TSV with a header. Cells are text here; the column mapping turns them into numbers, lists and objects."""

import csv
from collections import deque
from collections.abc import Iterator
from io import TextIOWrapper
from typing import BinaryIO

from rlhf.data.fault import Fault, make_fault, shorten
from rlhf.data.place import Count, Place, Row

FIELD_CHARS = 2**31 - 1
RECORD_CHARS = 1 << 24
"""A quote that is still open after so many characters is taken for a stray one: it would swallow the file."""


class _Lines:
    """The text's lines, as `csv` asks for them. What a broken record has swallowed can be read again."""

    def __init__(self, text: TextIOWrapper) -> None:
        self._text = text
        self._again: deque[str] = deque()
        self._record: list[str] = []
        self._size = 0
        self._has_cr_ends = False
        self.line = 1
        """Line on which the next record starts."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._text)
        self._record.append(line)
        self._size += len(line)
        if self._size > RECORD_CHARS and len(self._record) > 1:
            raise csv.Error(f"a quote is not closed within {RECORD_CHARS:,} characters")
        return line

    def first(self) -> str:
        """The first line, which `csv` will be given too; tells which line ends the file has."""
        line = next(self._text, "")
        self._has_cr_ends = line.endswith("\r")
        return line

    def put_back(self, line: str) -> None:
        """Have `csv` read this line next."""
        if line:
            self._again.appendleft(line)

    def end_record(self) -> None:
        """Go on behind the record."""
        # a lone carriage return ends a line of csv's, but editors count it only where no line ends otherwise
        ends = sum(line.endswith("\n") or self._has_cr_ends for line in self._record)
        self._forget(ends)

    def end_broken(self) -> None:
        """Go on behind the record's first line: a stray quote must not hide the rows after it."""
        self._again.extendleft(reversed(self._record[1:]))
        del self._record[1:]
        self.end_record()

    def _forget(self, ends: int) -> None:
        self.line += ends
        self._record.clear()
        self._size = 0


def _records(lines: _Lines, name: str, delimiter: str) -> Iterator[tuple[Place, list[str] | Fault]]:
    """Each record's cells with the line on which it starts; the header has no row."""
    # strict: a stray quote is an error, not part of the text
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    row = 0
    while True:
        place = Place(name, lines.line, row or None)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, make_fault("bad_csv", place, f"is not CSV: {error}")
            lines.end_broken()
        else:
            lines.end_record()
            if not cells:
                continue
            yield place, _not_utf8(cells, place) or cells
        row += 1


def _not_utf8(cells: list[str], place: Place) -> Fault | None:
    for cell in cells:
        if not cell.isascii():
            try:
                cell.encode()
            except UnicodeEncodeError:
                raw = cell.encode(errors="surrogateescape")
                return make_fault("not_utf8", place, "has a cell that is not UTF-8", value=shorten(raw[:40]))
    return None


def _twice(cells: list[str], place: Place) -> Fault | None:
    twice = next((cell for index, cell in enumerate(cells) if cell in cells[:index]), None)
    if twice is None:
        return None
    return make_fault("duplicate_key", place, f"has the column {shorten(twice)} twice")


def read_csv(file: BinaryIO, name: str, count: Count, delimiter: str = ",") -> Iterator[Row | Fault]:
    """Rows and faults in order, each at the line where it starts; blank lines hold no row and are passed over.

    Args:
        file, name, count: see `read_jsonl`; lines are not counted.
        delimiter: what stands between cells; quotes are the same for all.
    """
    # the default of 131,072 characters is shorter than long documents; the limit is the process's
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_CHARS))
    lines = _Lines(TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline=""))
    first = lines.first()
    if first.startswith("\ufeff"):
        yield make_fault("bom", Place(name, 1), "starts with a byte order mark")
    lines.put_back(first.removeprefix("\ufeff"))
    records = _records(lines, name, delimiter)
    place, header = next(records, (Place(name), None))
    if header is None:
        return
    if isinstance(header, Fault):
        yield header
        return
    if fault := _twice(header, place):
        yield fault
        return
    for place, cells in records:
        count.rows += 1
        if isinstance(cells, Fault):
            yield cells
        elif len(cells) != len(header):
            message = f"has {len(cells)} cells, but the header has {len(header)}"
            yield make_fault("column_count", place, message, value=shorten(cells))
        else:
            yield Row(dict(zip(header, cells, strict=True)), place)
