"""Arrow files as `datasets` saves them (the IPC stream format) and as Feather does (the IPC file format)."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from rlhf.data.fault import Fault, make_fault, shorten
from rlhf.data.place import Count, Place, Row

BATCH_ROWS = 1024
"""Rows that are made Python objects at once."""
_FILE_MAGIC = b"ARROW1"


def read_arrow(path: Path, count: Count) -> Iterator[Row | Fault]:
    """Rows in order, numbered from 1, out of a memory map; nothing is read after a part that pyarrow cannot read."""
    # imported here: pyarrow takes longer to load than the rest of the validator
    arrow: Any = import_module("pyarrow")
    name = str(path)
    try:
        with arrow.memory_map(str(path)) as file:
            for share, batch in _batches(file):
                count.share = share
                if count.rows == 0 and (fault := column_twice(batch.schema.names, name)):
                    yield fault
                    return
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield from batch_rows(batch.slice(start, BATCH_ROWS), name, count, "bad_arrow")
    except arrow_errors() as error:
        reason = first_line(error)
        yield make_fault("bad_arrow", Place(name), f"cannot be read after row {count.rows}: {reason}")


def _batches(file: Any) -> Iterator[tuple[float, Any]]:
    """Each record batch, with the share of the file that is read."""
    ipc: Any = import_module("pyarrow.ipc")
    magic = file.read(len(_FILE_MAGIC))
    file.seek(0)
    if magic != _FILE_MAGIC:
        size = max(file.size(), 1)
        for batch in ipc.open_stream(file):
            yield file.tell() / size, batch
        return
    reader = ipc.open_file(file)
    for index in range(reader.num_record_batches):
        yield index / reader.num_record_batches, reader.get_batch(index)


def arrow_errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises on files that it cannot read."""
    arrow: Any = import_module("pyarrow")
    # values out of Python's range raise ValueError or OverflowError, unknown types NotImplementedError or KeyError
    return (
        arrow.ArrowException,
        OSError,
        ValueError,
        OverflowError,
        NotImplementedError,
        KeyError,
        TypeError,
    )


def first_line(error: Exception) -> str:
    """An error's message as a fault tells it."""
    return str(error).partition("\n")[0].rstrip(".")


def column_twice(names: list[str], path: str) -> Fault | None:
    """A fault where two columns have one name: a row would hold the last one alone."""
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is None:
        return None
    return make_fault("duplicate_key", Place(path), f"has the column {shorten(twice)} twice")


def batch_rows(batch: Any, path: str, count: Count, code: str) -> Iterator[Row | Fault]:
    """A record batch's rows; where it does not hold what it claims, row by row, so that the good ones are given.

    Args:
        batch: a pyarrow.RecordBatch of at most BATCH_ROWS rows.
        path: how places name the file.
        count: rows read before; told those of the batch.
        code: of faults other than text that is not UTF-8.
    """
    rows = _to_rows(batch)
    for index in range(batch.num_rows):
        count.rows += 1
        place = Place(path, None, count.rows)
        if rows is not None:
            yield Row(rows[index], place)
            continue
        one = batch.slice(index, 1)
        alone = _to_rows(one)
        yield _bad_row(one, place, code) if alone is None else Row(alone[0], place)


def _to_rows(batch: Any) -> list[dict[str, object]] | None:
    try:
        # offsets that point elsewhere would be followed into other memory
        batch.validate(full=True)
        return batch.to_pylist()
    except arrow_errors():
        return None


def _bad_row(row: Any, place: Place, code: str) -> Fault:
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            column.validate(full=True)
            column.to_pylist()
        except arrow_errors() as error:
            if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
                return make_fault("not_utf8", place, "holds text that is not UTF-8", field=name)
            return make_fault(code, place, f"cannot be read: {first_line(error)}", field=name)
    return make_fault(code, place, "cannot be read")
