"""JSON Lines: one object a line. Blank lines hold no row and are passed over."""

from collections.abc import Iterable, Iterator
from typing import cast

from jiter import from_json

from rlhf.data.fault import Fault, make_fault
from rlhf.data.jsontext import BOM, parse_row_strictly
from rlhf.data.place import Count, Place, Row


def read_jsonl(
    lines: Iterable[bytes], name: str, count: Count, *, at_start: bool = True
) -> Iterator[Row | Fault]:
    """The file's rows and faults in order; a broken line does not stop the reading.

    Args:
        lines: the file, or some whole lines of it.
        name: how places name them.
        count: told the lines and rows that were read.
        at_start: the bytes are the file's first, where a byte order mark can stand.
    """
    line = row = 0
    try:
        for line, raw in enumerate(lines, 1):
            if line == 1 and at_start and raw.startswith(BOM):
                yield make_fault("bom", Place(name, 1), "starts with a byte order mark")
                raw = raw[len(BOM) :]
            if not raw or raw.isspace():
                continue
            row += 1
            # as in parse_row, without the cost of a call
            try:
                values = from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
            except ValueError:
                values = None
            if type(values) is dict:
                yield Row(cast(dict[str, object], values), Place(name, line, row))
            else:
                # slower, but it knows what is wrong
                yield parse_row_strictly(raw, Place(name, line, row), at_end=not raw.endswith(b"\n"))
    finally:
        count.lines, count.rows = line, row
