"""JSON Lines: one object a line. Blank lines hold no row and are passed over."""

from collections.abc import Iterator
from pathlib import Path

from rlhf.data.fault import Fault, make_fault
from rlhf.data.jsontext import BOM, parse_row
from rlhf.data.place import Place, Row


def read_jsonl(path: Path) -> Iterator[Row | Fault]:
    """The file's rows and faults in order; a broken line does not stop the reading."""
    name, row = str(path), 0
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if line == 1 and raw.startswith(BOM):
                yield make_fault("bom", Place(name, 1), "starts with a byte order mark")
                raw = raw[len(BOM) :]
            if not raw or raw.isspace():
                continue
            row += 1
            yield parse_row(raw, Place(name, line, row), at_end=not raw.endswith(b"\n"))
