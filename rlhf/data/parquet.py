"""Parquet files, one batch of rows at a time."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from rlhf.data.fault import Fault, make_fault
from rlhf.data.place import Place, Row

BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[Row | Fault]:
    """Rows in order, numbered from 1; a part that pyarrow cannot read is one fault, and nothing after it is read."""
    # imported here: pyarrow takes longer to load than the rest of the validator
    arrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    name, row = str(path), 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for values in batch.to_pylist():
                    row += 1
                    yield Row(values, Place(name, None, row))
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        yield make_fault("bad_parquet", Place(name), f"cannot be read after row {row}: {reason}")
