"""Parquet files, one batch of rows at a time."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from rlhf.data.arrowfiles import BATCH_ROWS, arrow_errors, batch_rows, column_twice, first_line
from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Count, Place, Row


def read_parquet(path: Path, count: Count) -> Iterator[Row | Fault]:
    """Rows in order, numbered from 1; a part that pyarrow cannot read is one fault, and nothing after it is read."""
    # imported here: pyarrow takes longer to load than the rest of the validator
    parquet: Any = import_module("pyarrow.parquet")
    name = str(path)
    try:
        # pre_buffer holds whole row groups; unmapped, a damaged page's claim of its size would be allocated
        with parquet.ParquetFile(path, pre_buffer=False, memory_map=True) as file:
            if fault := column_twice(file.schema_arrow.names, name):
                yield fault
                return
            num_rows = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                count.share = count.rows / num_rows
                yield from batch_rows(batch, name, count, "bad_parquet")
    except arrow_errors() as error:
        reason = first_line(error)
        yield make_fault("bad_parquet", Place(name), f"cannot be read after row {count.rows}: {reason}")
