"""Rows of tokens in an Arrow file: written once as a stream, mapped into memory by whoever reads them."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

import pyarrow as pa
from datasets import Dataset

from rlhf.stages.tokens.encoders import Demonstration, Pair

ROWS_FILE = "rows.arrow"
FACTS_FILE = "facts.json"
NO_LABEL = -100
"""The label of a token that the loss does not count, as transformers and TRL have it."""
BATCH = 1000
"""Rows in one record batch: the most that a writer holds."""
Row = TypeVar("Row")
_TOKENS = pa.list_(pa.int32())


@dataclass(frozen=True)
class Layout(Generic[Row]):
    """How a kind of row is written."""

    schema: pa.Schema
    values: Callable[[Row], dict[str, Any]]
    row: Callable[[dict[str, Any]], Row]


class TokenRows(Sequence[Row]):
    """Rows as objects, each read from the dataset when it is asked for."""

    def __init__(self, dataset: Dataset, make: Callable[[dict[str, Any]], Row]) -> None:
        self.dataset = dataset
        self._make = make

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._make(self.dataset[index])

    def __iter__(self) -> Iterator[Row]:
        return map(self._make, cast(Iterable[dict[str, Any]], self.dataset))


class Column(Sequence[Any]):
    """One column's values, each read when it is asked for."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._dataset, self._name = dataset.select_columns([name]), name

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._dataset[index][self._name]


def write_rows(
    folder: Path, rows: Iterable[Row], layout: Layout[Row], facts: Callable[[], dict[str, Any]]
) -> None:
    """Write rows and what is known of them into an empty folder; constant memory.

    Args:
        rows: taken as they are written.
        layout: of the rows.
        facts: called after the last row; JSON.
    """
    path, rows, num_rows = folder / ROWS_FILE, iter(rows), 0
    with path.open("wb") as file, pa.ipc.new_stream(file, layout.schema) as writer:
        while batch := [layout.values(row) for row in islice(rows, BATCH)]:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=layout.schema))
            num_rows += len(batch)
    known = {**facts(), "num_rows": num_rows, "num_bytes": path.stat().st_size}
    (folder / FACTS_FILE).write_text(json.dumps(known), encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Whether both files are there, of the size that was written."""
    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        return (folder / ROWS_FILE).stat().st_size == facts["num_bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_rows(folder: Path) -> tuple[Dataset, dict[str, Any]]:
    """The rows, mapped into memory, and what is known of them."""
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    return Dataset.from_file(str(folder / ROWS_FILE)), facts


def dataset_of(rows: Iterable[Row], layout: Layout[Row]) -> Dataset:
    """Rows that are in memory, as what `read_rows` gives."""
    return Dataset(pa.Table.from_pylist([layout.values(row) for row in rows], schema=layout.schema))


def _demonstration_values(row: Demonstration) -> dict[str, Any]:
    labels = [token if kept else NO_LABEL for token, kept in zip(row.input_ids, row.labels_mask, strict=True)]
    return {"input_ids": row.input_ids, "labels": labels, "weight": row.weight}


def _demonstration(values: dict[str, Any]) -> Demonstration:
    return Demonstration(
        values["input_ids"], [label != NO_LABEL for label in values["labels"]], values["weight"]
    )


DEMONSTRATIONS: Layout[Demonstration] = Layout(
    pa.schema([("input_ids", _TOKENS), ("labels", _TOKENS), ("weight", pa.float64())]),
    _demonstration_values,
    _demonstration,
)
PAIRS: Layout[Pair] = Layout(
    pa.schema(
        [
            *((name, _TOKENS) for name in ("prompt_ids", "chosen_ids", "rejected_ids")),
            *((name, pa.float64()) for name in ("margin", "weight")),
        ]
    ),
    lambda row: dict(vars(row)),
    lambda values: Pair(**values),
)
