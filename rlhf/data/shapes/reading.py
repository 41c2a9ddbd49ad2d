"""From a row's columns to a shape's fields, and to what goes beside them into the record: weight, margin, metadata."""

import re
from collections.abc import Iterable
from datetime import date, datetime, time

from rlhf.data.columns import read_number
from rlhf.data.fault import Fault, make_fault, shorten
from rlhf.data.jsontext import BrokenJSONError, parse_json
from rlhf.data.place import Row
from rlhf.data.shapes.layout import Fields, Layout, MisshapenError, as_object
from rlhf.recipe.data import DataSource, FileFormat, RecordKind, Shape

OWN_FIELDS = ("weight", "margin", "metadata")
"""Fields of our records that rows of every shape may have."""
_TURNS_CELL = re.compile(r'\s*\[\s*\{\s*"(role|content|from|value)"')
_TABLES = ("csv", "tsv", "parquet", "arrow", "hub")


class RowReader:
    """Reads rows of one shape.

    A field is taken from the first of its columns that is there and not null; `source.columns` names another one. What
    no field takes is kept under `metadata`, unless the source says `extra: error`. In tables, JSON text stands for
    lists and objects.

    Args:
        source: its `columns` map the shape's fields, and `weight`, `margin` and `metadata`.
        kind: which record the rows become.
        fmt: the file's format.
        shape, layout: how the rows are laid out.
    """

    def __init__(
        self, source: DataSource, kind: RecordKind, fmt: FileFormat | None, shape: Shape, layout: Layout
    ) -> None:
        self._shape, self._layout, self._kind = shape, layout, kind
        self._is_table, self._is_csv = fmt in _TABLES, fmt in ("csv", "tsv")
        self._mapped = source.columns
        taken = set(source.columns.values())
        self._columns = [
            (field, (source.columns[field],) if field in source.columns else _without(names, taken))
            for field, names in layout.columns.items()
        ]
        own = [name for name in OWN_FIELDS if name not in taken or name in source.columns]
        if kind == "prompt":
            own = [name for name in own if name == "metadata"]
        elif kind == "sft" or layout.convert is None:
            own = [name for name in own if name != "margin"]
        self._own = [(name, source.columns.get(name, name)) for name in own]
        self._refuses_rest = source.extra == "error" and "extra" in source.model_fields_set

    def read(self, row: Row) -> tuple[Fields, Fields, list[Fault]]:
        """The shape's fields, the record's fields beside them, and faults of columns.

        Raises:
            MisshapenError: if a cell that should hold JSON does not.
        """
        values = row.values
        fields: Fields = {}
        used: set[str] = set()
        for field, names in self._columns:
            for name in names:
                value = values.get(name)
                if value is not None:
                    used.add(name)
                    if (read := self._cell(field, value)) is not None:
                        fields[field] = read
                    break
        beside: Fields = {}
        for name, column in self._own:
            value = values.get(column)
            if value is not None:
                used.add(column)
                beside[name] = self._own_cell(name, value)
        rest = {name: value for name, value in values.items() if name not in used and value is not None}
        if self._refuses_rest:
            faults = [self._unknown(name, value, row) for name, value in rest.items()]
        else:
            faults = self._keep(rest, fields, beside, row)
        return fields, {name: value for name, value in beside.items() if value is not None}, faults

    def fault_of(self, error: MisshapenError, row: Row) -> Fault:
        """The error as a fault; a missing field is told with the columns that are there, unless it is only null."""
        message = error.message
        if error.code == "missing_field" and error.field is not None and error.field in self._layout.columns:
            if any(column in row.values for column in dict(self._columns)[error.field]):
                return make_fault("wrong_type", row.place, "is empty", field=error.field, value=shorten(None))
            if error.field in self._mapped:
                message += f": `columns` takes it from {self._mapped[error.field]!r}"
            message += f"; the row has {', '.join(row.values) or 'no columns'}"
        return make_fault(
            error.code, row.place, message, field=error.field, value=error.value, remedy=error.remedy
        )

    def _cell(self, field: str, value: object) -> object:
        if not self._is_table or not isinstance(value, str):
            return value
        if field in self._layout.lists:
            return _parse(value, field) if value.strip() else None
        if self._is_csv:
            return _parse(value, field) if _TURNS_CELL.match(value) else value
        return value

    def _own_cell(self, name: str, value: object) -> object:
        if not isinstance(value, str) or not self._is_table:
            return value
        if name == "metadata":
            return _parse(value, name) if value.lstrip().startswith("{") else value or None
        if self._is_csv:
            return read_number(value, whole=False) if value else None
        return value

    def _unknown(self, column: str, value: object, row: Row) -> Fault:
        message = f"is not a column of the shape {self._shape}"
        return make_fault("unknown_field", row.place, message, field=column, value=shorten(value))

    def _keep(self, rest: Fields, fields: Fields, beside: Fields, row: Row) -> list[Fault]:
        if not rest and not beside and not self._layout.kept:
            return []
        metadata = beside.pop("metadata", None)
        known = as_object(metadata) or {}
        if metadata is not None and not isinstance(metadata, dict):
            rest["metadata"] = metadata
        clash = sorted(rest.keys() & known.keys())
        kept = {name: fields[name] for name in self._layout.kept if name in fields}
        merged = {name: _plain(value) for name, value in rest.items()} | known | kept
        if merged:
            beside["metadata"] = merged
        message = "is both a column and a key of metadata"
        return [
            make_fault("metadata_clash", row.place, message, field=name, value=shorten(rest[name]))
            for name in clash
        ]


def _without(names: Iterable[str], taken: set[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in taken)


def _parse(text: str, field: str) -> object:
    try:
        return parse_json(text)
    except BrokenJSONError as error:
        raise MisshapenError(error.code, error.message, field=field, value=text) from error


def _plain(value: object) -> object:
    """Dates as ISO text, which JSON can hold."""
    return value.isoformat() if isinstance(value, datetime | date | time) else value
