"""Plain text: a row a line, in the column `text`. Blank lines hold no row and are passed over."""

from collections.abc import Iterable, Iterator

from rlhf.data.fault import Fault, make_fault
from rlhf.data.jsontext import BOM, undecodable
from rlhf.data.place import Count, Place, Row


def read_text(
    lines: Iterable[bytes], name: str, count: Count, *, at_start: bool = True
) -> Iterator[Row | Fault]:
    """Rows and faults in order; see `read_jsonl` for the arguments."""
    line = row = 0
    try:
        for line, raw in enumerate(lines, 1):
            if line == 1 and at_start and raw.startswith(BOM):
                yield make_fault("bom", Place(name, 1), "starts with a byte order mark")
                raw = raw[len(BOM) :]
            if not raw or raw.isspace():
                continue
            row += 1
            place = Place(name, line, row)
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                yield undecodable(raw, place, error, at_end=not raw.endswith(b"\n"))
            else:
                yield Row({"text": text.removesuffix("\n").removesuffix("\r")}, place)
    finally:
        count.lines, count.rows = line, row
