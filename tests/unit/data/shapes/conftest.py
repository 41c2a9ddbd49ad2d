"""Rows as lists of columns, converted as a file of them would be."""

from collections.abc import Callable
from typing import Any

import pytest

from rlhf.data import Fault
from rlhf.data.convert import Candidate, convert_rows, detect_shape
from rlhf.data.place import Place, Row
from rlhf.recipe.data import DataSource, FileFormat, RecordKind

Rows = list[dict[str, Any]]


def _candidates(rows: Rows, kind: RecordKind, fmt: FileFormat = "jsonl", **options: Any) -> list[Candidate]:
    source = DataSource(path="x", **options)
    located = [Row(values, Place("x", line, line)) for line, values in enumerate(rows, start=1)]
    shape = detect_shape(source, kind, located[0])
    assert shape is not None
    made = list(convert_rows(located, source, kind, fmt, shape))
    assert not any(isinstance(one, Fault) for one in made)
    return [one for one in made if isinstance(one, Candidate)]


@pytest.fixture
def convert() -> Callable[..., list[tuple[int | None, Any]]]:
    """(line, record's fields) of each candidate, none of which has a fault."""

    def run(
        rows: Rows, kind: RecordKind, fmt: FileFormat = "jsonl", **options: Any
    ) -> list[tuple[int | None, Any]]:
        made = _candidates(rows, kind, fmt, **options)
        assert [one.faults for one in made] == [[]] * len(made)
        return [(one.row.place.line, one.fields) for one in made]

    return run


@pytest.fixture
def faults() -> Callable[..., list[tuple[int | None, str, str | None]]]:
    """(line, code, field) of all faults."""

    def run(
        rows: Rows, kind: RecordKind, fmt: FileFormat = "jsonl", **options: Any
    ) -> list[tuple[int | None, str, str | None]]:
        made = _candidates(rows, kind, fmt, **options)
        return [(fault.line, fault.code, fault.field) for one in made for fault in one.faults]

    return run
