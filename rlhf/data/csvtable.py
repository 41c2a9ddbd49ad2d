"""CSV with a header. Cells are text here; the column mapping turns them into numbers, lists and objects."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rlhf.data.fault import Fault, make_fault, shorten
from rlhf.data.place import Place, Row

FIELD_BYTES = 2**31 - 1


def _records(file: TextIO, name: str) -> Iterator[tuple[Place, list[str] | Fault]]:
    """Each record's cells with the line on which it starts; the header has no row."""
    # strict: a stray quote is an error, not part of the text
    reader = csv.reader(file, strict=True)
    row = 0
    while True:
        place = Place(name, reader.line_num + 1, row or None)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, make_fault("bad_csv", place, f"is not CSV: {error}")
        else:
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


def read_csv(path: Path) -> Iterator[Row | Fault]:
    """Rows and faults in order, each at the line where it starts; blank lines hold no row and are passed over."""
    name = str(path)
    # the default of 131,072 characters is shorter than long documents; the limit is the process's
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_BYTES))
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        if file.read(1) == "\ufeff":
            yield make_fault("bom", Place(name, 1), "starts with a byte order mark")
        else:
            file.seek(0)
        records = _records(file, name)
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
            if isinstance(cells, Fault):
                yield cells
            elif len(cells) != len(header):
                message = f"has {len(cells)} cells, but the header has {len(header)}"
                yield make_fault("column_count", place, message, value=shorten(cells))
            else:
                yield Row(dict(zip(header, cells, strict=True)), place)
